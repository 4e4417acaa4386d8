"""``confidence``: how likely it is that a result, or one below it, answers the query.

A logistic regression on four numbers of a query and a chunk: the coverage, how many words are missing and how many are
covered (``coverage.Match``), and the cosine similarity, where the mode computes it. Its coefficients belong to an
embedding model and an analyzer. The server has some; ``python -m app.cli calibrate`` makes others.
"""

import math
from collections.abc import Sequence
from typing import Final

from app.core.search.coverage import Match
from app.schemas.operation_rows import Calibration

SHIPPED: Final[dict[tuple[str | None, int | None, int], Calibration]] = {
    ("use-multilingual", 512, 1): Calibration((-2.948, 3.820, -0.329, 0.469, 0.0), (-2.948, 3.820, -0.329, 0.469)),
    ("use-multilingual", 512, 2): Calibration((-3.145, 4.098, -0.265, 0.457, 0.0), (-3.145, 4.098, -0.265, 0.457)),
}
"""By embedding model, dimension and version of the analyzer. scripts/confidence --fit all makes those of the newest
version. With these coefficients similarity counts for nothing: on KorQuAD it tells nothing that the words do not.
"""


SIGNS: Final = (0, 1, -1, 1, 1)
"""Of the coefficients: a chunk that covers more of a query, lacks less of it or is more similar is not less likely."""


def features(match: Match, similarity: float | None) -> tuple[float, ...]:
    """What the coefficients of a Calibration are for, in their order."""
    words = (1.0, match.coverage, match.missing, match.covered)
    return words if similarity is None else (*words, similarity)


def likelihood(calibration: Calibration, match: Match, similarity: float | None) -> float:
    """0..1, of one chunk alone."""
    coefficients = calibration.words_only if similarity is None else calibration.with_similarity
    values = features(match, similarity)
    exponent = sum(one * other for one, other in zip(coefficients, values, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, exponent))))


def never_rising(likelihoods: Sequence[float]) -> list[float]:
    """For each result of a ranking the greatest of its likelihood and those below it."""
    highest, found = 0.0, []
    for one in reversed(likelihoods):
        highest = max(highest, one)
        found.append(highest)
    return found[::-1]
