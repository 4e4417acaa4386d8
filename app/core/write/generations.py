"""Reserves generations in Milvus, in blocks, before this database gives them out.

PostgreSQL alone cannot know that it was restored: its sequence has the value of the back-up, and would give out numbers
under which Milvus has vectors of other texts by now. So this database gives out only numbers of a block that it
reserved in Milvus's marker. A database that was restored, copied or restarted reserves a new block beyond all others;
the statement that takes the numbers, ``begin_writes``, detects that.

Two databases that reserve at the same time find each other's rows when they read the marker again, and both try again.
That needs no lock: each writes a row and then reads all rows, with strong consistency. docs/decisions/0017.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar
from uuid import UUID, uuid4

from app.core.ports import GenerationPort, MarkerPort
from app.schemas.operation_rows import GenerationBlock, GenerationState, Reservation
from app.schemas.rows import CHUNKS_PER_GENERATION, MAX_GENERATION
from app.utils.errors import AppError, GenerationsUsedUp, InstallationForeign, NoGeneration, StartupError, Unavailable
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_BLOCK: Final = 1 << 13
"""Size of the first block after a start. The rest of it is lost at the next start: with a start every ten seconds, all
numbers are used up in five years."""
LARGEST_BLOCK: Final = 1 << 20
"""The next block has twice the size of the one that was used up, up to this."""
RESERVE_ATTEMPTS: Final = 8
BEGIN_ATTEMPTS: Final = 3
CHECK_SECONDS: Final = 30.0
"""Between two checks that Milvus still belongs to this database."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What ``adopt`` did. ``first``: the next generation. ``bots``: how many bots got new, empty collections."""

    first: int
    bots: int


class Generations:
    """``own_index``: PostgreSQL and Milvus are embedded in one folder and can only be copied together."""

    def __init__(
        self,
        store: GenerationPort,
        marker: MarkerPort,
        *,
        own_index: bool = False,
        random: Random | None = None,
        first_block: int = FIRST_BLOCK,
    ) -> None:
        self._store = store
        self._marker = marker
        self._own_index = own_index
        self._first_block = first_block
        self._random = random or Random()  # noqa: S311 # for the length of a pause
        self._reserving: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._few_left = 0
        self._opened = False
        self._most_at_once = 0
        self._foreign: InstallationForeign | None = None

    async def open(self) -> None:
        """Checks that Milvus belongs to this database, and reserves a block unless a reserved one can still be used.

        Raises StartupError when Milvus belongs to another installation.
        """
        try:
            await self.reserve()
        except InstallationForeign as exc:
            raise StartupError(exc.lines) from exc
        except Unavailable as exc:  # The first write tries again.
            log.warning("no block of generations was reserved yet: %s", exc.detail)

    async def within_block(self, count: int, begin: Callable[[], Awaitable[T]]) -> T:
        """Calls ``begin``, a transaction that takes ``count`` generations, and reserves a block for it if necessary.

        Raises InstallationForeign, GenerationsUsedUp, Unavailable.
        """
        self.check()
        for _ in range(BEGIN_ATTEMPTS):
            try:
                return await begin()
            except NoGeneration:
                self._most_at_once = max(self._most_at_once, count)
                await self.reserve()
        raise Unavailable("Generations are used faster than they are reserved. Try again.")

    def used(self, generation: int) -> None:
        """Notes that the generation was given out, so that the next block is reserved in time."""
        if generation >= self._few_left:
            self._few_left = MAX_GENERATION  # Until the next block is known.
            self._wake.set()

    def check(self) -> None:
        """Raises InstallationForeign when Milvus belongs to another database now."""
        if self._foreign:
            raise self._foreign

    async def reserve(self) -> None:
        """Returns when generations can be taken. Concurrent callers share one reservation."""
        if self._reserving is None:
            self._reserving = asyncio.create_task(self._reserve())
            self._reserving.add_done_callback(self._reserved)
        await asyncio.shield(self._reserving)

    async def run_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._wake.wait()
            try:
                if self._wake.is_set():
                    self._wake.clear()
                    await self.reserve()
                await self._check_owner()
            except InstallationForeign as exc:
                log.critical("writes are refused: %s", exc.lines)
            except AppError as exc:
                log.warning("no block of generations was reserved: %s", exc.detail)
            except Exception:
                log.exception("no block of generations was reserved")

    async def adopt(self, *, keep_vectors: bool = False) -> TakeOver:
        """Makes Milvus this database's, whatever database it belonged to.

        A bot gets a new collection, to be filled by repair, if its vectors may belong to another database: if one of
        its generations was not reserved in this Milvus by this database, or by one that it is a copy of. With
        ``keep_vectors`` no bot does.
        """
        for _ in range(RESERVE_ATTEMPTS):
            state, rows = await self._store.state(), await self._marker.read()
            taken = {row.block.block_id for row in rows}
            kept = [block for block in state.blocks if block.block_id in taken]
            names = await self._marker.bot_collections()
            mark = max(_mark(rows), state.newest, _last(state.blocks), await self._greatest(names, state.newest))
            block = _block(mark, self._first_block)
            owner = Reservation(block, state.installation_id, state.database, takes_over=True)
            if await self._add([owner]):
                continue
            abandon = [] if keep_vectors else names
            bots = await self._store.take_over(block, state.installation_id, abandon, kept)
            self._foreign = None
            return TakeOver(block.first, bots)
        raise Unavailable("Other databases are reserving generations at this moment. Try again.")

    def _reserved(self, task: asyncio.Task[None]) -> None:
        self._reserving = None
        if not task.cancelled():
            task.exception()  # Retrieved here, because every caller may have been cancelled.

    async def _reserve(self) -> None:
        for attempt in range(RESERVE_ATTEMPTS):
            state = await self._store.state()
            size = self._next_size(state)
            reserve = max(size // 4, self._most_at_once)
            enough = state.left >= reserve
            if enough and self._opened:
                self._few_left = state.last - reserve + 1
                return
            rows = await self._marker.read()
            if rows and _owner(rows) != (state.installation_id, state.database):
                if not self._is_own_copy(state, rows):
                    raise self._refuse(state, rows)
                await self._renew(state, rows)
                continue
            self._foreign, self._opened = None, True
            known = {row.block.block_id for row in rows}
            if enough and state.blocks and state.blocks[-1].block_id in known:
                continue
            older, mark = await self._unmarked(state, rows)
            if enough:
                mark += (
                    1  # A gap, so that the new block does not extend the one in use, which this Milvus does not know.
                )
            block = _block(mark, size)
            await failpoint("generations.before_reserve")
            mine = [Reservation(one, state.installation_id, state.database, takes_over=False) for one in older]
            mine.append(Reservation(block, state.installation_id, state.database, takes_over=not rows))
            if await self._add(mine):
                await asyncio.sleep(self._random.random() * 0.1 * 2**attempt)
                continue
            await failpoint("generations.after_reserve")
            await self._store.use(block, older)
            await failpoint("generations.after_use")
        raise Unavailable("Other databases are reserving generations at this moment. Try again.")

    def _next_size(self, state: GenerationState) -> int:
        """The size of what is in use: [first, last] doubles with each block that extends it."""
        least = max(self._first_block, 2 * self._most_at_once)
        return max(least, min(state.last - state.first + 1, LARGEST_BLOCK)) if state.usable else least

    async def _add(self, mine: Sequence[Reservation]) -> bool:
        """Adds rows. True when another database has reserved one of the same generations, or has taken Milvus over:
        then none of these generations is used."""
        await self._marker.add(mine)
        rows = await self._marker.read()
        own = {one.block.block_id for one in mine}
        if not own <= {row.block.block_id for row in rows}:
            raise Unavailable("Milvus lost a reservation. Try again.")
        others = [row for row in rows if row.block.block_id not in own]
        newest = mine[-1].block
        if any(_overlap(row.block, newest) for row in others):
            return True
        return _owner(rows) != (mine[-1].installation_id, mine[-1].database)

    async def _unmarked(self, state: GenerationState, rows: Sequence[Reservation]) -> tuple[list[GenerationBlock], int]:
        """Blocks of this database that one of the stores does not know, and the greatest generation of all.

        Without a marker, Milvus is new or has lost everything, or was filled by a server of before there was a marker.
        Raises InstallationForeign when it has collections and this database knows none of them.
        """
        mark = max(_mark(rows), _last(state.blocks), state.newest)
        if not rows:
            known = await self._store.known_collections()  # Again below: a bot may get another collection in between.
            names = await self._marker.bot_collections()
            if names and not (set(names) & (known | await self._store.known_collections())):
                raise self._refuse(state, ())
            mark = await self._greatest(names, mark)
            if not state.blocks:
                return ([GenerationBlock(uuid4(), 1, mark)] if mark else []), mark
        elif not state.blocks:  # The process that made the marker stopped before it stored the block here.
            own = (state.installation_id, state.database)
            return [row.block for row in rows if (row.installation_id, row.database) == own], mark
        taken = [row.block for row in rows]  # The marker may be older than this database.
        return [one for one in state.blocks if not any(_overlap(one, other) for other in taken)], mark

    async def _greatest(self, collections: Sequence[str], above: int) -> int:
        """The greatest generation in these collections, or ``above`` if none is greater."""
        key = (above + 1) * CHUNKS_PER_GENERATION - 1
        for name in collections:
            key = await self._marker.greatest_key(name, key)
        return key // CHUNKS_PER_GENERATION

    async def _check_owner(self) -> None:
        state, rows = await self._store.state(), await self._marker.read()
        if rows and _owner(rows) != (state.installation_id, state.database):
            raise self._refuse(state, rows)
        self._foreign = None
        if not state.usable:  # It was restored. The jump of the sequence is also noted for RebuildPort.claim_check.
            await self.reserve()

    def _refuse(self, state: GenerationState, rows: Sequence[Reservation]) -> InstallationForeign:
        if rows:
            installation_id, database = _owner(rows)
            whose = f"installation {installation_id}, database {database}"
        else:
            whose = "another installation: this database knows none of its collections"
        self._foreign = InstallationForeign(
            f"Milvus belongs to {whose}; this is installation {state.installation_id}, database {state.database}.\n"
            "Give this one another Milvus, or another database in it (MILVUS_DB_NAME). If the other one no longer "
            "exists, run python -m app.cli adopt."
        )
        return self._foreign

    def _is_own_copy(self, state: GenerationState, rows: Sequence[Reservation]) -> bool:
        """Whether the folder with both stores was copied, so that Milvus's marker names the original."""
        return self._own_index and _owner(rows)[0] == state.installation_id

    async def _renew(self, state: GenerationState, rows: Sequence[Reservation]) -> None:
        """Makes the copy of a folder a separate installation. All vectors in it belong to it."""
        block, installation_id = _block(max(_mark(rows), state.newest), self._first_block), uuid4()
        if not await self._add([Reservation(block, installation_id, state.database, takes_over=True)]):
            await self._store.take_over(block, installation_id, [], [])
            log.warning("DATA_DIR is a copy of another one: from now on it is a separate installation")


def _owner(rows: Sequence[Reservation]) -> tuple[UUID, str]:
    newest = ([row for row in rows if row.takes_over] or rows)[-1]
    return newest.installation_id, newest.database


def _overlap(one: GenerationBlock, other: GenerationBlock) -> bool:
    return one.first <= other.last and other.first <= one.last


def _mark(rows: Sequence[Reservation]) -> int:
    return _last([row.block for row in rows])


def _last(blocks: Sequence[GenerationBlock]) -> int:
    return max((block.last for block in blocks), default=0)


def _block(mark: int, size: int) -> GenerationBlock:
    """The block after ``mark``. Raises GenerationsUsedUp when there is none."""
    if mark + size > MAX_GENERATION:
        raise GenerationsUsedUp(
            "All generations are used: a chunk_id would not be exact in JSON any more. Documents can be read and "
            "deleted; for new ones start with an empty database."
        )
    if mark + size > MAX_GENERATION // 10 * 9:
        log.warning("%d of %d generations are reserved", mark + size, MAX_GENERATION)
    return GenerationBlock(uuid4(), mark + 1, mark + size)
