"""Moves a bot to another embedding model, while it is searched and written to.

    begin    from now on, what is deleted is collected from the new collection too
    copy     every current chunk, from the text in PostgreSQL, page by page
    catch up what became current meanwhile, until little is left
    switch   one transaction that keeps writers out: embeds what is left, then collection and model change at once

All is found again after a crash: the move stands in the bot's row, what is copied stands in the new collection.
Searches go on in the old collection until they read the bot's row anew, so it is dropped later, by recovery.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from app.core.embedding.port import Embedder
from app.core.leases.leases import Leases
from app.core.leases.row_lease import RowLease
from app.core.operations.copying import Copier
from app.core.operations.migration_lease import reembed_lease
from app.core.ports import BotPort, Cutover, ReembedPort, VectorIndex, VerifyPort
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, ModelMigration, SourceChunk
from app.utils.errors import (
    BotNotFound,
    CollectionMissing,
    CollectionMoved,
    DatabaseUnavailable,
    Unavailable,
    VectorIndexUnavailable,
)
from app.utils.failpoints import failpoint

PART_CHUNKS = 128
"""Chunks read, embedded and upserted together; more where the embedder asks for more."""
FEW_CHUNKS = 32
"""So many may be left to the switch, which writers wait for."""
SWITCH_SECONDS = 2.0
"""Longest that writers wait for what is left to be embedded."""
ATTEMPTS = 100

Progress = Callable[[int], object]
"""Is told of chunks that are known to be in the new collection."""


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What a run did. ``copied``: chunks embedded by it; ``late``: those of them that writers waited for."""

    move: ModelMigration
    resumed: bool
    copied: int
    late: int


@dataclass(slots=True)
class _Run:
    """Every current key below generation ``first`` is copied; of the others those in ``keys``."""

    bot_id: UUID
    move: ModelMigration
    first: int
    lease: RowLease
    keys: set[int] = field(default_factory=set)
    timestamp: int = 0
    copied: int = 0

    def add(self, keys: Sequence[int]) -> None:
        self.keys.update(key for key in keys if key >= self.first * CHUNKS_PER_GENERATION)

    def wrote(self, chunks: Sequence[SourceChunk], timestamp: int) -> None:
        self.timestamp = max(self.timestamp, timestamp)
        self.copied += len(chunks)
        self.add([chunk.chunk_id for chunk in chunks])

    def lacks(self, keys: Sequence[int]) -> list[int]:
        return [key for key in keys if key not in self.keys]


class _CutoverTooLarge(Exception):
    """Too much was left for the switch."""


class Reembedder:
    """``settle``: how long after its call's end a write to Milvus may still land. ``grace``: how long the old
    collection stays for those who read the bot's row before the switch."""

    def __init__(
        self,
        store: ReembedPort,
        bots: BotPort,
        verify: VerifyPort,
        index: VectorIndex,
        embedder: Embedder | None,
        leases: Leases,
        *,
        settle: timedelta,
        grace: timedelta,
    ) -> None:
        self._store = store
        self._bots = bots
        self._copier = Copier(store, verify, index, settle, "reembed")
        self._index = index
        self._embedder = embedder
        self._leases = leases
        self._grace = grace

    async def bots(self) -> Sequence[Bot]:
        return await self._bots.list(None)

    async def chunks(self, bot_id: UUID) -> int:
        """How many the bot has."""
        return (await self._bots.counts(bot_id)).chunks

    async def run(self, bot_id: UUID, progress: Progress = lambda _: None) -> MigrationResult | None:
        """Moves the bot to the embedder's model, or ends a move that was begun; None when there is nothing to move.

        Raises BotNotFound, ReembedInProgress, Unavailable when a store or the embedder is away, and the error of a text
        that the model does not take. Whatever it raises, and wherever it is killed, calling it again goes on.
        """
        assert self._embedder is not None
        started = asyncio.get_running_loop().time()
        async with reembed_lease(self._store, bot_id, self._leases.length) as lease:
            await failpoint("reembed.before_begin")
            move = await self._store.begin(bot_id, self._embedder.model, self._embedder.dimension)
            if move is None:
                return None
            await failpoint("reembed.after_begin")
            resumed = move.collection_name in await self._index.collections()
            await self._make_collection(bot_id, move)
            await failpoint("reembed.after_collection")
            run = _Run(bot_id, move, await self._store.low_watermark(bot_id), lease)
            try:
                await self._copy_all(run, self._embedder, resumed, progress)
                if resumed:
                    await self._copier.collect_strays(bot_id, move.collection_name, started)
                late = await self._cut_over(run, self._embedder, progress)
            except CollectionMissing as exc:
                if await self._bots.get(bot_id, None) is None:
                    raise BotNotFound("The bot was deleted meanwhile.") from exc
                raise VectorIndexUnavailable("The new collection went away: begin again.") from exc
            await failpoint("reembed.after_switch")
            return MigrationResult(move, resumed, run.copied, late)

    async def abort(self, bot_id: UUID) -> ModelMigration | None:
        """Gives a half-done move up and drops what it has built; None when there is none. Raises as ``run``."""
        async with reembed_lease(self._store, bot_id, self._leases.length):
            await failpoint("reembed.before_abort")
            move = await self._store.move(bot_id)
            began_at = asyncio.get_running_loop().time()
            saga = await self._store.forget(bot_id, self._leases.token, self._leases.length)
            if saga is None or saga.collection_name is None:
                return None
            await failpoint("reembed.after_abort")
            with self._leases.holding([saga.generation], since=began_at):
                await self._index.drop(saga.collection_name)
                await self._bots.end_saga(saga.generation, self._leases.token)
            return move

    async def _make_collection(self, bot_id: UUID, move: ModelMigration) -> None:
        """Under a saga, which the bot's deletion waits for: nothing appears behind it."""
        began_at = asyncio.get_running_loop().time()
        saga = await self._bots.begin_creation(bot_id, self._leases.token, self._leases.length)
        if saga is None:
            raise BotNotFound("The bot was deleted meanwhile.")
        with self._leases.holding([saga], since=began_at):
            await self._index.create(move.collection_name, move.dimension)
            await self._bots.end_saga(saga, self._leases.token)

    async def _copy_all(self, run: _Run, embedder: Embedder, resumed: bool, progress: Progress) -> None:
        after = 0
        while page := await self._store.page(run.bot_id, after, max(PART_CHUNKS, embedder.call_texts)):
            after = page[-1].chunk_id
            there = await self._copier.present(run.move.collection_name, page) if resumed else set()
            run.add([chunk.chunk_id for chunk in page if chunk.chunk_id in there])
            await self._copy(run, embedder, [chunk for chunk in page if chunk.chunk_id not in there])
            progress(len(page))

    async def _copy(self, run: _Run, embedder: Embedder, chunks: Sequence[SourceChunk]) -> None:
        if chunks:
            timestamp = await self._copier.copy(run.bot_id, run.move.collection_name, embedder, chunks, run.lease.check)
            run.wrote(chunks, timestamp)

    async def _cut_over(self, run: _Run, embedder: Embedder, progress: Progress) -> int:
        """Catches up and switches, as often as it takes; returns how many chunks writers waited for."""
        for _ in range(ATTEMPTS):
            if await self._catch_up(run, embedder, progress) > FEW_CHUNKS:
                continue
            await failpoint("reembed.before_switch")
            try:
                async with self._store.switching(run.bot_id, run.move) as switch:
                    late = await self._copy_rest(run, embedder, switch)
                    await failpoint("reembed.in_switch")
                    await switch.complete(run.timestamp, self._grace)
                return late
            except _CutoverTooLarge:
                continue
            except (CollectionMoved, DatabaseUnavailable):
                # Its answer may be lost, or writers did not leave a gap for the lock.
                bot = await self._bots.get(run.bot_id, None)
                if bot is None:
                    raise BotNotFound("The bot was deleted meanwhile.") from None
                if bot.milvus_collection == run.move.collection_name:
                    return 0
                if await self._store.move(run.bot_id) != run.move:
                    raise
        raise Unavailable("Documents are written faster than they are embedded: run this again when it is quieter.")

    async def _catch_up(self, run: _Run, embedder: Embedder, progress: Progress) -> int:
        """Copies what has become current since ``run.first`` was read; returns how many chunks that were."""
        first = await self._store.low_watermark(run.bot_id)
        missing = run.lacks(await self._store.keys(run.bot_id, run.first * CHUNKS_PER_GENERATION))
        size = max(PART_CHUNKS, embedder.call_texts)
        for start in range(0, len(missing), size):
            await self._copy(run, embedder, await self._store.chunks(run.bot_id, missing[start : start + size]))
        progress(len(missing))
        run.first = first
        run.keys = {key for key in run.keys if key >= first * CHUNKS_PER_GENERATION}
        return len(missing)

    async def _copy_rest(self, run: _Run, embedder: Embedder, switch: Cutover) -> int:
        """While writers wait. The connection is held all the while, so for few chunks and a short time alone."""
        missing = run.lacks(await switch.keys(run.first * CHUNKS_PER_GENERATION))
        if len(missing) > FEW_CHUNKS:
            raise _CutoverTooLarge
        if missing:
            chunks = await switch.chunks(missing)
            try:
                async with asyncio.timeout(SWITCH_SECONDS):
                    timestamp = await self._copier.write(run.move.collection_name, embedder, chunks, run.lease.check)
                run.wrote(chunks, timestamp)
            except TimeoutError as exc:
                raise _CutoverTooLarge from exc
        return len(missing)
