"""Requests that ask for too much, bring too much, or take too long."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from app.config import Settings
from app.core.embedding.port import Vectors
from app.core.services import Services
from tests.conftest import BotClient, in_process
from tests.doubles.hash_embedder import HashEmbedder

LIMITS = {
    "max_body_bytes": 4096,
    "max_buffered_bytes": 8192,
    "max_documents": 2,
    "max_chunks": 3,
    "max_text_chars": 50,
    "max_metadata_bytes": 200,
    "max_concurrent_writes": 2,
    "max_concurrent_reads": 2,
    "body_timeout": 0.3,
    "request_timeout": 2.0,
    "ingest_timeout": 3.0,
}


class SlowEmbedder(HashEmbedder):
    """Waits until it is told to go on."""

    go_on: asyncio.Event | None = None
    asked = 0
    questions = 0

    async def embed_documents(self, texts: list[str]) -> Vectors:  # type: ignore[override]
        self.asked += 1
        if self.go_on:
            await self.go_on.wait()
        return await super().embed_documents(texts)

    async def embed_queries(self, texts: list[str]) -> Vectors:  # type: ignore[override]
        self.questions += 1
        if self.go_on:
            await self.go_on.wait()
        return await super().embed_queries(texts)


@pytest.fixture
def embedder() -> SlowEmbedder:
    return SlowEmbedder()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=LIMITS)


@pytest.fixture
async def client(services: Services, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(services, settings) as opened:
        yield opened


def check(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))


async def parts(*sizes: int, pause: float = 0.0) -> AsyncIterator[bytes]:
    for size in sizes:
        await asyncio.sleep(pause)
        yield b" " * size


async def test_a_long_body_is_refused_whether_it_names_its_length_or_not(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    check(await client.post("/search/query", content=b" " * 4097, headers=headers), 413, "body_too_large")
    check(await client.post("/search/query", content=parts(4000, 97), headers=headers), 413, "body_too_large")
    check(await client.post("/search/query", content=parts(4000, 96), headers=headers), 400, "malformed_body")


async def test_nothing_of_refused_bodies_is_held(client: httpx.AsyncClient) -> None:
    for _ in range(4):
        check(await client.post("/search/query", content=parts(4000, 97)), 413, "body_too_large")
    assert (await client.post("/search/query", json={})).status_code == 422


async def test_bodies_are_bounded_together(client: httpx.AsyncClient, bot: BotClient, embedder: SlowEmbedder) -> None:
    embedder.go_on = asyncio.Event()
    body = json.dumps(bot.body("text")).encode().ljust(4000)
    headers = {"content-type": "application/json"}
    held = [asyncio.create_task(client.post("/data/insert", content=body, headers=headers)) for _ in range(2)]
    async with asyncio.timeout(5):
        while (refused := await client.post("/search/query", content=parts(1000))).status_code != 503:
            await asyncio.sleep(0)
    check(refused, 503, "overloaded")
    # However much large bodies hold, a question still comes in.
    assert (await client.post("/search/query", content=b"{}".ljust(500), headers=headers)).status_code == 422
    embedder.go_on.set()
    assert [(await task).status_code for task in held] == [201, 201]


async def test_a_compressed_body_is_not_read(client: httpx.AsyncClient) -> None:
    answer = await client.post("/search/query", content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    check(answer, 415, "encoding_unsupported")
    assert answer.headers["accept-encoding"] == "identity"
    plain = await client.post("/search/query", content=b"{}", headers={"content-encoding": "identity"})
    assert plain.status_code == 422


async def test_a_slow_body_is_given_up(client: httpx.AsyncClient) -> None:
    check(await client.post("/search/query", content=parts(*[1] * 100, pause=0.05)), 408, "body_too_slow")


async def test_counts_and_lengths_follow_the_settings(bot: BotClient) -> None:
    def refused(answer: httpx.Response, place: str) -> None:
        check(answer, 422, "invalid_input")
        assert answer.json()["errors"][0]["loc"] == place

    http = bot.http
    refused(await http.post("/data/insert", json=bot.body("a", "b", "c", "d")), "body")
    refused(await http.post("/data/insert", json=bot.body("a", "x" * 51)), "body.chunks.1.text")
    refused(await http.post("/data/insert", json=bot.body("a", metadata={"k": "x" * 200})), "body.document.metadata")
    batch = {"documents": [bot.body("a", metadata={"k": "x" * 200})]}
    refused(await http.post("/data/insert/batch", json=batch), "body.documents.0.document.metadata")
    refused(await http.post("/data/insert/batch", json={"documents": [bot.body("a")] * 3}), "body.documents")
    asked = {"chat_bot_id": str(bot.bot_id), "query_text": "x" * 51}
    refused(await http.post("/search/query", json=asked), "body")
    doc_id = await bot.insert("a", "b", "x" * 50, metadata={"k": {"k": 1}})
    patch = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"l": {"k": "x" * 200}}}
    refused(await http.patch(f"/data/document/{doc_id}/metadata", json=patch), "body.metadata_updates")


async def test_metadata_does_not_grow_by_many_patches(bot: BotClient) -> None:
    doc_id = await bot.insert("a", metadata={"first": "x" * 100})

    async def patch(**updates: object) -> httpx.Response:
        body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": updates}
        return await bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)

    answers = await asyncio.gather(*(patch(**{f"key{n}": "x" * 30}) for n in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [422] * 6
    check(next(answer for answer in answers if answer.status_code == 422), 422, "metadata_too_large")
    assert (await patch(author="somebody")).status_code == 200
    assert (await patch(first=None, other="x" * 50)).status_code == 200
    found = await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    metadata = found.json()["document"]["metadata"]
    assert len(json.dumps(metadata, separators=(",", ":"))) <= 200
    assert metadata["other"] == "x" * 50
    assert "first" not in metadata


async def test_an_account_has_so_many_writes_at_a_time(bot: BotClient, embedder: SlowEmbedder) -> None:
    embedder.go_on = asyncio.Event()
    mine = bot.body("a") | {"account_name": "chatty"}
    writing = [asyncio.create_task(bot.http.post("/data/insert", json=mine)) for _ in range(2)]
    async with asyncio.timeout(5):
        while embedder.asked < 2:
            await asyncio.sleep(0)
    check(await bot.http.post("/data/insert", json=mine), 429, "too_many_writes")
    named = {"chat_bot_id": str(bot.bot_id)}
    session = (await bot.http.post("/data/sync", json=named)).json()["session_id"]
    synced = {"documents": [bot.body("b", external_id="b")], "account_name": "chatty"}
    batch = f"/data/sync/{session}/documents"
    check(await bot.http.post(batch, params=named, json=synced), 429, "too_many_writes")
    embedder.go_on.set()
    assert [(await task).status_code for task in writing] == [201, 201]
    assert (await bot.http.post("/data/insert", json=mine)).status_code == 201
    assert (await bot.http.post(batch, params=named, json=synced)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/json; charset=utf-8"}], ids=["fast path", "FastAPI"]
)
async def test_an_account_has_so_many_reads_at_a_time(
    bot: BotClient, embedder: SlowEmbedder, headers: dict[str, str]
) -> None:
    embedder.go_on = asyncio.Event()
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "a"}
    reads = [asyncio.create_task(bot.http.post("/search/query", json=body, headers=headers)) for _ in range(2)]
    async with asyncio.timeout(5):
        while embedder.questions < 2:
            await asyncio.sleep(0)
    check(await bot.http.post("/search/query", json=body, headers=headers), 429, "too_many_reads")
    check(await bot.http.get("/collection/list"), 429, "too_many_reads")
    assert (await bot.http.get("/health/live")).status_code == 200
    embedder.go_on.set()
    assert [(await task).status_code for task in reads] == [200, 200]
    assert (await bot.http.post("/search/query", json=body, headers=headers)).status_code == 200
    assert (await bot.http.get("/collection/list")).status_code == 200


async def test_a_request_that_takes_too_long_is_given_up_and_undone(
    bot: BotClient, embedder: SlowEmbedder, settings: Settings
) -> None:
    embedder.go_on = asyncio.Event()
    asked = {"chat_bot_id": str(bot.bot_id), "query_text": "a"}
    search, insert = await asyncio.gather(
        bot.http.post("/search/query", json=asked), bot.http.post("/data/insert", json=bot.body("a"))
    )
    check(search, 503, "deadline_exceeded")
    check(insert, 503, "deadline_exceeded")
    embedder.go_on.set()
    async with asyncio.timeout(settings.saga_lease_seconds + 5):
        while (await bot.http.get(f"/collection/{bot.bot_id}")).json()["sagas_in_flight"]:
            await asyncio.sleep(0.05)
    listed = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id)})
    assert listed.json()["documents"] == []


async def test_an_account_is_counted_by_itself(services: Services, settings: Settings) -> None:
    limited = settings.model_copy(update={"rate_limit": "3/hour"})
    async with in_process(services, limited) as client:
        path = f"/collection/{uuid4()}"

        async def asked(account: str) -> httpx.Response:
            return await client.get(path, params={"account_name": account})

        assert [(await asked("one")).status_code for _ in range(4)] == [404, 404, 404, 429]
        answer = await asked("one")
        check(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 7200
        assert (await asked("two")).status_code == 404
        assert (await client.get("/health/live")).status_code == 200
