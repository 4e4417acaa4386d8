"""Measures of rankings in which each question has one right document."""

from collections.abc import Sequence

import numpy as np


def places(ranked: Sequence[Sequence[int]], right: Sequence[int]) -> list[int | None]:
    """The place of each question's right document in its ranking, from 1; None where it is missing."""
    return [found.index(number) + 1 if number in found else None for found, number in zip(ranked, right, strict=True)]


def recall_at(k: int, places: Sequence[int | None]) -> float:
    """The share of questions whose right document is among the first ``k``."""
    return float(np.mean([place is not None and place <= k for place in places]))


def mrr_at(k: int, places: Sequence[int | None]) -> float:
    """Mean reciprocal rank; a place below ``k`` counts 0."""
    return float(np.mean([1 / place if place is not None and place <= k else 0.0 for place in places]))


def ndcg_at(k: int, places: Sequence[int | None]) -> float:
    """Normalized discounted cumulative gain with one relevant document, so 1 / log2(place + 1)."""
    return float(np.mean([1 / np.log2(place + 1) if place is not None and place <= k else 0.0 for place in places]))
