"""Vectors that this process wrote in the last second, which Milvus may not show yet.

A search under a guarantee timestamp waits until Milvus has processed its log up to there: for a write of this moment
until the next time tick, 200 ms by default. A process that was the last to write to a bot need not wait for its own
writes: it ranks their vectors itself and merges them with what Milvus finds. The guarantee has to cover only

- what other processes wrote: ``foreign_timestamp`` of the bot's row,
- what this process wrote and does not hold any more: the floor of the collection.

How long vectors are held is a guess about Milvus's tick. If the guess is wrong, searches wait; nothing is missing
(docs/decisions/0024-recent-vectors.md).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np

from app.core.ports import ChunkIds, Hit, Vectors
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
    write of this process, else None. ``version``: changes with every write of the process.
    """

    guarantee_timestamp: int
    writer: UUID | None = None
    version: int = 0
    parts: Sequence[Part] = ()

    def expected(self, bot: Bot) -> ExpectedBot:
        """What the bot's row must still be for the search to have seen all that was acknowledged before it."""
        return ExpectedBot(
            bot.created_at,
            bot.milvus_collection,
            bot.statistics_version,
            bot.default_mode,
            bot.default_dense_weight,
            bot.default_min_confidence,
            self.guarantee_timestamp,
            self.writer,
        )

    def covers(self, timestamps: WriteTimestamps) -> bool:
        """Whether the snapshot covers every write in a row with these timestamps, which was read after it was taken.

        Writes of this process that began since are not covered: see ``RecentVectors.is_unchanged``.
        """
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

    def snapshot(self, collection: str, timestamps: WriteTimestamps) -> Snapshot:
        """``timestamps``: of the bot's row, read before. An older row is possible: ``expected`` tells."""
        self._drop_old()
        recent = self._collections.get(collection)
        if recent is None:
            return Snapshot(timestamps.newest)
        needed = timestamps.foreign if timestamps.last_writer == self._token else timestamps.newest
        return Snapshot(max(needed, recent.floor), self._token, recent.version, tuple(recent.parts))

    def is_unchanged(self, collection: str, snapshot: Snapshot) -> bool:
        """Whether the snapshot holds every write of this process up to now that its guarantee does not cover.

        Then a key that PostgreSQL did not confirm is stale, if the bot's row is still the expected one.
        """
        if snapshot.writer is None:  # The row tells of this process's writes too.
            return True
        recent = self._collections.get(collection)
        return recent is not None and recent.version == snapshot.version

    def without_own_writes(self, bot: Bot) -> Bot:
        """The row without what changes with every write of this process."""
        if bot.last_writer != self._token:
            return bot
        return replace(bot, milvus_timestamp=bot.foreign_timestamp, in_flight_generations=())

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


def _now() -> float:
    return asyncio.get_running_loop().time()
