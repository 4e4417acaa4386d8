"""The statistics of `scripts/bench --against`, on samples like those of a noisy machine."""

from collections.abc import Iterator

import numpy as np
import pytest

from scripts.benchmarks.pairs import Block, Interval, Pair, compare

CALLS = 50


def pairs(rng: np.random.Generator, count: int, slowdown: float = 1.0) -> Iterator[Pair]:
    """Calls of about 5 ms in skewed noise. The machine drifts by a third, and takes a tenth of the blocks away."""
    for number in range(count):
        drift = 1 + 0.3 * np.sin(number / 5)
        sides = []
        for factor in (slowdown, 1.0):
            times = 0.005 * drift * factor * rng.lognormal(0, 0.25, CALLS)
            if rng.random() < 0.1:
                times *= rng.uniform(1.5, 4)
            sides.append(Block(list(times), CALLS / float(times.sum())))
        yield sides[0], sides[1]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_a_version_against_itself(rng: np.random.Generator) -> None:
    found = compare([list(pairs(rng, 60))])
    for interval in (found.p50, found.p95, found.throughput):
        assert interval.low < 1 < interval.high
    assert 0.95 < found.p50.low < found.p50.high < 1.05
    assert found.verdicts()["p50"] == "keeps the speed"


def test_a_slowdown_of_a_tenth_is_found_each_time(rng: np.random.Generator) -> None:
    for _ in range(20):
        found = compare([list(pairs(rng, 60, slowdown=1.1))])
        assert found.verdicts()["p50"] == "slower"
        assert found.p50.low < 1.1 < found.p50.high or abs(found.p50.ratio - 1.1) < 0.03


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says(rng: np.random.Generator) -> None:
    held = 0
    for _ in range(200):
        interval = compare([list(pairs(rng, 24))]).p50
        held += interval.low <= 1 <= interval.high
    assert 0.88 <= held / 200 <= 0.99


def test_starts_that_differ_widen_the_interval(rng: np.random.Generator) -> None:
    """Each start gives its two processes a few percent of their own: the interval must still hold the true ratio."""
    held = 0
    for _ in range(200):
        interval = compare([list(pairs(rng, 10, slowdown=rng.lognormal(0, 0.03))) for _ in range(6)]).p50
        held += interval.low <= 1 <= interval.high
    assert 0.86 <= held / 200 <= 0.99


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.9, 0.88, 0.92), "faster"),
        (Interval(0.99, 0.97, 1.01), "keeps the speed"),
        (Interval(1.02, 0.99, 1.049), "keeps the speed"),
        (Interval(1.02, 0.99, 1.05), "not known: more pairs are needed"),
        (Interval(1.02, 1.01, 1.03), "slower"),
    ],
)
def test_verdicts(interval: Interval, verdict: str) -> None:
    assert interval.verdict() == verdict


def test_throughput_is_better_where_it_is_more() -> None:
    slow, quick = Block([0.02] * 10, 50.0), Block([0.01] * 10, 100.0)
    found = compare([[(slow, quick)] * 20])
    assert found.verdicts() == {"p50": "slower", "p95": "slower", "throughput": "slower"}
    assert found.throughput.ratio == pytest.approx(0.5)


def test_the_same_pairs_give_the_same_figures(rng: np.random.Generator) -> None:
    taken = [list(pairs(rng, 10)), list(pairs(rng, 10))]
    assert compare(taken) == compare(taken)
