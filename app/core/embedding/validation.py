"""Validates vectors and scales them to unit length. ``CachingEmbedder`` is the one place that calls this."""

import math

import numpy as np

from app.core.embedding.port import TextResults, Vectors
from app.utils.errors import EmbeddingInvalid


def normalized(vectors: Vectors, expected_count: int, dimension: int) -> TextResults:
    """The vectors (expected_count, dimension) at unit length, with EmbeddingInvalid in place of each invalid one.

    With any other shape all are invalid, because no row can be assigned to a text. Otherwise a vector is invalid if a
    component is not finite, or if its squared length is 0 or infinite in float32: its cosine similarity would be
    undefined. (Milvus accepts NaN and then returns NaN as a score.)
    """
    if vectors.shape != (expected_count, dimension):
        error = _error(f"expected vectors of shape {(expected_count, dimension)}, got {vectors.shape}")
        return [error] * expected_count
    with np.errstate(all="ignore"):
        squares = np.asarray(np.vecdot(vectors, vectors), np.float32)
        units = np.asarray(vectors / np.sqrt(squares)[:, None], dtype=np.float32)
    if all(0 < square < math.inf for square in squares.tolist()):  # False for NaN.
        return units
    return [
        units[index] if 0 < square < math.inf else _error(_reason(vectors[index], square))
        for index, square in enumerate(squares.tolist())
    ]


def _reason(vector: Vectors, square: float) -> str:
    if not np.isfinite(vector).all():
        return "the vector has a component that is not a finite number"
    return "the vector has no length" if square == 0 else "the vector is too long for float32"


def _error(reason: str) -> EmbeddingInvalid:
    return EmbeddingInvalid(f"The embedder's vector is unusable: {reason}.")
