"""Embeddings of simulated texts: cheap, and the same in every process."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.utils.errors import EmbeddingInvalid

DIMENSION = 8
UNUSABLE = "no vector for this"


def raise_unusable(vectors: Vectors, texts: Sequence[str]) -> None:
    """Raises PartialEmbeddingError if UNUSABLE is in some of the texts."""
    errors = {index: EmbeddingInvalid(UNUSABLE) for index, text in enumerate(texts) if UNUSABLE in text}
    if errors:
        raise PartialEmbeddingError(vectors, errors)


@lru_cache(maxsize=4096)
def embedding(text: str) -> Vectors:
    """A vector (DIMENSION,), neither zero nor of length 1."""
    numbers = np.frombuffer(blake2b(text.encode(), digest_size=DIMENSION).digest(), np.int8)
    vector = numbers.astype(np.float32) + 0.5
    vector.setflags(write=False)
    return vector
