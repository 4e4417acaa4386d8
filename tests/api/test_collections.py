"""/collection through HTTP, over real PostgreSQL and the plain index."""

from uuid import uuid4

import httpx

from app.core.stores.postgres.database import Database
from tests.api.contents import contents
from tests.conftest import BotClient, register, until
from tests.doubles.memory_index import MemoryIndex


def body(**values: object) -> dict[str, object]:
    return {"chat_bot_id": str(uuid4()), "bot_name": "news", "collection_name": f"c_{uuid4().hex}", **values}


async def test_created_once_and_found_again(client: httpx.AsyncClient, index: MemoryIndex) -> None:
    wanted = body(account_name="mine", dimension=64)
    first = await client.post("/collection/create", json=wanted)
    again = await client.post("/collection/create", json=wanted)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    bot_id = str(wanted["chat_bot_id"])
    assert first.json() == {
        "status": "success",
        "chat_bot_id": bot_id,
        "bot_name": "news",
        "collection_name": wanted["collection_name"],
        "partition_name": f"documents_{bot_id.replace('-', '')}",
        "dimension": 64,
        "embedding_model": "hash",
    }
    assert await index.collections() == [wanted["collection_name"]]


async def test_other_values_for_a_known_bot_conflict(client: httpx.AsyncClient) -> None:
    wanted = body()
    await client.post("/collection/create", json=wanted)
    for change in ({"bot_name": "x"}, {"collection_name": "x"}, {"account_name": "x"}):
        answer = await client.post("/collection/create", json=wanted | change)
        assert (answer.status_code, answer.json()["code"]) == (409, "bot_exists")


async def test_collection_name_belongs_to_one_bot(client: httpx.AsyncClient, db: Database, index: MemoryIndex) -> None:
    wanted = body()
    await client.post("/collection/create", json=wanted)
    before = await contents(db, index)
    answer = await client.post("/collection/create", json=wanted | {"chat_bot_id": str(uuid4())})
    assert (answer.status_code, answer.json()["code"]) == (409, "collection_name_taken")
    assert await contents(db, index) == before


async def test_foreign_collection_is_refused_and_left_alone(
    client: httpx.AsyncClient, db: Database, index: MemoryIndex
) -> None:
    """Milvus may serve others too, and they may make collections as we do, of another dimension."""
    await index.create("theirs", 7)
    before = await contents(db, index)
    answer = await client.post("/collection/create", json=body(collection_name="theirs"))
    assert (answer.status_code, answer.json()["code"]) == (409, "collection_foreign")
    assert await contents(db, index) == before


async def test_renamed_bot(client: httpx.AsyncClient, bot: BotClient) -> None:
    await bot.insert("one")
    before = (await client.get(f"/collection/{bot.bot_id}")).json()
    answer = await client.patch(f"/collection/{bot.bot_id}", json={"bot_name": "새 이름"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {key: before[key] for key in answer.json()} | {"bot_name": "새 이름"}
    assert (await client.get(f"/collection/{bot.bot_id}")).json() == before | {"bot_name": "새 이름"}
    assert len(await bot.search("one")) == 1
    # Its registration, sent again, now has another name than the bot.
    first = {"chat_bot_id": str(bot.bot_id), "collection_name": before["collection_name"]}
    for name, status in ((before["bot_name"], 409), ("새 이름", 200)):
        again = await client.post("/collection/create", json={**first, "bot_name": name})
        assert again.status_code == status, again.text


async def test_a_bot_is_not_updated(client: httpx.AsyncClient, bot: BotClient) -> None:
    url, before = f"/collection/{bot.bot_id}", (await client.get(f"/collection/{bot.bot_id}")).json()
    for wrong, status, loc in (
        ({}, 422, "body"),
        ({"bot_name": None}, 422, "body"),
        ({"bot_name": " "}, 422, "body.bot_name"),
        ({"bot_name": "x", "dimension": 3}, 422, "body.dimension"),
        ({"bot_name": "x", "account_name": "another"}, 404, None),
    ):
        answer = await client.patch(url, json=wrong)
        assert answer.status_code == status, answer.text
        if loc:
            assert [error["loc"] for error in answer.json()["errors"]] == [loc]
    assert (await client.patch(f"/collection/{uuid4()}", json={"bot_name": "x"})).status_code == 404
    assert (await client.get(url)).json() == before


async def test_counts_and_lists(client: httpx.AsyncClient) -> None:
    mine = await register(client, account_name="mine", bot_name="one")
    other = await register(client, account_name="other")
    await mine.insert("a", "b")
    await mine.insert("c")
    detail = (await client.get(f"/collection/{mine.bot_id}")).json()
    assert (detail["document_count"], detail["chunk_count"], detail["sagas_in_flight"]) == (2, 3, 0)
    assert (detail["bot_name"], detail["account_name"], detail["dimension"]) == ("one", "mine", 64)

    listed = (await client.get("/collection/list", params={"account_name": "mine"})).json()
    assert [bot["chat_bot_id"] for bot in listed["bots"]] == [str(mine.bot_id)]
    everything = (await client.get("/collection/list")).json()
    assert [bot["chat_bot_id"] for bot in everything["bots"]] == [str(mine.bot_id), str(other.bot_id)]
    assert (everything["total"], everything["next_cursor"]) == (2, None)
    assert [bot["document_count"] for bot in everything["bots"]] == [None, None]
    counted = (await client.get("/collection/list", params={"counts": "true"})).json()
    assert [(bot["document_count"], bot["chunk_count"]) for bot in counted["bots"]] == [(2, 3), (0, 0)]


async def test_bots_in_pages(client: httpx.AsyncClient) -> None:
    bots = [str((await register(client, account_name="mine")).bot_id) for _ in range(5)]
    await register(client, account_name="other")
    params: dict[str, str] = {"account_name": "mine", "limit": "2", "counts": "true"}
    found, sizes = [], []
    while True:
        page = (await client.get("/collection/list", params=params)).json()
        assert page["total"] == 5
        sizes.append(len(page["bots"]))
        found += [bot["chat_bot_id"] for bot in page["bots"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert (found, sizes) == (bots, [2, 2, 1])
    for wrong in (
        {"cursor": params["cursor"], "account_name": "other"},
        {"cursor": "x"},
        {"cursor": ""},
        {"cursor": "W10"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "101", "counts": "true"},
    ):
        answer = await client.get("/collection/list", params=wrong)
        assert answer.status_code == 422, answer.text
        assert [error["loc"] for error in answer.json()["errors"]] == [f"query.{next(iter(wrong))}"]


async def test_deleted_bot_leaves_nothing(
    client: httpx.AsyncClient, bot: BotClient, db: Database, index: MemoryIndex
) -> None:
    kept = await register(client)
    doc_id = await bot.insert("one", "two")
    await kept.insert("three")
    answer = await client.delete(f"/collection/{bot.bot_id}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["chat_bot_id"] == str(bot.bot_id)

    assert await index.collections() == [f"bot_{kept.bot_id.hex}"]
    left = await db.fetch("SELECT relname FROM pg_class WHERE relname LIKE '%' || $1 || '%'", bot.bot_id.hex)
    assert left == []
    for call in (
        client.get(f"/collection/{bot.bot_id}"),
        client.delete(f"/collection/{bot.bot_id}"),
        client.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)}),
        client.post("/data/insert", json=bot.body("x")),
        client.post("/search/query", json={"chat_bot_id": str(bot.bot_id), "query_text": "one"}),
    ):
        gone = await call
        assert (gone.status_code, gone.json()["code"]) == (404, "bot_not_found")
    assert [result["chunk_text"] for result in await kept.search("three")] == ["three"]

    async def quiet() -> bool:
        return not await db.fetch("SELECT FROM sagas UNION ALL SELECT FROM vector_gc")

    await until(quiet)


async def test_deleted_bot_can_be_made_anew(client: httpx.AsyncClient) -> None:
    wanted = body()
    for _ in range(2):
        assert (await client.post("/collection/create", json=wanted)).status_code == 201
        assert (await client.delete(f"/collection/{wanted['chat_bot_id']}")).status_code == 200
