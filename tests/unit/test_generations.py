"""The decision table of docs/decisions/0017: whose Milvus is, and from where on numbers are given out."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from uuid import uuid4

import numpy as np
import pytest

from app.core.write import generations
from app.core.write.generations import FIRST_BLOCK, Generations
from app.schemas.operation_rows import GenerationBlock, Reservation
from app.schemas.rows import MAX_GENERATION
from app.utils.errors import GenerationsUsedUp, InstallationForeign, NoGeneration, StartupError
from tests.contract.records import HOUR, NO_TIME
from tests.doubles.memory_index import MemoryIndex
from tests.doubles.memory_store import MemoryBotStore, MemoryGenerationStore, Tables
from tests.doubles.memory_store.bots import BotRow


class Installation:
    def __init__(self, index: MemoryIndex, tables: Tables | None = None, *, own_index: bool = False) -> None:
        self.tables = tables or Tables()
        self.index = index
        self.generations = Generations(MemoryGenerationStore(self.tables), index.marker, own_index=own_index)

    def take(self) -> int:
        self.tables.check_block(1)
        return self.tables.next_generation()

    def copy(self) -> Tables:
        """As a dump of it that was restored elsewhere."""
        copied = Tables()
        copied.installation_id, copied.database = self.tables.installation_id, "elsewhere"
        copied.blocks, copied.last_generation = list(self.tables.blocks), self.tables.last_generation
        copied.restored = True
        return copied

    async def bot(self, name: str, *generations: int) -> BotRow:
        """A bot with a collection that holds vectors of these generations."""
        bot_id = uuid4()
        await MemoryBotStore(self.tables, NO_TIME).insert(bot_id, name, name, "account", uuid4(), HOUR)
        await self.index.create(name, 4)
        keys = np.array([generation << 16 for generation in generations], np.int64)
        await self.index.upsert(name, keys, keys, np.ones((len(keys), 4), np.float32))
        return self.tables.bots[bot_id]


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


async def marked(index: MemoryIndex) -> list[tuple[int, int]]:
    return [(row.block.first, row.block.last) for row in await index.marker.read()]


async def test_fresh(index: MemoryIndex) -> None:
    new = Installation(index)
    await new.generations.open()
    assert await marked(index) == [(1, FIRST_BLOCK)]
    assert new.take() == 1


async def test_started_once_more_goes_on_with_its_block(index: MemoryIndex) -> None:
    first = Installation(index)
    await first.generations.open()
    assert first.take() == 1
    second = Installation(index, first.tables)
    await second.generations.open()
    assert second.take() == 2
    assert await marked(index) == [(1, FIRST_BLOCK)]


async def test_restored_jumps_past_the_mark(index: MemoryIndex) -> None:
    one = Installation(index)
    await one.generations.open()
    one.tables.last_generation, one.tables.restored = 0, True
    with pytest.raises(NoGeneration):
        one.take()
    await one.generations.reserve()
    assert one.take() == FIRST_BLOCK + 1


async def test_milvus_was_lost(index: MemoryIndex) -> None:
    one = Installation(index)
    await one.generations.open()
    one.take()
    empty = MemoryIndex()
    again = Installation(empty, one.tables)
    await again.generations.open()
    assert again.take() == FIRST_BLOCK + 2
    assert await marked(empty) == [(1, FIRST_BLOCK), (FIRST_BLOCK + 2, 2 * FIRST_BLOCK + 1)]


async def test_milvus_is_older_than_postgresql(index: MemoryIndex) -> None:
    one = Installation(index)
    await one.generations.open()
    one.tables.restored = True
    await one.generations.reserve()
    one.take()
    del index.marker.rows[-1]
    again = Installation(index, one.tables)
    await again.generations.open()
    assert again.take() == 2 * FIRST_BLOCK + 2
    assert len(await marked(index)) == 3


async def test_filled_by_a_server_that_knew_no_marker(index: MemoryIndex) -> None:
    """Whose PostgreSQL was restored before: Milvus has a greater number than the sequence."""
    one = Installation(index)
    await one.bot("known", 3, 70_000)
    one.tables.last_generation = 40
    await one.generations.open()
    assert await marked(index) == [(1, 70_000), (70_001, 70_000 + FIRST_BLOCK)]
    assert one.take() == 70_001
    assert [(block.first, block.last) for block in one.tables.blocks] == await marked(index)


async def test_filled_by_somebody_else_without_a_marker(index: MemoryIndex) -> None:
    other = Installation(index)
    await other.bot("theirs", 9_000)
    one = Installation(index)
    with pytest.raises(StartupError) as refusal:
        await one.generations.open()
    assert len(str(refusal.value).splitlines()) == 2
    assert await marked(index) == []
    await one.generations.adopt()
    await one.generations.open()
    assert one.take() == 9_001
    with pytest.raises(StartupError):
        await other.generations.open()


@pytest.mark.parametrize("copied", [True, False])
async def test_anothers_marker(index: MemoryIndex, copied: bool) -> None:
    other = Installation(index)
    await other.generations.open()
    await other.bot("theirs", other.take())
    one = Installation(index, other.copy() if copied else None)
    before = await marked(index)
    with pytest.raises(StartupError, match="adopt") as refusal:
        await one.generations.open()
    assert str(one.tables.installation_id) in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 2
    assert await marked(index) == before
    await one.generations.adopt()
    await one.generations.open()
    assert one.take() > FIRST_BLOCK
    with pytest.raises(StartupError, match="adopt"):
        await Installation(index, other.tables).generations.open()


async def test_adopting_keeps_the_vectors_that_are_known_to_be_its_own(index: MemoryIndex) -> None:
    original = Installation(index)
    await original.generations.open()
    await original.bot("kept", original.take())
    copy = Installation(index, original.copy())
    await copy.bot("kept", 1)
    assert (await copy.generations.adopt()).bots == 0
    stranger = Installation(index)
    await stranger.bot("kept")
    assert (await stranger.generations.adopt(keep_vectors=True)).bots == 0
    stranger = Installation(index)
    await stranger.bot("kept")
    assert (await stranger.generations.adopt()).bots == 1


async def test_copied_with_its_milvus_is_an_installation_of_its_own(index: MemoryIndex) -> None:
    original = Installation(index)
    await original.generations.open()
    copy = Installation(index, original.copy(), own_index=True)
    await copy.generations.open()
    assert copy.tables.installation_id != original.tables.installation_id
    assert copy.take() == FIRST_BLOCK + 1
    with pytest.raises(StartupError):
        await Installation(index, original.tables).generations.open()


async def test_taken_over_while_it_runs(index: MemoryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "CHECK_SECONDS", 0.01)
    one, other = Installation(index), Installation(index)
    await one.generations.open()
    running = asyncio.create_task(one.generations.run_forever())
    await other.generations.adopt()
    async with asyncio.timeout(10):
        while True:
            try:
                one.generations.check()
            except InstallationForeign:
                break
            await asyncio.sleep(0.01)

    async def begin() -> int:
        return one.take()

    with pytest.raises(InstallationForeign) as refusal:
        await one.generations.within_block(1, begin)
    assert "database" not in refusal.value.detail
    await one.generations.adopt()
    assert await one.generations.within_block(1, begin)
    running.cancel()


async def test_the_next_block_comes_before_this_one_is_used_up(index: MemoryIndex) -> None:
    one = Installation(index)
    await one.generations.open()
    running = asyncio.create_task(one.generations.run_forever())
    taken = []
    for _ in range(20 * FIRST_BLOCK):
        taken.append(one.take())  # Raises NoGeneration when there is none.
        one.generations.used(taken[-1])
        if len(taken) % 100 == 0:
            for _ in range(20):
                await asyncio.sleep(0)
    assert taken == list(range(1, 20 * FIRST_BLOCK + 1))
    assert len(await marked(index)) < 10, "each is as large as all before it"
    running.cancel()


async def test_more_at_once_than_a_block_has(index: MemoryIndex) -> None:
    one = Installation(index)
    await one.generations.open()

    async def begin() -> int:
        one.tables.check_block(3 * FIRST_BLOCK)
        return one.take()

    assert await one.generations.within_block(3 * FIRST_BLOCK, begin) == 1


async def test_the_last_numbers(index: MemoryIndex) -> None:
    one = Installation(index)
    block = GenerationBlock(uuid4(), 1, MAX_GENERATION - FIRST_BLOCK - 7)
    await index.marker.add([Reservation(block, one.tables.installation_id, one.tables.database, True)])
    await one.generations.open()
    assert one.take() == MAX_GENERATION - FIRST_BLOCK - 6
    one.tables.restored = True
    with pytest.raises(GenerationsUsedUp):
        await one.generations.reserve()
    assert (MAX_GENERATION + 1) * 65_536 == 2**53


class SlowMarker:
    """Every call takes a random while, and is done somewhere in it."""

    def __init__(self, index: MemoryIndex, random: Random) -> None:
        self._marker, self._random = index.marker, random

    async def _pause(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    async def read(self) -> list[Reservation]:
        await self._pause()
        rows = await self._marker.read()
        await self._pause()
        return rows

    async def add(self, reservations: Sequence[Reservation]) -> None:
        await self._pause()
        await self._marker.add(reservations)
        await self._pause()

    async def bot_collections(self) -> list[str]:
        return await self._marker.bot_collections()

    async def greatest_key(self, collection: str, above: int) -> int:
        return await self._marker.greatest_key(collection, above)


async def overlaps(monkeypatch: pytest.MonkeyPatch) -> int:
    """Copies of one database that nothing tells apart reserve at one moment: how many blocks were used twice."""
    monkeypatch.setattr(Random, "random", lambda _random: 0.0)
    found = 0
    for seed in range(200):
        index, random = MemoryIndex(), Random(seed)
        original = Installation(index)
        await original.generations.open()
        copies = []
        for _ in range(3):
            tables = original.copy()
            tables.database = original.tables.database
            copies.append(tables)
        makers = [Generations(MemoryGenerationStore(tables), SlowMarker(index, random)) for tables in copies]
        await asyncio.gather(*(maker.open() for maker in makers), return_exceptions=True)
        spans = [(tables.first_in_block, tables.last_in_block) for tables in copies if not tables.restored]
        found += sum(one[0] <= other[1] and other[0] <= one[1] for one in spans for other in spans if one is not other)
    return found


async def test_two_that_reserve_at_one_moment_never_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await overlaps(monkeypatch) == 0


def without_reading_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def add(self: Generations, mine: Sequence[Reservation]) -> bool:
        await self._marker.add(mine)
        return False

    monkeypatch.setattr(Generations, "_add", add)


@pytest.mark.parametrize("broken", [without_reading_again])
async def test_that_test_finds_it(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    assert await overlaps(monkeypatch) > 0
