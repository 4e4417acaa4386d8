"""Relative-score fusion."""

import pytest

from app.core.ports import Hit
from app.core.search.fusion import DEFAULT_DENSE_WEIGHT, RankedChunk, best_per_document, relative_score_fusion
from app.models import search as models

NEAR = [Hit(1, 0.9), Hit(2, 0.5), Hit(3, 0.1)]
WORDS = [Hit(3, 20.0), Hit(2, 15.0), Hit(4, 10.0)]


def test_scores_are_scaled_weighted_and_added() -> None:
    found = relative_score_fusion(NEAR, WORDS, 0.4)
    assert [(one.chunk_id, one.dense, one.lexical) for one in found] == [
        (3, 0.1, 20.0),
        (2, 0.5, 15.0),
        (1, 0.9, None),
        (4, None, 10.0),
    ]
    assert [one.score for one in found] == pytest.approx([0.6, 0.5, 0.4, 0.0])


def test_one_list_keeps_its_scores() -> None:
    assert relative_score_fusion(NEAR, None, 0.4) == [
        RankedChunk(hit.chunk_id, hit.score, hit.score, None) for hit in NEAR
    ]
    assert relative_score_fusion(None, WORDS, 0.4) == [
        RankedChunk(hit.chunk_id, hit.score, None, hit.score) for hit in WORDS
    ]


def test_lists_with_equal_scores() -> None:
    assert [one.score for one in relative_score_fusion([Hit(1, 0.2)], [Hit(1, 3.0)], 0.3)] == pytest.approx([1.0])
    assert [one.score for one in relative_score_fusion([Hit(1, 0.2), Hit(2, 0.2)], [], 0.3)] == pytest.approx(
        [0.3, 0.3]
    )
    assert relative_score_fusion([], [], 0.3) == []


def test_equals_rank_by_similarity_then_by_key() -> None:
    assert [one.chunk_id for one in relative_score_fusion([Hit(9, 0.5), Hit(4, 0.5)], [Hit(7, 1.0)], 0.5)] == [4, 9, 7]


def test_best_per_document() -> None:
    found = relative_score_fusion(NEAR, None, 1.0)
    assert [one.chunk_id for one in best_per_document(found, {1: 10, 2: 10, 3: 11})] == [1, 3]


def test_the_described_default_is_the_real_one() -> None:
    assert models.DEFAULT_DENSE_WEIGHT == DEFAULT_DENSE_WEIGHT
