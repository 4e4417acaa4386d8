"""Vectors of the last second, which Milvus may not show yet: those of this process, and small writes of all processes.

A search under a guarantee timestamp waits until Milvus has processed its log up to there: for a write of this moment
until the next time tick, 200 ms by default. A process that was the last to write to a bot need not wait for its own
writes: it ranks their vectors itself and merges them with what Milvus finds. The guarantee has to cover only

- what other processes wrote: ``foreign_timestamp`` of the bot's row,
- what this process wrote and does not hold any more: the floor of the collection.

Within a second after it heard of a write of another process, it reads the vectors of all recent writes that are small
from ``recent_vectors`` in PostgreSQL. Then the guarantee has to cover what is not in there.

How long vectors are held is a guess about Milvus's tick. If the guess is wrong, searches wait; nothing is missing
(docs/decisions/0024-recent-vectors.md).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np

from app.core.bots.bot_cache import BoundedCache
from app.core.ports import ChunkIds, Hit, RecentVector, RecentWrites, SharedVectors, Vectors
from app.schemas.rows import Bot, ExpectedBot, WriteTimestamps

HELD_SECONDS: Final = 1.0
"""Five ticks of a Milvus with its default settings."""
WRITE_CHUNKS: Final = 256
"""Writes of more chunks are not held."""
COLLECTION_CHUNKS: Final = 2_048
"""Chunks held of a collection: ranking them takes 1 ms with 512 dimensions, 5 ms if each was written alone."""
TOTAL_BYTES: Final = 64 << 20
COLLECTIONS: Final = 4_096
"""Collections whose floor is known. The floor of a collection that was dropped from here is that of all of these."""
SHARED_CHUNKS, SHARED_BYTES = 8, 32 << 10
"""Most of one write that is put into ``recent_vectors``: until then that takes less time than T2, which runs beside."""
READ_AGE: Final = 1_000 << 18
"""In Milvus's timestamps, which are milliseconds and 18 bits: HELD_SECONDS."""
READ_CHUNKS: Final = 256
"""Vectors read from ``recent_vectors`` in one search, which takes about 1 ms; of more, the newest."""
ANY_TIMESTAMP: Final = 2**63 - 1


class Part(NamedTuple):
    """The vectors of one write: keys (n,), documents (n,) and vectors of length 1 (n, dimension)."""

    number: int
    timestamp: int
    chunk_ids: ChunkIds
    doc_ids: ChunkIds
    units: Vectors


@dataclass(slots=True)
class _Recent:
    """``floor``: newest timestamp of this process's writes that ``parts`` lack. ``version``: number of the last one."""

    floor: int
    version: int = 0
    chunks: int = 0
    parts: deque[Part] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a search has to ask of Milvus, and what it adds itself, at one moment.

    ``guarantee_timestamp`` for Milvus. ``writer``: the process's token if ``parts`` and guarantee together cover every
    write of this process, else None. ``version``: changes with every write of the process. ``shared``: the keys of
    ``parts`` if they were read from ``recent_vectors``; then they and the guarantee cover all writes.
    """

    guarantee_timestamp: int
    writer: UUID | None = None
    version: int = 0
    parts: Sequence[Part] = ()
    shared: frozenset[int] | None = None

    def expected(self, bot: Bot) -> ExpectedBot:
        """What the bot's row must still be for the search to have seen all that was acknowledged before it.

        Its timestamps may be any if they were read together with the vectors that the snapshot has of others.
        """
        return ExpectedBot(
            bot.created_at,
            bot.milvus_collection,
            bot.statistics_version,
            bot.default_mode,
            bot.default_dense_weight,
            bot.default_min_confidence,
            self.guarantee_timestamp if self.shared is None else ANY_TIMESTAMP,
            self.writer,
        )

    def covers(self, writes: RecentWrites) -> bool:
        """Whether the snapshot covers every one of these writes, which were read after it was taken.

        Writes of this process that began since are not covered: see ``RecentVectors.is_unchanged``.
        """
        if self.shared is not None:
            # A process that was slow may have added one that is older than the newest.
            guarantee_timestamp, vectors = _shared(writes)
            return guarantee_timestamp <= self.guarantee_timestamp and all(
                one.chunk_id in self.shared for one in vectors if one.timestamp > self.guarantee_timestamp
            )
        timestamps = writes.timestamps
        needed = timestamps.foreign if timestamps.last_writer == self.writer is not None else timestamps.newest
        return needed <= self.guarantee_timestamp

    def nearest(
        self, query: Vectors, doc_ids: Sequence[int] | None = None, chunk_ids: Sequence[int] | None = None
    ) -> list[Hit]:
        """Cosine similarity of every held chunk to ``query`` (dimension,), or of those of these documents or keys."""
        unit = query / np.linalg.norm(query)
        parts = [part for part in self.parts if part.units.shape[1] == len(unit)]
        if not parts:
            return []
        # Of all parts at once, because there may be hundreds of one chunk each.
        keys = np.concatenate([part.chunk_ids for part in parts])
        scores = np.clip(np.concatenate([part.units @ unit for part in parts]), -1.0, 1.0)
        allowed = np.ones(len(scores), bool)
        if doc_ids is not None:
            allowed &= np.isin(np.concatenate([part.doc_ids for part in parts]), doc_ids)
        if chunk_ids is not None:
            allowed &= np.isin(keys, chunk_ids)
        return [*map(Hit, keys[allowed].tolist(), scores[allowed].tolist())]


class RecentVectors:
    """Of one process, whose sagas have the lease token ``token``.

    Every vector that the process writes under its token passes through ``add``, before its timestamp is in the bot's
    row. No method waits, so each one sees and leaves a consistent state.
    """

    def __init__(self, token: UUID) -> None:
        self._token = token
        self._collections: dict[str, _Recent] = {}
        self._added: deque[tuple[float, str, int]] = deque()
        """When each part was added, its collection and its number; the oldest first."""
        self._number = 0
        self._bytes = 0
        self._forgotten_floor = 0
        self._foreign = BoundedCache[str, tuple[int, float]]()
        """By collection: the newest timestamp of another process, and when this one heard of it."""

    def add(self, collection: str, timestamp: int, chunk_ids: ChunkIds, doc_ids: ChunkIds, embeddings: Vectors) -> None:
        """Holds the vectors (n, dimension) of a write that Milvus has acknowledged; not those of a large one."""
        self._drop_old()
        self._number += 1
        recent = self._collections.pop(collection, None) or _Recent(self._forgotten_floor)
        self._collections[collection] = recent  # The last one: the first is forgotten first.
        recent.version = self._number
        if len(chunk_ids) > WRITE_CHUNKS:
            recent.floor = max(recent.floor, timestamp)
        else:
            units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
            recent.parts.append(Part(self._number, timestamp, chunk_ids, doc_ids, units))
            recent.chunks += len(chunk_ids)
            self._added.append((_now(), collection, self._number))
            self._bytes += units.nbytes
        while recent.chunks > COLLECTION_CHUNKS:
            self._drop_first(recent)
        while self._bytes > TOTAL_BYTES:
            self._drop_oldest()
        if len(self._collections) > COLLECTIONS:
            self._forget(next(iter(self._collections)))

    def snapshot(self, collection: str, writes: RecentWrites) -> Snapshot:
        """``writes``: read before. The timestamps may be those of an older row: ``expected`` tells."""
        self._drop_old()
        recent, timestamps = self._collections.get(collection), writes.timestamps
        if recent is None:
            own = Snapshot(timestamps.newest)
        else:
            needed = max(self._foreign_timestamp(timestamps), recent.floor)
            own = Snapshot(needed, self._token, recent.version, tuple(recent.parts))
        if writes.vectors is None:
            return own
        guarantee_timestamp, vectors = _shared(writes)
        if guarantee_timestamp >= own.guarantee_timestamp:
            return own
        return Snapshot(guarantee_timestamp, None, 0, _parts(vectors), frozenset(one.chunk_id for one in vectors))

    def heard_lately(self, bot: Bot) -> bool:
        """Whether this process has heard within HELD_SECONDS, or hears now, of the newest write of another one."""
        newest, now = self._foreign_timestamp(bot.timestamps), _now()
        if not newest:
            return False
        known, heard_at = self._foreign.get(bot.milvus_collection) or (0, now)
        if newest > known:
            heard_at = now
            self._foreign.put(bot.milvus_collection, (newest, now))
        return now - heard_at < HELD_SECONDS

    def wrote_last(self, timestamps: WriteTimestamps) -> bool:
        """Whether no other process has written to the bot since this one."""
        return timestamps.last_writer == self._token

    def _foreign_timestamp(self, timestamps: WriteTimestamps) -> int:
        return timestamps.foreign if self.wrote_last(timestamps) else timestamps.newest

    def is_unchanged(self, collection: str, snapshot: Snapshot) -> bool:
        """Whether the snapshot holds every write of this process up to now that its guarantee does not cover.

        Then a key that PostgreSQL did not confirm is stale, if the bot's row is still the expected one.
        """
        if snapshot.writer is None:  # The row tells of this process's writes too.
            return True
        recent = self._collections.get(collection)
        return recent is not None and recent.version == snapshot.version

    def _drop_old(self) -> None:
        limit = _now() - HELD_SECONDS
        while self._added and self._added[0][0] < limit:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, collection, number = self._added.popleft()
        recent = self._collections.get(collection)
        if recent and recent.parts and recent.parts[0].number == number:
            self._drop_first(recent)

    def _drop_first(self, recent: _Recent) -> None:
        part = recent.parts.popleft()
        recent.floor = max(recent.floor, part.timestamp)
        recent.chunks -= len(part.chunk_ids)
        self._bytes -= part.units.nbytes

    def _forget(self, collection: str) -> None:
        recent = self._collections.pop(collection)
        while recent.parts:
            self._drop_first(recent)
        self._forgotten_floor = max(self._forgotten_floor, recent.floor)


def shareable(vectors: SharedVectors) -> bool:
    return len(vectors.chunk_ids) <= SHARED_CHUNKS and vectors.vectors.nbytes <= SHARED_BYTES


def _shared(writes: RecentWrites) -> tuple[int, Sequence[RecentVector]]:
    """A guarantee timestamp, and the vectors that make it enough for all of these writes: those with a newer one."""
    if writes.vectors is None:
        return writes.timestamps.newest, ()
    oldest = max(writes.unshared, writes.timestamps.newest - READ_AGE)
    if len(writes.vectors) >= READ_CHUNKS:  # There may be more, also of the write of the last one.
        oldest = max(oldest, writes.vectors[-1].timestamp)
    return oldest, [one for one in writes.vectors if one.timestamp > oldest]


def _parts(vectors: Sequence[RecentVector]) -> Sequence[Part]:
    if not vectors:
        return ()
    embeddings = np.array([one.vector for one in vectors])
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    chunk_ids = np.array([one.chunk_id for one in vectors], np.int64)
    doc_ids = np.array([one.doc_id for one in vectors], np.int64)
    return (Part(0, vectors[0].timestamp, chunk_ids, doc_ids, units),)


def _now() -> float:
    return asyncio.get_running_loop().time()
