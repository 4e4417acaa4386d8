"""/data through HTTP, over real PostgreSQL and the plain index."""

from uuid import uuid4

import httpx
import pytest

from tests.conftest import BotClient, register


async def test_inserted_document_is_found_read_replaced_and_deleted(bot: BotClient) -> None:
    doc_id = await bot.insert("광화문은 경복궁의 정문이다", "한강은 서울을 흐른다", title="서울")
    results = await bot.search("경복궁의 정문")
    assert [result["chunk_index"] for result in results] == [0, 1]
    assert results[0]["chunk_text"] == "광화문은 경복궁의 정문이다"

    read = await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert read.status_code == 200
    assert [chunk["text"] for chunk in read.json()["chunks"]] == ["광화문은 경복궁의 정문이다", "한강은 서울을 흐른다"]

    put = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("남산은 서울에 있다", title="산"))
    assert put.status_code == 200, put.text
    assert (put.json()["deleted_chunks"], put.json()["inserted_chunks"]) == (2, 1)
    assert [result["chunk_text"] for result in await bot.search("서울")] == ["남산은 서울에 있다"]

    gone = await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert (gone.status_code, gone.json()["deleted_chunks"]) == (200, 1)
    assert await bot.search("서울") == []
    again = await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert again.status_code == 404


def batch(*items: tuple[BotClient, str]) -> dict[str, object]:
    return {"documents": [bot.body(text, f"{text} 둘", title=text) for bot, text in items]}


async def read(bot: BotClient, doc_id: int) -> httpx.Response:
    return await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})


async def patch(bot: BotClient, doc_id: int, **updates: object) -> httpx.Response:
    body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": updates}
    return await bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)


async def test_batch_over_two_bots_keeps_its_order(client: httpx.AsyncClient) -> None:
    first, second = await register(client), await register(client)
    answer = await client.post("/data/insert/batch", json=batch((first, "a"), (second, "b"), (first, "c")))
    assert answer.status_code == 200, answer.text
    stored = answer.json()
    assert (stored["status"], stored["total_documents"], stored["total_chunks"]) == ("success", 3, 6)
    assert (stored["success_count"], stored["failure_count"]) == (3, 0)
    assert [(result["index"], result["title"]) for result in stored["results"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert all(isinstance(stored[name], float) for name in stored if name.endswith("_ms"))
    for bot, title, result in zip((first, second, first), "abc", stored["results"], strict=True):
        document = (await read(bot, result["doc_id"])).json()
        assert document["document"]["title"] == title
        assert [chunk["text"] for chunk in document["chunks"]] == [title, f"{title} 둘"]
    assert len(await first.search("a", limit=10)) == 4
    assert len(await second.search("a", limit=10)) == 2


async def test_batch_with_one_unknown_bot_is_partial(client: httpx.AsyncClient, bot: BotClient) -> None:
    unknown = BotClient(client, uuid4())
    answer = await client.post("/data/insert/batch", json=batch((bot, "a"), (unknown, "b"), (bot, "c")))
    stored = answer.json()
    assert (answer.status_code, stored["status"], stored["total_chunks"]) == (200, "partial", 4)
    assert (stored["success_count"], stored["failure_count"]) == (2, 1)
    assert [result["success"] for result in stored["results"]] == [True, False, True]
    failed = stored["results"][1]
    assert (failed["doc_id"], failed["error"]["code"]) == (None, "bot_not_found")


async def test_batch_of_unknown_bots_is_not_found(client: httpx.AsyncClient) -> None:
    unknown = BotClient(client, uuid4())
    answer = await client.post("/data/insert/batch", json=batch((unknown, "a"), (unknown, "b")))
    assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")
    assert [error["loc"] for error in answer.json()["errors"]] == [
        f"body.documents.{number}.document.chat_bot_id" for number in (0, 1)
    ]


async def test_chunks_may_come_in_any_order_with_gaps(bot: BotClient) -> None:
    body = bot.body()
    body["chunks"] = [{"chunk_index": number, "text": str(number)} for number in (65_535, 7, 0)]
    doc_id = (await bot.http.post("/data/insert", json=body)).json()["doc_id"]
    document = (await read(bot, doc_id)).json()
    assert [chunk["chunk_index"] for chunk in document["chunks"]] == [0, 7, 65_535]
    assert document["chunk_count"] == 3
    assert {result["chunk_index"] for result in await bot.search("7")} == {0, 7, 65_535}


async def test_document_keeps_what_json_can_say(bot: BotClient) -> None:
    metadata = {"a": [1, 2.5, None, True, {"깊이": ["\U0001f600"]}], "": "", "big": 2**63 - 1, "small": 5e-324}
    doc_id = await bot.insert("x", metadata=metadata, tags=["ㄱ", "ㄱ"], author="", file_path="/한/글")
    document = (await read(bot, doc_id)).json()["document"]
    assert document["metadata"] == metadata
    assert (document["tags"], document["author"], document["file_path"]) == (["ㄱ", "ㄱ"], "", "/한/글")


async def test_patch_sets_columns_merges_and_removes(bot: BotClient) -> None:
    doc_id = await bot.insert("x", title="old", author="a", tags=["t"], metadata={"keep": 1, "go": 2, "deep": {"a": 1}})
    before = (await read(bot, doc_id)).json()["document"]
    answer = await patch(bot, doc_id, title="new", author=None, go=None, absent=None, deep={"b": 2}, added=[1])
    assert answer.status_code == 200, answer.text
    after = (await read(bot, doc_id)).json()["document"]
    assert (after["title"], after["author"], after["tags"]) == ("new", None, ["t"])
    assert after["metadata"] == {"keep": 1, "deep": {"b": 2}, "added": [1]}
    assert after["created_at"] == before["created_at"]
    assert after["updated_at"] == answer.json()["updated_at"] > before["updated_at"]
    await patch(bot, doc_id, tags=None)
    assert (await read(bot, doc_id)).json()["document"]["tags"] == []


@pytest.mark.parametrize("key", ["copy", "json", "dict", "schema", "model_fields_set", "_private", "__class__"])
async def test_patch_takes_any_key(bot: BotClient, key: str) -> None:
    """Also one that is a name in our own code."""
    doc_id = await bot.insert("x")
    answer = await patch(bot, doc_id, **{key: "value"})
    assert answer.status_code == 200, answer.text
    assert (await read(bot, doc_id)).json()["document"]["metadata"] == {key: "value"}


async def test_listing_goes_on_where_it_stopped(bot: BotClient) -> None:
    doc_ids = [await bot.insert(str(number)) for number in range(5)]
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        params = {"chat_bot_id": str(bot.bot_id), "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await bot.http.get("/data/documents", params=params)).json()
        assert len(page["documents"]) <= 2
        found += [document["doc_id"] for document in page["documents"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (found, pages) == (doc_ids, 3)


async def test_deleting_many_names_the_unknown_once(bot: BotClient) -> None:
    first, second = await bot.insert("a", "b"), await bot.insert("c")
    unknown = second + 1000

    async def delete(*doc_ids: int) -> dict[str, object]:
        body = {"chat_bot_id": str(bot.bot_id), "doc_ids": doc_ids}
        answer = await bot.http.post("/data/document/delete/batch", json=body)
        assert answer.status_code == 200, answer.text
        fields = ("status", "deleted_documents", "deleted_chunks", "not_found")
        return {field: answer.json()[field] for field in fields}

    assert await delete(first, unknown, first, unknown) == {
        "status": "partial", "deleted_documents": 1, "deleted_chunks": 2, "not_found": [unknown]
    }  # fmt: skip
    assert await delete(second, second) == {
        "status": "success", "deleted_documents": 1, "deleted_chunks": 1, "not_found": []
    }  # fmt: skip
    assert await delete(first, second) == {
        "status": "failed", "deleted_documents": 0, "deleted_chunks": 0, "not_found": [first, second]
    }  # fmt: skip
    assert await bot.search("a") == []


async def test_replacing_keeps_created_at_and_doc_id(bot: BotClient) -> None:
    doc_id = await bot.insert("a", title="old", metadata={"gone": 1})
    before = (await read(bot, doc_id)).json()["document"]
    await bot.http.put(f"/data/document/{doc_id}", json=bot.body("b", "c", title="new"))
    after = (await read(bot, doc_id)).json()
    assert after["document"]["doc_id"] == doc_id
    assert (after["document"]["title"], after["document"]["metadata"], after["chunk_count"]) == ("new", {}, 2)
    assert after["document"]["created_at"] == before["created_at"]
    assert after["document"]["updated_at"] > before["updated_at"]


async def test_a_document_of_many_chunks_is_read_in_pages(bot: BotClient) -> None:
    """As many as a document may have come in pages, and what follows a replacement is no page of what was before it."""
    doc_id = await bot.insert(*(f"text {number}" for number in range(2_500)))
    path, asked = f"/data/document/{doc_id}", {"chat_bot_id": str(bot.bot_id)}
    found: list[str] = []
    cursor: str | None = "0"
    pages = 0
    while cursor is not None:
        answer = (await bot.http.get(path, params=asked | ({"cursor": cursor} if pages else {}))).json()
        assert answer["chunk_count"] == answer["document"]["chunk_count"] == 2_500
        found += [chunk["text"] for chunk in answer["chunks"]]
        last, cursor = cursor, answer["next_cursor"]
        pages += 1
    assert (pages, found) == (3, [f"text {number}" for number in range(2_500)])
    assert (await bot.http.put(path, json=bot.body("new"))).status_code == 200
    answer = await bot.http.get(path, params=asked | {"cursor": str(last)})
    assert (answer.status_code, answer.json()["code"]) == (409, "document_changed")
