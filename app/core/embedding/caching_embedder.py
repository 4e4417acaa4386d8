"""Wraps a provider: caches vectors, validates them and scales them to unit length."""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from app.core.embedding.cache import VectorCache
from app.core.embedding.port import Embedder, PartialEmbeddingError, TextResult, TextResults, Vectors, stack_or_raise
from app.core.embedding.validation import normalized
from app.utils import metrics
from app.utils.errors import AppError

Call = Callable[[Sequence[str]], Awaitable[Vectors]]

QUERY_SHARE = 0.25
"""Share of the cache for queries, so that a bulk insert does not evict the queries that are asked every day."""
HITS = {kind: metrics.CACHED.labels(kind, "hit") for kind in ("queries", "documents")}
MISSES = {kind: metrics.CACHED.labels(kind, "miss") for kind in ("queries", "documents")}


class CachingEmbedder:
    """The Embedder that core uses. ``provider.ping`` must have returned before; ``cache_bytes`` 0 disables the cache.

    Returned vectors are finite and have unit length. A text without a valid vector fails alone: PartialEmbeddingError
    has its EmbeddingInvalid.
    """

    def __init__(self, provider: Embedder, cache_bytes: int) -> None:
        self.provider = provider
        self.model = provider.model
        self.dimension = provider.dimension
        self.call_texts = provider.call_texts
        queries = int(cache_bytes * QUERY_SHARE)
        self.queries = VectorCache(f"{provider.model} {provider.dimension}", queries)
        self.documents = VectorCache(f"{provider.model} {provider.dimension}", cache_bytes - queries)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, self.documents, self.provider.embed_documents)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, self.queries, self.provider.embed_queries)

    async def ping(self) -> None:
        await self.provider.ping()

    async def close(self) -> None:
        await self.provider.close()

    async def _embed(self, texts: Sequence[str], cache: VectorCache, provider: Call) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        keys: Sequence[bytes | str] = [cache.key(text) for text in texts] if cache.enabled else texts
        results: dict[bytes | str, TextResult] = {}
        missing: dict[bytes | str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if isinstance(key, bytes) and (vector := cache.get(key)) is not None:
                results[key] = vector
            else:
                missing[key] = text
        kind = "queries" if cache is self.queries else "documents"
        MISSES[kind].inc(len(missing))
        HITS[kind].inc(len(texts) - len(missing))
        if missing:
            embedded = await self._call(list(missing.values()), provider)
            for key, result in zip(missing, embedded, strict=True):
                results[key] = result
                if isinstance(key, bytes) and isinstance(result, np.ndarray):
                    cache.put(key, result)
            if isinstance(embedded, np.ndarray) and len(embedded) == len(texts):  # Nothing was cached or repeated.
                return embedded
        return stack_or_raise([results[key] for key in keys])

    async def _call(self, texts: list[str], provider: Call) -> TextResults:
        try:
            return normalized(await provider(texts), len(texts), self.dimension)
        except PartialEmbeddingError as exc:
            results: dict[int, TextResult] = dict(exc.errors)
            if valid := [index for index in range(len(texts)) if index not in exc.errors]:
                results.update(zip(valid, normalized(exc.vectors[valid], len(valid), self.dimension), strict=True))
            return [results[index] for index in range(len(texts))]
        except AppError as exc:
            return [exc] * len(texts)
