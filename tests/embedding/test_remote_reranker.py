"""A reranker over the network, on stubs with the forms of TEI's, vLLM's, Jina's and Cohere's."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from app.core.embedding.providers import provider_requests
from app.core.search.remote_reranker import RemoteReranker, RerankApi
from app.utils.errors import RerankerUnavailable, RerankInvalid, StartupError
from tests.embedding.openai_server import Body, OpenAIServer, Reply, failing

PAIRS = [(f"question {number % 3}", "x" * (1 + number * 7 % 100)) for number in range(100)]
SCORES = [len(passage) / 1_000 for _, passage in PAIRS]


@dataclass(frozen=True)
class Rules:
    """What the provider takes and gives: a passage's score is its length."""

    documents: str
    score: str
    fields: frozenset[str]
    texts: int = 1_000
    wrapped: bool = True
    too_many: str = "batch size {sent} > maximum allowed batch size {limit}"

    def __call__(self, body: Body) -> Reply:
        passages = body[self.documents]
        if unknown := body.keys() - self.fields:
            return Reply(422, {"message": f"unknown fields {sorted(unknown)}"})
        if len(passages) > self.texts:
            return Reply(413, {"error": self.too_many.format(sent=len(passages), limit=self.texts), "error_type": "x"})
        results = [{"index": index, self.score: len(one) / 1_000} for index, one in enumerate(passages)]
        results.sort(key=lambda one: -one[self.score])
        return Reply(200, {"id": "x", "results": results} if self.wrapped else results)


COHERE = Rules(
    "documents", "relevance_score", frozenset({"model", "query", "documents", "top_n", "max_tokens_per_doc"})
)
RULES: dict[RerankApi, Rules] = {
    "tei": Rules(
        "texts", "score", frozenset({"query", "texts", "truncate", "raw_scores", "return_text"}), 32, wrapped=False
    ),
    "vllm": Rules("documents", "relevance_score", COHERE.fields | {"truncate_prompt_tokens"}),
    "jina": Rules(
        "documents", "relevance_score", frozenset({"model", "query", "documents", "top_n", "return_documents"})
    ),
    "cohere": COHERE,
}
Make = Callable[..., RemoteReranker]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    server.always = RULES["cohere"]
    yield server
    server.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_requests, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(provider_requests, "LONGEST_PAUSE", 0.02)


async def opened(
    server: OpenAIServer, api: RerankApi = "cohere", model: str | None = "m", **given: float
) -> RemoteReranker:
    reranker = await RemoteReranker.open(f"{server.url}/rerank", api, model, 20, api_key="sk-test", **given)
    server.forget()
    return reranker


@pytest.mark.parametrize(
    ("api", "requests", "body"),
    [
        ("tei", 6, b'{"query":"why?","texts":["x"],"truncate":true}'),
        ("vllm", 3, b'{"model":"m","query":"why?","documents":["x"],"truncate_prompt_tokens":-1}'),
        ("jina", 3, b'{"model":"m","query":"why?","documents":["x"],"return_documents":false}'),
        ("cohere", 3, b'{"model":"m","query":"why?","documents":["x"]}'),
    ],
)
async def test_each_form(server: OpenAIServer, api: RerankApi, requests: int, body: bytes) -> None:
    server.always = RULES[api]
    reranker = await opened(server, api, None if api == "tei" else "m")
    assert await reranker.scores(PAIRS) == pytest.approx(SCORES)
    assert len(server.requests) == requests
    server.forget()
    assert await reranker.scores([("why?", "x")]) == [0.001]
    assert server.bodies == [body]
    assert server.paths == ["/v1/rerank"]
    assert server.headers[0]["authorization"] == "Bearer sk-test"
    assert await reranker.scores([]) == []
    await reranker.close()


@pytest.mark.parametrize("said", ["batch size {sent} > maximum allowed batch size {limit}", "It is too much."])
async def test_how_many_it_takes_is_learnt(server: OpenAIServer, said: str) -> None:
    server.always = Rules("documents", "relevance_score", COHERE.fields, texts=10, too_many=said)
    reranker = await opened(server)
    pairs = [("why?", passage) for _, passage in PAIRS]
    assert await reranker.scores(pairs) == pytest.approx(SCORES)
    server.forget()
    await reranker.scores(pairs)
    assert len(server.requests) == (10 if "limit" in said else 17)
    await reranker.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"results": []},
        {"results": [{"index": 0, "relevance_score": 1}, {"index": 0, "relevance_score": 1}]},
        {"results": [{"index": 0, "relevance_score": 1}, {"index": 2, "relevance_score": 1}]},
        {"results": [{"index": 0, "relevance_score": None}, {"index": 1, "relevance_score": 1}]},
        {"results": [{"index": 0, "score": 1}, {"index": 1, "score": 1}]},
        {"data": []},
        b"<html></html>",
        b'{"results":[{"index":0,"relevance_score":NaN},{"index":1,"relevance_score":1}]}',
    ],
)
async def test_an_answer_without_a_score_for_each_is_none(server: OpenAIServer, answer: object) -> None:
    reranker = await opened(server)
    server.always = lambda _: Reply(200, answer)
    with pytest.raises(RerankInvalid):
        await reranker.scores([("why?", "x"), ("why?", "y")])
    await reranker.close()


async def test_it_is_tried_again_and_then_not_asked_for_a_while(server: OpenAIServer, quick: None) -> None:
    reranker = await opened(server, breaker_failures=3, breaker_pause=0.2)
    server.then += [failing(503), failing(429)]
    assert await reranker.scores(PAIRS[:1]) == SCORES[:1]
    server.forget()
    server.always = failing(503, retry_after_ms="20")
    with pytest.raises(RerankerUnavailable) as caught:
        await reranker.scores(PAIRS[:1])
    assert (caught.value.code, len(server.requests)) == ("reranker_unavailable", 3)
    with pytest.raises(RerankerUnavailable) as caught:
        await reranker.scores(PAIRS[:1])
    assert (caught.value.retry_after, len(server.requests)) == (1, 3)
    server.always = RULES["cohere"]
    async with asyncio.timeout(5):
        while True:
            try:
                assert await reranker.scores(PAIRS[:1]) == SCORES[:1]
                break
            except RerankerUnavailable:
                await asyncio.sleep(0.01)
    await reranker.close()


async def test_a_silent_one_is_given_up_at_the_deadline(server: OpenAIServer) -> None:
    reranker = await opened(server, timeout=0.2)
    server.gate.clear()
    with pytest.raises(RerankerUnavailable) as caught:
        await reranker.scores(PAIRS)
    assert caught.value.retry_after
    server.gate.set()
    await reranker.close()


async def test_a_wrong_key_does_not_start_and_is_not_shown(server: OpenAIServer) -> None:
    server.always = lambda _: Reply(401, {"message": "invalid api token: sk-test"})
    with pytest.raises(StartupError) as caught:
        await opened(server)
    assert "refuses this server with 401 and says: 'invalid api token: [removed]'" in str(caught.value)
    server.always = lambda _: Reply(200, {"object": "list"})
    with pytest.raises(StartupError, match="RERANK_API"):
        await opened(server)


async def test_one_that_is_away_at_start_is_waited_for(server: OpenAIServer, caplog: pytest.LogCaptureFixture) -> None:
    server.always = failing(503)
    with caplog.at_level(logging.WARNING):
        reranker = await opened(server)
    assert "starting without the reranker" in caplog.text
    server.always = RULES["cohere"]
    assert await reranker.scores(PAIRS[:1]) == SCORES[:1]
    await reranker.close()
