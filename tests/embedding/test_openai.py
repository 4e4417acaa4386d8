"""The provider openai against a real server on loopback: requests, vectors, long texts and the queue."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.providers import tokens
from app.core.embedding.providers.factory import Tuning
from app.utils.errors import EmbedderUnavailable, EmbeddingInvalid, TextTooLong
from tests.embedding.openai_embedders import Open, opened
from tests.embedding.openai_server import NATIVE, Body, OpenAIServer, Reply, changed, expected, item

__all__ = ["opened"]

TEXTS = [f"text number {number}" for number in range(10)]


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


def test_tiktoken_is_asked_only_where_its_vocabulary_is_at_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path_factory.mktemp("tiktoken")))
    assert tokens.exact_counter("text-embedding-3-small") is None
    assert tokens.exact_counter("nomic-embed-text") is None
