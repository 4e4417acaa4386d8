"""The write of documents across both stores, and how it is undone.

    T1      PostgreSQL: stores chunks, begins sagas      nothing is visible; the first texts are embedded meanwhile
    index   embeds, checks, upserts into Milvus          still invisible: no document names these generations
    T2      PostgreSQL: switches generations, ends sagas visible, acknowledged

If T2 finds that a bot has moved to another collection, its writes are undone and restarted for the new one.

A crash at any point leaves a saga row, by which recovery compensates. A failure that the process sees is compensated
at once. No connection is held while embedding or writing to Milvus.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack

from app.core.bots.bots import Bots
from app.core.bots.recent_vectors import RecentVectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.ports import VectorIndex, WritePort
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.core.write.generations import Generations
from app.core.write.indexing import Indexed, Indexer, PrefetchedVectors
from app.core.write.recorded import UNDOING, RecordedRequest
from app.core.write.transactions import WriteTransactions
from app.core.write.write import Write, live
from app.utils.errors import AppError, CollectionMoved, DatabaseUnavailable
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch
from app.utils.tasks import cancel_quietly

log = logging.getLogger(__name__)

LOOP_TICKS_BEFORE_T1 = 2
"""Iterations of the event loop after which a remote embedder has been sent the first texts: T1 runs while it works."""
MAX_RESTARTS = 4
"""How often writes are restarted because their bot has moved."""


class Saga:
    def __init__(
        self,
        store: WritePort,
        bots: Bots,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        leases: Leases,
        throttle: BulkWriteThrottle,
        generations: Generations,
        recent: RecentVectors,
    ) -> None:
        self._store = store
        self._transactions = WriteTransactions(store)
        self._bots = bots
        self._leases = leases
        self._generations = generations
        self._indexer = Indexer(bots, index, embedders, leases, throttle, recent)

    async def run(self, writes: Sequence[Write], timings: Stopwatch, request: RecordedRequest | None = None) -> None:
        """Finishes each write or undoes it and sets its ``error``.

        One transaction begins all of them and one makes all visible that succeeded. A ``request`` that was answered
        before begins no write. It has an answer then, and when a write succeeded. Raises DatabaseUnavailable when
        PostgreSQL does not answer before T1 has begun, IdempotencyKeyReused, RequestInFlight, PartInProgress, and the
        errors of ``Generations.within_block``. Stages in ``timings``: postgres, embedding, milvus, throttle.
        """
        await failpoint("write.before_t1")
        began_at = asyncio.get_running_loop().time()
        prefetched = self._indexer.prefetch_vectors(writes, timings)
        try:
            for _ in range(LOOP_TICKS_BEFORE_T1):
                await asyncio.sleep(0)
            with timings.measure("postgres"):
                await self._generations.within_block(
                    len(writes),
                    lambda: self._transactions.begin(writes, self._leases.token, self._leases.length, request),
                )
            if not (request and request.replayed):
                await self._continue(writes, prefetched, began_at, timings, request)
        finally:
            for embedding in prefetched.values():
                cancel_quietly(embedding)

    async def _continue(
        self,
        writes: Sequence[Write],
        prefetched: PrefetchedVectors,
        began_at: float,
        timings: Stopwatch,
        request: RecordedRequest | None,
    ) -> None:
        """The steps after T1."""
        begun = live(writes)
        if begun:
            self._generations.used(begun[-1].generation)
        with ExitStack() as leases:
            leases.enter_context(self._leases.holding([write.generation for write in begun], since=began_at))
            await failpoint("write.after_t1")
            indexed = Indexed()
            await self._indexer.index(writes, timings, prefetched, indexed)
            await self._finish(begun, indexed, timings, request)
            for _ in range(MAX_RESTARTS):
                moved = [write for write in live(begun) if write.moved]
                if not moved:
                    break
                began_at = asyncio.get_running_loop().time()
                with timings.measure("postgres"):
                    await self._restart(moved, request)
                again = [write for write in moved if write.is_live]
                leases.enter_context(self._leases.holding([write.generation for write in again], since=began_at))
                await failpoint("write.after_restart")
                await self._indexer.index(again, timings, {}, indexed)
                await self._finish(begun, indexed, timings, request)
            if any(write.moved for write in live(begun)):  # Then T2 has finished none of them.
                for write in begun:
                    write.fail(CollectionMoved())
            if failed := [write for write in begun if write.error is not None]:
                with timings.measure("postgres"):
                    await self._compensate(failed)

    async def _finish(
        self, begun: Sequence[Write], indexed: Indexed, timings: Stopwatch, request: RecordedRequest | None
    ) -> None:
        """T2 for all indexed writes. Not while one of them has to be restarted: one answer is stored for all."""
        writes = live(begun)
        if writes and not any(write.moved for write in writes):
            with timings.measure("postgres"):
                await self._commit(writes, indexed, request)

    async def _restart(self, moved: Sequence[Write], request: RecordedRequest | None) -> None:
        """Undoes writes whose bot has moved, and begins them again for the bot as it is now."""
        await failpoint("write.before_restart")
        try:
            bots = await self._bots.usable_many(sorted({write.bot.bot_id for write in moved}), None)
            for write in moved:
                bot = bots[write.bot.bot_id]
                if isinstance(bot, AppError):
                    write.fail(bot)
            found = {bot_id: bot for bot_id, bot in bots.items() if not isinstance(bot, AppError)}
            if again := live(moved):
                await self._generations.within_block(
                    len(again),
                    lambda: self._transactions.restart(again, found, self._leases.token, self._leases.length, request),
                )
        except AppError as exc:
            for write in moved:
                write.fail(exc)

    async def _commit(self, writes: Sequence[Write], indexed: Indexed, request: RecordedRequest | None) -> None:
        try:
            await failpoint("write.before_t2")
            await self._transactions.finish(writes, self._leases.token, request, indexed.timestamps, indexed.vectors)
            await failpoint("write.after_t2")
        except UNDOING as exc:
            for write in writes:
                write.moved = False
            await self._decide_unknown(writes, exc)
            if request and all(write.error for write in writes):
                request.forget_answer()

    async def _decide_unknown(self, writes: Sequence[Write], exc: AppError) -> None:
        """T2's result was lost, or its request refused it. A write that can still be compensated was not committed."""
        undone = await self._compensate(writes)
        for write in writes:
            if write.generation in undone or not await self._is_current(write):
                write.fail(exc)

    async def _is_current(self, write: Write) -> bool:
        assert write.doc_id is not None
        try:
            return await self._store.generation_of(write.bot.bot_id, write.doc_id) == write.generation
        except DatabaseUnavailable:
            return False

    async def _compensate(self, writes: Sequence[Write]) -> set[int]:
        """Undoes the writes; returns the generations that this call has undone. Recovery does what fails here."""
        undone: set[int] = set()
        await failpoint("write.before_compensate")
        for bot_id in {write.bot.bot_id for write in writes}:
            generations = [write.generation for write in writes if write.bot.bot_id == bot_id]
            try:
                undone |= await self._store.compensate(bot_id, generations, self._leases.token)
                lost = [w for w in writes if w.bot.bot_id == bot_id and w.generation not in undone]
                if lost:
                    await self._store.enqueue_vector_gc(bot_id, [write.to_row() for write in lost])
            except DatabaseUnavailable:
                log.warning("left %d writes of bot %s to recovery: PostgreSQL is unavailable", len(generations), bot_id)
        await failpoint("write.after_compensate")
        return undone
