"""The provider openai, through the official client, against a real server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from app.config import Settings
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.providers import openai_client, provider_requests, tokens
from app.core.embedding.providers.registry import TUNING, Tuning, open_embedder
from app.utils.errors import AppError, EmbedderUnavailable, EmbeddingInvalid, StartupError, TextRefused, TextTooLong
from tests.embedding.openai_server import (
    NATIVE,
    Body,
    OpenAIServer,
    Reply,
    changed,
    expected,
    failing,
    good,
    item,
)

TEXTS = [f"text number {number}" for number in range(10)]
Open = Callable[..., Awaitable[CachingEmbedder]]


@pytest.fixture
async def opened(server: OpenAIServer) -> AsyncIterator[Open]:
    """Opens the embedder on the server, as the settings say; forgets what opening asked."""
    async with AsyncExitStack() as stack:

        async def open_it(tuning: Tuning = TUNING, **given: object) -> CachingEmbedder:
            embedder = await open_embedder(settings(server, **given), tuning)
            stack.push_async_callback(embedder.close)
            server.forget()
            return embedder

        yield open_it


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_requests, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(provider_requests, "LONGEST_PAUSE", 0.02)


def settings(server: OpenAIServer, **given: object) -> Settings:
    chosen = {
        "embedding_model": "openai",
        "openai_base_url": server.url,
        "openai_api_key": "sk-test",
        "openai_model": "some-model",
        "embedding_cache_mb": 0,
        **given,
    }
    return Settings(_env_file=None, **chosen)  # type: ignore[arg-type]


async def test_vectors_come_at_length_1_and_in_order(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    assert (embedder.model, embedder.dimension) == ("openai:some-model", NATIVE)
    server.then.append(changed(lambda data: data[::-1]))
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), expected(TEXTS), atol=1e-6)
    np.testing.assert_allclose((await embedder.embed_queries(["why?"]))[0], expected(["why?"])[0], atol=1e-6)
    assert (await embedder.embed_documents([])).shape == (0, NATIVE)
    assert server.headers[0]["authorization"] == "Bearer sk-test"
    assert server.requests[0] == {"model": "some-model", "input": TEXTS, "encoding_format": "base64"}


@pytest.mark.parametrize(("size", "requests"), [(20, 1), (240, 1), (500, 2), (1000, 4)])
async def test_no_more_requests_than_the_limits_force(
    opened: Open, server: OpenAIServer, size: int, requests: int
) -> None:
    embedder = await opened()
    texts = [f"{number:06}".ljust(size, "x") for number in range(1200)]
    assert len(await embedder.embed_documents(texts)) == 1200
    assert (len(server.requests), sorted(server.texts)) == (requests, texts)


async def test_a_request_holds_no_more_texts_than_allowed(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    texts = [str(number) for number in range(4097)]
    np.testing.assert_allclose(await embedder.embed_documents(texts), expected(texts), atol=1e-6)
    assert sorted(len(body["input"]) for body in server.requests) == [1, 2048, 2048]
    server.forget()
    smaller = await opened(embedding_batch_size=32)
    await smaller.embed_documents(texts[:100])
    assert sorted(len(body["input"]) for body in server.requests) == [4, 32, 32, 32]


async def test_letters_of_several_bytes_are_never_too_many(opened: Open, server: OpenAIServer) -> None:
    """Without OpenAI's vocabulary each byte counts as a token."""
    embedder = await opened()
    await embedder.embed_documents([f"{number:04}" + "가" * 332 for number in range(400)])
    assert [sum(tokens.utf8_bytes(text) for text in body["input"]) <= 300_000 for body in server.requests] == [True] * 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"embedding": [1.0] * (NATIVE - 1)}, "shape"),
        ({"embedding": [1.0] * (NATIVE + 1)}, "shape"),
        ({"embedding": None}, "null"),
        ({"embedding": [float("nan")] * NATIVE}, "finite"),
        ({"embedding": [None] * NATIVE}, "finite"),
        ({"embedding": [0.0] * NATIVE}, "length"),
        ({"embedding": "!"}, "read"),
        ({"embedding": ["x"] * NATIVE}, "read"),
        ({"embedding": []}, "shape"),
        ({}, "null"),
    ],
)
async def test_a_bad_vector_is_its_text_s_error_alone(
    opened: Open, server: OpenAIServer, bad: dict[str, Any], reason: str
) -> None:
    embedder = await opened()
    server.then.append(changed(lambda data: [*data[:3], {"index": 3, **bad}, *data[4:]]))
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(TEXTS)
    assert list(caught.value.errors) == [3]
    error = caught.value.errors[3]
    assert isinstance(error, EmbeddingInvalid)
    assert reason in error.detail
    good_ones = [index for index in range(10) if index != 3]
    np.testing.assert_allclose(caught.value.vectors[good_ones], expected(TEXTS)[good_ones], atol=1e-6)
    assert len(server.requests) == 1


async def test_a_missing_vector_is_its_text_s_error_alone(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    server.then.append(changed(lambda data: data[:-1]))
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(TEXTS)
    assert list(caught.value.errors) == [9]


@pytest.mark.parametrize(
    "untrusted",
    [
        changed(lambda data: [*data[:-1], {**data[-1], "index": 0}]),
        changed(lambda data: [*data, item(10, "more")]),
        changed(lambda data: [{**data[0], "index": -1}, *data[1:]]),
        changed(lambda data: [{**data[0], "index": "0"}, *data[1:]]),
        lambda _: Reply(200, {"data": None}),
        lambda _: Reply(200, ["no"]),
        lambda _: Reply(200, {"error": "no"}),
    ],
)
async def test_when_places_cannot_be_trusted_no_vector_is(
    opened: Open, server: OpenAIServer, untrusted: Callable[[Body], Reply]
) -> None:
    embedder = await opened()
    server.then.append(untrusted)
    with pytest.raises(EmbeddingInvalid):
        await embedder.embed_documents(TEXTS)


async def test_a_server_without_indexes_is_taken_at_its_order(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    server.always = changed(lambda data: [{"embedding": one["embedding"]} for one in data])
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), expected(TEXTS), atol=1e-6)


async def test_retry_after_is_kept_to(opened: Open, server: OpenAIServer, quick: None) -> None:
    embedder = await opened()
    server.then += [failing(429, retry_after_ms="40"), failing(503), failing(408), failing(502)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS[:1]), expected(TEXTS[:1]), atol=1e-6)
    assert len(server.requests) == 5
    assert loop.time() - began > 0.04


async def test_what_would_last_longer_than_the_deadline_is_given_up_at_once(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    server.always = failing(429, retry_after="3600")
    with pytest.raises(EmbedderUnavailable) as caught:
        await embedder.embed_queries(["x"])
    assert (len(server.requests), caught.value.status) == (1, 503)
    assert caught.value.retry_after in (3600, 3601)
    assert "secret" not in caught.value.detail


async def test_a_silent_provider_is_given_up_at_the_deadline(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(embedding_timeout=0.2)
    server.gate.clear()
    with pytest.raises(EmbedderUnavailable):
        await embedder.embed_documents(TEXTS)
    assert len(server.requests) == 1


def test_the_deadline_is_shorter_than_the_lease(server: OpenAIServer) -> None:
    from app.core.embedding.providers.registry import _embedder

    embedder = _embedder(settings(server, embedding_timeout=20, saga_lease_seconds=3))
    assert embedder._timeout == 2  # type: ignore[attr-defined]


def refusing(bad: str, status: int) -> Callable[[Body], Reply]:
    return lambda body: (failing(status) if bad in body["input"] else good)(body)


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_one_bad_text_fails_alone(opened: Open, server: OpenAIServer, quick: None, status: int) -> None:
    embedder = await opened(embedding_timeout=1)
    server.always = refusing(TEXTS[6], status)
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(TEXTS)
    (index, error), *others = caught.value.errors.items()
    assert (index, others) == (6, [])
    assert isinstance(error, TextRefused if status < 500 else EmbedderUnavailable)
    assert "secret" not in error.detail


async def test_a_text_that_may_be_too_long_is_for_the_provider_to_judge(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    fits, too_long = "가" * 8_000, "a" * 8_193
    vectors = await embedder.embed_documents([fits])
    np.testing.assert_allclose(vectors, expected([fits]), atol=1e-6)
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents([fits, too_long, "short"])
    assert {index: type(error) for index, error in caught.value.errors.items()} == {1: TextTooLong}
    assert (caught.value.errors[1].status, "EMBEDDING_LONG_TEXT" in caught.value.errors[1].detail) == (422, True)
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_queries([too_long])
    assert isinstance(caught.value.errors[0], TextTooLong)


@pytest.mark.parametrize("exact", [False, True])
async def test_a_long_text_is_split_where_that_is_set(
    opened: Open, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    if exact:
        monkeypatch.setattr(tokens, "exact_counter", lambda _: len)
    embedder = await opened(embedding_long_text="split")
    words = ["one", "two "] * 1_500
    vectors = await embedder.embed_documents([" ".join(words), "short"])
    halves = [text for text in server.texts if 4_000 < len(text) < 8_000]
    assert "".join(halves) == " ".join(words)
    mean = np.average(expected(halves), axis=0, weights=[len(half) for half in halves])
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(vectors[1], expected(["short"])[0], atol=1e-6)
    assert exact == (len(server.requests) == 1)


async def test_known_to_be_too_long_is_not_sent(
    opened: Open, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "exact_counter", lambda _: len)
    embedder = await opened()
    with pytest.raises(PartialEmbeddingError):
        await embedder.embed_documents(["a" * 8_193, "short"])
    assert server.texts == ["short"]


async def test_requests_of_several_callers_are_shared_and_few_at_a_time(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(openai_max_concurrency=3)
    server.gate.clear()
    calls = [asyncio.create_task(embedder.embed_documents([f"call {n}", f"also {n}"])) for n in range(50)]
    for _ in range(2):
        assert await asyncio.to_thread(server.entered.acquire, timeout=5)
    query = asyncio.create_task(embedder.embed_queries(["goes first"]))
    while len(server.requests) < 3:
        assert await asyncio.to_thread(server.entered.acquire, timeout=5)
    # The server's threads may have taken them down in another order than that in which they were sent.
    assert ["goes first"] in [request["input"] for request in server.requests[:3]]
    server.gate.set()
    for number, call in enumerate(calls):
        np.testing.assert_allclose(await call, expected([f"call {number}", f"also {number}"]), atol=1e-6)
    await query
    assert (server.most_at_once, len(server.requests)) == (3, 4)


async def test_a_batch_waits_for_company_where_that_is_set(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(Tuning(batch_wait=0.1))
    await asyncio.gather(*(embedder.embed_documents([text]) for text in TEXTS))
    assert [sorted(body["input"]) for body in server.requests] == [sorted(TEXTS)]


async def test_a_full_queue_refuses_at_once_and_a_cancelled_call_leaves_it(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(Tuning(queue_texts=4), openai_max_concurrency=1)
    server.gate.clear()
    first = asyncio.create_task(embedder.embed_documents(["first"]))
    assert await asyncio.to_thread(server.entered.acquire, timeout=5)
    waiting = asyncio.create_task(embedder.embed_documents(["gone"] * 1 + ["also gone", "gone too", "gone as well"]))
    await asyncio.sleep(0)
    with pytest.raises(EmbedderUnavailable) as caught:
        await embedder.embed_documents(["one more"])
    assert caught.value.retry_after
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    after = asyncio.create_task(embedder.embed_documents(["after"]))
    await asyncio.sleep(0)
    server.gate.set()
    await asyncio.gather(first, after)
    assert server.texts == ["first", "after"]


async def test_the_breaker_opens_refuses_at_once_and_closes_by_itself(
    opened: Open, server: OpenAIServer, quick: None
) -> None:
    embedder = await opened(Tuning(breaker_failures=3, breaker_pause=0.2))
    await embedder.ping()
    server.always = failing(503)
    with pytest.raises(EmbedderUnavailable):
        await embedder.embed_queries(["x"])
    assert len(server.requests) == 3
    for call in (embedder.embed_queries(["y"]), embedder.embed_documents(TEXTS), embedder.ping()):
        with pytest.raises(EmbedderUnavailable) as caught:
            await call
        assert caught.value.retry_after == 1
    assert len(server.requests) == 3
    server.always = good
    while server.texts[-1] != openai_client.PROBE:
        await asyncio.sleep(0.01)
    while True:
        try:
            await embedder.embed_queries(["y"])
            break
        except EmbedderUnavailable:
            await asyncio.sleep(0.01)
    await embedder.ping()


async def test_a_provider_that_answers_nothing_but_500_is_not_asked_for_every_text(
    opened: Open, server: OpenAIServer, quick: None
) -> None:
    embedder = await opened()
    server.always = failing(500)
    with pytest.raises(AppError) as caught:
        await embedder.embed_documents([str(number) for number in range(1000)])
    errors = caught.value.errors.values() if isinstance(caught.value, PartialEmbeddingError) else [caught.value]
    assert {error.status for error in errors} == {503}
    assert len(server.requests) < 40


@pytest.mark.parametrize(
    ("given", "behaviour", "message"),
    [
        ({}, failing(401), "OPENAI_API_KEY"),
        ({}, failing(404), "OPENAI_MODEL"),
        ({}, changed(lambda data: []), "OPENAI_MODEL"),
        ({"openai_api_key": None, "openai_base_url": None}, good, "OPENAI_API_KEY"),
        ({"embedding_long_text": "truncate"}, good, "EMBEDDING_LONG_TEXT"),
        ({"embedding_dimension": 4}, lambda body: good({**body, "dimensions": NATIVE}), "EMBEDDING_DIMENSION=4"),
        ({"embedding_dimension": 9000, "openai_model": "text-embedding-3-large"}, good, "EMBEDDING_DIMENSION=9000"),
        ({"startup_timeout": 0.01}, failing(503), "OPENAI_BASE_URL"),
    ],
)
async def test_what_keeps_it_from_starting_is_one_line(
    server: OpenAIServer, given: dict[str, object], behaviour: Callable[[Body], Reply], message: str
) -> None:
    server.always = behaviour
    with pytest.raises(StartupError) as caught:
        await open_embedder(settings(server, **given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sk-test" not in str(caught.value)


async def test_a_shorter_dimension_is_asked_for(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(embedding_dimension=4)
    assert embedder.dimension == 4
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), expected(TEXTS, 4), atol=1e-6)
    assert server.requests[0]["dimensions"] == 4


async def test_the_model_s_own_dimension_is_not_asked_for(opened: Open, server: OpenAIServer) -> None:
    """Servers refuse the parameter for models that cannot be shortened."""
    embedder = await opened(embedding_dimension=NATIVE)
    await embedder.embed_queries(["x"])
    assert "dimensions" not in server.requests[0]


async def test_a_known_model_may_be_away_at_start(server: OpenAIServer, quick: None) -> None:
    server.always = failing(503)
    embedder = await open_embedder(settings(server, openai_model="text-embedding-3-small"))
    assert embedder.dimension == 1536
    await embedder.close()


async def test_azure_s_kind_of_url(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(openai_base_url=server.url + "/deployments/x?api-version=2024-10-21")
    await embedder.embed_queries(["x"])
    assert server.paths == ["/v1/deployments/x/embeddings?api-version=2024-10-21"]
    assert server.headers[0]["api-key"] == "sk-test"


def test_retry_after_in_all_its_forms() -> None:
    assert provider_requests.retry_after({"retry-after-ms": "1500"}) == 1.5
    assert provider_requests.retry_after({"retry-after": "2"}) == 2
    assert provider_requests.retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) > 1e9
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "-1"}, {"retry-after": "nan"}):
        assert provider_requests.retry_after(nothing) == 0


def test_tiktoken_is_asked_only_where_its_vocabulary_is_at_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path_factory.mktemp("tiktoken")))
    assert tokens.exact_counter("text-embedding-3-small") is None
    assert tokens.exact_counter("nomic-embed-text") is None
