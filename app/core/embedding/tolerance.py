"""How much two vectors of one text may differ that one model made at different times."""

from typing import Final

import numpy as np

from app.core.embedding.port import Vectors

TOLERANCE: Final = {"use-multilingual": 1e-4, "sentence-bert": 1e-3, "bge-m3": 1e-3}
"""By provider: how far below 1 the cosine of two vectors of one text may be. RAG_Milvus_API_Design.md, section 12."""
REMOTE_TOLERANCE: Final = 0.01
"""For providers over the network: their hardware, batches and number formats may change."""


def tolerance(model: str) -> float:
    """The tolerance for vectors of this model. ``model``: as in a bot's row, provider first."""
    return TOLERANCE.get(model.partition(":")[0], REMOTE_TOLERANCE)


def cosine(one: Vectors, other: Vectors) -> float:
    """Of two vectors (dimension,) of any length but 0."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
