"""The provider openai when requests fail: retries, deadlines, the circuit breaker, and texts that fail alone."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.providers import openai_client, provider_requests
from app.core.embedding.providers.factory import DEFAULT_TUNING, Tuning, _provider
from app.core.embedding.providers.openai_embedder import OpenAIEmbedder
from app.utils.errors import AppError, EmbedderUnavailable, TextRefused
from tests.embedding.openai_embedders import Open, opened, quick, settings
from tests.embedding.openai_server import Body, OpenAIServer, Reply, expected, failing, good

__all__ = ["opened", "quick"]

TEXTS = [f"text number {number}" for number in range(10)]


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
    embedder = _provider(settings(server, embedding_timeout=20, saga_lease_seconds=3), DEFAULT_TUNING)
    assert isinstance(embedder, OpenAIEmbedder)
    assert embedder._timeout == 2


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


def test_retry_after_in_all_its_forms() -> None:
    assert provider_requests.retry_after({"retry-after-ms": "1500"}) == 1.5
    assert provider_requests.retry_after({"retry-after": "2"}) == 2
    assert provider_requests.retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) > 1e9
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "-1"}, {"retry-after": "nan"}):
        assert provider_requests.retry_after(nothing) == 0
