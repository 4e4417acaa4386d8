"""The provider sentence-bert gives what sentence-transformers gives."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.providers.sentence_bert import SentenceBert
from app.utils.errors import StartupError
from tests.embedding.conftest import TEXTS, linked, replace, sentence_transformer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@asynccontextmanager
async def opened(folder: Path, **options: object) -> AsyncIterator[SentenceBert]:
    embedder = SentenceBert(str(folder), device="cpu", **options)  # type: ignore[arg-type]
    try:
        await embedder.ping()
        yield embedder
    finally:
        await embedder.close()


@pytest.fixture(scope="module")
def library(minilm: Path) -> "SentenceTransformer":
    return sentence_transformer(minilm)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedder(minilm: Path) -> AsyncIterator[SentenceBert]:
    async with opened(minilm) as embedder:
        yield embedder


async def test_vectors_are_the_library_s(embedder: SentenceBert, library: "SentenceTransformer") -> None:
    vectors = await embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, library.encode(TEXTS, show_progress_bar=False), atol=1e-5)
    query = (await embedder.embed_queries([TEXTS[0]]))[0]
    np.testing.assert_allclose(query, library.encode(TEXTS[0], show_progress_bar=False), atol=1e-5)
    assert (await embedder.embed_documents([])).shape == (0, 384)


async def test_concurrent_calls_are_safe(embedder: SentenceBert) -> None:
    expected = await embedder.embed_documents(TEXTS[:6])
    calls = [embedder.embed_documents(TEXTS[:6]) for _ in range(6)]
    queries = [embedder.embed_queries([text]) for text in TEXTS[:6]]
    *documents, together = await asyncio.gather(*calls, asyncio.gather(*queries))
    for vectors in [*documents, np.concatenate(together)]:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("configured", "given", "query", "document"),
    [
        ({}, {"query_prompt": "query: ", "document_prompt": "passage: "}, "query: ", "passage: "),
        ({"prompts": {"query": "query: ", "passage": "passage: "}}, {}, "query: ", "passage: "),
        ({"prompts": {"query": "query: ", "passage": "passage: "}}, {"query_prompt": "ask: "}, "ask: ", "passage: "),
        ({"prompts": {"query": "query: "}, "default_prompt_name": "query"}, {}, "query: ", ""),
        ({"prompts": {"task": "embed: "}, "default_prompt_name": "task"}, {"query_prompt": ""}, "", "embed: "),
        ({"prompts": {"query": "q: ", "document": "d: "}}, {}, "q: ", "d: "),
    ],
)
async def test_prompts_are_put_before_the_texts(
    minilm: Path,
    library: "SentenceTransformer",
    tmp_path: Path,
    configured: dict[str, object],
    given: dict[str, str],
    query: str,
    document: str,
) -> None:
    folder = linked(minilm, tmp_path / "prompted")
    replace(folder / "config_sentence_transformers.json", json.dumps({"__version__": {}, **configured}))
    text = "the palace is closed"
    expected = library.encode([query + text, document + text], show_progress_bar=False)
    async with opened(folder, **given) as embedder:
        np.testing.assert_allclose((await embedder.embed_queries([text]))[0], expected[0], atol=1e-5)
        np.testing.assert_allclose((await embedder.embed_documents([text]))[0], expected[1], atol=1e-5)


async def test_a_model_s_own_prompts_are_the_library_s(minilm: Path, tmp_path: Path) -> None:
    folder = linked(minilm, tmp_path / "prompted")
    prompts = {"__version__": {}, "prompts": {"query": "question: ", "document": "answer: "}}
    replace(folder / "config_sentence_transformers.json", json.dumps(prompts))
    library = sentence_transformer(folder)
    query, document = (
        library.encode_query("x", show_progress_bar=False),
        library.encode_document(["x"], show_progress_bar=False),
    )
    assert np.abs(query - document).max() > 0.01
    async with opened(folder) as embedder:
        np.testing.assert_allclose((await embedder.embed_queries(["x"]))[0], query, atol=1e-5)
        np.testing.assert_allclose(await embedder.embed_documents(["x"]), document, atol=1e-5)


async def test_vectors_have_length_1_though_the_model_does_not_normalize_them(
    minilm: Path, library: "SentenceTransformer", tmp_path: Path
) -> None:
    folder = linked(minilm, tmp_path / "raw")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    replace(folder / "modules.json", json.dumps([module for module in modules if "Normalize" not in module["type"]]))
    raw = sentence_transformer(folder).encode(TEXTS[:6], show_progress_bar=False)
    assert (np.abs(np.linalg.norm(raw, axis=1) - 1) > 0.1).all()
    async with opened(folder) as embedder:
        expected = library.encode(TEXTS[:6], show_progress_bar=False)
        np.testing.assert_allclose(await CachingEmbedder(embedder, 0).embed_documents(TEXTS[:6]), expected, atol=1e-5)


async def test_bfloat16_is_the_same_model_and_nearly_the_same_vectors(embedder: SentenceBert, minilm: Path) -> None:
    async with opened(minilm, dtype="bfloat16") as rounded:
        exact = await embedder.embed_documents(TEXTS[:6])
        vectors = await CachingEmbedder(rounded, 0).embed_documents(TEXTS[:6])
        assert rounded.model == embedder.model
    assert vectors.dtype == np.float32
    assert 1e-6 < 1 - (exact * vectors).sum(axis=1).min() < 1e-2


async def test_the_name_changes_with_what_is_stored(embedder: SentenceBert, minilm: Path) -> None:
    async with opened(minilm, query_prompt="query: ") as other:
        assert other.model == embedder.model
    async with opened(minilm, document_prompt="passage: ") as other:
        assert other.model != embedder.model
        assert other.model.partition("@")[0] == embedder.model.partition("@")[0] == "sentence-bert:model"


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "modules.json", "model.safetensors"])
async def test_a_broken_folder_is_one_line(minilm: Path, tmp_path: Path, broken: str) -> None:
    folder = linked(minilm, tmp_path / "broken")
    replace(folder / broken, "no")
    with pytest.raises(StartupError, match=r"broken cannot be loaded \(.+\)\Z"):
        async with opened(folder):
            pass
