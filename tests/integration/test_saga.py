"""Writes that fail, hang, are cancelled or die between any two steps: undone or done, never half."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from app.core.bots.bots import NewBot
from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.garbage import GarbageStore
from app.schemas.rows import NewChunk, NewDocument, VectorGarbage
from app.utils.errors import (
    CollectionMissing,
    DatabaseUnavailable,
    EmbedderUnavailable,
    EmbeddingInvalid,
    LeaseLost,
)
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient, register, until
from tests.doubles.hash_embedder import HashEmbedder
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest, expire, no_work_left

BAD = "no vector for this"


class FaultyEmbedder(HashEmbedder):
    """No vector for the text BAD; ``away`` takes it away altogether."""

    away = False

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if self.away:
            raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=5)
        vectors = await super().embed_documents(texts)
        errors = {index: EmbeddingInvalid("no vector") for index, text in enumerate(texts) if text == BAD}
        if errors:
            raise PartialEmbeddingError(vectors, errors)
        return vectors


@pytest.fixture
def embedder() -> FaultyEmbedder:
    return FaultyEmbedder()


def document(*texts: str, title: str = "t") -> NewDocument:
    return NewDocument(title, [NewChunk(number, text) for number, text in enumerate(texts)])


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


# ------------------------------------------------------------------ a crash between any two steps

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
