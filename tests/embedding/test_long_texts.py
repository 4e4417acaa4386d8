"""EMBEDDING_LONG_TEXT with a torch model: a long text is an error, is split, or is truncated."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.long_text import LongText, merged, split
from app.core.embedding.port import PartialEmbeddingError
from app.core.embedding.providers.sentence_bert import SentenceBert
from app.utils.errors import TextTooLong
from tests.embedding.conftest import sentence_transformer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LONG = "The palace in the middle of the old town is closed on every Tuesday. " * 30
TEXTS = ["Seoul is the capital of Korea.", LONG, "Which day is the palace closed?"]


@pytest.fixture(scope="module")
def library(minilm: Path) -> "SentenceTransformer":
    return sentence_transformer(minilm)


async def opened(minilm: Path, long_text: LongText) -> CachingEmbedder:
    provider = SentenceBert(str(minilm), device="cpu", document_prompt="passage: ", long_text=long_text)
    await provider.ping()
    return CachingEmbedder(provider, 0)


async def test_error(minilm: Path, library: "SentenceTransformer") -> None:
    embedder = await opened(minilm, "error")
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_documents(TEXTS)
    assert {index: type(error) for index, error in caught.value.errors.items()} == {1: TextTooLong}
    assert "at most 256 tokens" in caught.value.errors[1].detail
    short = ["passage: " + TEXTS[0], "passage: " + TEXTS[2]]
    np.testing.assert_allclose(caught.value.vectors[[0, 2]], library.encode(short, show_progress_bar=False), atol=1e-5)
    with pytest.raises(PartialEmbeddingError) as caught:
        await embedder.embed_queries([LONG])
    assert isinstance(caught.value.errors[0], TextTooLong)
    await embedder.close()


async def test_split(minilm: Path, library: "SentenceTransformer") -> None:
    embedder = await opened(minilm, "split")
    vectors = await embedder.embed_documents(TEXTS)

    def tokens(part: str) -> int:
        return len(library.tokenizer("passage: " + part, verbose=False)["input_ids"])

    parts = split(LONG, lambda part: tokens(part) <= 256)
    assert len(parts) > 1
    of_parts = library.encode(["passage: " + part for part in parts], show_progress_bar=False)
    np.testing.assert_allclose(vectors[1], merged(of_parts, parts), atol=1e-5)
    np.testing.assert_allclose(vectors[0], library.encode("passage: " + TEXTS[0], show_progress_bar=False), atol=1e-5)
    await embedder.close()


async def test_truncated_as_the_library_does(minilm: Path, library: "SentenceTransformer") -> None:
    embedder = await opened(minilm, "truncate")
    expected = library.encode(["passage: " + text for text in TEXTS], show_progress_bar=False)
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), expected, atol=1e-5)
    await embedder.close()
