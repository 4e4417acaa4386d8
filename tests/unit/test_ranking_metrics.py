"""The measures that scripts.recall prints."""

import pytest

from scripts.question_sets import SETS, parakqc
from scripts.ranking_metrics import mrr_at, ndcg_at, places, recall_at


def test_of_one_right_document() -> None:
    found = places([[7, 8], [8, 7], [8, 9], []], [7, 7, 7, 7])
    assert found == [1, 2, None, None]
    assert (recall_at(1, found), recall_at(2, found)) == (0.25, 0.5)
    assert (mrr_at(1, found), mrr_at(10, found)) == (0.25, 0.375)
    assert ndcg_at(10, found) == pytest.approx((1 + 0.6309297) / 4)


def test_the_sets() -> None:
    for name, load in SETS.items():
        questions = load()
        assert questions.name == name
        assert {number for _, number in questions.asked} <= set(range(len(questions.entries)))
    assert (len(parakqc().entries), len(parakqc().asked)) == (1_000, 9_000)
    few = parakqc().spread(10)
    assert len(few.asked) == 10
    assert len(few.entries) == 1_000
