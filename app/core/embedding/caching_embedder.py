"""What stands before every provider: the caches, the check of each vector, length 1."""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from app.core.embedding.cache import VectorCache
from app.core.embedding.check import invalid_vectors, squared_lengths
from app.core.embedding.port import Embedder, PartialEmbeddingError, Row, Vectors, stack_or_raise
from app.utils import metrics
from app.utils.errors import AppError, EmbeddingInvalid

Call = Callable[[Sequence[str]], Awaitable[Vectors]]

QUERY_SHARE = 0.25
"""Of the cache's bytes: a bulk insert must not push out the questions that are asked every day."""
HITS = {kind: metrics.CACHED.labels(kind, "hit") for kind in ("queries", "passages")}
MISSES = {kind: metrics.CACHED.labels(kind, "miss") for kind in ("queries", "passages")}


class CachingEmbedder:
    """An embedder over ``provider``, which must have been started; ``cache_bytes`` of 0 keeps nothing.

    Vectors come out of length 1 and finite. A text whose vector is not sound fails alone, in TextsFailed.
    """

    def __init__(self, provider: Embedder, cache_bytes: int) -> None:
        self.provider = provider
        self.model = provider.model
        self.dimension = provider.dimension
        self.call_texts = provider.call_texts
        queries = int(cache_bytes * QUERY_SHARE)
        self.queries = VectorCache(f"{provider.model} {provider.dimension}", queries)
        self.passages = VectorCache(f"{provider.model} {provider.dimension}", cache_bytes - queries)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, self.passages, self.provider.embed_documents)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, self.queries, self.provider.embed_queries)

    async def ping(self) -> None:
        await self.provider.ping()

    async def close(self) -> None:
        await self.provider.close()

    async def _embed(self, texts: Sequence[str], cache: VectorCache, provider: Call) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        keys: Sequence[bytes | str] = [cache.key(text) for text in texts] if cache.keeps else texts
        rows: dict[bytes | str, Row] = {}
        missing: dict[bytes | str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if isinstance(key, bytes) and (vector := cache.get(key)) is not None:
                rows[key] = vector
            else:
                missing[key] = text
        kind = "queries" if cache is self.queries else "passages"
        MISSES[kind].inc(len(missing))
        HITS[kind].inc(len(texts) - len(missing))
        if missing:
            made = await self._sound(list(missing.values()), provider)
            for key, row in zip(missing, made, strict=True):
                rows[key] = row
                if isinstance(key, bytes) and isinstance(row, np.ndarray):
                    cache.put(key, row)
            if isinstance(made, np.ndarray) and len(made) == len(texts):  # All of them, in their order.
                return made
        return stack_or_raise([rows[key] for key in keys])

    async def _sound(self, texts: list[str], provider: Call) -> Sequence[Row] | Vectors:
        try:
            return checked(await provider(texts), len(texts), self.dimension)
        except PartialEmbeddingError as exc:
            good = [index for index in range(len(texts)) if index not in exc.errors]
            rows: list[Row] = [exc.errors.get(index, EmbeddingInvalid("")) for index in range(len(texts))]
            if good:
                for index, row in zip(good, checked(exc.vectors[good], len(good), self.dimension), strict=True):
                    rows[index] = row
            return rows
        except AppError as exc:
            return [exc] * len(texts)


def checked(vectors: Vectors, count: int, dimension: int) -> Sequence[Row] | Vectors:
    """Each row at length 1, or why it cannot be used; an array where all can."""
    squares = squared_lengths(vectors) if vectors.shape == (count, dimension) else None
    reasons = invalid_vectors(vectors, count, dimension, squares)
    if squares is not None:
        with np.errstate(all="ignore"):
            vectors = np.asarray(vectors / np.sqrt(squares)[:, None], dtype=np.float32)
    if not reasons:
        return vectors
    return [
        EmbeddingInvalid(f"The embedder's vector is unusable: {reasons[index]}.")
        if index in reasons
        else vectors[index]
        for index in range(count)
    ]
