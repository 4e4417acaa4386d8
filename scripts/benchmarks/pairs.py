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


def compare(pairs: Sequence[Pair], seed: int = 1) -> Comparison:
    """The same pairs give the same figures."""
    return Comparison(
        p50=_interval(pairs, lambda block: float(np.percentile(block.times, 50)), seed),
        p95=_interval(pairs, lambda block: float(np.percentile(block.times, 95)), seed),
        throughput=_interval(pairs, lambda block: block.per_second, seed),
    )


def _interval(pairs: Sequence[Pair], figure: Callable[[Block], float], seed: int) -> Interval:
    """The trimmed mean of the pairs' ratios; its percentile bootstrap over the pairs (Efron, Tibshirani 1993)."""
    ratios = np.log([figure(this) / figure(other) for this, other in pairs])
    chosen = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    means = _trimmed_mean(ratios[chosen])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.exp(np.percentile(means, [tail, 100 - tail]))
    return Interval(float(np.exp(_trimmed_mean(ratios[None])[0])), float(low), float(high))


def _trimmed_mean(rows: np.ndarray) -> np.ndarray:
    """(rows, pairs) to (rows,)."""
    cut = int(TRIMMED * rows.shape[1])
    kept = np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut]
    return np.asarray(kept.mean(axis=1))
