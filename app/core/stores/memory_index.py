"""The vector index in plain memory: exact search, gone with the process. For tests, and the port's plainest reading."""

from collections.abc import AsyncIterator, Sequence

import numpy as np

from app.core.stores.ports import Hit, Keys, Vectors
from app.schemas import milvus as schema
from app.utils.errors import CollectionForeign, CollectionMissing


class _Collection:
    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.rows: dict[int, tuple[int, Vectors]] = {}  # chunk_id -> doc_id, unit vector


class MemoryIndex:
    """Keeps to VectorIndex. Writes are visible at once, so its timestamps are 0 and guarantees mean nothing."""

    def __init__(self) -> None:
        self._collections: dict[str, _Collection] = {}

    async def create(self, collection: str, dimension: int) -> None:
        if not schema.COLLECTION_NAME.fullmatch(collection) or not 1 <= dimension <= schema.MAX_DIMENSION:
            raise ValueError(f"no collection {collection!r} of {dimension} dimensions")
        existing = self._collections.setdefault(collection, _Collection(dimension))
        if existing.dimension != dimension:
            raise CollectionForeign(f"Collection {collection} has another shape than {dimension} dimensions of ours.")

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        found = self._collections.get(collection)
        if found is not None and dimension in (None, found.dimension):
            del self._collections[collection]

    async def collections(self) -> list[str]:
        return list(self._collections)

    async def upsert(self, collection: str, chunk_ids: Keys, doc_ids: Keys, embeddings: Vectors) -> int:
        found = self._get(collection)
        if embeddings.shape != (len(chunk_ids), found.dimension) or len(doc_ids) != len(chunk_ids):
            raise ValueError(f"expected ({len(chunk_ids)}, {found.dimension}) embeddings, got {embeddings.shape}")
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        for chunk_id, doc_id, unit in zip(chunk_ids.tolist(), doc_ids.tolist(), units, strict=True):
            found.rows[chunk_id] = (doc_id, unit)
        return 0

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        found = self._get(collection)
        for chunk_id in chunk_ids:
            found.rows.pop(chunk_id, None)

    async def search(
        self, collection: str, query: Vectors, k: int, *, guarantee: int = 0, doc_ids: Sequence[int] | None = None
    ) -> list[Hit]:
        found = self._get(collection)
        if query.shape != (found.dimension,):
            raise ValueError(f"expected a query of {found.dimension} dimensions, got {query.shape}")
        if not 1 <= k <= schema.MAX_TOP_K:
            raise ValueError(f"k must be 1 to {schema.MAX_TOP_K}, not {k}")
        unit = query / np.linalg.norm(query)
        wanted = None if doc_ids is None else set(doc_ids)
        hits = [
            Hit(chunk_id, float(embedding @ unit))
            for chunk_id, (doc_id, embedding) in found.rows.items()
            if wanted is None or doc_id in wanted
        ]
        return sorted(hits, key=lambda hit: -hit.score)[:k]

    async def present(self, collection: str, spans: Sequence[tuple[int, int]]) -> set[int]:
        keys = self._get(collection).rows
        return {key for key in keys if any(first <= key < end for first, end in spans)}

    async def scan(self, collection: str, *, page: int = 4096) -> AsyncIterator[list[int]]:
        keys = sorted(self._get(collection).rows)
        for start in range(0, len(keys), page):
            yield keys[start : start + page]

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._collections.clear()

    def _get(self, collection: str) -> _Collection:
        if collection not in self._collections:
            raise CollectionMissing(collection)
        return self._collections[collection]
