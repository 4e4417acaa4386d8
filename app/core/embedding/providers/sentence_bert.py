"""Any model of sentence-transformers, from the hub or a folder."""

import logging
from typing import Unpack

import numpy as np

from app.core.embedding.port import Vectors
from app.core.embedding.providers import local_model
from app.core.embedding.providers.local_model import Dtype
from app.core.embedding.providers.torch_embedder import Queue, TorchEmbedder

PROVIDER = "sentence-bert"
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""What models call the prompt of what is stored."""

log = logging.getLogger(__name__)


class SentenceBert(TorchEmbedder):
    """``source`` is a folder, a hub name or name@revision; a prompt of None leaves the model's own."""

    def __init__(
        self,
        source: str,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        dtype: Dtype = "float32",
        device: str = "auto",
        threads: int | None = None,
        **queue: Unpack[Queue],
    ) -> None:
        super().__init__(lambda: _Loaded(source, query_prompt, document_prompt, dtype, device, threads), **queue)


class _Loaded:
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
        library = local_model.package("sentence_transformers", PROVIDER)
        folder = local_model.find(source, PROVIDER, "SENTENCE_BERT_MODEL")
        where = local_model.prepare(device, threads)
        log.info("%s is loaded from %s, on %s, in %s", source, folder, where, dtype)
        try:
            self._model = library.SentenceTransformer(
                str(folder), device=where, model_kwargs={"dtype": local_model.torch_dtype(dtype)}
            )
        except Exception as exc:  # Whatever a broken folder makes three libraries raise.
            raise local_model.cannot_load(folder, exc) from exc
        own_query, own_document = _own_prompts(self._model.prompts, self._model.default_prompt_name)
        self._query_prompt = own_query if query_prompt is None else query_prompt
        self._document_prompt = own_document if document_prompt is None else document_prompt
        self.dimension: int = self._model.get_embedding_dimension()
        self.max_tokens: int = self._model.max_seq_length or local_model.MAX_TOKENS
        mark = local_model.fingerprint(folder, str(self.max_tokens), self._document_prompt)
        self.name = f"{PROVIDER}:{local_model.title(str(folder))}@{mark}"

    def count_tokens(self, texts: list[str], *, query: bool) -> list[int]:
        prompt = self._query_prompt if query else self._document_prompt
        return local_model.count_tokens(self._model.tokenizer, [prompt + text for text in texts])

    def encode(self, texts: list[str], *, query: bool) -> Vectors:
        run = self._model.encode_query if query else self._model.encode_document
        vectors = run(
            texts,
            prompt=self._query_prompt if query else self._document_prompt,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)


def _own_prompts(prompts: dict[str, str], default: str | None) -> tuple[str, str]:
    """The prompts of a model's configuration, for queries and for documents.

    sentence-transformers 6.2 puts an empty "document" beside them, and so its encode_document overlooks a "passage".
    """
    query = prompts.get("query", "")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    if default and not query and not document:
        return prompts[default], prompts[default]
    return query, document
