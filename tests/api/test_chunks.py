"""Single chunks: reading, replacing, inserting and deleting them, with one embedding at most."""

from typing import Any

import pytest

from tests.conftest import BotClient
from tests.doubles.counting_embedder import CountingEmbedder


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


class Chunks:
    """The chunks of one document."""

    def __init__(self, bot: BotClient, doc_id: int) -> None:
        self.http, self.doc_id = bot.http, doc_id
        self.path = f"/data/document/{doc_id}/chunks"
        self.bot = {"chat_bot_id": str(bot.bot_id)}

    async def get(self, index: int | str = "", **params: object) -> Any:
        path = f"{self.path}/{index}" if index != "" else self.path
        return await self.http.get(path, params={**self.bot, **params})  # type: ignore[arg-type]

    async def put(self, index: int, text: str, **fields: object) -> Any:
        return await self.http.put(f"{self.path}/{index}", json={**self.bot, "text": text, **fields})

    async def post(self, text: str, **fields: object) -> Any:
        return await self.http.post(self.path, json={**self.bot, "text": text, **fields})

    async def delete(self, index: int) -> Any:
        return await self.http.delete(f"{self.path}/{index}", params=self.bot)

    async def all(self) -> dict[int, str]:
        answer = (await self.get()).json()
        assert answer["chunk_count"] == len(answer["chunks"])
        return {chunk["chunk_index"]: chunk["text"] for chunk in answer["chunks"]}


@pytest.fixture
async def chunks(bot: BotClient, embedder: CountingEmbedder) -> Chunks:
    made = Chunks(bot, await bot.insert("a", "b", "c", author="someone", external_id="id"))
    embedder.embedded.clear()
    return made


async def test_pages_and_single_chunks(chunks: Chunks) -> None:
    first = (await chunks.get(limit=2)).json()
    assert ([chunk["text"] for chunk in first["chunks"]], first["chunk_count"]) == (["a", "b"], 3)
    second = (await chunks.get(limit=2, cursor=first["next_cursor"])).json()
    assert ([chunk["text"] for chunk in second["chunks"]], second["next_cursor"]) == (["c"], None)
    one = (await chunks.get(1)).json()
    assert one == {"status": "success", "doc_id": chunks.doc_id, "chunk": first["chunks"][1]}
    missing = await chunks.get(3)
    assert (missing.status_code, missing.json()["code"]) == (404, "chunk_not_found")
    chunks.path = "/data/document/99999/chunks"
    assert (await chunks.get(0)).json()["code"] == "document_not_found"
    assert (await chunks.get()).json()["code"] == "document_not_found"


async def test_a_chunk_is_replaced_alone(chunks: Chunks, bot: BotClient, embedder: CountingEmbedder) -> None:
    answer = await chunks.put(1, "new", page_number=7)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["chunk_index"], body["chunk_count"], body["embedded_chunks"]) == (1, 3, 1)
    assert embedder.embedded == ["new"]
    assert (await chunks.get(1)).json()["chunk"]["page_number"] == 7
    assert await chunks.all() == {0: "a", 1: "new", 2: "c"}
    assert (await chunks.put(1, "c")).json()["embedded_chunks"] == 0
    found = await bot.search("c", limit=2)
    assert sorted(result["chunk_index"] for result in found) == [1, 2]  # type: ignore[type-var]
    document = (await bot.http.get(f"/data/document/{chunks.doc_id}", params=chunks.bot)).json()["document"]
    assert (document["author"], document["external_id"], document["title"]) == ("someone", "id", "title")


async def test_chunks_move_up_for_a_new_one(chunks: Chunks, embedder: CountingEmbedder) -> None:
    answer = await chunks.post("last")
    assert (answer.status_code, answer.json()["chunk_index"], answer.json()["chunk_count"]) == (201, 3, 4)
    assert (await chunks.post("far", chunk_index=10)).json()["chunk_index"] == 10
    assert (await chunks.post("first", chunk_index=0)).json()["chunk_count"] == 6
    assert await chunks.all() == {0: "first", 1: "a", 2: "b", 3: "c", 4: "last", 10: "far"}
    await chunks.post("gap", chunk_index=7)
    assert await chunks.all() == {0: "first", 1: "a", 2: "b", 3: "c", 4: "last", 7: "gap", 10: "far"}
    assert embedder.embedded == ["last", "far", "first", "gap"]


async def test_chunks_are_deleted_but_the_last(chunks: Chunks, bot: BotClient, embedder: CountingEmbedder) -> None:
    answer = (await chunks.delete(1)).json()
    assert (answer["chunk_index"], answer["chunk_count"], answer["embedded_chunks"]) == (1, 2, 0)
    assert (await chunks.delete(1)).status_code == 404
    assert await chunks.all() == {0: "a", 2: "c"}
    assert (await chunks.delete(0)).status_code == 200
    last = await chunks.delete(2)
    assert (last.status_code, last.json()["code"]) == (409, "last_chunk")
    assert embedder.embedded == []
    assert [result["chunk_text"] for result in await bot.search("a", limit=5)] == ["c"]


async def test_no_index_is_left(chunks: Chunks) -> None:
    assert (await chunks.post("end", chunk_index=65_535)).status_code == 201
    for body in ({}, {"chunk_index": 65_535}):
        answer = await chunks.post("more", **body)
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "body.chunk_index")
    assert (await chunks.post("before")).status_code == 422
    assert await chunks.all() == {0: "a", 1: "b", 2: "c", 65_535: "end"}


@pytest.mark.parametrize("fields", [{"text": " "}, {"chunk_index": -1}, {"chunk_index": 65_536}, {"title": "x"}])
async def test_bad_chunks_are_refused(chunks: Chunks, fields: dict[str, object]) -> None:
    assert (await chunks.post(**{"text": "x", **fields})).status_code == 422  # type: ignore[arg-type]
    assert await chunks.all() == {0: "a", 1: "b", 2: "c"}


async def test_an_insert_with_a_key_happens_once(chunks: Chunks) -> None:
    sent = {"json": {**chunks.bot, "text": "x"}, "headers": {"Idempotency-Key": "k"}}
    first = await chunks.http.post(chunks.path, **sent)  # type: ignore[arg-type]
    again = await chunks.http.post(chunks.path, **sent)  # type: ignore[arg-type]
    assert (again.status_code, again.content) == (201, first.content)
    assert len(await chunks.all()) == 4


async def test_another_account_sees_no_chunk(chunks: Chunks) -> None:
    chunks.bot |= {"account_name": "another"}
    assert (await chunks.get(0)).json()["code"] == "bot_not_found"
    assert (await chunks.put(0, "x")).json()["code"] == "bot_not_found"
    assert (await chunks.delete(0)).json()["code"] == "bot_not_found"
