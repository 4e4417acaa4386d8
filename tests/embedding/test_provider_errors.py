"""Error messages of providers in logs and at start, without secrets; limits they state; truncation is detected."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.providers.factory import open_embedder
from app.utils.errors import StartupError, TextTooLong
from tests.embedding import provider_stubs as stubs
from tests.embedding.openai_server import Body, OpenAIServer, Reply, expected, good
from tests.embedding.test_presets import Open, of, settings

TRUNCATING = replace(stubs.TEI, truncated_at=512)
LONG = "one two " * 200


@pytest.fixture
async def opened(server: OpenAIServer) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_it(**given: object) -> CachingEmbedder:
            embedder = await open_it_on(server, **given)
            stack.push_async_callback(embedder.close)
            return embedder

        yield open_it


async def open_it_on(server: OpenAIServer, **given: object) -> CachingEmbedder:
    by_hand = {"embedding_model": "openai", "openai_model": "m", "openai_base_url": server.url}
    return await open_embedder(settings(**{**by_hand, **given}))


def saying(status: int, body: object) -> object:
    return lambda _: Reply(status, body)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"error": {"message": "the model 'm' makes no embeddings"}}, "the model 'm' makes no embeddings"),
        (422, {"detail": [{"loc": ["body", "model"], "msg": "unknown model"}]}, "body.model: unknown model"),
        (404, {"message": "no such model", "code": 404, "type": "x"}, "no such model"),
        (401, {"detail": "Provided API key is invalid."}, "Provided API key is invalid."),
        (400, [{"error": {"message": "API key not valid", "code": 400}}], "API key not valid"),
        (403, b"plain words", "plain words"),
        (400, {"error": "two\nlines"}, "two lines"),
    ],
)
async def test_the_start_up_message_has_the_provider_s_sentence(
    server: OpenAIServer, status: int, body: object, message: str
) -> None:
    server.always = saying(status, body)  # type: ignore[assignment]
    with pytest.raises(StartupError) as caught:
        await open_it_on(server)
    assert f"with {status} and says: {message!r}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Check OPENAI_" in str(caught.value)


async def test_without_a_key_no_word_is_taken_for_one(server: OpenAIServer) -> None:
    server.always = saying(400, {"error": "none of the models is called m"})  # type: ignore[assignment]
    with pytest.raises(StartupError, match="none of the models is called m"):
        await open_it_on(server, openai_api_key=None)


async def test_an_html_page_is_no_message_and_a_long_message_is_shortened(server: OpenAIServer) -> None:
    server.always = saying(404, b"<html><title>404</title></html>")  # type: ignore[assignment]
    with pytest.raises(StartupError, match=r"with 404\. Check OPENAI_MODEL"):
        await open_it_on(server)
    server.always = saying(404, {"error": "so it is " * 1_000})  # type: ignore[assignment]
    with pytest.raises(StartupError) as caught:
        await open_it_on(server)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "secret",
    [
        "sk-test",
        "sk-proj-abcdefABCDEF0123456789",
        "up_1234567890abcdefABCDEF",
        "nvapi-0123456789abcdefghij",
        "AIzaSyA0123456789abcdefghijklmnopqrstu",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk",
        "0123456789abcdef0123456789abcdef",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "Incorrect API key provided: {}. You can find yours elsewhere.",
        "cannot reach https://gateway/v1?api_key={}&x=1",
        "Authorization: Bearer {} is not accepted",
        '{{"api-key": "{}"}} is wrong',
        "proxy http://user:{}@proxy:3128 says no",
    ],
)
async def test_no_secret_gets_into_the_message(server: OpenAIServer, secret: str, form: str) -> None:
    server.always = saying(401, {"error": {"message": form.format(secret)}})  # type: ignore[assignment]
    with pytest.raises(StartupError) as caught:
        await open_it_on(server)
    assert secret not in str(caught.value)
    assert "[removed]" in str(caught.value)


async def test_the_log_has_the_sentence_and_no_text_of_a_document(
    opened: Open, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = await opened()
    secret = "The merger will be announced on Friday. Until then nobody may know."
    refusal = Reply(400, {"error": {"message": f"content filter: {secret!r} is refused"}})
    server.always = lambda body: refusal if secret in body["input"] else good(body)
    with caplog.at_level(logging.WARNING), pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(["harmless", secret])
    assert "content filter: '[removed]" in caplog.text
    assert "merger" not in caplog.text + str(caught.value)
    assert "content filter" not in str(caught.value)


FLOATS_ONLY = "encoding_format must be 'float'"


@pytest.mark.parametrize("status", [400, 422])
async def test_a_gateway_that_refuses_base64_works_by_float(opened: Open, server: OpenAIServer, status: int) -> None:
    def floats_only(body: Body) -> Reply:
        return good(body) if body["encoding_format"] == "float" else Reply(status, {"error": {"message": FLOATS_ONLY}})

    server.always = floats_only
    embedder = await opened()
    server.forget()
    np.testing.assert_allclose(await embedder.embed_documents(["one", "two"]), expected(["one", "two"]), atol=1e-6)
    assert [body["encoding_format"] for body in server.requests] == ["float"]


async def test_one_that_fails_at_base64_without_a_word_works_by_float(opened: Open, server: OpenAIServer) -> None:
    server.always = lambda body: (
        good(body) if body["encoding_format"] == "float" else Reply(500, b"Internal Server Error")
    )
    embedder = await opened()
    np.testing.assert_allclose(await embedder.embed_documents(["one"]), expected(["one"]), atol=1e-6)


async def test_one_that_changes_its_mind_while_it_runs_is_followed(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened()
    server.always = replace(stubs.VLLM, encodings=("float",))
    server.forget()
    for _ in range(2):
        np.testing.assert_allclose(await embedder.embed_documents(["one"]), of("", ["one"]), atol=1e-6)
    assert [body["encoding_format"] for body in server.requests] == ["base64", "float", "float"]


async def test_one_that_knows_no_such_field_is_not_sent_it(opened: Open, server: OpenAIServer) -> None:
    server.always = replace(stubs.JINA, side=stubs.plain)
    embedder = await opened()
    server.forget()
    np.testing.assert_allclose(await embedder.embed_documents(["one"]), of("", ["one"]), atol=1e-6)
    assert server.bodies == [b'{"model":"m","input":["one"]}']


async def test_a_text_that_the_provider_silently_truncates_is_too_long(opened: Open, server: OpenAIServer) -> None:
    server.always = TRUNCATING
    embedder = await opened(embedding_batch_size=32)
    server.forget()
    texts = ["short", LONG, *[f"number {number}" for number in range(8)], "x" * 511, "가" * 500]
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(texts)
    assert {index: type(error) for index, error in caught.value.errors.items()} == {1: TextTooLong}
    assert "at most 511 tokens" in caught.value.errors[1].detail
    others = [index for index in range(len(texts)) if index != 1]
    np.testing.assert_allclose(caught.value.vectors[others], of("", [texts[i] for i in others]), atol=1e-6)
    # Those that may be too long go alone; the others together.
    assert sorted(len(body["input"]) for body in server.requests) == [1, 1, 1, 9]
    with pytest.raises(PartialEmbeddingError):
        await embedder.embed_queries([LONG])


async def test_a_text_that_it_truncates_is_split_with_that_setting(opened: Open, server: OpenAIServer) -> None:
    server.always = TRUNCATING
    embedder = await opened(embedding_long_text="split")
    server.forget()
    text = LONG[:800]
    vectors = await embedder.embed_documents([text])
    parts = [part for part in server.texts if len(part) < 512]
    assert "".join(parts) == text
    mean = np.average(of("", parts), axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (TRUNCATING, "silently truncates texts at 512 tokens"),
        (replace(TRUNCATING, counts_tokens=False), "cannot find out whether"),
        (replace(stubs.VLLM, too_long="`inputs` must have less than 32000 characters"), "cannot find out whether"),
        (stubs.VLLM, None),
        (replace(stubs.TEI, truncated_at=None), None),
    ],
)
async def test_the_log_at_start_says_how_long_texts_are_treated(
    opened: Open, server: OpenAIServer, caplog: pytest.LogCaptureFixture, rules: stubs.Rules, message: str | None
) -> None:
    server.always = rules
    with caplog.at_level(logging.WARNING):
        await opened()
    assert (message in caplog.text) if message else not caplog.records


async def test_a_limit_that_is_named_for_a_text_makes_it_too_long(opened: Open, server: OpenAIServer) -> None:
    """TEI with --auto-truncate off, NVIDIA's NIM, vLLM: shorter than OPENAI_MAX_INPUT_TOKENS."""
    server.always = replace(stubs.NVIDIA, side=stubs.plain)
    embedder = await opened()
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(["short", LONG])
    assert {index: type(error) for index, error in caught.value.errors.items()} == {1: TextTooLong}
    splitting = await opened(embedding_long_text="split")
    await splitting.embed_documents(["short", LONG])


async def test_a_tokenizer_at_hand_counts_beforehand(opened: Open, server: OpenAIServer, tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    server.always = TRUNCATING
    embedder = await opened(openai_tokenizer=tmp_path / "tokenizer.json", openai_max_input_tokens=100)
    server.forget()
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(["short", LONG, "word " * 100])
    assert list(caught.value.errors) == [1]
    assert server.texts == ["short", "word " * 100]
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(StartupError, match="OPENAI_TOKENIZER"):
            await opened(openai_tokenizer=wrong)
