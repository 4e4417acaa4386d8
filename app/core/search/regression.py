"""Fits the logistic regression behind ``confidence``, and measures how well it tells answers from guesses."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

RIDGE = 1e-3
"""Penalty of the squared coefficients of the standardized features, for questions that are told apart perfectly."""
STEPS = 50


def fit_signed(features: Numbers, right: Numbers, weights: Numbers, signs: Sequence[int]) -> Numbers:
    """As ``fit``. A coefficient whose sign is not that of ``signs`` (-1, 0 for any, 1) becomes 0."""
    kept = np.ones(features.shape[1], bool)
    while True:
        found: Numbers = np.zeros(features.shape[1])
        found[kept] = fit(features[:, kept], right, weights)
        wrong = found * np.asarray(signs) < 0
        if not wrong.any():
            return found
        kept &= ~wrong


def fit(features: Numbers, right: Numbers, weights: Numbers) -> Numbers:
    """Coefficients (d,) by Newton's method. ``features`` (n, d), of which the first is 1; ``right`` (n,): 0 or 1."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    mean[0], scale[0] = 0.0, 1.0
    scale[scale == 0] = 1.0
    standard = (features - mean) / scale
    weights = weights / weights.sum()
    ridge = np.full(features.shape[1], RIDGE)
    ridge[0] = 0.0
    found: Numbers = np.zeros(features.shape[1])
    for _ in range(STEPS):
        likely = predict(found, standard)
        gradient = standard.T @ (weights * (likely - right)) + ridge * found
        curvature = (standard * (weights * likely * (1 - likely))[:, None]).T @ standard + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        found = found - step
        if np.abs(step).max() < 1e-8:
            break
    unscaled: Numbers = found / scale
    unscaled[0] -= unscaled[1:] @ mean[1:]
    return unscaled


def predict(coefficients: Numbers, features: Numbers) -> Numbers:
    """Likelihoods (n,) of features (n, d)."""
    likely: Numbers = 1 / (1 + np.exp(-np.clip(features @ coefficients, -30, 30)))
    return likely


def auc(positive: Sequence[float] | Numbers, negative: Sequence[float] | Numbers) -> float:
    """Area under the ROC curve: how often one of ``positive`` exceeds one of ``negative``. Equal ones count half."""
    ascending = np.sort(np.asarray(negative, np.float64))
    below = np.searchsorted(ascending, positive, "left")
    not_above = np.searchsorted(ascending, positive, "right")
    return float((below + not_above).sum() / (2 * len(below) * len(ascending)))
