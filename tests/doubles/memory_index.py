"""The vector index in memory, with exact search: for tests, and as the simplest implementation of the port."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.core.analyzers.analyzers import NEWEST, tokens
from app.core.ports import ChunkIds, Hit, KeyRange, UnverifiedCollection, Vectors, by_rank
from app.schemas import milvus as schema
from app.schemas.operation_rows import Reservation
from app.utils.errors import CollectionForeign, CollectionMissing, CollectionReleased


@dataclass(frozen=True, slots=True)
class _Row:
    doc_id: int
    unit: Vectors
    words: Counter[str]


class _Collection:
    def __init__(self, dimension: int, supports_lexical: bool) -> None:
        self.dimension = dimension
        self.supports_lexical = supports_lexical
        self.rows: dict[int, _Row] = {}  # by chunk_id
        self.analyzer_version: int | None = None
        self.is_loaded = False

    def check_analyzer(self, version: int) -> None:
        """Raises AssertionError for another version than the one that the collection was used with before."""
        assert self.analyzer_version in (None, version), (self.analyzer_version, version)
        self.analyzer_version = version


class MemoryMarker:
    """Implements MarkerPort."""

    def __init__(self, collections: dict[str, _Collection]) -> None:
        self._collections = collections
        self.rows: list[Reservation] = []

    async def read(self) -> list[Reservation]:
        return sorted(self.rows, key=lambda one: one.block.last)

    async def add(self, reservations: Sequence[Reservation]) -> None:
        self.rows += reservations

    async def bot_collections(self) -> list[str]:
        return sorted(self._collections)

    async def greatest_key(self, collection: str, above: int) -> int:
        found = self._collections.get(collection)
        return max(above, *found.rows, above) if found else above


class MemoryIndex:
    """Implements VectorIndex. Writes are visible at once, so timestamps are 0 and guarantee timestamps are ignored."""

    def __init__(self, *, bm25: bool = True) -> None:
        self._bm25 = bm25
        self._collections: dict[str, _Collection] = {}
        self.marker = MemoryMarker(self._collections)

    @property
    def bm25(self) -> bool:
        return self._bm25

    async def supports_lexical(self, collection: str) -> bool:
        return self._get(collection).supports_lexical

    async def create(self, collection: str, dimension: int, *, load: bool = True) -> None:
        if not schema.COLLECTION_NAME.fullmatch(collection) or not 1 <= dimension <= schema.MAX_DIMENSION:
            raise ValueError(f"no collection {collection!r} of {dimension} dimensions")
        existing = self._collections.setdefault(collection, _Collection(dimension, self._bm25))
        if existing.dimension != dimension:
            raise CollectionForeign(f"Collection {collection} has another shape than {dimension} dimensions of ours.")
        existing.is_loaded = existing.is_loaded or load

    async def load(self, collection: str) -> None:
        self._get(collection).is_loaded = True

    async def release(self, collection: str) -> None:
        self._get(collection).is_loaded = False

    async def loaded(self) -> set[str]:
        return {name for name, found in self._collections.items() if found.is_loaded}

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        found = self._collections.get(collection)
        if found is not None and dimension in (None, found.dimension):
            del self._collections[collection]

    async def collections(self) -> list[str]:
        return list(self._collections)

    async def upsert(
        self,
        collection: str,
        chunk_ids: ChunkIds,
        doc_ids: ChunkIds,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
        *,
        analyzer_version: int = NEWEST,
        fresh: bool = False,
    ) -> int:
        found = self._get(collection)
        if embeddings.shape != (len(chunk_ids), found.dimension) or len(doc_ids) != len(chunk_ids):
            raise ValueError(f"expected ({len(chunk_ids)}, {found.dimension}) embeddings, got {embeddings.shape}")
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        given = [""] * len(chunk_ids) if texts is None else texts
        if texts is not None and found.supports_lexical:
            found.check_analyzer(analyzer_version)
        for chunk_id, doc_id, unit, text in zip(chunk_ids.tolist(), doc_ids.tolist(), units, given, strict=True):
            words = Counter(tokens(text, analyzer_version)) if found.supports_lexical else Counter[str]()
            found.rows[chunk_id] = _Row(doc_id, unit, words)
        return 0

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        found = self._get(collection)
        for chunk_id in chunk_ids:
            found.rows.pop(chunk_id, None)

    async def search_dense(
        self,
        collection: str,
        queries: Vectors,
        k: int,
        *,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[list[Hit]]:
        found = self._readable(collection)
        if queries.shape[1:] != (found.dimension,):
            raise ValueError(f"expected queries of {found.dimension} dimensions, got {queries.shape}")
        units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        return [_best(found, _cosine(unit), k, doc_ids, chunk_ids, exclude_ranges) for unit in units]

    async def search_lexical(
        self,
        collection: str,
        texts: Sequence[str],
        k: int,
        *,
        analyzer_version: int = NEWEST,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[list[Hit]]:
        found = self._readable(collection)
        if not found.supports_lexical:
            raise ValueError(f"collection {collection} has no lexical field")
        found.check_analyzer(analyzer_version)
        hits = (
            _best(found, _bm25(found, Counter(tokens(text, analyzer_version))), k, doc_ids, chunk_ids, exclude_ranges)
            for text in texts
        )
        return [[hit for hit in best if hit.score > 0] for best in hits]

    async def embeddings(
        self, collection: str, chunk_ids: Sequence[int], *, guarantee_timestamp: int = 0
    ) -> dict[int, Vectors]:
        rows = self._readable(collection).rows
        return {key: rows[key].unit for key in chunk_ids if key in rows}

    async def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        keys = self._readable(collection).rows
        return {key for key in keys if any(first <= key < end for first, end in ranges)}

    async def scan(
        self, collection: str, *, page: int = 4096, key_range: KeyRange | None = None
    ) -> AsyncIterator[list[int]]:
        keys = sorted(
            key for key in self._readable(collection).rows if key_range is None or key_range[0] <= key < key_range[1]
        )
        for start in range(0, len(keys), page):
            yield keys[start : start + page]

    async def unverified_collections(self, claim: float = 0) -> Sequence[UnverifiedCollection]:
        return ()

    async def finish_verification(self, collection: UnverifiedCollection, *, complete: bool) -> None: ...

    async def count(self, collection: str) -> int:
        return len(self._get(collection).rows)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._collections.clear()

    def _readable(self, collection: str) -> _Collection:
        found = self._get(collection)
        if not found.is_loaded:
            raise CollectionReleased
        return found

    def _get(self, collection: str) -> _Collection:
        if collection not in self._collections:
            raise CollectionMissing(collection)
        return self._collections[collection]


def _best(
    collection: _Collection,
    score: Callable[[_Row], float],
    k: int,
    doc_ids: Sequence[int] | None,
    chunk_ids: Sequence[int] | None,
    exclude_ranges: Sequence[KeyRange],
) -> list[Hit]:
    if not 1 <= k <= schema.MAX_TOP_K:
        raise ValueError(f"k must be 1 to {schema.MAX_TOP_K}, not {k}")
    wanted = None if doc_ids is None else set(doc_ids)
    keys = None if chunk_ids is None else set(chunk_ids)
    hits = [
        Hit(chunk_id, score(row))
        for chunk_id, row in collection.rows.items()
        if (wanted is None or row.doc_id in wanted)
        and (keys is None or chunk_id in keys)
        and not any(first <= chunk_id < end for first, end in exclude_ranges)
    ]
    return sorted(hits, key=by_rank)[:k]


def _cosine(unit: Vectors) -> Callable[[_Row], float]:
    return lambda row: float(row.unit @ unit)


def _bm25(collection: _Collection, query: Counter[str]) -> Callable[[_Row], float]:
    """Okapi BM25 as Milvus computes it: a repeated word of the query counts repeatedly, and no weight is negative."""
    rows = collection.rows.values()
    mean = sum(row.words.total() for row in rows) / len(rows) if rows else 0.0
    holding = {word: sum(word in row.words for row in rows) for word in query}
    idf = {word: math.log1p((len(rows) - n + 0.5) / (n + 0.5)) for word, n in holding.items()}

    def score(row: _Row) -> float:
        norm = schema.BM25_K1 * (1 - schema.BM25_B + schema.BM25_B * row.words.total() / (mean or 1.0))
        return sum(
            weight * idf[word] * row.words[word] * (schema.BM25_K1 + 1) / (row.words[word] + norm)
            for word, weight in query.items()
            if word in row.words
        )

    return score
