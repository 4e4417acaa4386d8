"""Many writers of one external_id: one document, an honest answer for each, and nobody waits long for a dead one."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.schemas.rows import NewChunk, NewDocument
from app.utils.failpoints import install
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient, until
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest, expire

WRITERS = 16
ID = "one"


@pytest.fixture(autouse=True)
def patient(services: Services) -> None:
    """The lease of these tests is short, and the machine may be slow."""
    services.ingest._patience = 60


async def insert(bot: BotClient, number: int, on_conflict: str, external_id: str = ID) -> httpx.Response:
    body = bot.body(f"text {number}", "common", title=str(number), external_id=external_id)
    return await bot.http.post("/data/insert", json=body | {"on_conflict": on_conflict})


async def stored(db: Database) -> list[Any]:
    return await db.fetch("SELECT doc_id, title, external_id FROM documents")


@pytest.mark.parametrize(
    ("on_conflict", "expected"),
    [
        ("replace", {"created": 1, "replaced": WRITERS - 1}),
        ("replace_if_changed", {"created": 1, "replaced": WRITERS - 1}),
        ("skip", {"created": 1, "skipped": WRITERS - 1}),
        ("error", {"created": 1, "external_id_taken": WRITERS - 1}),
    ],
)
async def test_sixteen_writers_make_one_document(
    bot: BotClient, db: Database, index: FaultyIndex, on_conflict: str, expected: dict[str, int]
) -> None:
    answers = await asyncio.gather(*(insert(bot, number, on_conflict) for number in range(WRITERS)))
    bodies = [answer.json() for answer in answers]
    assert Counter(body.get("result") or body["code"] for body in bodies) == expected
    (document,) = await stored(db)
    assert {body["doc_id"] for body in bodies if "result" in body} == {document["doc_id"]}
    await assert_at_rest(db, index)
    found = await bot.search("text", limit=5)
    assert {result["document"]["title"] for result in found} == {document["title"]}  # type: ignore[index]


async def test_batches_over_the_same_ids_do_not_deadlock(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    names = [f"id {number}" for number in range(12)]

    async def send(number: int) -> httpx.Response:
        turned = names[number:] + names[:number]
        items = [bot.body(f"{number} {name}", title=str(number), external_id=name) for name in turned]
        body = {"documents": items[:: 1 if number % 2 else -1], "on_conflict": "replace"}
        return await bot.http.post("/data/insert/batch", json=body)

    answers = await asyncio.gather(*(send(number) for number in range(8)))
    results = [one for answer in answers for one in answer.json()["results"]]
    assert Counter(one["result"] for one in results) == {"created": 12, "replaced": 12 * 7}
    assert sorted(row["external_id"] for row in await stored(db)) == sorted(names)
    await assert_at_rest(db, index)


async def test_upserts_against_deletes(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    params = {"chat_bot_id": str(bot.bot_id), "external_id": ID}

    async def delete() -> int:
        return (await bot.http.delete("/data/document", params=params)).status_code

    for _ in range(3):
        writes = [insert(bot, number, "replace") for number in range(8)]
        answers, deleted = await asyncio.gather(asyncio.gather(*writes), asyncio.gather(*(delete() for _ in range(8))))
        assert {answer.status_code for answer in answers} <= {200, 201, 409}
        assert set(deleted) <= {200, 404}
        assert len(await stored(db)) <= 1
    await assert_at_rest(db, index)


async def test_a_dead_writer_holds_its_id_no_longer_than_its_lease(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, at: Callable[..., Any]
) -> None:
    at("write.before_t2", Crash())
    document = NewDocument("dead", [NewChunk(0, "dead")], external_id=ID)
    with pytest.raises(Crash):
        await services.ingest.insert(bot.bot_id, None, document, Stopwatch())
    waiting = asyncio.create_task(insert(bot, 1, "error"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await expire(db)
    answer = await waiting
    assert (answer.status_code, answer.json()["result"]) == (201, "created")
    assert [row["title"] for row in await stored(db)] == ["1"]
    await assert_at_rest(db, index)


async def test_a_write_that_lasts_too_long_fails_the_waiting_document_alone(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, at: Callable[..., Any]
) -> None:
    services.ingest._patience = 0.3
    over = asyncio.Event()
    at("write.before_t2", over.wait)
    slow = asyncio.create_task(insert(bot, 1, "replace"))

    async def in_flight() -> bool:
        return bool(await db.fetch("SELECT FROM sagas"))

    await until(in_flight)
    items = [bot.body("a", external_id=ID), bot.body("b", external_id="other")]
    answer = await bot.http.post("/data/insert/batch", json={"documents": items, "on_conflict": "replace"})
    results = [one["result"] or one["error"]["code"] for one in answer.json()["results"]]
    assert results == ["external_id_in_flight", "created"]
    single = await insert(bot, 2, "replace")
    assert (single.status_code, single.headers["Retry-After"]) == (409, "1")
    over.set()
    assert (await slow).json()["result"] == "created"
    await assert_at_rest(db, index)


async def test_a_failed_replacement_leaves_the_old_and_its_id(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    assert (await insert(bot, 1, "replace")).status_code == 201
    index.fault = "after"
    assert (await insert(bot, 2, "replace")).status_code == 503
    index.fault = None
    assert [row["title"] for row in await stored(db)] == ["1"]
    assert (await insert(bot, 3, "replace")).json()["result"] == "replaced"
    await assert_at_rest(db, index)


@pytest.mark.parametrize("path", ["document", "chunk"])
async def test_a_write_by_doc_id_that_ends_first_is_replaced(
    bot: BotClient, db: Database, index: FaultyIndex, path: str
) -> None:
    """It does not hold the external_id, so the other one begins again."""
    doc_id = (await insert(bot, 1, "replace")).json()["doc_id"]
    overtaken: list[int] = []

    async def overtake(point: str) -> None:
        if point == "write.before_t2" and not overtaken:
            overtaken.append(0)
            if path == "document":
                answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("by doc_id", title="by doc_id"))
            else:
                edit = {"chat_bot_id": str(bot.bot_id), "text": "by doc_id"}
                answer = await bot.http.put(f"/data/document/{doc_id}/chunks/0", json=edit)
            overtaken[0] = answer.status_code

    remove = install(overtake)
    try:
        answer = await insert(bot, 2, "replace")
    finally:
        remove()
    assert (overtaken, answer.status_code, answer.json()["result"]) == ([200], 200, "replaced")
    assert [(row["doc_id"], row["title"]) for row in await stored(db)] == [(doc_id, "2")]
    await assert_at_rest(db, index)
