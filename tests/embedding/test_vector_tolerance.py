"""How far a text's vector moves in another batch, compared with what ``verify --vectors`` allows. -s prints it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from app.config import Settings
from app.core.embedding.providers.factory import open_embedder
from app.core.embedding.tolerance import tolerance

TEXTS = [f"Sentence {number} about the palace " + "and its gardens " * (number % 7) for number in range(64)]


@pytest.mark.parametrize(
    ("provider", "dtype"),
    [("use-multilingual", "float32"), ("sentence-bert", "float32"), ("sentence-bert", "bfloat16")],
)
async def test_batches_move_a_vector_by_less_than_a_tenth_of_the_tolerance(
    minilm: Path, provider: str, dtype: str
) -> None:
    settings = Settings(
        _env_file=None,
        embedding_model=provider,
        sentence_bert_model=str(minilm),
        embedding_dtype=dtype,
        embedding_cache_mb=0,
    )
    embedder = await open_embedder(settings)
    together = await embedder.embed_documents(TEXTS)
    alone = np.vstack([await embedder.embed_documents([text]) for text in TEXTS])
    await embedder.close()
    one, other = (rows.astype(np.float64) for rows in (together, alone))
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    furthest = float((1 - cosine).max())
    sys.stdout.write(f"{embedder.model} {dtype}: {furthest:.1e}\n")
    assert furthest < tolerance(embedder.model) / 10
