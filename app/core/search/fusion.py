"""One ranking of two: relative-score fusion, and the best chunk of each document."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.core.ports import Hit

DEFAULT_DENSE_WEIGHT = 0.3
"""Measured, see docs/SEARCH.md."""


class RankedChunk(NamedTuple):
    """A chunk, the score that ranks it, and what it had in each list; None where it was in none."""

    chunk_id: int
    score: float
    dense: float | None
    lexical: float | None


def relative_score_fusion(
    dense: Sequence[Hit] | None, lexical: Sequence[Hit] | None, dense_weight: float
) -> list[RankedChunk]:
    """The hits of both lists, best first; equals by cosine similarity, then by key.

    Each list is scaled to 0..1 by its own least and greatest score, weighed and added; a hit that a list lacks has 0
    from it. Of one list alone (the other None) the scores are its own.
    """
    if lexical is None:
        return [RankedChunk(hit.chunk_id, hit.score, hit.score, None) for hit in dense or ()]
    if dense is None:
        return [RankedChunk(hit.chunk_id, hit.score, None, hit.score) for hit in lexical]
    near, words = _by_key(dense), _by_key(lexical)
    near_scaled, words_scaled = _scaled(near), _scaled(words)
    fused = [
        RankedChunk(
            key,
            dense_weight * near_scaled.get(key, 0.0) + (1 - dense_weight) * words_scaled.get(key, 0.0),
            near.get(key),
            words.get(key),
        )
        for key in near | words
    ]
    return sorted(fused, key=lambda one: (-one.score, 2.0 if one.dense is None else -one.dense, one.chunk_id))


def best_per_document(ranking: Sequence[RankedChunk], doc_ids: Mapping[int, int]) -> list[RankedChunk]:
    """The first of each document, in order. ``doc_ids``: the document of each chunk."""
    first: dict[int, RankedChunk] = {}
    for one in ranking:
        first.setdefault(doc_ids[one.chunk_id], one)
    return list(first.values())


def _by_key(hits: Sequence[Hit]) -> dict[int, float]:
    return {hit.chunk_id: hit.score for hit in hits}


def _scaled(scores: Mapping[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    least, greatest = min(scores.values()), max(scores.values())
    if least == greatest:
        return dict.fromkeys(scores, 1.0)
    return {key: (score - least) / (greatest - least) for key, score in scores.items()}
