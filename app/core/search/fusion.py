"""Merges the dense and the lexical list into one ranking, by relative-score fusion."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.core.ports import Hit

DEFAULT_DENSE_WEIGHT = 0.3
"""Chosen by measurement: see docs/SEARCH.md."""
MIN_SPREAD = 0.2
"""Cosine similarities that differ by less than this are not spread over the whole range: chunks that are nearly alike
would be ranked by chance. Chosen by measurement: see docs/SEARCH.md."""


class RankedChunk(NamedTuple):
    """A chunk, the score that ranks it, and its score in each list, None for a list that lacks it."""

    chunk_id: int
    score: float
    dense: float | None
    lexical: float | None


def relative_score_fusion(
    dense: Sequence[Hit] | None, lexical: Sequence[Hit] | None, dense_weight: float, candidates: int
) -> list[RankedChunk]:
    """The hits of both lists, best first. If one list is None, the ranking is the other list with its own scores.

    The scores of each list are scaled to 0..1, then added with the weights ``dense_weight`` and 1 - ``dense_weight``.
    1 is the best hit. 0 is the least that a chunk can have: in the lexical list 0, because BM25 has a natural zero, or
    the last hit's score if the list is full, which means that it has ``candidates`` hits: other chunks may have as
    much. In the dense list it is the last hit's similarity, or one that is MIN_SPREAD below the best, if that is less.
    A chunk that the lexical list lacks counts 0 there. One that the dense list lacks counts as its last hit.

    With a weight of 0 or 1 the order is exactly that of the lexical or the dense list; hits of the other list follow.
    Otherwise equal scores are ordered by cosine similarity, then by key.
    """
    if lexical is None:
        return [RankedChunk(hit.chunk_id, hit.score, hit.score, None) for hit in dense or ()]
    if dense is None:
        return [RankedChunk(hit.chunk_id, hit.score, None, hit.score) for hit in lexical]
    dense_scores, lexical_scores = dict(dense), dict(lexical)
    dense_scaled, least = _scaled_dense(dense_scores)
    lexical_scaled = _scaled_lexical(lexical_scores, len(lexical) >= candidates)
    lexical_weight = 1 - dense_weight
    fused = [
        RankedChunk(
            key,
            dense_weight * dense_scaled.get(key, least) + lexical_weight * lexical_scaled.get(key, 0.0),
            dense_scores.get(key),
            lexical_scores.get(key),
        )
        for key in dense_scores | lexical_scores
    ]
    if dense_weight == 0:
        return sorted(fused, key=_lexical_order)
    return sorted(fused, key=_dense_order if dense_weight == 1 else _fused_order)


def best_per_document(ranking: Sequence[RankedChunk], doc_ids: Mapping[int, int]) -> list[RankedChunk]:
    """The best chunk of each document, in the order of the ranking. ``doc_ids``: doc_id by chunk_id."""
    best: dict[int, RankedChunk] = {}
    for ranked in ranking:
        best.setdefault(doc_ids[ranked.chunk_id], ranked)
    return list(best.values())


def _scaled_dense(scores: Mapping[int, float]) -> tuple[dict[int, float], float]:
    """The scaled scores, and the least of them."""
    if not scores:
        return {}, 0.0
    best, last = max(scores.values()), min(scores.values())
    spread = max(best - last, MIN_SPREAD)
    return {key: 1 - (best - score) / spread for key, score in scores.items()}, 1 - (best - last) / spread


def _scaled_lexical(scores: Mapping[int, float], is_full: bool) -> dict[int, float]:
    if not scores:
        return {}
    best, least = max(scores.values()), min(scores.values()) if is_full else 0.0
    if best == least:
        return dict.fromkeys(scores, 1.0)
    return {key: (score - least) / (best - least) for key, score in scores.items()}


def _fused_order(one: RankedChunk) -> tuple[float, float, int]:
    return (-one.score, 2.0 if one.dense is None else -one.dense, one.chunk_id)


def _lexical_order(one: RankedChunk) -> tuple[float, float, int]:
    if one.lexical is None:
        return (0.0, 2.0 if one.dense is None else -one.dense, one.chunk_id)
    return (-one.lexical, 0.0, one.chunk_id)


def _dense_order(one: RankedChunk) -> tuple[float, float, int]:
    if one.dense is None:
        return (2.0, 0.0 if one.lexical is None else -one.lexical, one.chunk_id)
    return (-one.dense, 0.0, one.chunk_id)
