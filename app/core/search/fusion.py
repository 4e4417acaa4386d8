"""Merges the dense and the lexical list into one ranking, by relative-score fusion."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.core.ports import Hit

DEFAULT_DENSE_WEIGHT = 0.3
"""Chosen by measurement: see docs/SEARCH.md."""


class RankedChunk(NamedTuple):
    """A chunk, the score that ranks it, and its score in each list, None for a list that lacks it."""

    chunk_id: int
    score: float
    dense: float | None
    lexical: float | None


def relative_score_fusion(
    dense: Sequence[Hit] | None, lexical: Sequence[Hit] | None, dense_weight: float
) -> list[RankedChunk]:
    """The hits of both lists, best first. Equal scores are ordered by cosine similarity, then by key.

    The scores of each list are scaled to 0..1 by its lowest and highest score, then added with the weights
    ``dense_weight`` and 1 - ``dense_weight``. A list counts 0 for a hit that it lacks. If one list is None, the ranking
    is the other list with its own scores.
    """
    if lexical is None:
        return [RankedChunk(hit.chunk_id, hit.score, hit.score, None) for hit in dense or ()]
    if dense is None:
        return [RankedChunk(hit.chunk_id, hit.score, None, hit.score) for hit in lexical]
    dense_scores, lexical_scores = _by_key(dense), _by_key(lexical)
    dense_scaled, lexical_scaled = _scaled(dense_scores), _scaled(lexical_scores)
    fused = [
        RankedChunk(
            key,
            dense_weight * dense_scaled.get(key, 0.0) + (1 - dense_weight) * lexical_scaled.get(key, 0.0),
            dense_scores.get(key),
            lexical_scores.get(key),
        )
        for key in dense_scores | lexical_scores
    ]
    return sorted(fused, key=lambda one: (-one.score, 2.0 if one.dense is None else -one.dense, one.chunk_id))


def best_per_document(ranking: Sequence[RankedChunk], doc_ids: Mapping[int, int]) -> list[RankedChunk]:
    """The best chunk of each document, in the order of the ranking. ``doc_ids``: doc_id by chunk_id."""
    best: dict[int, RankedChunk] = {}
    for ranked in ranking:
        best.setdefault(doc_ids[ranked.chunk_id], ranked)
    return list(best.values())


def _by_key(hits: Sequence[Hit]) -> dict[int, float]:
    return {hit.chunk_id: hit.score for hit in hits}


def _scaled(scores: Mapping[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    lowest, highest = min(scores.values()), max(scores.values())
    if lowest == highest:
        return dict.fromkeys(scores, 1.0)
    return {key: (score - lowest) / (highest - lowest) for key, score in scores.items()}
