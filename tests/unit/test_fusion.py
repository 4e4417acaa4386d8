"""Relative-score fusion."""

import random

import pytest

from app.core.ports import Hit
from app.core.search.fusion import DEFAULT_DENSE_WEIGHT, RankedChunk, best_per_document, relative_score_fusion
from app.models import search as models

NEAR = [Hit(1, 0.9), Hit(2, 0.5), Hit(3, 0.1)]
WORDS = [Hit(3, 20.0), Hit(2, 15.0), Hit(4, 10.0)]
LONG = 100


def test_scores_are_scaled_weighted_and_added() -> None:
    found = relative_score_fusion(NEAR, WORDS, 0.4, LONG)
    assert [(one.chunk_id, one.dense, one.lexical) for one in found] == [
        (2, 0.5, 15.0),
        (3, 0.1, 20.0),
        (1, 0.9, None),
        (4, None, 10.0),
    ]
    # Dense 1, 0.5, 0; lexical 20/20, 15/20, 10/20, since a list that is not full starts at 0.
    assert [one.score for one in found] == pytest.approx([0.4 * 0.5 + 0.6 * 0.75, 0.6, 0.4, 0.6 * 0.5])


def test_a_full_lexical_list_starts_at_its_last_hit() -> None:
    """A chunk that it lacks may have as many words as its last hit."""
    found = {one.chunk_id: one.score for one in relative_score_fusion(NEAR, WORDS, 0.4, candidates=3)}
    assert found == pytest.approx({3: 0.6, 2: 0.4 * 0.5 + 0.6 * 0.5, 1: 0.4, 4: 0.0})


def test_the_weakest_word_match_counts() -> None:
    """Of five chunks two have the word. The second of them is ahead of chunks that are only a little more similar."""
    near = [Hit(1, 0.42), Hit(2, 0.40), Hit(3, 0.39), Hit(4, 0.38), Hit(5, 0.37)]
    for weight in (0.0, 0.3):
        found = relative_score_fusion(near, [Hit(3, 2.0), Hit(5, 1.5)], weight, LONG)
        assert [one.chunk_id for one in found[:2]] == [3, 5]


def test_similarities_that_hardly_differ_are_not_spread_over_the_whole_range() -> None:
    found = relative_score_fusion([Hit(1, 0.81), Hit(2, 0.80)], [Hit(2, 10.0), Hit(1, 9.0)], 0.3, LONG)
    assert [one.chunk_id for one in found] == [2, 1]
    assert [one.score for one in found] == pytest.approx([0.3 * (1 - 0.01 / 0.2) + 0.7, 0.3 + 0.7 * 0.9])


def test_a_chunk_that_the_dense_list_lacks_counts_as_its_last_hit() -> None:
    found = relative_score_fusion([Hit(1, 0.50), Hit(2, 0.45)], [Hit(3, 8.0)], 0.4, candidates=2)
    assert {one.chunk_id: one.score for one in found} == pytest.approx({1: 0.4, 2: 0.3, 3: 0.3 + 0.6})


def test_one_list_keeps_its_scores() -> None:
    assert relative_score_fusion(NEAR, None, 0.4, LONG) == [
        RankedChunk(hit.chunk_id, hit.score, hit.score, None) for hit in NEAR
    ]
    assert relative_score_fusion(None, WORDS, 0.4, LONG) == [
        RankedChunk(hit.chunk_id, hit.score, None, hit.score) for hit in WORDS
    ]


def test_lists_with_equal_scores() -> None:
    def scores(dense: list[Hit], lexical: list[Hit]) -> list[float]:
        return [one.score for one in relative_score_fusion(dense, lexical, 0.3, 2)]

    assert scores([Hit(1, 0.2)], [Hit(1, 3.0)]) == pytest.approx([1.0])
    assert scores([Hit(1, 0.2), Hit(2, 0.2)], []) == pytest.approx([0.3, 0.3])
    assert scores([Hit(1, 0.2), Hit(2, 0.2)], [Hit(1, 3.0), Hit(2, 3.0)]) == pytest.approx([1.0, 1.0])
    assert scores([], []) == []


def test_equals_rank_by_similarity_then_by_key() -> None:
    dense = [Hit(9, 0.5), Hit(4, 0.5)]
    assert [one.chunk_id for one in relative_score_fusion(dense, [Hit(7, 1.0)], 0.5, LONG)] == [7, 4, 9]


@pytest.mark.parametrize("seed", range(20))
def test_a_weight_of_0_or_1_gives_the_order_of_one_list(seed: int) -> None:
    draw = random.Random(seed)

    def hits(scores: list[float]) -> list[Hit]:
        found = [Hit(key, draw.choice(scores)) for key in draw.sample(range(20), 8)]
        return sorted(found, key=lambda hit: (-hit.score, hit.chunk_id))

    dense, lexical = hits([-0.5, 0.0, 0.3, 0.3, 0.9]), hits([0.1, 2.0, 2.0, 5.0])
    for weight, first, other in ((0.0, lexical, dense), (1.0, dense, lexical)):
        for candidates in (8, 9):
            found = relative_score_fusion(dense, lexical, weight, candidates)
            rest = [hit.chunk_id for hit in other if hit.chunk_id not in {hit.chunk_id for hit in first}]
            assert [one.chunk_id for one in found] == [hit.chunk_id for hit in first] + rest
            assert sorted((one.score for one in found), reverse=True) == [one.score for one in found]


def test_best_per_document() -> None:
    found = relative_score_fusion(NEAR, None, 1.0, LONG)
    assert [one.chunk_id for one in best_per_document(found, {1: 10, 2: 10, 3: 11})] == [1, 3]


def test_the_described_default_is_the_real_one() -> None:
    assert models.DEFAULT_DENSE_WEIGHT == DEFAULT_DENSE_WEIGHT
