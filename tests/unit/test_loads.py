"""Loading at first use, releasing the least recently used, and reads that were refused meanwhile."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import numpy as np
import pytest

from app.core.bots.loading_index import LoadingIndex
from app.core.bots.loads import ANSWER_SECONDS, Loads
from app.core.ports import Hit, VectorIndex
from app.utils.deadline import REQUEST_DEADLINE, without_deadline
from app.utils.errors import CollectionLoading, CollectionMissing, CollectionReleased, VectorIndexUnavailable
from tests.doubles.memory_index import MemoryIndex
from tests.doubles.memory_store import MemoryBotStore, MemoryGarbageStore, MemoryLoadStore, Tables

HOUR = timedelta(hours=1)
DIMENSION = 2


class SlowIndex(MemoryIndex):
    """A load takes ``seconds``. ``loads``: how many there were. ``interrupt``: called before each page of a scan."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.loads = 0
        self.pages = 0
        self.blocks = False

    async def load(self, collection: str) -> None:
        if collection not in await self.loaded():
            self.loads += 1
            await asyncio.sleep(self.seconds)
        await super().load(collection)

    async def search_dense(self, collection: str, *args: object, **options: object) -> list[list[Hit]]:  # type: ignore[override]
        try:
            return await super().search_dense(collection, *args, **options)  # type: ignore[arg-type]
        except CollectionReleased:
            if self.blocks:  # As Milvus does during a load.
                raise VectorIndexUnavailable("no answer") from None
            raise

    async def scan(self, collection, *, page=4096, key_range=None):  # type: ignore[no-untyped-def,override]
        """Released after the first page of all."""
        async for keys in super().scan(collection, page=page, key_range=key_range):
            yield keys
            self.pages += 1
            if self.pages == 1:
                await self.release(collection)
                raise CollectionReleased


class Servers:
    """Processes over the same stores."""

    def __init__(self, index: SlowIndex, bound: int, count: int = 1, idle: float = 0.0) -> None:
        self.index = index
        self.tables = Tables()
        self.garbage = MemoryGarbageStore(self.tables)
        store = MemoryLoadStore(self.tables)
        self.all = [Loads(index, store, self.garbage, bound=bound, idle=idle) for _ in range(count)]
        self.indexes: list[VectorIndex] = [LoadingIndex(loads) for loads in self.all]

    async def bot(self) -> str:
        """Registers a bot with a row 1 in its collection, whose name is returned."""
        bot_id = uuid4()
        name = f"c_{bot_id.hex}"
        await MemoryBotStore(self.tables, HOUR).insert(bot_id, "bot", name, "chatty", uuid4(), HOUR)
        await self.indexes[0].create(name, DIMENSION)
        keys = np.arange(1, 6)
        await self.indexes[0].upsert(name, keys, keys, np.ones((5, DIMENSION), np.float32))
        return name


async def search(index: VectorIndex, name: str) -> list[int]:
    (hits,) = await index.search_dense(name, np.ones((1, DIMENSION), np.float32), 1)
    return [hit.chunk_id for hit in hits]


async def test_a_bot_is_loaded_at_its_first_search_by_one_server() -> None:
    servers = Servers(SlowIndex(0.1), bound=2, count=2)
    name = await servers.bot()
    assert await servers.index.loaded() == set()
    found = await asyncio.gather(*(search(index, name) for index in servers.indexes * 5))
    assert found == [[1]] * 10
    assert servers.index.loads == 1
    assert (await servers.all[0].states([name]) or {})[name].state == "loaded"


async def test_without_a_bound_a_new_bot_is_loaded_and_nothing_is_recorded() -> None:
    servers = Servers(SlowIndex(), bound=0)
    name = await servers.bot()
    assert await servers.index.loaded() == {name}
    assert await search(servers.indexes[0], name) == [1]
    assert not servers.tables.loads
    assert await servers.all[0].states([name]) is None


@pytest.mark.parametrize("bound", [0, 2])
@pytest.mark.parametrize("blocks", [False, True])
async def test_a_search_of_a_collection_that_others_released_is_sent_again(bound: int, blocks: bool) -> None:
    servers = Servers(SlowIndex(), bound)
    name = await servers.bot()
    assert await search(servers.indexes[0], name) == [1]
    servers.index.blocks = blocks and bound > 0
    for _ in range(3):
        await servers.index.release(name)
        assert await search(servers.indexes[0], name) == [1]


async def test_an_index_that_does_not_answer_is_an_error_if_the_collection_is_loaded() -> None:
    class Broken(SlowIndex):
        async def count(self, collection: str) -> int:
            raise VectorIndexUnavailable("no answer")

    servers = Servers(Broken(), bound=2)
    name = await servers.bot()
    with pytest.raises(VectorIndexUnavailable, match="no answer"):
        await servers.indexes[0].count(name)
    with pytest.raises(CollectionMissing):
        await search(servers.indexes[0], "unknown")


async def test_a_read_that_hangs_right_after_a_load_by_another_server_waits_for_that_load() -> None:
    """Milvus calls a collection loaded before it can be read."""

    class CatchingUp(SlowIndex):
        hangs = True

        async def load(self, collection: str) -> None:
            await super().load(collection)
            self.hangs = False

        async def count(self, collection: str) -> int:
            if self.hangs:
                raise VectorIndexUnavailable("no answer")
            return await super().count(collection)

    servers = Servers(index := CatchingUp(), bound=2, count=2)
    name = await servers.bot()
    await MemoryIndex.load(index, name)
    await servers.all[1].run_round()
    assert await servers.indexes[1].count(name) == 5
    index.hangs = True
    with pytest.raises(VectorIndexUnavailable, match="no answer"):  # It has answered before.
        await servers.indexes[1].count(name)


async def test_a_deadline_shorter_than_the_load_ends_the_wait_and_not_the_load() -> None:
    servers = Servers(SlowIndex(0.3), bound=2)
    name = await servers.bot()
    token = REQUEST_DEADLINE.set(asyncio.get_running_loop().time() + ANSWER_SECONDS + 0.05)
    try:
        for _ in range(2):
            with pytest.raises(CollectionLoading, match="being loaded") as caught:
                await search(servers.indexes[0], name)
            assert (caught.value.retry_after or 0) >= 1
    finally:
        REQUEST_DEADLINE.reset(token)
    assert await search(servers.indexes[0], name) == [1]
    assert servers.index.loads == 1


async def test_a_load_that_fails_is_an_error_and_the_next_search_tries_again() -> None:
    class Failing(SlowIndex):
        async def load(self, collection: str) -> None:
            if self.loads == 0:
                self.loads += 1
                raise VectorIndexUnavailable("no memory")
            await super().load(collection)

    servers = Servers(Failing(), bound=2, count=2)
    name = await servers.bot()
    with pytest.raises(VectorIndexUnavailable, match="no memory"):
        await search(servers.indexes[0], name)
    assert await search(servers.indexes[1], name) == [1]


async def test_the_least_recently_used_are_released_down_to_the_bound() -> None:
    servers = Servers(SlowIndex(), bound=2, count=2)
    names = [await servers.bot() for _ in range(4)]
    for name in names:
        await search(servers.indexes[0], name)
    await servers.all[1].run_round()
    await asyncio.sleep(0.01)
    await search(servers.indexes[1], names[0])
    for loads in servers.all * 3:
        await loads.run_round()
    assert await servers.index.loaded() == {names[0], names[3]}
    assert await search(servers.indexes[0], names[1]) == [1]


async def test_bots_in_use_are_not_released_although_they_exceed_the_bound() -> None:
    servers = Servers(SlowIndex(), bound=1, idle=3600)
    names = [await servers.bot() for _ in range(3)]
    for name in names:
        await search(servers.indexes[0], name)
    assert not await servers.all[0].run_round()
    assert await servers.index.loaded() == set(names)


async def test_a_scan_goes_on_where_it_was_interrupted() -> None:
    servers = Servers(SlowIndex(), bound=1)
    name = await servers.bot()
    assert [keys async for keys in servers.indexes[0].scan(name, page=2)] == [[1, 2], [3, 4], [5]]
    assert servers.index.loads == 2


async def test_warming_returns_at_once() -> None:
    servers = Servers(SlowIndex(0.1), bound=1, count=2)
    name = await servers.bot()
    assert await servers.all[0].begin(name) == "loading"
    assert await servers.all[0].begin(name) == "loading"
    assert (await servers.all[0].states([name]) or {})[name].state == "loading"
    assert (await servers.all[1].states([name]) or {})[name].state in ("loading", "released")
    await servers.all[0].ready(name)
    assert [await loads.begin(name) for loads in servers.all] == ["loaded", "loaded"]
    assert servers.index.loads == 1


async def test_deferred_garbage_waits_for_the_load_or_the_end_of_its_collection() -> None:
    servers = Servers(SlowIndex(), bound=1)
    name, gone = await servers.bot(), "dropped"
    bot_id = next(iter(servers.tables.bots))
    for collection in (name, gone):
        servers.tables.collect(bot_id, 7, collection, 1, servers.tables.now())
    rows = await servers.garbage.claim(timedelta(0))
    await servers.garbage.defer(rows)
    await servers.all[0].run_round()
    assert await servers.garbage.deferred() == {name}
    await search(servers.indexes[0], name)
    await servers.all[0].run_round()
    assert await servers.garbage.deferred() == set()


async def test_without_a_bound_no_garbage_stays_deferred() -> None:
    servers = Servers(SlowIndex(), bound=0)
    name = await servers.bot()
    servers.tables.collect(next(iter(servers.tables.bots)), 7, name, 1, servers.tables.now())
    await servers.garbage.defer(await servers.garbage.claim(timedelta(0)))
    await servers.all[0].run_forever()
    assert await servers.garbage.deferred() == set()


async def test_a_task_that_outlives_its_request_waits_for_the_load() -> None:
    servers = Servers(SlowIndex(0.1), bound=1)
    name = await servers.bot()
    token = REQUEST_DEADLINE.set(asyncio.get_running_loop().time())
    try:
        job = asyncio.create_task(search(servers.indexes[0], name), context=without_deadline())
    finally:
        REQUEST_DEADLINE.reset(token)
    assert await job == [1]
