"""The provider bge-m3: BAAI's BGE-M3 (Chen et al. 2024, arXiv:2402.03216) on torch."""

import logging
from typing import Any

import numpy as np

from app.core.embedding.long_text import LongText
from app.core.embedding.port import Vectors
from app.core.embedding.providers import local_model
from app.core.embedding.providers.local_model import Dtype
from app.core.embedding.providers.torch_embedder import TorchEmbedder
from app.core.embedding.queue.batch_queue import QueueOptions

PROVIDER = "bge-m3"

log = logging.getLogger(__name__)


class BgeM3(TorchEmbedder):
    """``source``: a folder, a name on the Hugging Face hub, or name@revision. The model needs no prompts."""

    def __init__(
        self,
        source: str,
        *,
        dtype: Dtype = "float32",
        device: str = "auto",
        threads: int | None = None,
        long_text: LongText = "error",
        queue: QueueOptions | None = None,
    ) -> None:
        super().__init__(lambda: _Model(source, dtype, device, threads), long_text=long_text, queue=queue)


class _Model:
    """Implements TorchModel."""

    def __init__(self, source: str, dtype: Dtype, device: str, threads: int | None) -> None:
        log.info("importing FlagEmbedding and loading %s", source)
        library = local_model.import_package("FlagEmbedding", PROVIDER)
        folder = local_model.find(source, PROVIDER, "BGE_M3_MODEL")
        torch_device = local_model.prepare_torch(device, threads)
        log.info("loading %s from %s on %s in %s", source, folder, torch_device, dtype)
        try:
            flag = library.BGEM3FlagModel(
                str(folder), use_fp16=False, use_bf16=dtype == "bfloat16", devices=torch_device
            )
        except Exception as exc:  # A broken folder makes the libraries raise exceptions of any kind.
            raise local_model.cannot_load(folder, exc) from exc
        self._flag: Any = flag
        flag.model.to(torch_device).eval()
        config = flag.model.model.config
        self._device = torch_device
        self.dimension: int = config.hidden_size
        # XLM-RoBERTa's positions start at padding_idx + 1.
        self.max_tokens: int = min(local_model.MAX_TOKENS, config.max_position_embeddings - config.pad_token_id - 1)
        self.name = f"{PROVIDER}:{local_model.title(str(folder))}@{local_model.fingerprint(folder)}"

    def count_tokens(self, texts: list[str], *, query: bool) -> list[int]:  # noqa: ARG002 - the model has no prompts
        return local_model.count_tokens(self._flag.tokenizer, texts)

    def encode(self, texts: list[str], *, query: bool) -> Vectors:  # noqa: ARG002 - the model has no prompts
        """Calls the model directly instead of by ``BGEM3FlagModel.encode``.

        That runs its first batch twice to find a batch size that fits in memory, undoes bfloat16 on a CPU, and by
        default truncates at 512 tokens.
        """
        torch = local_model.import_package("torch", PROVIDER)
        with torch.inference_mode():
            inputs = self._flag.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            ).to(self._device)
            output = self._flag.model(inputs, return_dense=True)
            return np.asarray(output["dense_vecs"].float().cpu().numpy(), dtype=np.float32)
