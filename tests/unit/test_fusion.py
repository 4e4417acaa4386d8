"""Relative-score fusion."""

import pytest

from app.core.ports import Hit
from app.core.search.fusion import DEFAULT_DENSE_WEIGHT, Ranked, best_of_each, ranked
from app.models import search as models

NEAR = [Hit(1, 0.9), Hit(2, 0.5), Hit(3, 0.1)]
WORDS = [Hit(3, 20.0), Hit(2, 15.0), Hit(4, 10.0)]


def test_scales_weighs_and_adds() -> None:
    found = ranked(NEAR, WORDS, 0.4)
    assert [(one.chunk_id, one.dense, one.lexical) for one in found] == [
        (3, 0.1, 20.0),
        (2, 0.5, 15.0),
        (1, 0.9, None),
        (4, None, 10.0),
    ]
    assert [one.score for one in found] == pytest.approx([0.6, 0.5, 0.4, 0.0])


def test_one_list_keeps_its_scores() -> None:
    assert ranked(NEAR, None, 0.4) == [Ranked(hit.chunk_id, hit.score, hit.score, None) for hit in NEAR]
    assert ranked(None, WORDS, 0.4) == [Ranked(hit.chunk_id, hit.score, None, hit.score) for hit in WORDS]


def test_lists_without_a_spread() -> None:
    assert [one.score for one in ranked([Hit(1, 0.2)], [Hit(1, 3.0)], 0.3)] == pytest.approx([1.0])
    assert [one.score for one in ranked([Hit(1, 0.2), Hit(2, 0.2)], [], 0.3)] == pytest.approx([0.3, 0.3])
    assert ranked([], [], 0.3) == []


def test_equals_rank_by_similarity_then_by_key() -> None:
    assert [one.chunk_id for one in ranked([Hit(9, 0.5), Hit(4, 0.5)], [Hit(7, 1.0)], 0.5)] == [4, 9, 7]


def test_best_of_each_document() -> None:
    found = ranked(NEAR, None, 1.0)
    assert [one.chunk_id for one in best_of_each(found, {1: 10, 2: 10, 3: 11})] == [1, 3]


def test_callers_are_told_the_default() -> None:
    assert models.DEFAULT_DENSE_WEIGHT == DEFAULT_DENSE_WEIGHT
