"""What makes a vector unfit to be stored."""

import math

import numpy as np

from app.core.embedding.port import Vectors


def invalid_vectors(
    vectors: Vectors, expected_count: int, dimension: int, squares: Vectors | None = None
) -> dict[int, str]:
    """Reasons by index of the texts whose vector must not be stored; empty when all are good.

    ``vectors`` should be (expected_count, dimension). With any other shape no row can be trusted to belong to its
    text, so all of them are named. A vector store takes NaN without complaint and then answers with NaN scores, and
    the cosine of a vector whose squared length is 0 or infinite in float32 is undefined. ``squares``: the rows'
    squared lengths, where they are known.
    """
    if vectors.shape != (expected_count, dimension):
        reason = f"expected vectors of shape {(expected_count, dimension)}, got {vectors.shape}"
        return dict.fromkeys(range(expected_count), reason)
    squares = squared_lengths(vectors) if squares is None else squares
    if all(0 < square < math.inf for square in squares.tolist()):  # NaN is neither.
        return {}
    reasons = {}
    for index in np.flatnonzero(~np.isfinite(squares) | (squares == 0)).tolist():
        if not np.isfinite(vectors[index]).all():
            reasons[index] = "the vector has a component that is not a finite number"
        elif squares[index] == 0:
            reasons[index] = "the vector has no length"
        else:
            reasons[index] = "the vector is too long for float32"
    return reasons


def squared_lengths(vectors: Vectors) -> Vectors:
    """Of each row of ``vectors`` (n, dimension), in float32: 0, infinite and NaN where it is no more than that."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(np.vecdot(vectors, vectors), np.float32)
