"""An embedder over one torch model that one thread owns."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict

import numpy as np

from app.core.embedding.long_text import LongText, merged, split, too_long
from app.core.embedding.port import Vectors
from app.core.embedding.queue.batch_queue import DOCUMENT_TEXTS, BatchLimits, Lane
from app.core.embedding.queue.workers import Encode, WorkerPool

BATCH_TEXTS = 32
BATCH_CHARS = 4096
"""What a query may have to wait for: a few paragraphs, from which larger batches gain nothing."""

QUERY, DOCUMENT = "q", "d"

log = logging.getLogger(__name__)


class Queue(TypedDict, total=False):
    """What every torch embedder takes beside its model's own options."""

    long_text: LongText
    batch_texts: int | None
    batch_wait: float
    queue_texts: int | None


class TorchModel(Protocol):
    """A model that is loaded; called by the thread that loaded it alone."""

    name: str
    dimension: int
    max_tokens: int

    def count_tokens(self, texts: list[str], *, query: bool) -> list[int]:
        """How many tokens the model would read of each text, prompt and special ones included, were it not cut."""

    def encode(self, texts: list[str], *, query: bool) -> Vectors:
        """Vectors (len(texts), dimension) of any length, in order, from one batch. Cuts at ``max_tokens``."""


class TorchEmbedder:
    """Vectors of length 1. ``model`` and ``dimension`` have their meaning once ``ping`` has returned.

    One thread loads the model and alone uses it: a fast tokenizer that two threads share raises "Already borrowed",
    and torch spreads each batch over the cores by itself.
    """

    model = ""
    dimension = 0
    call_texts = 1

    def __init__(
        self,
        load: Callable[[], TorchModel],
        *,
        long_text: LongText = "error",
        batch_texts: int | None = None,
        batch_wait: float = 0.0,
        queue_texts: int | None = None,
    ) -> None:
        self._make = load
        self._long_text = long_text
        limits = BatchLimits(
            batch_texts or BATCH_TEXTS,
            BATCH_CHARS * (batch_texts or BATCH_TEXTS) // BATCH_TEXTS,
            wait=batch_wait,
            queue=queue_texts or DOCUMENT_TEXTS,
        )
        self._pool = WorkerPool(self._load, threads=1, limits=limits)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._pool.encode([DOCUMENT + text for text in texts], Lane.DOCUMENTS)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._pool.encode([QUERY + text for text in texts], Lane.QUERY)

    async def ping(self) -> None:
        """Loads the model, where that has not happened yet. Raises StartupError."""
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    def _load(self) -> Encode:
        began = time.perf_counter()
        loaded = self._make()
        self.model, self.dimension = loaded.name, loaded.dimension
        log.info(
            "loaded %s in %.1f s: %d dimensions, reads %d tokens of a text; longer ones: %s",
            loaded.name,
            time.perf_counter() - began,
            loaded.dimension,
            loaded.max_tokens,
            self._long_text,
        )

        def encode(marked: list[str]) -> Vectors:
            """The pool knows texts alone, so each text says in its first character what it is."""
            vectors = np.empty((len(marked), loaded.dimension), dtype=np.float32)
            for kind in (QUERY, DOCUMENT):
                rows = [row for row, text in enumerate(marked) if text[0] == kind]
                if rows:
                    vectors[rows] = self._encode(loaded, [marked[row][1:] for row in rows], kind == QUERY)
            return normalised(vectors)

        return encode

    def _encode(self, loaded: TorchModel, texts: list[str], query: bool) -> Vectors:
        """As the model, but that a long text is treated as set."""
        if self._long_text == "truncate":
            return loaded.encode(texts, query=query)
        counts = loaded.count_tokens(texts, query=query)
        if max(counts) <= loaded.max_tokens:
            return loaded.encode(texts, query=query)
        if self._long_text == "error":
            raise too_long(loaded.max_tokens)  # The pool finds out which of the texts it is.

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


def normalised(vectors: Vectors) -> Vectors:
    """Each row at length 1, in float32; a row without a length stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(vectors / lengths, dtype=np.float32)
