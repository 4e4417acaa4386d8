"""Each provider by its preset, on a stub with its rules: requests counted, their bytes, and the vectors."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import numpy as np
import pytest

from app.config import OPENAI_LIKE, Settings
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.providers.endpoint import Endpoint
from app.core.embedding.providers.factory import open_embedder
from app.core.embedding.providers.model_settings import settings_for
from app.core.embedding.providers.presets import PRESETS, endpoint_for
from app.settings_check import contradictions
from app.utils.errors import StartupError
from tests.embedding import provider_stubs as stubs
from tests.embedding.openai_server import OpenAIServer, expected
from tests.embedding.provider_stubs import Rules, text_of

TEXTS = [f"text number {number}" for number in range(300)]
Open = Callable[..., Awaitable[CachingEmbedder]]


@pytest.fixture
async def opened(server: OpenAIServer) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_it(**given: object) -> CachingEmbedder:
            embedder = await open_embedder(settings(openai_base_url=server.url, **given))
            stack.push_async_callback(embedder.close)
            server.forget()
            return embedder

        yield open_it


def settings(**given: object) -> Settings:
    chosen = {"openai_api_key": "sk-test", "embedding_cache_mb": 0, **given}
    return Settings(_env_file=None, **chosen)  # type: ignore[arg-type]


def of(side: str, texts: list[str]) -> np.ndarray:
    return expected([text_of(side, text) for text in texts])


@pytest.mark.parametrize(
    ("preset", "rules", "requests", "document", "query"),
    [
        (
            "upstage",
            stubs.UPSTAGE,
            3,
            b'{"model":"solar-embedding-2-passage","input":["one"],"encoding_format":"base64"}',
            b'{"model":"solar-embedding-2-query","input":["one"],"encoding_format":"base64"}',
        ),
        (
            "voyage",
            stubs.VOYAGE,
            1,
            b'{"model":"voyage-4","input":["one"],"encoding_format":"base64","input_type":"document","truncation":false}',
            b'{"model":"voyage-4","input":["one"],"encoding_format":"base64","input_type":"query","truncation":false}',
        ),
        (
            "cohere",
            stubs.COHERE,
            4,
            b'{"model":"embed-v4.0","texts":["one"],"embedding_types":["float"],"input_type":"search_document",'
            b'"truncate":"NONE"}',
            b'{"model":"embed-v4.0","texts":["one"],"embedding_types":["float"],"input_type":"search_query",'
            b'"truncate":"NONE"}',
        ),
        (
            "jina",
            stubs.JINA,
            1,
            b'{"model":"jina-embeddings-v5-text-small","input":["one"],"task":"retrieval.passage"}',
            b'{"model":"jina-embeddings-v5-text-small","input":["one"],"task":"retrieval.query"}',
        ),
        (
            "gemini",
            stubs.GEMINI,
            3,
            b'{"model":"gemini-embedding-001","input":["one"],"encoding_format":"float"}',
            b'{"model":"gemini-embedding-001","input":["one"],"encoding_format":"float"}',
        ),
        (
            "nvidia",
            stubs.NVIDIA,
            6,
            b'{"model":"nvidia/llama-3.2-nv-embedqa-1b-v2","input":["one"],"encoding_format":"base64",'
            b'"input_type":"passage","truncate":"NONE"}',
            b'{"model":"nvidia/llama-3.2-nv-embedqa-1b-v2","input":["one"],"encoding_format":"base64",'
            b'"input_type":"query","truncate":"NONE"}',
        ),
        (
            "clova",
            stubs.CLOVA,
            300,
            b'{"model":"bge-m3","input":"one","encoding_format":"base64"}',
            b'{"model":"bge-m3","input":"one","encoding_format":"base64"}',
        ),
        (
            "tei",
            stubs.TEI,
            10,
            b'{"model":"m","input":["one"],"encoding_format":"base64"}',
            b'{"model":"m","input":["one"],"encoding_format":"base64"}',
        ),
        (
            "vllm",
            stubs.VLLM,
            1,
            b'{"model":"m","input":["one"],"encoding_format":"base64"}',
            b'{"model":"m","input":["one"],"encoding_format":"base64"}',
        ),
        (
            "ollama",
            stubs.OLLAMA,
            1,
            b'{"model":"m","input":["one"],"encoding_format":"base64"}',
            b'{"model":"m","input":["one"],"encoding_format":"base64"}',
        ),
    ],
)
async def test_a_preset_on_its_provider_s_rules(
    opened: Open, server: OpenAIServer, preset: str, rules: Rules, requests: int, document: bytes, query: bytes
) -> None:
    server.always = rules
    own_model = {"openai_model": "m"} if not PRESETS[preset].model else {}
    embedder = await opened(embedding_model=preset, **own_model)
    documents, queries = ("", "") if rules.side is stubs.plain else ("document", "query")
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), of(documents, TEXTS), atol=1e-6)
    assert len(server.requests) == requests
    server.forget()
    np.testing.assert_allclose(await embedder.embed_documents(["one"]), of(documents, ["one"]), atol=1e-6)
    np.testing.assert_allclose(await embedder.embed_queries(["one"]), of(queries, ["one"]), atol=1e-6)
    assert server.bodies == [document, query]
    assert set(server.paths) == {"/v1/embed" if preset == "cohere" else "/v1/embeddings"}


async def test_prefixes_go_before_each_text(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(
        embedding_model="tei",
        openai_model="intfloat/multilingual-e5-small",
        openai_query_prefix="query: ",
        openai_document_prefix="passage: ",
    )
    await embedder.embed_documents(["one", "two"])
    await embedder.embed_queries(["one"])
    assert [body["input"] for body in server.requests] == [["passage: one", "passage: two"], ["query: one"]]
    assert embedder.model.startswith("openai:intfloat/multilingual-e5-small@")


BY_HAND: dict[str, dict[str, object]] = {
    "upstage": {"openai_model": "solar-embedding-2-passage", "openai_query_model": "solar-embedding-2-query"},
    "voyage": {
        "openai_model": "voyage-4",
        "openai_document_extra_body": {"input_type": "document"},
        "openai_query_extra_body": {"input_type": "query"},
        "openai_dimensions_field": "output_dimension",
    },
    "cohere": {
        "openai_model": "embed-v4.0",
        "openai_document_extra_body": {"truncate": "NONE", "input_type": "search_document"},
        "openai_query_extra_body": {"input_type": "search_query"},
    },
    "jina": {
        "openai_model": "jina-embeddings-v5-text-small",
        "openai_document_extra_body": {"task": "retrieval.passage"},
        "openai_query_extra_body": {"task": "retrieval.query"},
        "openai_encoding_format": "none",
    },
    "gemini": {"openai_model": "gemini-embedding-001"},
    "nvidia": {
        "openai_model": "nvidia/llama-3.2-nv-embedqa-1b-v2",
        "openai_document_extra_body": {"input_type": "passage"},
        "openai_query_extra_body": {"input_type": "query"},
    },
    "clova": {"openai_model": "bge-m3", "embedding_batch_size": 1},
    "tei": {"openai_model": "m"},
    "vllm": {"openai_model": "m"},
    "ollama": {"openai_model": "m"},
}


@pytest.mark.parametrize("preset", sorted(set(OPENAI_LIKE) - {"openai"}))
def test_a_preset_and_the_same_by_hand_are_one_identity(preset: str) -> None:
    own_model = {"openai_model": "m"} if not PRESETS[preset].model else {}
    named = endpoint_for(settings(embedding_model=preset, **own_model))
    by_hand = endpoint_for(
        settings(embedding_model="openai", openai_base_url=PRESETS[preset].base_url, **BY_HAND[preset])
    )
    assert named.identity == by_hand.identity


@pytest.mark.parametrize(
    ("given", "identity"),
    [
        ({}, "openai:text-embedding-3-small"),
        ({"openai_model": "some-model"}, "openai:some-model"),
        ({"openai_model": "BAAI/bge-m3", "openai_base_url": "http://x/v1"}, "openai:BAAI/bge-m3"),
        ({"openai_model": "solar-embedding-1-large-passage"}, "openai:solar-embedding-1-large-passage"),
        ({"openai_model": "m", "openai_query_model": "q", "openai_query_prefix": "q: "}, "openai:m"),
        ({"openai_model": "m", "openai_query_extra_body": {"task": "q"}, "embedding_batch_size": 7}, "openai:m"),
        ({"openai_model": "m", "openai_document_extra_body": {"truncate": "NONE"}}, "openai:m"),
    ],
)
def test_what_does_not_change_stored_vectors_does_not_change_the_name(given: dict[str, object], identity: str) -> None:
    """These are the names of before there were presets: bots keep theirs."""
    assert endpoint_for(settings(embedding_model="openai", **given)).identity == identity


def test_what_changes_stored_vectors_changes_the_name() -> None:
    names = {
        Endpoint(model="m").identity,
        Endpoint(model="m", document_prefix="passage: ").identity,
        Endpoint(model="m", document_prefix="passage:").identity,
        Endpoint(model="m", document_body={"task": "a"}).identity,
        Endpoint(model="m", document_body={"task": "b"}).identity,
        Endpoint(model="n").identity,
    }
    assert len(names) == 6
    assert Endpoint(model="m", document_body={"b": 1, "a": 2}).identity == "openai:m@818b52c0bda2"
    assert Endpoint(model="m", document_body={"a": 2, "b": 1}).identity == "openai:m@818b52c0bda2"


def test_every_name_has_a_preset() -> None:
    assert set(PRESETS) == set(OPENAI_LIKE)


def test_a_server_of_one_s_own_needs_the_model_s_name() -> None:
    with pytest.raises(StartupError, match="OPENAI_MODEL"):
        endpoint_for(settings(embedding_model="tei"))


def test_upstage_s_two_generations_side_by_side() -> None:
    now = settings(embedding_model="upstage", embedding_previous_model="upstage:solar-embedding-1-large-passage")
    before = settings_for(now, "upstage:solar-embedding-1-large-passage")
    assert (endpoint_for(now).model, endpoint_for(now).query_model) == (
        "solar-embedding-2-passage",
        "solar-embedding-2-query",
    )
    assert (endpoint_for(before).model, endpoint_for(before).query_model) == (
        "solar-embedding-1-large-passage",
        "solar-embedding-1-large-query",
    )
    assert endpoint_for(settings_for(now, "upstage:embedding-passage")).query_model == "embedding-query"


def test_the_model_before_has_settings_of_its_own() -> None:
    now = settings(
        embedding_model="upstage",
        openai_base_url="http://gateway/v1",
        embedding_previous_model="openai:text-embedding-3-small",
        embedding_previous_settings={"OPENAI_API_KEY": "sk-before", "openai_query_prefix": "q: "},
    )
    before = settings_for(now, "openai:text-embedding-3-small")
    assert before.openai_api_key is not None
    assert before.openai_api_key.get_secret_value() == "sk-before"
    assert (before.openai_base_url, before.openai_query_prefix) == (None, "q: ")
    assert "sk-before" not in repr(now)
    for wrong in ({"EMBEDDING_MODEL": "tei"}, {"NO_SUCH": "1"}, {"OPENAI_MAX_CONCURRENCY": "many"}):
        with pytest.raises(StartupError, match="EMBEDDING_PREVIOUS_SETTINGS"):
            settings_for(
                now.model_copy(update={"embedding_previous_settings": _secret(wrong)}), "openai:text-embedding-3-small"
            )


def _secret(values: dict[str, str]) -> object:
    return settings(embedding_previous_settings=values).embedding_previous_settings


async def test_sides_of_different_dimensions_do_not_start(server: OpenAIServer) -> None:
    server.always = lambda body: stubs.UPSTAGE({**body, "dimensions": 4 if body["model"].endswith("-query") else 8})
    with pytest.raises(StartupError, match="OPENAI_QUERY_MODEL"):
        await open_embedder(settings(embedding_model="upstage", openai_base_url=server.url))


async def test_the_dimension_is_asked_for_in_the_provider_s_own_field(opened: Open, server: OpenAIServer) -> None:
    server.always = stubs.VOYAGE
    embedder = await opened(embedding_model="voyage", embedding_dimension=4)
    await embedder.embed_documents(["one"])
    assert (embedder.dimension, server.requests[0]["output_dimension"]) == (4, 4)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"embedding_model": "upstage", "openai_api_key": None}, ["OPENAI_API_KEY"]),
        ({"embedding_model": "upstage", "openai_api_key": None, "openai_base_url": "http://gateway/v1"}, []),
        ({"embedding_model": "tei", "openai_api_key": None}, ["OPENAI_MODEL"]),
        ({"embedding_model": "tei", "openai_api_key": None, "openai_model": "m"}, []),
        ({"embedding_model": "voyage", "embedding_long_text": "truncate"}, ["EMBEDDING_LONG_TEXT"]),
        ({"rerank_url": "http://x/rerank"}, ["RERANK_API"]),
        ({"rerank_url": "http://x/rerank", "rerank_api": "cohere"}, ["RERANK_MODEL"]),
        ({"rerank_url": "http://x/rerank", "rerank_api": "tei"}, []),
    ],
)
def test_what_does_not_go_together_is_named(given: dict[str, object], wrong: list[str]) -> None:
    assert [setting for setting, _ in contradictions(settings(**given))] == wrong
