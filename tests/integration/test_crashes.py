"""Processes that die between any two steps of a write, recovery or garbage collection: undone or done, never half."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from app.core.bots.bots import NewBot
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.garbage import GarbageStore
from app.schemas.operation_rows import VectorGarbage
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient, register, until
from tests.contract.records import document
from tests.integration.conftest import (
    BAD,
    Crash,
    FaultyEmbedder,
    FaultyIndex,
    assert_at_rest,
    expire,
    no_work_left,
)


@pytest.fixture
def embedder() -> FaultyEmbedder:
    return FaultyEmbedder()


Operation = Callable[[Services, BotClient, int], Awaitable[object]]


async def _insert(services: Services, bot: BotClient, _: int) -> object:
    return await services.ingest.insert(bot.bot_id, None, document("new one", "new two"), Stopwatch())


async def _batch(services: Services, bot: BotClient, _: int) -> object:
    documents = [(bot.bot_id, document("new", title=str(number))) for number in range(3)]
    return await services.ingest.insert_many(None, documents, Stopwatch())


async def _replace(services: Services, bot: BotClient, doc_id: int) -> object:
    return await services.ingest.replace(bot.bot_id, None, doc_id, document("new"), Stopwatch())


async def _fail(services: Services, bot: BotClient, doc_id: int) -> object:
    return await services.ingest.replace(bot.bot_id, None, doc_id, document("new", BAD), Stopwatch())


async def _delete(services: Services, bot: BotClient, doc_id: int) -> object:
    return await services.documents.delete(bot.bot_id, None, doc_id)


async def _create_bot(services: Services, _: BotClient, __: int) -> object:
    return await services.bots.create(NewBot(uuid4(), "b", "another", "chatty"))


async def _delete_bot(services: Services, bot: BotClient, _: int) -> object:
    return await services.bots.delete(bot.bot_id, None)


WRITE = ["before_t1", "after_t1", "before_embed", "after_embed", "before_upsert", "after_upsert"]
STEPS: list[tuple[Operation, list[str]]] = [
    *(
        (operation, [f"write.{point}" for point in [*WRITE, "before_t2", "after_t2"]])
        for operation in (_insert, _batch, _replace)
    ),
    (_fail, ["write.before_compensate", "write.after_compensate"]),
    (_delete, ["delete.before", "delete.after"]),
    (
        _create_bot,
        [f"bot_create.{p}" for p in ("before_register", "after_register", "before_collection", "after_collection",
                                     "after_finish")],
    ),
    (_delete_bot, [f"bot_delete.{p}" for p in ("before_mark", "after_mark", "before_drop", "after_drop",
                                               "after_partitions")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "point"),
    [
        pytest.param(operation, point, id=f"{operation.__name__}-{point}")
        for operation, points in STEPS
        for point in points
    ],
)
async def test_crash(
    services: Services,
    bot: BotClient,
    db: Database,
    index: FaultyIndex,
    at: Callable[..., asyncio.Event],
    operation: Operation,
    point: str,
) -> None:
    doc_id = await bot.insert("old one", "old two")
    await until(lambda: no_work_left(db))
    reached = at(point, Crash())
    with suppress(Crash):
        await operation(services, bot, doc_id)
    assert reached.is_set()
    await expire(db)
    await assert_at_rest(db, index)

    before, done = "before" in point, point in ("write.after_t2", "delete.after")
    if operation is _delete_bot:
        assert (await bot.http.get(f"/collection/{bot.bot_id}")).status_code == (
            200 if point == "bot_delete.before_mark" else 404
        )
        return
    found = {str(result["chunk_text"]).split()[0] for result in await bot.search("new", limit=10)}
    if operation is _create_bot:
        names = {row["collection_name"] for row in await db.fetch("SELECT collection_name FROM bot_registry")}
        assert ("another" in names) == (point != "bot_create.before_register")
        assert found == {"old"}
    elif not done or before:
        assert found == {"old"}
    else:
        assert found == {_insert: {"old", "new"}, _batch: {"old", "new"}, _replace: {"new"}, _delete: set()}[operation]


@pytest.mark.parametrize("point", ["recovery.before_compensate", "recovery.after_compensate", "recovery.after_claim"])
async def test_crash_of_recovery(
    services: Services, bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event], point: str
) -> None:
    crashes = [at("write.after_upsert", Crash()), at("bot_create.before_collection", Crash())]
    for operation in (_insert, _create_bot):
        with suppress(Crash):
            await operation(services, bot, 0)
    assert all(crash.is_set() for crash in crashes)
    reached = at(point, RuntimeError("recovery dies here"))
    await expire(db)
    await asyncio.wait_for(reached.wait(), 5)
    await expire(db)  # What recovery had claimed is nobody's again.
    await assert_at_rest(db, index)


@pytest.mark.parametrize(
    "point", ["gc.after_claim", "gc.before_delete", "gc.after_delete", "gc.before_end", "gc.after_end"]
)
async def test_crash_of_gc(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event], point: str
) -> None:
    doc_id = await bot.insert("a", "b")
    reached = at(point, RuntimeError("gc dies here"))
    await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    await asyncio.wait_for(reached.wait(), 5)
    await db.execute("UPDATE vector_gc SET next_attempt_at = now()")
    await assert_at_rest(db, index)


async def test_garbage_of_a_bot_being_deleted_holds_up_nobody(
    client: httpx.AsyncClient, db: Database, index: FaultyIndex
) -> None:
    """Deletion of one bot waits for a long reader; the others' garbage is collected meanwhile."""
    going, staying = await register(client), await register(client)
    doc_id = await staying.insert("a")
    await db.execute("UPDATE bot_registry SET state = 'deleting' WHERE bot_id = $1", going.bot_id)
    await db.execute(
        "INSERT INTO vector_gc (generation, bot_id, collection_name, chunk_span, not_before, next_attempt_at) "
        "SELECT 1000000 + n, $1, 'gone', 1, now(), now() - interval '1 day' FROM generate_series(1, 100) AS n",
        going.bot_id,
    )
    await client.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(staying.bot_id)})

    async def collected() -> bool:
        return not await db.fetch("SELECT FROM vector_gc WHERE bot_id = $1", staying.bot_id)

    await until(collected, seconds=3)


async def test_garbage_that_was_tried_a_thousand_times_is_tried_again(bot: BotClient, db: Database) -> None:
    """As after a night in which Milvus was away."""
    await db.execute(
        "INSERT INTO vector_gc"
        " (generation, bot_id, collection_name, chunk_span, not_before, next_attempt_at, attempts)"
        " VALUES (1000000, $1, 'any', 1, now(), now() + interval '1 hour', 2000)",
        bot.bot_id,
    )
    await GarbageStore(db).reschedule([VectorGarbage(1000000, 1, "any", datetime.now(UTC), True)])
    (row,) = await db.fetch("SELECT next_attempt_at - now() < interval '61 seconds' AS soon FROM vector_gc")
    assert row["soon"]
