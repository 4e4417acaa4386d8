"""Documents and questions through HTTP, with the provider openai on a server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest

from app.config import Settings
from app.core.embedding.providers import provider_requests
from app.core.embedding.providers.factory import Tuning, open_embedder
from tests.conftest import BotClient
from tests.embedding.openai_server import NATIVE, OpenAIServer, changed, failing, good


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    yield server
    server.close()


@pytest.fixture
async def embedder(provider: OpenAIServer) -> AsyncIterator[object]:
    embedder = await open_embedder(
        Settings(
            _env_file=None,
            embedding_model="openai",
            openai_base_url=provider.url,
            openai_model="some-model",
        ),
        Tuning(breaker_failures=2, breaker_pause=0.1),
    )
    provider.forget()
    yield embedder
    await embedder.close()


def batch(bot: BotClient, documents: int, chunks: int) -> dict[str, object]:
    return {
        "documents": [
            {
                "document": {"chat_bot_id": str(bot.bot_id), "title": f"document {number}"},
                "chunks": [{"chunk_index": index, "text": f"text {number} {index}"} for index in range(chunks)],
            }
            for number in range(documents)
        ]
    }


async def test_a_hundred_documents_are_one_request(bot: BotClient, provider: OpenAIServer) -> None:
    answer = (await bot.http.post("/data/insert/batch", json=batch(bot, 100, 12))).json()
    assert (answer["status"], answer["success_count"], answer["total_chunks"]) == ("success", 100, 1200)
    assert [len(body["input"]) for body in provider.requests] == [1200]
    (found,) = await bot.search("text 57 3", limit=1)
    assert found["chunk_text"] == "text 57 3"


INVALID_VECTORS = [None, [1.0], [0.0] * NATIVE, [float("nan")] * NATIVE, [1e30] * NATIVE]


@pytest.mark.parametrize("vector", INVALID_VECTORS)
async def test_an_invalid_vector_is_one_document_s_error(
    bot: BotClient, provider: OpenAIServer, vector: list[float] | None
) -> None:
    provider.then.append(changed(lambda data: [*data[:7], {"index": 7, "embedding": vector}, *data[8:]]))
    answer = (await bot.http.post("/data/insert/batch", json=batch(bot, 4, 5))).json()
    assert [result["success"] for result in answer["results"]] == [True, False, True, True]
    assert answer["results"][1]["error"]["code"] == "embedding_invalid"
    assert answer["results"][1]["error"]["detail"].startswith("chunk_index 2: ")


@pytest.mark.parametrize("vector", INVALID_VECTORS)
async def test_an_invalid_vector_is_neither_searched_with_nor_handed_out(
    client: httpx.AsyncClient, bot: BotClient, provider: OpenAIServer, vector: list[float] | None
) -> None:
    await bot.insert("a text")
    provider.always = changed(lambda data: [{"index": 0, "embedding": vector}])
    search = {"chat_bot_id": str(bot.bot_id), "query_text": "a question", "mode": "dense"}
    embeddings = {"model": "openai", "input": "another text"}
    for path, body in (("/search/query", search), ("/v1/embeddings", embeddings)):
        answer = await client.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (502, "embedding_invalid"), path


async def test_a_long_text_is_a_clear_422(bot: BotClient, provider: OpenAIServer) -> None:
    provider.always = lambda body: (failing(400) if max(map(len, body["input"])) > 3000 else good)(body)
    answer = await bot.http.post("/data/insert", json=bot.body("short", "가" * 4000, "also short"))
    assert (answer.status_code, answer.json()["code"]) == (422, "text_too_long")
    assert answer.json()["detail"].startswith("chunk_index 1: ")
    asked = {"chat_bot_id": str(bot.bot_id), "mode": "dense"}
    answer = await bot.http.post("/search/query", json={**asked, "query_text": "가" * 4000})
    assert (answer.status_code, answer.json()["code"]) == (422, "text_too_long")
    assert [place["loc"] for place in answer.json()["errors"]] == ["body.query_text"]
    answer = await bot.http.post("/search/batch", json={**asked, "query_texts": ["short", "가" * 4000]})
    assert (answer.status_code, answer.json()["code"]) == (422, "text_too_long")
    assert [place["loc"] for place in answer.json()["errors"]] == ["body.query_texts.1"]


async def test_while_the_provider_is_away_queries_are_503_at_once(
    bot: BotClient, provider: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_requests, "FIRST_PAUSE", 0.01)
    await bot.insert("a text")
    provider.always = failing(503)
    for asked in ("one", "two"):
        body = {"chat_bot_id": str(bot.bot_id), "query_text": asked}
        answer = await bot.http.post("/search/query", json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "embedder_unavailable")
        assert "retry-after" in answer.headers
    assert "two" not in provider.texts
    assert (await bot.http.get("/health/ready")).status_code == 503
    provider.always = good
    while (await bot.http.get("/health/ready")).status_code == 503:
        await asyncio.sleep(0.01)
    assert await bot.search("a text")


async def test_embeddings_are_those_of_the_documents(
    client: httpx.AsyncClient, bot: BotClient, provider: OpenAIServer
) -> None:
    """And come from the cache when they were stored before."""
    official = openai.AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=client, max_retries=0)
    await bot.insert("a text")
    asked = len(provider.requests)
    answer = await official.embeddings.create(model="some-model", input=["a text"])
    assert (answer.model, len(provider.requests)) == ("openai:some-model", asked)
    provider.always = lambda body: (failing(400) if "refused" in body["input"] else good)(body)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await official.embeddings.create(model="openai", input=["fine", "refused"])
    assert caught.value.code == "text_refused"
    assert [place["loc"] for place in caught.value.response.json()["errors"]] == ["body.input.1"]
