"""Writes that fail, hang or are cancelled: undone or done, never half."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.utils.errors import CollectionMissing, DatabaseUnavailable, LeaseLost
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient, register, until
from tests.contract.records import document
from tests.integration.conftest import BAD, FaultyEmbedder, FaultyIndex, assert_at_rest, expire, no_work_left


@pytest.fixture
def embedder() -> FaultyEmbedder:
    return FaultyEmbedder()


async def count(db: Database, table: str) -> int:
    (row,) = await db.fetch(f"SELECT count(*) FROM {table}")
    return int(row["count"])


def assert_unavailable(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert int(answer.headers["retry-after"]) >= 1


# ------------------------------------------------------------------ one part fails


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_insert_is_undone_when_milvus_fails(bot: BotClient, db: Database, index: FaultyIndex, fault: str) -> None:
    index.fault = fault  # type: ignore[assignment]
    assert_unavailable(await bot.http.post("/data/insert", json=bot.body("a", "b")), "vector_index_unavailable")
    assert await count(db, "document_chunks") == await count(db, "documents") == 0
    index.fault = None
    await assert_at_rest(db, index)
    await bot.insert("a")
    await assert_at_rest(db, index)


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_replacement_that_fails_leaves_the_old(
    bot: BotClient, db: Database, index: FaultyIndex, fault: str
) -> None:
    doc_id = await bot.insert("old one", "old two")
    index.fault = fault  # type: ignore[assignment]
    assert_unavailable(await bot.http.put(f"/data/document/{doc_id}", json=bot.body("new")), "vector_index_unavailable")
    assert {result["chunk_text"] for result in await bot.search("new")} == {"old one", "old two"}
    await assert_at_rest(db, index)


async def test_late_landing_upsert_is_collected(
    client: httpx.AsyncClient, db: Database, index: FaultyIndex, late: BotClient, at: Callable[..., asyncio.Event]
) -> None:
    """The call timed out, was compensated, its vectors deleted, and then it lands."""
    deleted = at("gc.after_delete", _nothing)
    index.fault = "later"
    assert_unavailable(await client.post("/data/insert", json=late.body("a", "b")), "vector_index_unavailable")
    await asyncio.wait_for(deleted.wait(), 5)
    await index.land()
    index.fault = None
    assert await late.search("a") == []
    await assert_at_rest(db, index)


async def _nothing() -> None:
    return None


@pytest.fixture
def late_write_window(request: pytest.FixtureRequest) -> timedelta:
    return timedelta(seconds=1 if "late" in request.fixturenames else 0)


@pytest.fixture
async def late(bot: BotClient) -> BotClient:
    """A bot whose writes may land for a second after their call."""
    return bot


async def test_unusable_vector_fails_its_document_alone(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    documents = [bot.body("a", "b", title="good"), bot.body("c", BAD, title="bad"), bot.body("d", title="fine")]
    answer = await bot.http.post("/data/insert/batch", json={"documents": documents})
    assert answer.status_code == 200, answer.text
    stored = answer.json()
    assert (stored["status"], stored["success_count"], stored["total_chunks"]) == ("partial", 2, 3)
    assert [result["success"] for result in stored["results"]] == [True, False, True]
    error = stored["results"][1]["error"]
    assert error["code"] == "embedding_invalid"
    assert "chunk_index 1" in error["detail"]
    assert {result["chunk_text"] for result in await bot.search("a")} == {"a", "b", "d"}
    await assert_at_rest(db, index)

    alone = await bot.http.post("/data/insert", json=bot.body(BAD))
    assert (alone.status_code, alone.json()["code"]) == (502, "embedding_invalid")
    await assert_at_rest(db, index)


async def test_embedder_away(bot: BotClient, db: Database, index: FaultyIndex, embedder: FaultyEmbedder) -> None:
    embedder.away = True
    for answer in (
        await bot.http.post("/data/insert", json=bot.body("a")),
        await bot.http.post("/data/insert/batch", json={"documents": [bot.body("a"), bot.body("b")]}),
        await bot.http.post("/search/query", json={"chat_bot_id": str(bot.bot_id), "query_text": "a"}),
    ):
        assert_unavailable(answer, "embedder_unavailable")
        assert answer.headers["retry-after"] == "5"
    await assert_at_rest(db, index)


async def test_one_of_two_bots_fails(client: httpx.AsyncClient, db: Database, index: FaultyIndex) -> None:
    good, bad = await register(client), await register(client)
    index.fault, index.only = "after", f"bot_{bad.bot_id.hex}"
    documents = [good.body("a"), bad.body("b"), good.body("c")]
    stored = (await client.post("/data/insert/batch", json={"documents": documents})).json()
    assert [result["success"] for result in stored["results"]] == [True, False, True]
    assert stored["results"][1]["error"]["code"] == "vector_index_unavailable"
    assert {result["chunk_text"] for result in await good.search("a")} == {"a", "c"}
    assert await bad.search("b") == []
    await assert_at_rest(db, index)


async def test_long_batch_goes_through_in_parts(
    bot: BotClient, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.write.indexing.BATCH_CHUNKS", 3)
    texts = [[f"{number} {part}" for part in range(number % 4 + 1)] for number in range(12)]
    texts[5][1] = BAD
    documents = [bot.body(*chunks, title=str(number)) for number, chunks in enumerate(texts)]
    stored = (await bot.http.post("/data/insert/batch", json={"documents": documents})).json()
    assert [result["index"] for result in stored["results"] if not result["success"]] == [5]
    found = {result["chunk_text"] for result in await bot.search("1", limit=100)}
    assert found == {text for number, chunks in enumerate(texts) for text in chunks if number != 5}
    await assert_at_rest(db, index)


async def test_collection_that_stays_away_is_no_internal_error(
    bot: BotClient, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody drops the collection as often as the server makes it."""

    async def missing(collection: str, *_: object, **__: object) -> int:
        raise CollectionMissing(collection)

    monkeypatch.setattr(index, "upsert", missing)
    answer = await bot.http.post("/data/insert", json=bot.body("a"))
    assert answer.status_code == 503, answer.text
    await assert_at_rest(db, index)


# ------------------------------------------------------------------ T2 in doubt


@pytest.mark.parametrize("operation", ["insert", "put"])
async def test_lost_reply_of_t2_is_success(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event], operation: str
) -> None:
    doc_id = await bot.insert("old")
    reached = at("write.after_t2", DatabaseUnavailable("PostgreSQL did not answer in time."))
    if operation == "insert":
        await bot.insert("new")
    else:
        answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("new"))
        assert (answer.status_code, answer.json()["deleted_chunks"]) == (200, 1)
    assert reached.is_set()
    assert (await bot.search("new", limit=1))[0]["chunk_text"] == "new"
    await assert_at_rest(db, index)


@pytest.mark.parametrize("operation", ["insert", "put"])
async def test_failed_t2_is_compensated(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event], operation: str
) -> None:
    doc_id = await bot.insert("old")
    at("write.before_t2", DatabaseUnavailable("PostgreSQL did not answer in time."))
    if operation == "insert":
        answer = await bot.http.post("/data/insert", json=bot.body("new"))
    else:
        answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("new"))
    assert_unavailable(answer, "database_unavailable")
    assert [result["chunk_text"] for result in await bot.search("new")] == ["old"]
    await assert_at_rest(db, index)


async def test_connections_cut_before_t2(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event]
) -> None:
    async def cut() -> None:
        with suppress(DatabaseUnavailable):
            await db.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )

    reached = at("write.before_t2", cut)
    answer = await bot.http.post("/data/insert", json=bot.body("a"))
    assert reached.is_set()
    found = [result["chunk_text"] for result in await bot.search("a")]
    assert (answer.status_code, found) in ((201, ["a"]), (503, []))
    await assert_at_rest(db, index)


async def test_paused_writer_loses_at_t2(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event]
) -> None:
    async def pause() -> None:
        await expire(db)
        await until(lambda: no_work_left(db))

    at("write.before_t2", pause)
    assert_unavailable(await bot.http.post("/data/insert", json=bot.body("a")), LeaseLost.code)
    assert await bot.search("a") == []
    await assert_at_rest(db, index)


@pytest.mark.parametrize("fault", [None, "after"])
async def test_paused_writer_leaves_no_vectors(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event], fault: str | None
) -> None:
    """It wakes up when its generation has been collected already, and only then upserts."""

    async def pause() -> None:
        await expire(db)
        await until(lambda: no_work_left(db))

    at("write.before_upsert", pause)
    index.fault = fault  # type: ignore[assignment]
    assert (await bot.http.post("/data/insert", json=bot.body("a"))).status_code == 503
    await assert_at_rest(db, index)


async def test_writer_that_outlives_its_bot_leaves_no_vectors_in_the_next(
    client: httpx.AsyncClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event]
) -> None:
    body = {"chat_bot_id": str(uuid4()), "bot_name": "b", "collection_name": "again"}
    bot = BotClient(client, UUID(body["chat_bot_id"]))
    await client.post("/collection/create", json=body)

    async def replace_bot() -> None:
        await client.delete(f"/collection/{bot.bot_id}")
        await client.post("/collection/create", json=body)

    at("write.before_upsert", replace_bot)
    answer = await client.post("/data/insert", json=bot.body("a"))
    assert answer.status_code in (404, 503), answer.text
    await assert_at_rest(db, index)


async def test_cancelled_insert_is_undone_after_its_lease(
    services: Services, bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event]
) -> None:
    for point in ("write.after_t1", "write.after_embed", "write.after_upsert", "write.before_t2"):
        reached = at(point, asyncio.Event().wait)
        insert = services.ingest.insert(bot.bot_id, None, document("a", "b"), Stopwatch())
        task = asyncio.create_task(insert)
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await count(db, "sagas") == 1
        assert await bot.search("a") == []
        await expire(db)
        await assert_at_rest(db, index)


async def test_lease_is_renewed_while_the_work_is_alive(
    bot: BotClient, db: Database, index: FaultyIndex, at: Callable[..., asyncio.Event]
) -> None:
    async def slow() -> None:
        (begun,) = await db.fetch("SELECT lease_until FROM sagas")

        async def past_it() -> bool:
            (row,) = await db.fetch("SELECT now() > $1 AS past", begun["lease_until"])
            return bool(row["past"])

        await until(past_it)

    at("write.after_embed", slow)
    await bot.insert("a")
    await assert_at_rest(db, index)
