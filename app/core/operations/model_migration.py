"""Migrates a bot to another embedding model, or only its words to another analyzer (reindex), while it is searched and
written to.

    begin       from now on, vectors of deleted documents are collected from the new collection too
    copy        embeds every current chunk from its text in PostgreSQL, page by page; a reindex takes along its vector
    catch up    copies what became current meanwhile, until little is left
    cut over    one transaction that blocks writers: copies what is left, then changes collection and model together

After a crash the migration is resumed: the bot's row names it, and the new collection holds what was copied. Searches
use the old collection until they read the bot's row again, so recovery drops it later.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID

from app.core.analyzers.analyzers import NEWEST
from app.core.embedding.port import Embedder
from app.core.leases.leases import Leases
from app.core.leases.row_lease import RowLease
from app.core.operations.copying import Copier, Target
from app.core.operations.migration_lease import migration_lease
from app.core.operations.vector_source import EmbedderOf, Embedding, StoredVectors, VectorSource
from app.core.ports import BotPort, Cutover, ModelMigrationPort, VectorIndex, VerifyPort
from app.schemas.operation_rows import ModelMigration, SourceChunk
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot
from app.utils.errors import (
    BotNotFound,
    CollectionMissing,
    CollectionMoved,
    DatabaseUnavailable,
    Unavailable,
    VectorIndexUnavailable,
)
from app.utils.failpoints import failpoint

BATCH_CHUNKS = 128
"""Chunks that are read, embedded and upserted together; more where the embedder takes more texts in one call."""
REINDEX_CHUNKS = 512
"""Chunks whose vectors are read and upserted together."""
MAX_CUTOVER_CHUNKS = 32
"""Chunks that may be left for the cut-over, during which writers wait."""
MAX_CUTOVER_SECONDS = 2.0
"""How long writers may wait for these chunks to be embedded or read."""
MAX_CUTOVERS = 100

Progress = Callable[[int], object]
"""Called with the number of chunks that are newly known to be in the new collection."""


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What a run did. ``copied``: chunks that it wrote. ``late``: those of them that writers waited for.
    ``embedded``: those that were embedded."""

    migration: ModelMigration
    resumed: bool
    copied: int
    late: int
    embedded: int


@dataclass(slots=True)
class _Run:
    """Every current key below generation ``first`` is copied; of the others those in ``keys``."""

    bot_id: UUID
    migration: ModelMigration
    first: int
    lease: RowLease
    source: VectorSource
    page: int
    keys: set[int] = field(default_factory=set)
    timestamp: int = 0
    copied: int = 0

    @property
    def target(self) -> Target:
        return Target(self.migration.collection_name, self.migration.analyzer_version, self.migration.title_in_lexical)

    def add(self, keys: Sequence[int]) -> None:
        self.keys.update(key for key in keys if key >= self.first * CHUNKS_PER_GENERATION)

    def wrote(self, chunks: Sequence[SourceChunk], timestamp: int) -> None:
        self.timestamp = max(self.timestamp, timestamp)
        self.copied += len(chunks)
        self.add([chunk.chunk_id for chunk in chunks])

    def missing(self, keys: Sequence[int]) -> list[int]:
        return [key for key in keys if key not in self.keys]


class _CutoverTooLarge(Exception):
    """More is left to copy than writers may wait for."""


class ModelMigrator:
    """``embedder``: to migrate to; None for all other methods. ``embedder_of``: opens the embedder of vectors that a
    reindex does not find. ``late_write_window``: how long after the end of its call a write to Milvus may still take
    effect. ``grace``: how long the old collection is kept for processes that read the bot's row before the cut-over.
    """

    def __init__(
        self,
        store: ModelMigrationPort,
        bots: BotPort,
        verify: VerifyPort,
        index: VectorIndex,
        embedder: Embedder | None,
        embedder_of: EmbedderOf,
        leases: Leases,
        *,
        late_write_window: timedelta,
        grace: timedelta,
    ) -> None:
        self._store = store
        self._bots = bots
        self._copier = Copier(store, verify, index, late_write_window, "reembed")
        self._index = index
        self._embedder = embedder
        self._embedder_of = embedder_of
        self._leases = leases
        self._grace = grace

    async def bots(self) -> Sequence[Bot]:
        return await self._bots.list(None)

    async def outdated(self) -> Sequence[UUID]:
        """The bots whose words come from an earlier analyzer."""
        return [bot.bot_id for bot in await self._bots.list(None) if bot.analyzer_version < NEWEST]

    async def chunks(self, bot_id: UUID) -> int:
        """How many chunks the bot has."""
        return (await self._bots.counts(bot_id)).chunks

    async def run(self, bot_id: UUID, progress: Progress = lambda _: None) -> MigrationResult | None:
        """Migrates the bot to the embedder's model, or resumes that migration; None when there is nothing to do.

        Raises BotNotFound, MigrationInProgress, Unavailable when a store or the embedder does not answer, and the error
        of a text that the model does not take. After any error, and after a crash, another call resumes the migration.
        """
        assert self._embedder is not None
        begin = partial(self._store.begin, bot_id, self._embedder.model, self._embedder.dimension)
        source, page = Embedding(self._embedder), max(BATCH_CHUNKS, self._embedder.call_texts)
        return await self._migrate(bot_id, partial(begin, analyzer_version=NEWEST), source, page, progress)

    async def reindex(
        self, bot_id: UUID, progress: Progress = lambda _: None, *, titles: bool | None = None
    ) -> MigrationResult | None:
        """Writes all words of the bot again, with the newest analyzer; None if the bot has no vectors yet.

        ``titles``: whether words of titles are among them; None: as before, and yes for a bot of the first analyzer.
        The vectors are taken along; one that Milvus does not have is embedded. Raises as ``run``, and ModelMismatch if
        a vector is missing and the embedder is another model than the bot's.
        """
        bot = await self._bots.get(bot_id, None)
        if bot is None:
            raise BotNotFound("There is no bot with this chat_bot_id.")
        begin = partial(self._store.begin_reindex, bot_id, analyzer_version=NEWEST, title_in_lexical=titles)
        source = StoredVectors(self._bots, self._index, self._embedder_of, bot)
        return await self._migrate(bot_id, begin, source, REINDEX_CHUNKS, progress)

    async def _migrate(
        self,
        bot_id: UUID,
        begin: Callable[[], Awaitable[ModelMigration | None]],
        source: VectorSource,
        page: int,
        progress: Progress,
    ) -> MigrationResult | None:
        started = asyncio.get_running_loop().time()
        async with migration_lease(self._store, bot_id, self._leases.length) as lease:
            await failpoint("reembed.before_begin")
            migration = await begin()
            if migration is None:
                return None
            await failpoint("reembed.after_begin")
            resumed = migration.collection_name in await self._index.collections()
            await self._make_collection(bot_id, migration)
            await failpoint("reembed.after_collection")
            run = _Run(bot_id, migration, await self._store.low_watermark(bot_id), lease, source, page)
            try:
                await self._copy_all(run, resumed, progress)
                if resumed:
                    await self._copier.collect_orphans(bot_id, migration.collection_name, started)
                late = await self._cut_over(run, progress)
            except CollectionMissing as exc:
                if await self._bots.get(bot_id, None) is None:
                    raise BotNotFound("The bot was deleted during the migration.") from exc
                raise VectorIndexUnavailable("The new collection was dropped: run this again.") from exc
            await failpoint("reembed.after_switch")
            return MigrationResult(migration, resumed, run.copied, late, source.embedded)

    async def abort(self, bot_id: UUID) -> ModelMigration | None:
        """Aborts an unfinished migration and drops its collection; None when there is none. Raises as ``run``."""
        async with migration_lease(self._store, bot_id, self._leases.length):
            await failpoint("reembed.before_abort")
            migration = await self._store.migration(bot_id)
            began_at = asyncio.get_running_loop().time()
            saga = await self._store.abort(bot_id, self._leases.token, self._leases.length)
            if saga is None or saga.collection_name is None:
                return None
            await failpoint("reembed.after_abort")
            with self._leases.holding([saga.generation], since=began_at):
                await self._index.drop(saga.collection_name)
                await self._bots.end_saga(saga.generation, self._leases.token)
            return migration

    async def _make_collection(self, bot_id: UUID, migration: ModelMigration) -> None:
        """Under a saga, for which a deletion of the bot waits: no collection appears after the deletion."""
        began_at = asyncio.get_running_loop().time()
        saga = await self._bots.begin_creation(bot_id, self._leases.token, self._leases.length)
        if saga is None:
            raise BotNotFound("The bot was deleted during the migration.")
        with self._leases.holding([saga], since=began_at):
            await self._index.create(migration.collection_name, migration.dimension)
            await self._bots.end_saga(saga, self._leases.token)

    async def _copy_all(self, run: _Run, resumed: bool, progress: Progress) -> None:
        after = 0
        while page := await self._store.chunk_page(run.bot_id, after, run.page):
            began_at = asyncio.get_running_loop().time()
            after = page[-1].chunk_id
            present = await self._copier.present(run.migration.collection_name, page) if resumed else set()
            run.add([chunk.chunk_id for chunk in page if chunk.chunk_id in present])
            await self._copy(run, [chunk for chunk in page if chunk.chunk_id not in present])
            progress(len(page))
            await asyncio.sleep(run.source.pause * (asyncio.get_running_loop().time() - began_at))

    async def _copy(self, run: _Run, chunks: Sequence[SourceChunk]) -> None:
        if chunks:
            timestamp = await self._copier.copy(run.bot_id, run.target, run.source, chunks, run.lease.check)
            run.wrote(chunks, timestamp)

    async def _cut_over(self, run: _Run, progress: Progress) -> int:
        """Catches up and cuts over, as often as it takes; returns how many chunks writers waited for."""
        for _ in range(MAX_CUTOVERS):
            if await self._catch_up(run, progress) > MAX_CUTOVER_CHUNKS:
                continue
            await self._index.load(run.migration.collection_name)  # So that no search waits for it.
            await failpoint("reembed.before_switch")
            try:
                async with self._store.cut_over(run.bot_id, run.migration) as cutover:
                    late = await self._copy_rest(run, cutover)
                    await failpoint("reembed.in_switch")
                    await cutover.complete(run.timestamp, self._grace)
                return late
            except _CutoverTooLarge:
                continue
            except (CollectionMoved, DatabaseUnavailable):
                # The commit's answer may be lost, or writers left no gap for the lock.
                bot = await self._bots.get(run.bot_id, None)
                if bot is None:
                    raise BotNotFound("The bot was deleted during the migration.") from None
                if bot.milvus_collection == run.migration.collection_name:
                    return 0
                if await self._store.migration(run.bot_id) != run.migration:
                    raise
        raise Unavailable("Documents are written faster than they are embedded: run this again when fewer are written.")

    async def _catch_up(self, run: _Run, progress: Progress) -> int:
        """Copies what became current since ``run.first`` was read; returns how many chunks that were."""
        first = await self._store.low_watermark(run.bot_id)
        missing = run.missing(await self._store.keys_from(run.bot_id, run.first * CHUNKS_PER_GENERATION))
        for start in range(0, len(missing), run.page):
            keys = missing[start : start + run.page]
            await self._copy(run, await self._store.chunks_of_keys(run.bot_id, keys))
        progress(len(missing))
        run.first = first
        run.keys = {key for key in run.keys if key >= first * CHUNKS_PER_GENERATION}
        return len(missing)

    async def _copy_rest(self, run: _Run, cutover: Cutover) -> int:
        """Copies what is left while writers wait. A connection is held meanwhile, so this is limited."""
        missing = run.missing(await cutover.keys_from(run.first * CHUNKS_PER_GENERATION))
        if len(missing) > MAX_CUTOVER_CHUNKS:
            raise _CutoverTooLarge
        if missing:
            chunks = await cutover.chunks_of_keys(missing)
            try:
                async with asyncio.timeout(MAX_CUTOVER_SECONDS):
                    timestamp = await self._copier.write(
                        run.target, run.source, chunks, run.lease.check, cutover.milvus_timestamp
                    )
                run.wrote(chunks, timestamp)
            except TimeoutError as exc:
                raise _CutoverTooLarge from exc
        return len(missing)
