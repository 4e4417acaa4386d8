"""The provider bge-m3 gives what FlagEmbedding gives, on a model that only looks like BGE-M3."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.providers.bge_m3 import BgeM3
from app.utils.errors import StartupError
from tests.embedding.conftest import TEXTS, linked, replace
from tests.embedding.tiny_m3 import HIDDEN

if TYPE_CHECKING:
    from FlagEmbedding import BGEM3FlagModel

MAX_TOKENS = 128


@pytest.fixture(scope="module")
def library(m3: Path) -> "BGEM3FlagModel":
    from FlagEmbedding import BGEM3FlagModel

    return BGEM3FlagModel(str(m3), use_fp16=False, devices="cpu")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedder(m3: Path) -> AsyncIterator[BgeM3]:
    embedder = BgeM3(str(m3), device="cpu", long_text="truncate")
    await embedder.ping()
    yield embedder
    await embedder.close()


async def test_vectors_are_the_library_s(embedder: BgeM3, library: "BGEM3FlagModel") -> None:
    vectors = await embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    expected = library.encode(TEXTS, batch_size=100, max_length=MAX_TOKENS)["dense_vecs"]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose((await embedder.embed_queries([TEXTS[3]]))[0], expected[3], atol=1e-5)
    assert (await embedder.embed_documents([])).shape == (0, HIDDEN)


async def test_concurrent_calls_are_safe(embedder: BgeM3) -> None:
    expected = await embedder.embed_documents(TEXTS[:6])
    calls = [embedder.embed_documents(TEXTS[:6]) for _ in range(8)]
    queries = [embedder.embed_queries([text]) for text in TEXTS[:6]]
    documents, together = await asyncio.gather(asyncio.gather(*calls), asyncio.gather(*queries))
    for vectors in [*documents, np.concatenate(together)]:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


async def test_bfloat16_is_the_same_model_and_nearly_the_same_vectors(embedder: BgeM3, m3: Path) -> None:
    rounded = BgeM3(str(m3), device="cpu", dtype="bfloat16", long_text="truncate")
    await rounded.ping()
    exact = await embedder.embed_documents(TEXTS[:6])
    vectors = await CachingEmbedder(rounded, 0).embed_documents(TEXTS[:6])
    assert rounded.model == embedder.model
    await rounded.close()
    assert 1e-6 < 1 - (exact * vectors).sum(axis=1).min() < 1e-2


async def test_the_name_says_which_weights(embedder: BgeM3, m3: Path, tmp_path: Path) -> None:
    assert embedder.model.startswith("bge-m3:tiny-m3@")
    moved = BgeM3(str(linked(m3, tmp_path / "tiny-m3")), device="cpu")
    await moved.ping()
    assert moved.model == embedder.model
    await moved.close()


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors", "sparse_linear.pt"])
async def test_a_broken_folder_is_one_line(m3: Path, tmp_path: Path, broken: str) -> None:
    folder = linked(m3, tmp_path / "broken")
    replace(folder / broken, "no")
    embedder = BgeM3(str(folder), device="cpu")
    with pytest.raises(StartupError, match=r"broken cannot be loaded \(.+\)\Z"):
        await embedder.ping()
    await embedder.close()
