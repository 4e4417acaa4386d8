"""Ratios of two versions that took turns, with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4_000
CONFIDENCE = 0.95
TRIMMED = 0.2
"""Of the pairs, at either end: those in which something else on the machine hit one of the two."""
BOUND = 1.05
"""A version that is slower than the other by this much does not keep the speed."""


@dataclass(frozen=True, slots=True)
class Block:
    """One version's part of a pair: ``times`` in seconds, one a call; ``per_second`` is its throughput."""

    times: Sequence[float]
    per_second: float


Pair = tuple[Block, Block]
"""This version's block and the other's."""
Start = Sequence[Pair]
"""The pairs of one start of both servers. A process keeps the memory layout that it happened to get, and with it a few
percent of its speed, so pairs of one start are alike: what counts is how the starts differ."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio, this version's over the other's, with the interval that holds the true one in 95 % of runs."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"

    def inverse(self) -> "Interval":
        return Interval(1 / self.ratio, 1 / self.high, 1 / self.low)

    def verdict(self) -> str:
        """Of times, where less is better."""
        if self.high < 1:
            return "faster"
        if self.low > 1:
            return "slower"
        return "keeps the speed" if self.high < BOUND else "not known: more pairs are needed"


@dataclass(frozen=True, slots=True)
class Comparison:
    p50: Interval
    p95: Interval
    throughput: Interval

    def verdicts(self) -> dict[str, str]:
        return {
            "p50": self.p50.verdict(),
            "p95": self.p95.verdict(),
            "throughput": self.throughput.inverse().verdict(),
        }


def compare(starts: Sequence[Start], seed: int = 1) -> Comparison:
    """The same pairs give the same figures."""
    return Comparison(
        p50=_interval(starts, lambda block: float(np.percentile(block.times, 50)), seed),
        p95=_interval(starts, lambda block: float(np.percentile(block.times, 95)), seed),
        throughput=_interval(starts, lambda block: block.per_second, seed),
    )


def _interval(starts: Sequence[Start], figure: Callable[[Block], float], seed: int) -> Interval:
    """The mean over starts of the trimmed mean of their pairs' ratios, with its percentile bootstrap over the starts;
    over the pairs, if there was one start (Efron, Tibshirani 1993).

    A bootstrap of n starts is too narrow by the square root of (n - 1) / n, which is made up for.
    """
    rng = np.random.default_rng(seed)
    ratios = [np.log([figure(this) / figure(other) for this, other in pairs]) for pairs in starts]
    of_starts = np.array([_trimmed_mean(of_start[None])[0] for of_start in ratios])
    center = float(of_starts.mean())
    n = len(starts)
    if n == 1:
        means = _trimmed_mean(_resampled(rng, ratios[0]))
    else:
        means = center + (_resampled(rng, of_starts).mean(axis=1) - center) * np.sqrt(n / (n - 1))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.exp(np.percentile(means, [tail, 100 - tail]))
    return Interval(float(np.exp(center)), float(low), float(high))


def _resampled(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """(RESAMPLES, len(values))"""
    return values[rng.integers(0, len(values), (RESAMPLES, len(values)))]


def _trimmed_mean(rows: np.ndarray) -> np.ndarray:
    """(rows, pairs) to (rows,)."""
    cut = int(TRIMMED * rows.shape[1])
    kept = np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut]
    return np.asarray(kept.mean(axis=1))
