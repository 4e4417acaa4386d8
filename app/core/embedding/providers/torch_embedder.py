"""An embedder that runs one torch model in a thread of its own. Base of ``bge_m3`` and ``sentence_bert``."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from app.core.embedding.long_text import LongText, merged, split, too_long
from app.core.embedding.port import Vectors
from app.core.embedding.queue.batch_queue import DOCUMENT_TEXTS, BatchLimits, Lane, QueueOptions
from app.core.embedding.queue.workers import Encode, WorkerPool

BATCH_TEXTS = 32
BATCH_CHARS = 4096
"""A few paragraphs: larger batches are not faster, and a query may have to wait for one batch."""

log = logging.getLogger(__name__)


class TorchModel(Protocol):
    """A loaded model. Only the thread that loaded it calls it."""

    name: str
    """``Embedder.model``: the provider, the model's name and a fingerprint of its weights."""
    dimension: int
    max_tokens: int
    """How many tokens of a text the model reads."""

    def count_tokens(self, texts: list[str], *, query: bool) -> list[int]:
        """The number of tokens of each text, with its prompt and special tokens, not truncated."""

    def encode(self, texts: list[str], *, query: bool) -> Vectors:
        """The vectors (len(texts), dimension) of one batch, of any length. Truncates texts to ``max_tokens``."""


class TorchEmbedder:
    """An Embedder over one TorchModel. ``model`` and ``dimension`` are set when the first ``ping`` has returned.

    One thread loads the model and is the only one that uses it: a fast tokenizer that is used by two threads raises
    "Already borrowed", and torch uses all cores for one batch anyway.
    """

    model = ""
    dimension = 0
    call_texts = 1

    def __init__(
        self, load: Callable[[], TorchModel], *, long_text: LongText = "error", queue: QueueOptions | None = None
    ) -> None:
        queue = queue or QueueOptions()
        self._load_model = load
        self._long_text = long_text
        batch_texts = queue.batch_texts or BATCH_TEXTS
        limits = BatchLimits(
            batch_texts,
            BATCH_CHARS * batch_texts // BATCH_TEXTS,
            queue=queue.queue_texts or DOCUMENT_TEXTS,
        )
        self._pool = WorkerPool(self._load, threads=1, limits=limits)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._pool.encode(texts, Lane.DOCUMENTS)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._pool.encode(texts, Lane.QUERY)

    async def ping(self) -> None:
        """Loads the model if it is not loaded. Raises StartupError."""
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    def _load(self) -> Encode:
        began = time.perf_counter()
        loaded = self._load_model()
        self.model, self.dimension = loaded.name, loaded.dimension
        log.info(
            "loaded %s in %.1f s: %d dimensions, reads %d tokens of a text; EMBEDDING_LONG_TEXT=%s",
            loaded.name,
            time.perf_counter() - began,
            loaded.dimension,
            loaded.max_tokens,
            self._long_text,
        )
        return lambda texts, lane: self._encode(loaded, texts, lane is Lane.QUERY)

    def _encode(self, loaded: TorchModel, texts: list[str], query: bool) -> Vectors:
        """The model's vectors, but texts of too many tokens are treated as ``long_text`` says."""
        if self._long_text == "truncate":
            return loaded.encode(texts, query=query)
        counts = loaded.count_tokens(texts, query=query)
        if max(counts) <= loaded.max_tokens:
            return loaded.encode(texts, query=query)
        if self._long_text == "error":
            raise too_long(loaded.max_tokens)  # The pool halves the batch until the long texts are found.

        def fits(text: str) -> bool:
            return loaded.count_tokens([text], query=query)[0] <= loaded.max_tokens

        parts = [split(text, fits) for text in texts]
        flat = [part for text in parts for part in text]
        batches = [flat[start : start + BATCH_TEXTS] for start in range(0, len(flat), BATCH_TEXTS)]
        vectors = np.concatenate([loaded.encode(batch, query=query) for batch in batches])
        ends = np.cumsum([len(text) for text in parts])
        return np.stack(
            [merged(vectors[end - len(text) : end], text) for text, end in zip(parts, ends.tolist(), strict=True)]
        )
