"""POST /v1/embeddings, through OpenAI's own client."""

from base64 import b64decode

import httpx
import numpy as np
import openai
import pytest

from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.utils.errors import EmbedderUnavailable, EmbeddingInvalid
from tests.doubles.hash_embedder import HashEmbedder

TEXTS = ["광화문은 경복궁의 남쪽 정문이다.", "경복궁은 화요일에 문을 닫는다.", "A third."]


class MoodyEmbedder(HashEmbedder):
    """Can be told to be away, or to have no vector for the second text."""

    model = "hash:letters@0123"
    mood = ""

    async def embed_documents(self, texts):  # type: ignore[no-untyped-def]
        if self.mood == "away":
            raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=0)
        vectors: Vectors = await super().embed_documents(texts)
        if self.mood == "invalid":
            raise PartialEmbeddingError(vectors, {1: EmbeddingInvalid("The embedder's vector is unusable.")})
        return vectors

    async def embed_queries(self, texts):  # type: ignore[no-untyped-def]
        return await super().embed_documents([f"query: {text}" for text in texts])


@pytest.fixture
def embedder() -> MoodyEmbedder:
    return MoodyEmbedder()


@pytest.fixture
async def official(client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=client, max_retries=0)


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"])
async def test_the_official_client_gets_the_vectors_that_are_stored(
    official: openai.AsyncOpenAI, embedder: Embedder, encoding: str
) -> None:
    answer = await official.embeddings.create(
        model="hash:letters@0123", input=TEXTS, encoding_format=encoding, dimensions=64, user="somebody"
    )
    vectors = await embedder.embed_documents(TEXTS)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert {item.object for item in answer.data} == {"embedding"}
    for item, vector in zip(answer.data, vectors, strict=True):
        if encoding == "base64":
            got = np.frombuffer(b64decode(item.embedding), dtype="<f4")
        else:
            got = np.array(item.embedding, dtype=np.float32)
        np.testing.assert_array_equal(got, vector)
    assert (answer.object, answer.model) == ("list", "hash:letters@0123")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, TEXTS))


async def test_one_text_is_a_list_of_one(official: openai.AsyncOpenAI, embedder: Embedder) -> None:
    answer = await official.embeddings.create(model="hash", input=TEXTS[0])
    assert len(answer.data) == 1
    np.testing.assert_array_equal(
        np.array(answer.data[0].embedding, dtype=np.float32), (await embedder.embed_documents(TEXTS[:1]))[0]
    )


@pytest.mark.parametrize("name", ["hash", "hash:letters", "hash:letters@0123"])
async def test_a_model_s_name_may_be_shortened(official: openai.AsyncOpenAI, name: str) -> None:
    assert (await official.embeddings.create(model=name, input="x")).model == "hash:letters@0123"


@pytest.mark.parametrize("name", ["text-embedding-3-small", "has", "hash:let", "hash:letters@0124"])
async def test_another_model_is_not_found(official: openai.AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await official.embeddings.create(model=name, input="x")
    assert caught.value.code == "model_not_found"
    assert caught.value.response.headers["content-type"] == "application/problem+json"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == "This server runs hash:letters@0123."
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", "model")
    assert caught.value.response.json()["detail"] == caught.value.body["message"]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"input": [1, 2, 3]}, "body.input: must be text: token ids"),
        ({"input": [[1, 2], [3]]}, "body.input: must be text: token ids"),
        ({"input": []}, "body.input"),
        ({"input": ""}, "body.input.0"),
        ({"input": ["fine", " "]}, "body.input.1"),
        ({"input": ["fine", "x" * 8193]}, "body.input.1"),
        ({"input": ["x"] * 2049}, "body.input"),
        ({"input": "x", "dimensions": 32}, "hash:letters@0123 makes vectors of 64 dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "body.encoding_format"),
        ({"input": "x", "extra_body": {"truncate": True}}, "body.truncate"),
    ],
)
async def test_what_cannot_be_embedded_is_refused(
    official: openai.AsyncOpenAI, given: dict[str, object], place: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await official.embeddings.create(model="hash", **given)  # type: ignore[arg-type]
    assert caught.value.code == "invalid_input"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"].startswith(place)


async def test_an_overloaded_embedder_is_tried_again_by_the_client(
    official: openai.AsyncOpenAI, embedder: MoodyEmbedder
) -> None:
    embedder.mood = "away"
    with pytest.raises(openai.InternalServerError) as caught:
        await official.embeddings.create(model="hash", input="x")
    assert (caught.value.status_code, caught.value.code) == (503, "embedder_unavailable")
    assert caught.value.response.headers["retry-after"] == "0"


async def test_an_unusable_vector_is_never_handed_out(official: openai.AsyncOpenAI, embedder: MoodyEmbedder) -> None:
    embedder.mood = "invalid"
    with pytest.raises(openai.InternalServerError) as caught:
        await official.embeddings.create(model="hash", input=TEXTS)
    assert (caught.value.status_code, caught.value.code) == (502, "embedding_invalid")
    assert [place["loc"] for place in caught.value.response.json()["errors"]] == ["body.input.1"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"input_type": "query"}, "query: x"),
        ({"input_type": "search_query", "encoding_format": None}, "query: x"),
        ({"input_type": "passage"}, "x"),
        ({"input_type": None, "prefix": None, "truncate_prompt_tokens": None}, "x"),
        ({"prefix": "title: "}, "title: x"),
        ({"input_type": "query", "prefix": "Q: "}, "query: Q: x"),
        ({"truncate_prompt_tokens": 512, "user": "u"}, "x"),
    ],
)
async def test_what_other_clients_send_has_a_meaning(
    official: openai.AsyncOpenAI, embedder: MoodyEmbedder, given: dict[str, object], expected: str
) -> None:
    answer = await official.embeddings.create(model="hash", input="x", encoding_format="float", extra_body=given)
    vector = (await embedder.embed_documents([expected]))[0]
    np.testing.assert_array_equal(np.array(answer.data[0].embedding, dtype=np.float32), vector)


async def test_a_prefix_counts(official: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="longer than"):
        await official.embeddings.create(model="hash", input="x" * 8_190, extra_body={"prefix": "abc"})


async def test_base64_and_floats_are_the_same_numbers(client: httpx.AsyncClient) -> None:
    """Clients that do not say otherwise ask for base64, and would take floats for its bytes without an error."""
    body = {"model": "hash", "input": TEXTS}
    answers = [
        (await client.post("/v1/embeddings", json={**body, "encoding_format": encoding})).json()["data"]
        for encoding in ("float", None, "base64")
    ]
    assert answers[0] == answers[1]
    for plain, encoded in zip(answers[0], answers[2], strict=True):
        content = b64decode(encoded["embedding"], validate=True)
        np.testing.assert_array_equal(np.frombuffer(content, "<f4"), np.array(plain["embedding"], dtype="<f4"))


async def test_the_models_are_listed(official: openai.AsyncOpenAI) -> None:
    models = [model async for model in official.models.list()]
    assert [(model.id, model.object, model.owned_by) for model in models] == [("hash:letters@0123", "model", "hash")]
    for name in ("hash", "hash:letters@0123"):
        assert (await official.models.retrieve(name)).id == "hash:letters@0123"
    with pytest.raises(openai.NotFoundError) as caught:
        await official.models.retrieve("other/one")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "path.model")
