"""The fit of ``confidence``, and how it is measured."""

import numpy as np
import pytest

from app.core.search.regression import auc, fit, fit_signed, predict


def test_auc_counts_pairs() -> None:
    # Of nine pairs 0.5 exceeds 0.3 and 0.1; 0.9 exceeds all three; 0.3 exceeds 0.1 and equals 0.3.
    assert auc([0.5, 0.9, 0.3], [0.7, 0.3, 0.1]) == pytest.approx((2 + 3 + 1.5) / 9)
    assert auc([1.0], [0.0]) == 1
    assert auc([0.0], [1.0]) == 0
    assert auc([1.0, 1.0], [1.0]) == 0.5
    assert auc([2, 3], [0, 1]) == 1
    assert auc([0, 1], [2, 3]) == 0
    assert auc([1, 1], [1, 1, 1]) == 0.5
    assert auc([1, 3], [2, -float("inf")]) == 0.75


def test_the_fit_finds_the_coefficients_that_drew_the_examples() -> None:
    draw = np.random.default_rng(3)
    values = np.column_stack([np.ones(20_000), draw.uniform(0, 1, 20_000), draw.normal(5, 3, 20_000)])
    true = np.array([-2.0, 4.0, -0.25])
    right = (draw.uniform(0, 1, 20_000) < predict(true, values)).astype(float)
    assert fit(values, right, np.ones(20_000)) == pytest.approx(true, abs=0.2)
    # Twice as many right ones, or each with twice the weight, is the same.
    weights = np.where(right > 0, 2.0, 1.0)
    doubled = np.concatenate([values, values[right > 0]]), np.concatenate([right, right[right > 0]])
    assert fit(values, right, weights) == pytest.approx(fit(*doubled, np.ones(len(doubled[1]))), abs=0.01)


def test_a_coefficient_of_the_wrong_sign_becomes_zero() -> None:
    draw = np.random.default_rng(4)
    values = np.column_stack([np.ones(5_000), draw.uniform(0, 1, 5_000), draw.uniform(0, 1, 5_000)])
    right = (draw.uniform(0, 1, 5_000) < predict(np.array([-1.0, 3.0, -2.0]), values)).astype(float)
    weights = np.ones(5_000)
    assert fit_signed(values, right, weights, (0, 1, -1)) == pytest.approx(fit(values, right, weights))
    found = fit_signed(values, right, weights, (0, 1, 1))
    assert found[2] == 0
    assert found[:2] == pytest.approx(fit(values[:, :2], right, weights))


def test_examples_that_are_told_apart_perfectly() -> None:
    values = np.column_stack([np.ones(100), np.repeat([0.0, 1.0], 50), np.full(100, 7.0)])
    right = np.repeat([0.0, 1.0], 50)
    found = fit(values, right, np.ones(100))
    assert np.isfinite(found).all()
    assert predict(found, values)[[0, 99]] == pytest.approx([0, 1], abs=0.1)
