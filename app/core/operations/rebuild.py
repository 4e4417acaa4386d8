"""Rebuilds the vectors of a bot that Milvus has lost from their texts in PostgreSQL, while other bots are served.

    detected    by a call that finds no collection, or by the count of rows that the servers take in turn
    marked      by a row of index_rebuilds: from then on a search of the bot raises IndexRebuilding
    filled      with every current chunk that is missing, page by page, by one server under a lease
    finished    the row is deleted

If the collection is missing, the bot first gets a new one, which writes use from then on (``Bots.ensure_collection``):
an empty one under the old name would look like that of a bot with few chunks. If rows are missing, they are written
into the same collection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

from app.core.bots.bots import Bots
from app.core.embedding.port import Embedder
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.row_lease import RowLease
from app.core.operations.copying import Copier, Target
from app.core.operations.vector_source import Embedding
from app.core.ports import ModelMigrationPort, RebuildPort, VectorIndex
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.schemas.operation_rows import Check, Rebuild
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, Progress
from app.utils.errors import (
    AppError,
    BotNotFound,
    CollectionMissing,
    CollectionMoved,
    CollectionReleased,
    IndexRebuilding,
)
from app.utils.failpoints import failpoint
from app.utils.stopwatch import Stopwatch

log = logging.getLogger(__name__)

BATCH_CHUNKS = 64
"""Chunks that are read, embedded and upserted together; more where the embedder takes more texts in one call."""
COMPARED_KEYS = 50_000
"""Keys of a bot that are compared at a time, so that a bot of millions needs little memory."""
COMPARED_PAGE = 16_384
"""Keys of one read of Milvus: as many as it returns. Milvus Lite looks at all rows of a collection for each."""
COMPARISON_PAUSE = 1.0
"""Pause after each of these parts, as a multiple of its duration: comparisons take at most half the time of a store."""
REPAIR = "run python -m app.cli repair"

OnProgress = Callable[[Progress], object]


class RebuildLimit:
    """How many chunks a bot may have to be rebuilt without an operator: ``max_chunks`` if its embedder is one of
    ``paid``, any number otherwise."""

    def __init__(self, embedders: EmbedderRegistry, paid: frozenset[Embedder], max_chunks: int) -> None:
        self._embedders = embedders
        self._paid = paid
        self._max_chunks = max_chunks

    def allows(self, bot: Bot, chunks: int) -> bool:
        return chunks <= self._max_chunks or self._embedders.of(bot) not in self._paid

    def error(self, bot: Bot) -> IndexRebuilding:
        """For a search of a bot whose index is incomplete."""
        assert bot.rebuild is not None
        done, total = bot.rebuild
        detail = f"Milvus lost vectors of this bot; {done} of {total} chunks are indexed."
        if not self.allows(bot, total):
            detail += f" They are more than REBUILD_MAX_CHUNKS, so the server does not start by itself: {REPAIR}."
        return IndexRebuilding(detail, progress=bot.rebuild)


class Rebuilder:
    """``interval``: seconds between two searches for bots to rebuild. ``check``: seconds between two counts of a bot's
    rows, by any of the servers. ``settling``: how long after a restore of PostgreSQL a delete from before it may still
    take effect in Milvus. ``counted``: the index whose rows are counted; if it does not load a collection that is
    released, only the loss of the whole collection is noticed until its next load."""

    def __init__(
        self,
        store: RebuildPort,
        chunks: ModelMigrationPort,
        bots: Bots,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        copier: Copier,
        limit: RebuildLimit,
        throttle: BulkWriteThrottle,
        *,
        lease: timedelta,
        interval: float,
        check: float,
        settling: timedelta,
        counted: VectorIndex,
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._bots = bots
        self._index = index
        self._embedders = embedders
        self._copier = copier
        self._limit = limit
        self._throttle = throttle
        self._lease = lease
        self._interval = interval
        self._check = timedelta(seconds=check)
        self._settling = settling
        self._counted = counted
        self._logged_refusals: set[UUID] = set()

    async def rebuild_forever(self) -> None:
        await _forever(self.rebuild_all, self._interval)

    async def check_forever(self) -> None:
        await _forever(self.check_all, self._check.total_seconds() / 10)

    async def rebuild_all(self) -> None:
        """Rebuilds each bot that needs it and that no other process rebuilds. Stops at the first error."""
        for bot_id, progress in (await self._store.all()).items():
            with suppress(BotNotFound):
                bot = await self._bots.get(bot_id, None)
                if self._allows(bot, progress):
                    await self.rebuild(bot_id)

    async def check_all(self) -> None:
        """Checks each bot that is due."""
        while (check := await self._store.claim_check(self._check, self._settling)) is not None:
            await self.check(check)

    async def check(self, check: Check) -> bool:
        """Whether Milvus has all vectors of the bot; if not, the bot is marked to be rebuilt.

        The counts alone prove nothing, as documents are added and deleted between them. Fewer rows than chunks are a
        reason to look which chunks are missing. Rows that should not exist can hide a loss. A restore of PostgreSQL
        brings back documents whose vectors are gone, and leaves such rows. After it keys are compared, until no delete
        from before it can take effect any more.
        """
        bot_id = check.bot_id
        try:
            bot, counts = await self._bots.get_with_counts(bot_id, None)
            if not check.lost_below and await self._counted.count(bot.milvus_collection) >= counts.chunks:
                return True
            unverified = await self._index.unverified_collections()
            if any(each.name == bot.milvus_collection for each in unverified):
                return True  # IndexCheck compares it.
            if await self._lacks_vectors(bot, check):
                if await self._store.begin_in_place(bot_id, bot.milvus_collection):
                    log.warning("bot %s: Milvus lost vectors of collection %s", bot_id, bot.milvus_collection)
                return False
        except CollectionReleased:
            return True  # Milvus has the collection. Its rows are counted when it is loaded.
        except CollectionMissing:
            with suppress(CollectionMoved, BotNotFound):
                await self._bots.ensure_collection(bot)
            return False
        except (BotNotFound, CollectionMoved):
            return True
        if check.lost_below and check.settled:
            await self._store.trust_counts(check)
        return True

    async def _lacks_vectors(self, bot: Bot, check: Check) -> bool:
        """Whether a current chunk has no row in the bot's collection: by keys, from PostgreSQL, Milvus, PostgreSQL."""
        first, began_at = 0, asyncio.get_running_loop().time()
        while keys := await self._chunks.keys_from(bot.bot_id, first, COMPARED_KEYS):
            missing = set(keys)
            async for page in self._index.scan(
                bot.milvus_collection, page=COMPARED_PAGE, key_range=(keys[0], keys[-1] + 1)
            ):
                missing.difference_update(page)
            lost = sorted(missing)
            for start in range(0, len(lost), BATCH_CHUNKS):
                if await self._chunks.chunks_of_keys(bot.bot_id, lost[start : start + BATCH_CHUNKS]):
                    return True
            first = keys[-1] + 1
            if len(keys) == COMPARED_KEYS:  # There may be more.
                await self._store.extend_check(check)
                await asyncio.sleep(COMPARISON_PAUSE * (asyncio.get_running_loop().time() - began_at))
                began_at = asyncio.get_running_loop().time()
        return False

    async def rebuild(self, bot_id: UUID, on_progress: OnProgress = lambda _: None) -> bool:
        """Rebuilds one bot; False when another process does, or has taken the rebuild over.

        Raises Unavailable when a store or the embedder does not answer, ModelMismatch, and the error of a text that the
        model does not take. After any error, and after a crash, another call resumes the rebuild.
        """
        token, requested_at = uuid4(), asyncio.get_running_loop().time()
        work = await self._store.claim(token, self._lease, bot_id=bot_id)
        if work is None:
            return False
        run = _Run(work, token, self._lease, self._store, requested_at)
        renewing = asyncio.create_task(run.lease.renew_forever())
        try:
            done = await self._fill(run, on_progress)
        except CollectionMissing:
            # Lost again: the bot gets another collection and another row of index_rebuilds.
            with suppress(CollectionMoved, BotNotFound):
                await self._bots.ensure_collection(await self._bots.get(bot_id, None))
            done = False
        except BotNotFound:
            done = False
        except (Exception, asyncio.CancelledError):
            with suppress(AppError):
                await self._store.release(bot_id, token)  # So that other processes need not wait for its end.
            raise
        finally:
            renewing.cancel()
        if done:
            log.warning("bot %s: all %d chunks are indexed again", bot_id, work.chunks_total)
        return done

    async def wait_until_rebuilt(self, bot_id: UUID, on_progress: OnProgress = lambda _: None) -> None:
        """Returns when the bot is rebuilt, by this process or another one. Raises as ``rebuild``."""
        while not await self.rebuild(bot_id, on_progress):
            progress = (await self._store.all()).get(bot_id)
            if progress is None:
                return
            on_progress(progress)
            await asyncio.sleep(self._interval)

    async def _fill(self, run: "_Run", on_progress: OnProgress) -> bool:
        work = run.work
        bot = await self._bots.get(work.bot_id, None)
        embedder = self._embedders.of(bot)
        target = Target(bot.milvus_collection, bot.analyzer_version, bot.title_in_lexical)
        source = Embedding(embedder)
        collection, size = target.collection, max(BATCH_CHUNKS, embedder.call_texts)
        resumed, started = work.attempts > 1, asyncio.get_running_loop().time()
        log.warning("bot %s: indexing %d chunks again in %s", bot.bot_id, work.chunks_total, collection)
        low = timestamp = copied = 0
        while low < work.before_generation:
            # A write that began before the loss may have lost vectors and may still become current. Into a new
            # collection it is restarted.
            first = await self._chunks.low_watermark(bot.bot_id) if work.in_place else work.before_generation
            after = low * CHUNKS_PER_GENERATION
            while page := await self._chunks.chunk_page(bot.bot_id, after, size):
                after = page[-1].chunk_id
                page = [chunk for chunk in page if chunk.generation < work.before_generation]
                if not page:
                    break
                present = await self._copier.present(collection, page) if resumed or work.in_place else set()
                if missing := [chunk for chunk in page if chunk.chunk_id not in present]:
                    async with self._throttle.slot(len(missing), Stopwatch()):
                        copied_at = await self._copier.copy(bot.bot_id, target, source, missing, run.lease.check)
                    timestamp = max(timestamp, copied_at)
                    copied += len(missing)
                run.done = min(run.done + len(page), work.chunks_total)
                if not await run.lease.renew():
                    return False
                on_progress(Progress(run.done, work.chunks_total))
            low = first
            if low < work.before_generation:
                await asyncio.sleep(self._interval)
        ended = asyncio.get_running_loop().time()
        if resumed:
            await self._copier.collect_orphans(bot.bot_id, collection, started)
        if copied:  # Until the rebuild is finished, vectors of deleted documents are collected after late writes.
            await self._copier.wait_for_late_writes(ended)
        await failpoint("rebuild.before_finish")
        finished = await self._store.finish(bot.bot_id, collection, run.token, timestamp)
        await failpoint("rebuild.after_finish")
        return finished

    def _allows(self, bot: Bot, progress: Progress) -> bool:
        try:
            if self._limit.allows(bot, progress.total):
                return True
            reason = f"its {progress.total} chunks are more than REBUILD_MAX_CHUNKS: {REPAIR}"
        except AppError as exc:
            reason = exc.detail
        if bot.bot_id not in self._logged_refusals:
            self._logged_refusals.add(bot.bot_id)
            log.warning("bot %s is not rebuilt: %s", bot.bot_id, reason)
        return False


async def _forever(one_round: Callable[[], Awaitable[None]], pause: float) -> None:
    while True:
        try:
            await one_round()
        except AppError as exc:
            log.warning("rebuilding is delayed: %s", exc.detail)
        except Exception:
            log.exception("a round of rebuilding failed")
        await asyncio.sleep(pause)


class _Run:
    """A rebuild that this process has claimed, and its lease."""

    def __init__(self, work: Rebuild, token: UUID, lease: timedelta, store: RebuildPort, requested_at: float) -> None:
        self.work = work
        self.token = token
        self.done = 0
        self.lease = RowLease(
            lease, lambda: store.renew(work.bot_id, token, lease, self.done), "The rebuild", requested_at
        )
