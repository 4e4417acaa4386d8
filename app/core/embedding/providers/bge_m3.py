"""BAAI's BGE-M3 (Chen et al. 2024, arXiv:2402.03216): the dense vectors alone."""

import logging
import threading
from typing import Any, Unpack

import numpy as np

from app.core.embedding.port import Vectors
from app.core.embedding.providers import local_model
from app.core.embedding.providers.local_model import Dtype
from app.core.embedding.providers.torch_embedder import Queue, TorchEmbedder

PROVIDER = "bge-m3"

log = logging.getLogger(__name__)


class BgeM3(TorchEmbedder):
    """``source`` is a folder, a hub name or name@revision. The model wants no prompts."""

    def __init__(
        self,
        source: str,
        *,
        dtype: Dtype = "float32",
        device: str = "auto",
        threads: int | None = None,
        **queue: Unpack[Queue],
    ) -> None:
        super().__init__(lambda: _Loaded(source, dtype, device, threads), **queue)


class _Loaded:
    def __init__(self, source: str, dtype: Dtype, device: str, threads: int | None) -> None:
        log.info("importing FlagEmbedding and loading %s", source)
        library = local_model.package("FlagEmbedding", PROVIDER)
        folder = local_model.find(source, PROVIDER, "BGE_M3_MODEL")
        where = local_model.prepare(device, threads)
        log.info("%s is loaded from %s, on %s, in %s", source, folder, where, dtype)
        try:
            flag = library.BGEM3FlagModel(str(folder), use_fp16=False, use_bf16=dtype == "bfloat16", devices=where)
        except Exception as exc:  # Whatever a broken folder makes two libraries raise.
            raise local_model.cannot_load(folder, exc) from exc
        self._flag: Any = flag
        flag.model.to(where).eval()
        config = flag.model.model.config
        self._device = where
        self._using = threading.Lock()
        self.dimension: int = config.hidden_size
        # XLM-R counts positions from padding_idx + 1.
        self.max_tokens: int = min(local_model.MAX_TOKENS, config.max_position_embeddings - config.pad_token_id - 1)
        mark = local_model.fingerprint(folder)
        self.name = f"{PROVIDER}:{local_model.title(str(folder))}@{mark}"

    def count_tokens(self, texts: list[str], *, query: bool) -> list[int]:  # noqa: ARG002 - the model has no prompts
        with self._using:
            return local_model.count_tokens(self._flag.tokenizer, texts)

    def encode(self, texts: list[str], *, query: bool) -> Vectors:  # noqa: ARG002 - the model has no prompts
        """As BGEM3FlagModel.encode, which runs its first batch twice to find out whether it fits in memory, undoes
        bfloat16 on a CPU, and by default cuts at 512 tokens."""
        torch = local_model.package("torch", PROVIDER)
        with self._using, torch.inference_mode():
            inputs = self._flag.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            ).to(self._device)
            output = self._flag.model(inputs, return_dense=True)
        return np.asarray(output["dense_vecs"].float().cpu().numpy(), dtype=np.float32)
