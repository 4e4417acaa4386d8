"""POST /v1/embeddings, through OpenAI's own client."""

from base64 import b64decode

import httpx
import numpy as np
import openai
import pytest

from app.core.embedding.memory import HashEmbedder
from app.core.embedding.port import Embedder, Vectors
from app.utils.errors import EmbedderUnavailable

TEXTS = ["광화문은 경복궁의 남쪽 정문이다.", "경복궁은 화요일에 문을 닫는다.", "A third."]


class MoodyEmbedder(HashEmbedder):
    """Can be told to be away, or to make a vector of nothing."""

    model = "hash:letters@0123"
    mood = ""

    async def embed_documents(self, texts):  # type: ignore[no-untyped-def]
        if self.mood == "away":
            raise EmbedderUnavailable("Too many texts wait to be embedded.", retry_after=0)
        vectors: Vectors = await super().embed_documents(texts)
        if self.mood == "nan":
            vectors[1] = np.nan
        return vectors


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
    assert caught.value.body["detail"] == "This server runs hash:letters@0123."


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"input": [1, 2, 3]}, "body.input: must be text: arrays of tokens"),
        ({"input": [[1, 2], [3]]}, "body.input: must be text: arrays of tokens"),
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
    assert caught.value.body["detail"].startswith(place)


async def test_an_overloaded_embedder_is_tried_again_by_the_client(
    official: openai.AsyncOpenAI, embedder: MoodyEmbedder
) -> None:
    embedder.mood = "away"
    with pytest.raises(openai.InternalServerError) as caught:
        await official.embeddings.create(model="hash", input="x")
    assert (caught.value.status_code, caught.value.code) == (503, "embedder_unavailable")
    assert caught.value.response.headers["retry-after"] == "0"


async def test_an_unusable_vector_is_never_handed_out(official: openai.AsyncOpenAI, embedder: MoodyEmbedder) -> None:
    embedder.mood = "nan"
    with pytest.raises(openai.InternalServerError) as caught:
        await official.embeddings.create(model="hash", input=TEXTS)
    assert (caught.value.status_code, caught.value.code) == (502, "embedding_invalid")
    assert isinstance(caught.value.body, dict)
    assert [place["loc"] for place in caught.value.body["errors"]] == ["body.input.1"]
