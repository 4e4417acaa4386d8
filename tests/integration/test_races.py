"""Many at once on one thing: one winner, an honest answer for the others, and no reader ever sees a mixture."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from tests.conftest import BotClient, register, until
from tests.doubles.memory_index import MemoryIndex
from tests.integration.conftest import FaultyIndex, assert_at_rest

TASKS = 16
PARTS = 3


def version(bot: BotClient, name: object) -> dict[str, object]:
    """A document whose every part tells its version."""
    return bot.body(*(f"{name} part {part}" for part in range(PARTS)), title=str(name))


async def put(bot: BotClient, doc_id: int, name: object) -> int:
    return (await bot.http.put(f"/data/document/{doc_id}", json=version(bot, name))).status_code


async def delete(bot: BotClient, doc_id: int) -> int:
    answer = await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    return answer.status_code


async def together(*calls: Awaitable[int]) -> Counter[int]:
    return Counter(await asyncio.gather(*calls))


class Reader:
    """Reads one document over and over, by number and by search, until it is left."""

    def __init__(self, bot: BotClient, doc_id: int, *, always_there: bool) -> None:
        self.bot, self.doc_id, self.always_there = bot, doc_id, always_there
        self.reads = 0

    async def __aenter__(self) -> "Reader":
        self.task = asyncio.create_task(self._read_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        while self.reads < 3 and not self.task.done():
            await asyncio.sleep(0)
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def _read_on(self) -> None:
        while True:
            answer = await self.bot.http.get(
                f"/data/document/{self.doc_id}", params={"chat_bot_id": str(self.bot.bot_id)}
            )
            if answer.status_code != 404 or self.always_there:
                read = answer.json()
                self._whole(read["document"]["title"], [chunk["text"] for chunk in read["chunks"]])
                assert read["chunk_count"] == PARTS
            found = await self.bot.search("part", limit=10)
            if found or self.always_there:
                titles = {result["document"]["title"] for result in found}  # type: ignore[index]
                assert len(titles) == 1, titles
                self._whole(titles.pop(), sorted(str(result["chunk_text"]) for result in found))
            self.reads += 1

    @staticmethod
    def _whole(title: str, texts: list[str]) -> None:
        assert texts == [f"{title} part {part}" for part in range(PARTS)]


async def test_put_against_put(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event]
) -> None:
    """All have begun before any ends: one of them wins."""
    doc_id = await bot.insert(*(f"old part {part}" for part in range(PARTS)), title="old")
    at("write.after_t1", asyncio.Barrier(TASKS).wait, times=TASKS)
    async with Reader(bot, doc_id, always_there=True):
        statuses = await together(*(put(bot, doc_id, f"v{number}") for number in range(TASKS)))
    assert statuses == {200: 1, 409: TASKS - 1}
    await assert_at_rest(db, index)


async def test_put_after_put_without_a_barrier(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    doc_id = await bot.insert(*(f"old part {part}" for part in range(PARTS)), title="old")
    wins = 0
    async with Reader(bot, doc_id, always_there=True):
        for turn in range(4):
            statuses = await together(*(put(bot, doc_id, f"v{turn}-{number}") for number in range(TASKS)))
            assert set(statuses) <= {200, 409}
            wins += statuses[200]
            assert statuses[200] >= 1
    await assert_at_rest(db, index)
    assert wins >= 4


async def test_put_against_delete(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    for turn in range(4):
        doc_id = await bot.insert(*(f"old part {part}" for part in range(PARTS)), title="old")
        puts = [put(bot, doc_id, f"v{turn}-{number}") for number in range(TASKS // 2)]
        deletes = [delete(bot, doc_id) for _ in range(TASKS // 2)]
        async with Reader(bot, doc_id, always_there=False):
            replaced, deleted = await asyncio.gather(together(*puts), together(*deletes))
        assert deleted == {200: 1, 404: TASKS // 2 - 1}
        assert set(replaced) <= {200, 404, 409}
        assert await bot.search("part") == []
    await assert_at_rest(db, index)


async def test_delete_against_delete(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    doc_id = await bot.insert(*(f"old part {part}" for part in range(PARTS)), title="old")
    async with Reader(bot, doc_id, always_there=False):
        assert await together(*(delete(bot, doc_id) for _ in range(TASKS))) == {200: 1, 404: TASKS - 1}
    await assert_at_rest(db, index)


async def test_insert_against_bot_delete(client: httpx.AsyncClient, db: Database, index: FaultyIndex) -> None:
    async def insert(bot: BotClient, number: int) -> int:
        return (await client.post("/data/insert", json=version(bot, number))).status_code

    async def delete_bot(bot: BotClient) -> int:
        return (await client.delete(f"/collection/{bot.bot_id}")).status_code

    for _ in range(4):
        bot = await register(client)
        inserts = [insert(bot, number) for number in range(TASKS)]
        inserted, deleted = await asyncio.gather(together(*inserts), delete_bot(bot))
        assert set(inserted) <= {201, 404}
        assert deleted == 200
        assert (await client.get(f"/collection/{bot.bot_id}")).status_code == 404
    await assert_at_rest(db, index)
    assert await index.collections() == []


async def waiting_for_a_lock(db: Database, count: int) -> bool:
    sql = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return len(await db.fetch(sql)) == count


@pytest.mark.parametrize("statement", ["lock_bot_for_deletion", "lock_bot_exclusively"])
async def test_who_wants_a_bot_alone_comes_before_later_writers(
    bot: BotClient, db: Database, index: FaultyIndex, statement: str
) -> None:
    """Else, with never a moment without a writer, it would wait for ever."""
    values = [bot.bot_id, None] if statement == "lock_bot_for_deletion" else [bot.bot_id]
    order: list[str] = []

    async def lock(name: str, statement: str, *values: object) -> None:
        async with db.transaction() as conn:
            await conn.fetch(SQL[statement], *values)
            order.append(name)

    async with db.transaction() as conn:
        await conn.fetch(SQL["lock_bot_for_use"], [bot.bot_id])
        await lock("beside", "lock_bot_for_use", [bot.bot_id])
        alone = asyncio.create_task(lock("alone", statement, *values))
        await until(lambda: waiting_for_a_lock(db, 1))
        later = asyncio.create_task(lock("later", "lock_bot_for_use", [bot.bot_id]))
        await until(lambda: waiting_for_a_lock(db, 2))
    await asyncio.gather(alone, later)
    assert order == ["beside", "alone", "later"]


async def test_batches_over_the_same_bots_do_not_deadlock(
    client: httpx.AsyncClient, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an index that gives timestamps, each batch raises that of every bot it has written to."""
    clock = itertools.count(1)
    original = index.upsert

    async def timestamped(*args: Any, **options: Any) -> int:
        await original(*args, **options)
        return next(clock)

    monkeypatch.setattr(index, "upsert", timestamped)
    bots = [await register(client) for _ in range(30)]
    chance = random.Random(7)

    async def batch(number: int) -> int:
        chosen = chance.sample(bots, chance.choice([2, 6, 20, 28]))
        documents = [bot.body(f"{number}") for bot in chosen]
        answer = await client.post("/data/insert/batch", json={"documents": documents})
        assert answer.json().get("status") == "success", answer.text
        return answer.status_code

    for _ in range(3):
        assert await together(*(batch(number) for number in range(TASKS))) == {200: TASKS}
    rows = await db.fetch("SELECT milvus_timestamp FROM bot_registry")
    assert max(row["milvus_timestamp"] for row in rows) == next(clock) - 1
    await assert_at_rest(db, index)


def new_bot(bot_id: UUID) -> dict[str, str]:
    return {"chat_bot_id": str(bot_id), "bot_name": "b", "collection_name": f"c_{bot_id.hex}"}


async def test_twenty_bots_at_once(client: httpx.AsyncClient, db: Database, index: MemoryIndex) -> None:
    async def create(body: dict[str, str]) -> int:
        return (await client.post("/collection/create", json=body)).status_code

    assert await together(*(create(new_bot(uuid4())) for _ in range(20))) == {201: 20}
    same = new_bot(uuid4())
    assert await together(*(create(same) for _ in range(20))) == {201: 1, 200: 19}
    await assert_at_rest(db, index)
    assert len(await index.collections()) == 21


async def test_one_collection_name_for_twenty_bots(client: httpx.AsyncClient, db: Database, index: MemoryIndex) -> None:
    async def create() -> int:
        body = new_bot(uuid4()) | {"collection_name": "wanted"}
        return (await client.post("/collection/create", json=body)).status_code

    assert await together(*(create() for _ in range(20))) == {201: 1, 409: 19}
    await assert_at_rest(db, index)


async def test_create_and_delete_in_loops(client: httpx.AsyncClient, db: Database, index: MemoryIndex) -> None:
    bot_ids = [uuid4(), uuid4()]

    async def loop(number: int) -> set[int]:
        statuses = set()
        for turn in range(6):
            bot_id = bot_ids[(number + turn) % 2]
            if (number + turn) % 3:
                answer = await client.post("/collection/create", json=new_bot(bot_id))
            else:
                answer = await client.delete(f"/collection/{bot_id}")
            statuses.add(answer.status_code)
        return statuses

    statuses = set().union(*await asyncio.gather(*(loop(number) for number in range(8))))
    assert statuses <= {200, 201, 404, 409}
    await assert_at_rest(db, index)


async def test_bot_deleted_while_its_creation_answers(
    client: httpx.AsyncClient, db: Database, index: MemoryIndex, at: Callable[..., asyncio.Event]
) -> None:
    """The deletion need not wait until the creation's lease has passed."""
    bot_id = uuid4()
    deletion: list[asyncio.Task[httpx.Response]] = []

    async def delete_meanwhile() -> None:
        deletion.append(asyncio.create_task(client.delete(f"/collection/{bot_id}")))
        while await db.fetch("SELECT FROM bot_registry WHERE state = 'active'"):
            await asyncio.sleep(0)

    at("bot_create.after_register", delete_meanwhile)
    created = await client.post("/collection/create", json=new_bot(bot_id))
    assert created.status_code in (404, 409), created.text
    assert (await deletion[0]).status_code == 200
    await assert_at_rest(db, index)


async def test_a_batch_delete_that_waits_takes_the_chunks_of_a_replacement_along(
    client: httpx.AsyncClient, bot: BotClient, db: Database, index: MemoryIndex
) -> None:
    """It waits for its first document, while its second is replaced: what goes is what is there at the end."""
    first, second = await bot.insert("first"), await bot.insert("second")
    body = {"chat_bot_id": str(bot.bot_id), "doc_ids": [first, second]}
    async with db.transaction() as conn:
        await conn.execute("SELECT FROM documents WHERE bot_id = $1 AND doc_id = $2 FOR UPDATE", bot.bot_id, first)
        deleting = asyncio.create_task(client.post("/data/document/delete/batch", json=body))
        while not await db.fetch("SELECT FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        assert await put(bot, second, "new") == 200
    answer = (await deleting).json()
    assert (answer["status"], answer["deleted_chunks"]) == ("success", 1 + PARTS)
    await assert_at_rest(db, index)
