"""Embeds the chunks of writes and writes their vectors to Milvus: the middle step of the saga.

Vectors are invisible until T2, as no document names their generations.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple
from uuid import UUID

import numpy as np

from app.core.analyzers.analyzers import analyzed_text
from app.core.bots.bots import Bots
from app.core.bots.recent_vectors import RecentVectors, shareable
from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.ports import ChunkIds, SharedVectors, VectorIndex
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.core.write.carrying import ChunkText, chunk_vectors
from app.core.write.transactions import LEASE_LOST
from app.core.write.write import Write
from app.schemas.rows import CHUNKS_PER_GENERATION
from app.utils.errors import (
    AppError,
    CollectionMissing,
    CollectionMoved,
    LeaseLost,
    VectorIndexUnavailable,
)
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch

BATCH_CHUNKS = 512
"""Chunks that are embedded and upserted together: enough for efficient batches, few enough to bound memory. More where
the embedder takes more texts in one call."""


class ChunkBatch(NamedTuple):
    """Chunks that are embedded and upserted together. At each position: the chunk's write, its keys, its text."""

    writes: Sequence[Write]
    chunk_ids: ChunkIds
    doc_ids: ChunkIds
    texts: Sequence[str]

    @classmethod
    def of(cls, chunks: Sequence[tuple[Write, int, str]]) -> "ChunkBatch":
        writes, chunk_ids, texts = zip(*chunks, strict=True)
        doc_ids = [write.doc_id or 0 for write in writes]  # Without doc_id it failed in T1, and is not upserted.
        return cls(writes, np.array(chunk_ids, np.int64), np.array(doc_ids, np.int64), texts)

    def chunk_index(self, position: int) -> int:
        return int(self.chunk_ids[position]) % CHUNKS_PER_GENERATION

    @property
    def lexical_texts(self) -> Sequence[str]:
        """What is analyzed for the lexical field. All writes are of one bot."""
        titled = self.writes[0].bot.title_in_lexical
        return [
            analyzed_text(write.document.title, text, titled)
            for write, text in zip(self.writes, self.texts, strict=True)
        ]

    @property
    def chunk_texts(self) -> list[ChunkText]:
        indexes = (self.chunk_ids % CHUNKS_PER_GENERATION).tolist()
        return [*map(ChunkText, self.writes, indexes, self.texts)]

    def by_bot(self, vectors: Vectors) -> list[tuple["ChunkBatch", Vectors]]:
        """The chunks of live writes and their vectors, by bot."""
        live: dict[UUID, list[int]] = {}
        for position, write in enumerate(self.writes):
            if write.is_live:
                live.setdefault(write.bot.bot_id, []).append(position)
        if len(live) == 1 and len(next(iter(live.values()))) == len(self.writes):  # No copies needed.
            return [(self, vectors)]
        return [
            (
                ChunkBatch(
                    [self.writes[position] for position in positions],
                    self.chunk_ids[positions],
                    self.doc_ids[positions],
                    [self.texts[position] for position in positions],
                ),
                vectors[positions],
            )
            for positions in live.values()
        ]


@dataclass(slots=True)
class Indexed:
    """What Milvus has acknowledged: its newest timestamp for each bot, where it has one.

    ``vectors``: of the only upsert, if it was the only one and is small enough for other processes.
    """

    timestamps: dict[UUID, int] = field(default_factory=dict)
    upserts: int = 0
    vectors: SharedVectors | None = None

    def add(self, bot_id: UUID, timestamp: int, vectors: SharedVectors) -> None:
        self.timestamps[bot_id] = max(timestamp, self.timestamps.get(bot_id, 0))
        self.upserts += 1
        self.vectors = vectors if self.upserts == 1 and shareable(vectors) else None


PrefetchedVectors = dict[Embedder, asyncio.Task[Vectors]]
"""By embedder: a task that embeds the texts of its first batch."""


class Indexer:
    """Marks the writes that fail here: those with a chunk that cannot be embedded or whose vectors were not written."""

    def __init__(
        self,
        bots: Bots,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        leases: Leases,
        throttle: BulkWriteThrottle,
        recent: RecentVectors,
    ) -> None:
        self._bots = bots
        self._index = index
        self._embedders = embedders
        self._leases = leases
        self._throttle = throttle
        self._recent = recent

    def _by_embedder(self, writes: Sequence[Write]) -> dict[Embedder, list[Write]]:
        groups: dict[Embedder, list[Write]] = {}
        for bot, same in groupby(writes, key=lambda write: write.bot):  # Usually all of them.
            groups.setdefault(self._embedders.of(bot), []).extend(same)
        return groups

    def prefetch_vectors(self, writes: Sequence[Write], timings: Stopwatch) -> PrefetchedVectors:
        """Starts to make the vectors of each embedder's first batch. To be passed to ``index`` with the same writes."""
        return {
            embedder: asyncio.create_task(
                chunk_vectors(
                    self._index, embedder, list(islice(_chunk_texts(group), _batch_chunks(embedder))), timings
                )
            )
            for embedder, group in self._by_embedder(writes).items()
        }

    async def index(
        self, writes: Sequence[Write], timings: Stopwatch, prefetched: PrefetchedVectors, indexed: Indexed
    ) -> None:
        """Embeds and upserts every chunk; embeds the next batch while the last one is being upserted.

        ``prefetched`` is what ``prefetch_vectors`` returned for the same writes, including those that failed since; or
        empty. Adds to ``indexed`` what Milvus acknowledges. A write whose bot has moved to another collection is marked
        as moved. Stages in ``timings``: embedding, milvus, throttle.
        """
        for embedder, group in self._by_embedder(writes).items():
            await self._index_by(embedder, group, indexed, timings, prefetched.get(embedder))

    async def _index_by(
        self,
        embedder: Embedder,
        writes: Sequence[Write],
        indexed: Indexed,
        timings: Stopwatch,
        prefetched: asyncio.Task[Vectors] | None,
    ) -> None:
        chunks = [
            (write, chunk_id, chunk.text)
            for write in writes
            for chunk_id, chunk in zip(write.chunk_ids, write.document.chunks, strict=True)
        ]
        upserting: asyncio.Task[None] | None = None
        try:
            for start in range(0, len(chunks), _batch_chunks(embedder)):
                some = chunks[start : start + _batch_chunks(embedder)]
                if start or prefetched is None:
                    some = [chunk for chunk in some if chunk[0].is_live]
                if not any(write.is_live for write, _, _ in some):
                    continue
                batch = ChunkBatch.of(some)
                vectors = await self._embed(embedder, batch, timings, None if start else prefetched)
                if upserting:
                    await upserting
                upserting = asyncio.create_task(self._write_batch(batch, vectors, indexed, timings))
            if upserting:
                await upserting
        finally:
            if upserting:
                upserting.cancel()

    async def _embed(
        self, embedder: Embedder, batch: ChunkBatch, timings: Stopwatch, prefetched: asyncio.Task[Vectors] | None
    ) -> Vectors:
        """Returns vectors (len(batch.texts), dimension); marks the writes whose vectors cannot be used."""
        try:
            await failpoint("write.before_embed")
            vectors = await (prefetched or chunk_vectors(self._index, embedder, batch.chunk_texts, timings))
            await failpoint("write.after_embed")
        except PartialEmbeddingError as exc:
            for position, error in exc.errors.items():
                batch.writes[position].fail(error.prefixed(f"chunk_index {batch.chunk_index(position)}"))
            return exc.vectors
        except AppError as exc:
            _fail_all(batch, exc)
            return np.empty((len(batch.texts), embedder.dimension), np.float32)
        return vectors

    async def _write_batch(self, batch: ChunkBatch, vectors: Vectors, indexed: Indexed, timings: Stopwatch) -> None:
        """Upserts a batch, one request for each bot at the same time."""
        async with self._throttle.slot(len(batch.texts), timings):
            with timings.measure("milvus"):
                await asyncio.gather(*(self._upsert(one, own, indexed) for one, own in batch.by_bot(vectors)))

    async def _upsert(self, batch: ChunkBatch, vectors: Vectors, indexed: Indexed) -> None:
        bot = batch.writes[0].bot
        upsert = partial(
            self._index.upsert,
            bot.milvus_collection,
            batch.chunk_ids,
            batch.doc_ids,
            vectors,
            batch.lexical_texts,
            analyzer_version=bot.analyzer_version,
            fresh=True,  # No generation is written twice.
        )
        try:
            await failpoint("write.before_upsert")
            self._check_leases(batch)
            try:
                timestamp = await upsert()
            except CollectionMissing:
                await self._bots.ensure_collection(bot)
                self._check_leases(batch)
                try:
                    timestamp = await upsert()
                except CollectionMissing as exc:
                    raise VectorIndexUnavailable("The bot's collection was dropped during the write.") from exc
            if timestamp:
                self._recent.add(bot.milvus_collection, timestamp, batch.chunk_ids, batch.doc_ids, vectors)
            await failpoint("write.after_upsert")
        except CollectionMoved:
            for write in batch.writes:
                write.moved = True
        except AppError as exc:
            _fail_all(batch, exc)
        else:
            if timestamp:
                vectors_of = SharedVectors(bot.milvus_collection, batch.chunk_ids, batch.doc_ids, vectors)
                indexed.add(bot.bot_id, timestamp, vectors_of)

    def _check_leases(self, batch: ChunkBatch) -> None:
        """Raises LeaseLost when recovery may have undone one of the writes: its vectors would stay in Milvus."""
        if not self._leases.alive({write.generation for write in batch.writes}):
            raise LeaseLost(LEASE_LOST)


def _batch_chunks(embedder: Embedder) -> int:
    return max(BATCH_CHUNKS, embedder.call_texts)


def _chunk_texts(writes: Sequence[Write]) -> Iterator[ChunkText]:
    return (ChunkText(write, chunk.chunk_index, chunk.text) for write in writes for chunk in write.document.chunks)


def _fail_all(batch: ChunkBatch, error: AppError) -> None:
    for write in batch.writes:
        write.fail(error)
