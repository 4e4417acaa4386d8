"""A model of Milvus as it was measured: timestamps, guarantees, delayed consumption, deletes that are visible late."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import numpy as np

from app.core.ports import ChunkIds, Hit, KeyRange, Vectors
from app.schemas.operation_rows import Reservation
from app.utils.errors import CollectionForeign, CollectionMissing, CollectionReleased

T = TypeVar("T")


@dataclass(slots=True)
class Change:
    """The insert of a key, or its delete when ``vector`` is None. ``seen``: when a weak read shows a delete."""

    timestamp: int
    doc_id: int
    vector: Vectors | None
    seen: float


@dataclass(slots=True)
class SimulatedCollection:
    dimension: int
    changes: dict[int, list[Change]] = field(default_factory=dict)
    log: list[tuple[float, int]] = field(default_factory=list)  # (when consumed, timestamp), both ascending


class SimulatedMilvus:
    """The Milvus server. Every method happens at one moment; delays and faults are in process.py.

    A collection has one channel (num_shards=1). A reader has consumed a prefix of its log, at least up to its guarantee
    timestamp. In that prefix it sees every insert, and each delete either at once or later. A delete hides inserts with
    an earlier timestamp; an insert that lands after the delete stays.
    """

    def __init__(self, now: Callable[[], float], random: Random, lag: float) -> None:
        self._now = now
        self._random = random
        self._lag = lag
        self._timestamp = 0
        self.data: dict[str, SimulatedCollection] = {}
        self.loaded = set[str]()
        self.marker: list[Reservation] = []

    def create(self, collection: str, dimension: int, *, load: bool = True) -> None:
        found = self.data.setdefault(collection, SimulatedCollection(dimension))
        if found.dimension != dimension:
            raise CollectionForeign(collection)
        if load:
            self.loaded.add(collection)

    def load(self, collection: str) -> None:
        self._get(collection)
        self.loaded.add(collection)

    def release(self, collection: str) -> None:
        self.loaded.discard(collection)

    def read(self, collection: str, effect: Callable[[], T]) -> T:
        """What a client reads: only of a collection in memory."""
        self._get(collection)
        if collection not in self.loaded:
            raise CollectionReleased
        return effect()

    def drop(self, collection: str, dimension: int | None = None) -> None:
        found = self.data.get(collection)
        if found and dimension in (None, found.dimension):
            self.lose(collection)

    def lose(self, collection: str) -> None:
        """Loses the collection, without a call of the server."""
        self.data.pop(collection, None)
        self.loaded.discard(collection)

    def lose_some(self, collection: str) -> None:
        """Loses half of its rows."""
        if found := self.data.get(collection):
            for key in self._random.sample(sorted(found.changes), len(found.changes) // 2):
                del found.changes[key]

    def collections(self) -> list[str]:
        return list(self.data)

    def reserve(self, reservations: Sequence[Reservation]) -> None:
        self.marker += reservations

    def reservations(self) -> list[Reservation]:
        """A strong read. A reservation that landed twice is returned once, as by MilvusMarker."""
        return sorted(dict.fromkeys(self.marker), key=lambda one: one.block.last)

    def greatest_key(self, collection: str, above: int) -> int:
        return max([above, *self.rows(collection)] if collection in self.data else [above])

    def upsert(self, collection: str, chunk_ids: ChunkIds, doc_ids: ChunkIds, embeddings: Vectors) -> int:
        found = self._get(collection)
        timestamp, consumed = self._append(found)
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        for key, doc_id, unit in zip(chunk_ids.tolist(), doc_ids.tolist(), units, strict=True):
            found.changes.setdefault(key, []).append(Change(timestamp, doc_id, unit, consumed))
        return timestamp

    def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        found = self._get(collection)
        timestamp, consumed = self._append(found)
        seen = consumed + self._random.random() * self._lag
        for key in chunk_ids:
            if key in found.changes:
                found.changes[key].append(Change(timestamp, 0, None, seen))

    def search(
        self,
        collection: str,
        query: Vectors,
        k: int,
        *,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[Hit]:
        wanted = None if doc_ids is None else set(doc_ids)
        rows: list[tuple[int, Vectors]] = []
        for key, changes in self._get(collection).changes.items():
            if any(first <= key < end for first, end in exclude_ranges) or (
                chunk_ids is not None and key not in chunk_ids
            ):
                continue
            shown = self._shown(collection, changes, guarantee_timestamp)
            if shown is not None and shown.vector is not None and (wanted is None or shown.doc_id in wanted):
                rows.append((key, shown.vector))
        if not rows:
            return []
        scores = np.array([vector for _, vector in rows]) @ (query / np.linalg.norm(query))
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        return [Hit(rows[number][0], float(scores[number])) for number in order]

    def vectors(self, collection: str, chunk_ids: Sequence[int], guarantee_timestamp: int) -> dict[int, Vectors]:
        """What a read with this guarantee returns of the keys."""
        changes = self._get(collection).changes
        found = {key: self._shown(collection, changes[key], guarantee_timestamp) for key in chunk_ids if key in changes}
        return {key: row.vector for key, row in found.items() if row is not None and row.vector is not None}

    def _shown(self, collection: str, changes: list[Change], guarantee_timestamp: int) -> Change | None:
        """The change of a key that a reader with this guarantee sees."""
        now, limit = self._now(), guarantee_timestamp
        for consumed, timestamp in reversed(self._get(collection).log):
            if consumed <= now:
                limit = max(limit, timestamp)
                break
        shown: Change | None = None
        for change in changes:
            if change.timestamp > limit:
                break
            if change.vector is not None:
                shown = change
            elif change.seen <= now:
                shown = None
        return shown

    def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        keys = self.rows(collection)
        return {key for key in keys if any(first <= key < end for first, end in ranges)}

    def keys(self, collection: str) -> list[int]:
        return sorted(self.rows(collection))

    def rows(self, collection: str) -> dict[int, Vectors]:
        """What a strong read returns."""
        newest = ((key, changes[-1]) for key, changes in self._get(collection).changes.items())
        return {key: change.vector for key, change in newest if change.vector is not None}

    def _append(self, found: SimulatedCollection) -> tuple[int, float]:
        now = self._now()
        self._timestamp = max(self._timestamp + 1, int(now * 1000) << 18)
        consumed = now + self._random.random() ** 2 * self._lag
        if found.log:
            consumed = max(consumed, found.log[-1][0])
        found.log.append((consumed, self._timestamp))
        return self._timestamp, consumed

    def _get(self, collection: str) -> SimulatedCollection:
        if collection not in self.data:
            raise CollectionMissing(collection)
        return self.data[collection]
