"""The number of texts that a gateway accepts is learned: from an error message, or by one trial at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import numpy as np
import pytest

from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.providers.factory import open_embedder
from app.core.embedding.providers.learned_limits import LearnedLimits
from app.core.embedding.providers.provider_errors import StatedLimits, stated_limits
from app.utils.errors import TextRefused
from tests.embedding import provider_stubs as stubs
from tests.embedding.openai_server import Body, OpenAIServer, Reply, failing
from tests.embedding.provider_stubs import Rules
from tests.embedding.test_presets import Open, of, settings

TEXTS = [f"text number {number}" for number in range(300)]
SILENT = replace(stubs.TEI, too_many="The request cannot be processed.", too_many_status=400, truncated_at=None)


@pytest.fixture
async def opened(server: OpenAIServer) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_it(**given: object) -> CachingEmbedder:
            by_hand = {"embedding_model": "openai", "openai_model": "m", "openai_base_url": server.url}
            embedder = await open_embedder(settings(**{**by_hand, **given}))
            stack.push_async_callback(embedder.close)
            server.forget()
            return embedder

        yield open_it


async def test_a_limit_that_is_named_is_obeyed_at_once(opened: Open, server: OpenAIServer) -> None:
    server.always = stubs.TEI
    embedder = await opened()
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), of("", TEXTS), atol=1e-6)
    assert len(server.requests) == 11
    server.forget()
    await embedder.embed_documents(TEXTS)
    assert [len(body["input"]) for body in server.requests].count(32) == 9
    assert len(server.requests) == 10


async def test_a_limit_that_is_not_named_is_found(opened: Open, server: OpenAIServer) -> None:
    server.always = SILENT
    embedder = await opened()
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), of("", TEXTS), atol=1e-6)
    assert len(server.requests) == 16  # At most 20 were wanted.
    server.forget()
    await embedder.embed_documents(TEXTS)
    assert len(server.requests) == 10


@pytest.mark.parametrize("rules", [stubs.TEI, SILENT])
async def test_callers_at_the_same_time_do_not_all_find_out(opened: Open, server: OpenAIServer, rules: Rules) -> None:
    server.always = rules
    embedder = await opened()
    calls = [[f"{call} {text}" for text in TEXTS] for call in range(8)]
    found = await asyncio.gather(*(embedder.embed_documents(texts) for texts in calls))
    for texts, vectors in zip(calls, found, strict=True):
        np.testing.assert_allclose(vectors, of("", texts), atol=1e-6)
    refused = [body for body in server.requests if len(body["input"]) > 32]
    assert len(refused) <= (1 if rules is stubs.TEI else 6)
    assert len(server.requests) <= 8 * 10 + 10


async def test_queries_do_not_wait_while_it_is_found_out(opened: Open, server: OpenAIServer) -> None:
    server.always = SILENT
    embedder = await opened()
    server.gate.clear()
    documents = asyncio.create_task(embedder.embed_documents(TEXTS))
    assert await asyncio.to_thread(server.entered.acquire, timeout=5)
    query = asyncio.create_task(embedder.embed_queries(["why?"]))
    while ["why?"] not in [body["input"] for body in server.requests]:
        assert await asyncio.to_thread(server.entered.acquire, timeout=5)
    server.gate.set()
    await asyncio.gather(documents, query)


@pytest.mark.parametrize("bad", [0, 5, 31, 150, 299])
@pytest.mark.parametrize("texts", [10, 32, 2_048])
async def test_a_bad_text_is_no_limit(opened: Open, server: OpenAIServer, bad: int, texts: int) -> None:
    limited = replace(SILENT, texts=texts)
    server.always = lambda body: failing(400)(body) if TEXTS[bad] in body["input"] else limited(body)
    embedder = await opened()
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(TEXTS)
    assert {index: type(error) for index, error in caught.value.errors.items()} == {bad: TextRefused}
    others = [index for index in range(300) if index != bad]
    np.testing.assert_allclose(caught.value.vectors[others], of("", [TEXTS[i] for i in others]), atol=1e-6)
    server.forget()
    await embedder.embed_documents([text for text in TEXTS if text != TEXTS[bad]])
    server.forget()
    await embedder.embed_documents([text for text in TEXTS if text != TEXTS[bad]])
    assert len(server.requests) == -(-299 // texts)


async def test_a_limit_of_bytes_is_lived_with(opened: Open, server: OpenAIServer) -> None:
    """A proxy that refuses long bodies says 413 and nothing of texts."""

    def proxy(body: Body) -> Reply:
        size = sum(map(len, body["input"]))
        return Reply(413, b"<html>413 Request Entity Too Large</html>") if size > 2_000 else stubs.VLLM(body)

    server.always = proxy
    embedder = await opened()
    texts = [f"{number:04}".ljust(100 if number < 100 else 200, "x") for number in range(300)]
    for _ in range(3):
        np.testing.assert_allclose(await embedder.embed_documents(texts), of("", texts), atol=1e-6)


async def test_a_gateway_that_takes_less_than_it_did_is_learned_again(opened: Open, server: OpenAIServer) -> None:
    server.always = replace(SILENT, texts=64)
    embedder = await opened(embedding_batch_size=64)
    await embedder.embed_documents(TEXTS)
    server.always = replace(SILENT, texts=20)
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), of("", TEXTS), atol=1e-6)
    await embedder.embed_documents(TEXTS)
    server.forget()
    await embedder.embed_documents(TEXTS)
    assert len(server.requests) == 15


async def test_tokens_of_a_request_are_learned_too(opened: Open, server: OpenAIServer) -> None:
    said = (
        "Request to model 'm' failed. The max allowed tokens per submitted batch is 3000. Your batch has {} tokens "
        "after truncation. Please lower the number of tokens in the batch."
    )

    def voyage(body: Body) -> Reply:
        size = sum(map(len, body["input"]))
        return Reply(400, {"detail": said.format(size)}) if size > 3_000 else stubs.VLLM(body)

    server.always = voyage
    embedder = await opened()
    texts = [f"{number:04}".ljust(100, "x") for number in range(300)]
    np.testing.assert_allclose(await embedder.embed_documents(texts), of("", texts), atol=1e-6)
    server.forget()
    await embedder.embed_documents(texts)
    assert len(server.requests) == 10


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ("batch size 300 > maximum allowed batch size 32", StatedLimits(texts=32)),
        ("input batch size 300 > maximum allowed batch size 64", StatedLimits(texts=64)),
        ("invalid request: total number of texts must be at most 96 - received 300", StatedLimits(texts=96)),
        ("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch", StatedLimits(texts=100)),
        (
            "Value error, batch size is invalid, it should not be larger than 10.: input.contents",
            StatedLimits(texts=10),
        ),
        ("Each input list can contain at most 200 items.. Field errors: : Invalid value", StatedLimits(texts=200)),
        ("input: List should have at most 128 items after validation, not 300", StatedLimits(texts=128)),
        (
            "Invalid 'input': array too long. Expected an array with maximum length 200, but got one with length 300",
            StatedLimits(texts=200),
        ),
        ("input length is larger than the largest allowed size 256", StatedLimits(texts=256)),
        ("Too many inputs in request, split into more batches.", StatedLimits()),
        ("batch size 300 > maximum allowed batch size 1,024", StatedLimits()),
        (
            "The max allowed tokens per submitted batch is 120000. Your batch has 121138 tokens after truncation.",
            StatedLimits(request_tokens=120_000),
        ),
        ("Requested 310000 tokens, max 300000 tokens per request", StatedLimits(request_tokens=300_000)),
        ("Input validation error: `inputs` must have less than 512 tokens. Given: 785", StatedLimits(input_tokens=512)),
        (
            "This model's maximum context length is 512 tokens. However, you requested 1451 tokens in the input",
            StatedLimits(input_tokens=512),
        ),
        ("Input length 1024 exceeds maximum allowed token size 512", StatedLimits(input_tokens=512)),
        ("Invalid 'input[0]': maximum input length is 8192 tokens.", StatedLimits(input_tokens=8_192)),
        ("must have less than 200 characters", StatedLimits()),
        ("encoding_format must be 'float'", StatedLimits()),
        ("", StatedLimits()),
    ],
)
def test_limits_are_read_from_what_providers_say(said: str, limits: StatedLimits) -> None:
    assert stated_limits(said, 300) == limits


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 32, 96, 100, 299])
def test_trials_end_at_the_very_limit(limit: int) -> None:
    limits = LearnedLimits(2_048, known=False)
    trials = 0
    while not limits.settled:
        trials += 1
        size = limits.trial_size(300)
        limits.record_accepted(size) if size <= limit else limits.record_refused(size)
        assert trials < 25
    assert (limits.request_texts, limits.accepted) == (limit, limit)
