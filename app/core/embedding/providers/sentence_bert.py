"""The provider sentence-bert: any model of sentence-transformers, from the hub or a folder, on torch."""

import logging

import numpy as np

from app.core.embedding.long_text import LongText
from app.core.embedding.port import Vectors
from app.core.embedding.providers import local_model
from app.core.embedding.providers.local_model import Dtype
from app.core.embedding.providers.torch_embedder import TorchEmbedder
from app.core.embedding.queue.batch_queue import QueueOptions

PROVIDER = "sentence-bert"
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names that models give to their prompt for documents."""

log = logging.getLogger(__name__)


class SentenceBert(TorchEmbedder):
    """``source``: a folder, a name on the Hugging Face hub, or name@revision. A prompt of None: the model's own."""

    def __init__(
        self,
        source: str,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        dtype: Dtype = "float32",
        device: str = "auto",
        threads: int | None = None,
        long_text: LongText = "error",
        queue: QueueOptions | None = None,
    ) -> None:
        super().__init__(
            lambda: _Model(source, query_prompt, document_prompt, dtype, device, threads),
            long_text=long_text,
            queue=queue,
        )


class _Model:
    """Implements TorchModel."""

    def __init__(
        self,
        source: str,
        query_prompt: str | None,
        document_prompt: str | None,
        dtype: Dtype,
        device: str,
        threads: int | None,
    ) -> None:
        log.info("importing sentence-transformers and loading %s", source)
        library = local_model.import_package("sentence_transformers", PROVIDER)
        folder = local_model.find(source, PROVIDER, "SENTENCE_BERT_MODEL")
        torch_device = local_model.prepare_torch(device, threads)
        log.info("loading %s from %s on %s in %s", source, folder, torch_device, dtype)
        try:
            self._model = library.SentenceTransformer(
                str(folder), device=torch_device, model_kwargs={"dtype": local_model.torch_dtype(dtype)}
            )
        except Exception as exc:  # A broken folder makes the libraries raise exceptions of any kind.
            raise local_model.cannot_load(folder, exc) from exc
        own_query, own_document = _own_prompts(self._model.prompts, self._model.default_prompt_name)
        self._query_prompt = own_query if query_prompt is None else query_prompt
        self._document_prompt = own_document if document_prompt is None else document_prompt
        self.dimension: int = self._model.get_embedding_dimension()
        self.max_tokens: int = self._model.max_seq_length or local_model.MAX_TOKENS
        fingerprint = local_model.fingerprint(folder, str(self.max_tokens), self._document_prompt)
        self.name = f"{PROVIDER}:{local_model.title(str(folder))}@{fingerprint}"

    def count_tokens(self, texts: list[str], *, query: bool) -> list[int]:
        prompt = self._query_prompt if query else self._document_prompt
        return local_model.count_tokens(self._model.tokenizer, [prompt + text for text in texts])

    def encode(self, texts: list[str], *, query: bool) -> Vectors:
        encode = self._model.encode_query if query else self._model.encode_document
        vectors = encode(
            texts,
            prompt=self._query_prompt if query else self._document_prompt,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)


def _own_prompts(prompts: dict[str, str], default: str | None) -> tuple[str, str]:
    """The prompts of a model's configuration, for queries and for documents.

    sentence-transformers 6.2 adds an empty prompt "document" to them, so its encode_document does not use "passage".
    """
    query = prompts.get("query", "")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    if default and not query and not document:
        return prompts[default], prompts[default]
    return query, document
