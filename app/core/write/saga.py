"""The write of documents across both stores, and how it is undone.

    T1      PostgreSQL: chunks and saga rows            nothing is visible; the first texts are embedded meanwhile
    index   embed, check, upsert into Milvus            still invisible: no document names these generations
    T2      PostgreSQL: switch, saga rows out           visible, acknowledged

Where T2 finds that a bot has moved to another collection, its writes are taken back and begun anew for the new one.

A crash at any point leaves a saga row, and recovery compensates by it. A failure that is seen compensates at
once. No connection is held while embedding or writing to Milvus.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple
from uuid import UUID

import numpy as np

from app.core.bots.bots import Bots
from app.core.embedding.check import invalid_vectors
from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.ports import ChunkIds, DocumentPort, VectorIndex
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.core.write.generations import Generations
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import LEASE_LOST, Write
from app.schemas.rows import CHUNKS_PER_GENERATION
from app.utils.errors import (
    AppError,
    CollectionMissing,
    CollectionMoved,
    DatabaseUnavailable,
    EmbeddingInvalid,
    LeaseLost,
    VectorIndexUnavailable,
)
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch
from app.utils.tasks import cancel_quietly

log = logging.getLogger(__name__)

PART_CHUNKS = 512
"""Chunks embedded and upserted together: large enough to batch well, small enough to bound memory; more where
the embedder asks for more."""
LOOP_TICKS_BEFORE_T1 = 2
"""Turns of the event loop after which a remote provider has been sent the first texts. T1 then has time until their
vectors come."""
MOVES = 4
"""How often writes are begun anew because their bot has moved."""


class ChunkBatch(NamedTuple):
    """Chunks on their way to Milvus, embedded and upserted together: of each its write, its keys, its text."""

    writes: Sequence[Write]
    chunk_ids: ChunkIds
    doc_ids: ChunkIds
    texts: Sequence[str]

    @classmethod
    def of(cls, chunks: Sequence[tuple[Write, int, str]]) -> "ChunkBatch":
        writes, chunk_ids, texts = zip(*chunks, strict=True)
        doc_ids = [write.doc_id or 0 for write in writes]  # None of those that failed in T1.
        return cls(writes, np.array(chunk_ids, np.int64), np.array(doc_ids, np.int64), texts)

    def chunk_index(self, position: int) -> int:
        return int(self.chunk_ids[position]) % CHUNKS_PER_GENERATION

    def by_bot(self, vectors: Vectors) -> list[tuple["ChunkBatch", Vectors]]:
        """What goes on of it, bot by bot."""
        live: dict[UUID, list[int]] = {}
        for position, write in enumerate(self.writes):
            if write.is_live:
                live.setdefault(write.bot.bot_id, []).append(position)
        if len(live) == 1 and len(next(iter(live.values()))) == len(self.writes):  # Nothing to be copied.
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


PrefetchedVectors = dict[Embedder, asyncio.Task[Vectors]]
"""The vectors of each embedder's first part, which are on their way."""


class Saga:
    def __init__(
        self,
        documents: DocumentPort,
        bots: Bots,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        leases: Leases,
        pace: BulkWriteThrottle,
        generations: Generations,
    ) -> None:
        self._documents = documents
        self._bots = bots
        self._index = index
        self._embedders = embedders
        self._leases = leases
        self._pace = pace
        self._generations = generations

    async def run(self, writes: Sequence[Write], timings: Stopwatch, once: IdempotentRequest | None = None) -> None:
        """Carries each write through or undoes it; ``write.error`` says which.

        One transaction opens all of them and one makes visible all that succeeded. With ``once``, nothing is done
        if it was answered before; then, or when a write succeeded, it has an answer. Raises DatabaseUnavailable
        when PostgreSQL is away before anything was begun, IdempotencyKeyReused, RequestInFlight, and what stands in the
        way of numbering the writes. Stages in ``timings``: postgres, embedding, milvus.
        """
        await failpoint("write.before_t1")
        began_at = asyncio.get_running_loop().time()
        early = self._prefetch_vectors(writes, timings)
        try:
            for _ in range(LOOP_TICKS_BEFORE_T1):
                await asyncio.sleep(0)
            with timings.measure("postgres"):
                await self._generations.within_block(
                    len(writes),
                    lambda: self._documents.begin(writes, self._leases.token, self._leases.length, once),
                )
            if not (once and once.replayed):
                await self._carry(writes, early, began_at, timings, once)
        finally:
            for embedding in early.values():
                cancel_quietly(embedding)

    async def _carry(
        self,
        writes: Sequence[Write],
        early: PrefetchedVectors,
        began_at: float,
        timings: Stopwatch,
        once: IdempotentRequest | None,
    ) -> None:
        """From T1 on."""
        begun = [write for write in writes if write.error is None]
        if begun:
            self._generations.used(begun[-1].generation)
        with ExitStack() as leases:
            leases.enter_context(self._leases.holding([write.generation for write in begun], since=began_at))
            await failpoint("write.after_t1")
            timestamps = await self._index_all(writes, timings, early)
            await self._finish(begun, timestamps, timings, once)
            for _ in range(MOVES):
                moved = [write for write in begun if write.error is None and write.moved]
                if not moved:
                    break
                began_at = asyncio.get_running_loop().time()
                with timings.measure("postgres"):
                    await self._restart(moved, once)
                again = [write for write in moved if write.is_live]
                leases.enter_context(self._leases.holding([write.generation for write in again], since=began_at))
                await failpoint("write.after_t1_anew")
                timestamps |= await self._index_all(again, timings, {})
                await self._finish(begun, timestamps, timings, once)
            if any(write.moved and write.error is None for write in begun):  # Then T2 has not been for any of them.
                for write in begun:
                    write.fail(CollectionMoved())
            with timings.measure("postgres"):
                if failed := [write for write in begun if write.error is not None]:
                    await self._compensate(failed)

    async def _finish(
        self, begun: Sequence[Write], timestamps: dict[UUID, int], timings: Stopwatch, once: IdempotentRequest | None
    ) -> None:
        """T2 for all that were indexed; not while one of them is to be begun anew, as one answer is stored for all."""
        indexed = [write for write in begun if write.error is None]
        if indexed and not any(write.moved for write in indexed):
            with timings.measure("postgres"):
                await self._commit(indexed, timestamps, once)

    async def _restart(self, moved: Sequence[Write], once: IdempotentRequest | None) -> None:
        """Takes writes back whose bot has moved, and begins them again with the bot as it is now."""
        await failpoint("write.before_t1_anew")
        try:
            bots = await self._bots.usable_many(sorted({write.bot.bot_id for write in moved}), None)
            for write in moved:
                bot = bots[write.bot.bot_id]
                if isinstance(bot, AppError):
                    write.fail(bot)
                elif isinstance(bot, Exception):
                    raise bot
            found = {bot_id: bot for bot_id, bot in bots.items() if not isinstance(bot, Exception)}
            if again := [write for write in moved if write.error is None]:
                await self._generations.within_block(
                    len(again),
                    lambda: self._documents.restart(again, found, self._leases.token, self._leases.length, once),
                )
        except AppError as exc:
            for write in moved:
                write.fail(exc)

    async def _commit(
        self, writes: Sequence[Write], timestamps: dict[UUID, int], once: IdempotentRequest | None
    ) -> None:
        try:
            await failpoint("write.before_t2")
            await self._documents.finish(writes, self._leases.token, once, timestamps)
            await failpoint("write.after_t2")
        except DatabaseUnavailable as exc:
            for write in writes:
                write.moved = False
            await self._decide_unknown(writes, exc)
            if once and all(write.error for write in writes):
                once.answer = None

    async def _decide_unknown(self, writes: Sequence[Write], exc: DatabaseUnavailable) -> None:
        """T2's answer was lost. What can still be compensated was not committed."""
        undone = await self._compensate(writes)
        for write in writes:
            if write.generation in undone or not await self._is_current(write):
                write.fail(exc)

    async def _is_current(self, write: Write) -> bool:
        assert write.doc_id is not None
        try:
            return await self._documents.generation_of(write.bot.bot_id, write.doc_id) == write.generation
        except DatabaseUnavailable:
            return False

    async def _compensate(self, writes: Sequence[Write]) -> set[int]:
        """Takes the writes back; returns the generations that were undone now. What fails is left to recovery."""
        undone: set[int] = set()
        await failpoint("write.before_compensate")
        for bot_id in {write.bot.bot_id for write in writes}:
            generations = [write.generation for write in writes if write.bot.bot_id == bot_id]
            try:
                undone |= await self._documents.compensate(bot_id, generations, self._leases.token)
                lost = [w for w in writes if w.bot.bot_id == bot_id and w.generation not in undone]
                if lost:
                    await self._documents.enqueue_vector_gc(bot_id, lost)
            except DatabaseUnavailable:
                log.warning("left %d writes of bot %s to recovery: PostgreSQL is away", len(generations), bot_id)
        await failpoint("write.after_compensate")
        return undone

    def _by_embedder(self, writes: Sequence[Write]) -> dict[Embedder, list[Write]]:
        groups: dict[Embedder, list[Write]] = {}
        for bot, same in groupby(writes, key=lambda write: write.bot):  # Usually all of them.
            groups.setdefault(self._embedders.of(bot), []).extend(same)
        return groups

    def _prefetch_vectors(self, writes: Sequence[Write], timings: Stopwatch) -> PrefetchedVectors:
        return {
            embedder: asyncio.create_task(
                _vectors(embedder, list(islice(_texts(group), _part_chunks(embedder))), timings)
            )
            for embedder, group in self._by_embedder(writes).items()
        }

    async def _index_all(
        self, writes: Sequence[Write], timings: Stopwatch, early: PrefetchedVectors
    ) -> dict[UUID, int]:
        """Embeds and upserts every chunk, the next part being embedded while the last one lands.

        ``early`` has the first parts of just these writes, those among them that failed since. Returns the newest
        Milvus timestamp of each bot, where Milvus has one.
        """
        timestamps: dict[UUID, int] = {}
        for embedder, group in self._by_embedder(writes).items():
            await self._index_by(embedder, group, timestamps, timings, early.get(embedder))
        return timestamps

    async def _index_by(
        self,
        embedder: Embedder,
        writes: Sequence[Write],
        timestamps: dict[UUID, int],
        timings: Stopwatch,
        early: asyncio.Task[Vectors] | None,
    ) -> None:
        chunks = [
            (write, chunk_id, chunk.text)
            for write in writes
            for chunk_id, chunk in zip(write.chunk_ids, write.document.chunks, strict=True)
        ]
        landing: asyncio.Task[None] | None = None
        try:
            for start in range(0, len(chunks), _part_chunks(embedder)):
                together = chunks[start : start + _part_chunks(embedder)]
                if start or early is None:
                    together = [chunk for chunk in together if chunk[0].is_live]
                if not any(write.is_live for write, _, _ in together):
                    continue
                part = ChunkBatch.of(together)
                vectors = await self._embed(embedder, part, timings, None if start else early)
                if landing:
                    await landing
                landing = asyncio.create_task(self._write_batch(part, vectors, timestamps, timings))
            if landing:
                await landing
        finally:
            if landing:
                landing.cancel()

    async def _embed(
        self, embedder: Embedder, part: ChunkBatch, timings: Stopwatch, early: asyncio.Task[Vectors] | None
    ) -> Vectors:
        """Vectors (len(part.texts), dimension); marks the writes whose vectors cannot be used."""
        try:
            await failpoint("write.before_embed")
            vectors = await (early or _vectors(embedder, part.texts, timings))
            await failpoint("write.after_embed")
        except PartialEmbeddingError as exc:
            for position, error in exc.errors.items():
                part.writes[position].fail(error.at(f"chunk_index {part.chunk_index(position)}"))
            return exc.vectors
        except AppError as exc:
            _fail_all(part, exc)
            return np.empty((len(part.texts), embedder.dimension), np.float32)
        for position, reason in invalid_vectors(vectors, len(part.texts), embedder.dimension).items():
            place = f"chunk_index {part.chunk_index(position)}"
            part.writes[position].fail(EmbeddingInvalid(f"The embedder's vector for {place} is unusable: {reason}."))
        return vectors

    async def _write_batch(
        self, part: ChunkBatch, vectors: Vectors, timestamps: dict[UUID, int], timings: Stopwatch
    ) -> None:
        """Upserts a part, all its bots at once; marks the writes whose vectors did not land."""
        async with self._pace.turn(len(part.texts), timings):
            with timings.measure("milvus"):
                await asyncio.gather(*(self._upsert(one, own, timestamps) for one, own in part.by_bot(vectors)))

    async def _upsert(self, part: ChunkBatch, vectors: Vectors, timestamps: dict[UUID, int]) -> None:
        bot = part.writes[0].bot
        upsert = partial(
            self._index.upsert,
            bot.milvus_collection,
            part.chunk_ids,
            part.doc_ids,
            vectors,
            part.texts,
            fresh=True,  # No generation is ever written twice.
        )
        try:
            await failpoint("write.before_upsert")
            self._check_leases(part)
            try:
                timestamp = await upsert()
            except CollectionMissing:
                await self._bots.ensure_collection(bot)
                self._check_leases(part)
                try:
                    timestamp = await upsert()
                except CollectionMissing as exc:
                    raise VectorIndexUnavailable("The bot's collection went away while it was written to.") from exc
            await failpoint("write.after_upsert")
        except CollectionMoved:
            for write in part.writes:
                write.moved = True
        except AppError as exc:
            _fail_all(part, exc)
        else:
            if timestamp:
                timestamps[bot.bot_id] = max(timestamp, timestamps.get(bot.bot_id, 0))

    def _check_leases(self, part: ChunkBatch) -> None:
        """Nothing is written to Milvus that recovery may have collected already. Raises LeaseLost."""
        if not self._leases.alive({write.generation for write in part.writes}):
            raise LeaseLost(LEASE_LOST)


def _part_chunks(embedder: Embedder) -> int:
    return max(PART_CHUNKS, embedder.call_texts)


def _texts(writes: Sequence[Write]) -> Iterator[str]:
    return (chunk.text for write in writes for chunk in write.document.chunks)


async def _vectors(embedder: Embedder, texts: Sequence[str], timings: Stopwatch) -> Vectors:
    with timings.measure("embedding"):
        return await embedder.embed_documents(texts)


def _fail_all(part: ChunkBatch, error: AppError) -> None:
    for write in part.writes:
        write.fail(error)
