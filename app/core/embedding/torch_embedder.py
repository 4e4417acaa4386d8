"""An embedder over one torch model that one thread owns."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from app.core.embedding.port import Vectors
from app.core.embedding.workers import Encode, Lane, WorkerPool

BATCH_TEXTS = 32
BATCH_CHARS = 4096
"""What a query may have to wait for: a few paragraphs, from which larger batches gain nothing."""

QUERY, DOCUMENT = "q", "d"

log = logging.getLogger(__name__)


class TorchModel(Protocol):
    """A model that is loaded; called by the thread that loaded it alone."""

    name: str
    dimension: int
    max_tokens: int

    def encode(self, texts: list[str], *, query: bool) -> Vectors:
        """Vectors (len(texts), dimension) of any length, in order, from one batch."""


class TorchEmbedder:
    """Vectors of length 1. ``model`` and ``dimension`` have their meaning once ``ping`` has returned.

    One thread loads the model and alone uses it: a fast tokenizer that two threads share raises "Already borrowed",
    and torch spreads each batch over the cores by itself.
    """

    model = ""
    dimension = 0

    def __init__(self, load: Callable[[], TorchModel]) -> None:
        self._make = load
        self._pool = WorkerPool(self._load, threads=1, batch_texts=BATCH_TEXTS, batch_chars=BATCH_CHARS)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._pool.encode([DOCUMENT + text for text in texts], Lane.DOCUMENTS)

    async def embed_query(self, text: str) -> Vectors:
        vectors = await self._pool.encode([QUERY + text], Lane.QUERY)
        return np.asarray(vectors[0], dtype=np.float32)

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
            "loaded %s in %.1f s: %d dimensions, reads the first %d tokens of a text",
            loaded.name,
            time.perf_counter() - began,
            loaded.dimension,
            loaded.max_tokens,
        )

        def encode(marked: list[str]) -> Vectors:
            """The pool knows texts alone, so each text says in its first character what it is."""
            vectors = np.empty((len(marked), loaded.dimension), dtype=np.float32)
            for kind in (QUERY, DOCUMENT):
                rows = [row for row, text in enumerate(marked) if text[0] == kind]
                if rows:
                    vectors[rows] = loaded.encode([marked[row][1:] for row in rows], query=kind == QUERY)
            return normalised(vectors)

        return encode


def normalised(vectors: Vectors) -> Vectors:
    """Each row at length 1, in float32; a row without a length stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(vectors / lengths, dtype=np.float32)
