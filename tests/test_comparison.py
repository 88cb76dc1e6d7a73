"""Paired differences: against cluster-robust formulas, an own resampling, and known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bayes_lrmf import metrics
from bayes_lrmf.checks import InputError
from bayes_lrmf.comparison import bootstrap_difference, bootstrap_error, paired_difference


def test_the_estimate_is_the_mean_over_models():
    a, b = [0.3, 0.5, 0.9, np.nan], [0.2, 0.7, 0.5, np.nan]
    found = paired_difference(a, b, ["x", "x", "y", "z"], seed=0)
    assert found.estimate == pytest.approx((0.1 - 0.2 + 0.4) / 3)
    assert (found.n_models, found.n_groups, found.ci_prob) == (3, 2, 0.9)
    # Two groups: the differences are those of x alone, y alone, or both.
    assert found.lower == pytest.approx((0.1 - 0.2) / 2)
    assert found.upper == pytest.approx(0.4)


def test_standard_error_is_the_cluster_robust_one(rng):
    sizes = rng.integers(1, 9, 300)
    groups = np.repeat(np.arange(300), sizes)
    effect = rng.normal(0, 1, 300)[groups]
    a = effect + rng.normal(0, 0.5, len(groups)) + 0.2
    found = paired_difference(a, np.zeros(len(a)), groups, seed=1)
    residual_sums = np.bincount(groups, a - a.mean())
    robust = math.sqrt((residual_sums**2).sum()) / len(a)
    # 2,000 resamples know a standard error to 1 / sqrt(4,000) = 1.6 %.
    assert found.standard_error == pytest.approx(robust, rel=0.07)
    independent = a.std() / math.sqrt(len(a))
    assert found.standard_error > 1.5 * independent
    assert found.upper - found.lower == pytest.approx(2 * 1.645 * robust, rel=0.1)


def test_intervals_hold_the_truth_as_often_as_they_say(rng):
    inside = 0
    for repeat in range(200):
        groups = np.repeat(np.arange(60), 3)
        d = 0.1 + rng.normal(0, 1, 60)[groups] + rng.normal(0, 0.3, 180)
        found = paired_difference(d, np.zeros(180), groups, seed=repeat, n_boot=300)
        inside += found.lower <= 0.1 <= found.upper
    # 0.9 within three standard errors of 200 trials, and a little less as percentiles are narrow.
    assert 0.82 <= inside / 200 <= 0.965


def test_a_mean_as_a_statistic_gives_the_same(rng):
    groups = rng.integers(0, 30, 100)
    a, b = rng.normal(size=(2, 100))
    mean = paired_difference(a, b, groups, seed=4, n_boot=200)
    same = bootstrap_difference(lambda x: float(x.mean()), [a], [b], groups, seed=4, n_boot=200)
    for name in ("estimate", "standard_error", "lower", "upper"):
        assert getattr(same, name) == pytest.approx(getattr(mean, name), rel=1e-9)


def test_a_better_correlation_is_seen(rng):
    y = rng.normal(size=150)
    near, far = y + rng.normal(0, 0.5, 150), y + rng.normal(0, 1.5, 150)
    groups = np.arange(150) // 3
    found = bootstrap_difference(metrics.pearson, [y, near], [y, far], groups, seed=0, n_boot=300)
    assert found.estimate == pytest.approx(metrics.pearson(y, near) - metrics.pearson(y, far))
    assert 0 < found.lower < found.estimate < found.upper
    again = bootstrap_difference(metrics.pearson, [y, near], [y, far], groups, seed=0, n_boot=300)
    assert again == found
    # Matched resamples: a method does not differ from itself.
    none = bootstrap_difference(metrics.pearson, [y, far], [y, far], groups, seed=0, n_boot=50)
    assert (none.estimate, none.standard_error) == (0, 0)


def test_resamples_without_the_statistic_are_left_out():
    y, p, q = [0.0, 0.0, 1.0], [0.1, 0.3, 0.2], [0.3, 0.2, 0.1]
    found = bootstrap_difference(metrics.pearson, [y, p], [y, q], [0, 1, 2], seed=0, n_boot=50)
    assert math.isfinite(found.standard_error)
    constant = bootstrap_difference(metrics.pearson, [y, y], [y, [1] * 3], [0, 1, 2], seed=0)
    assert math.isnan(constant.estimate)
    assert math.isnan(constant.standard_error)


@pytest.mark.parametrize(
    ("a", "b", "groups", "says"),
    [
        ([1, 2], [1, 2, 3], [0, 1], "arrays differ in length: 2, 3"),
        ([1, 2], [1, 2], [0, 1, 2], "arrays differ in length: 2, 3"),
        ([1, np.nan], [1, 2], [0, 1], "1 models have a loss of one method alone"),
        ([1, 2], [1, 2], [0, 0], "there are 1 groups of models"),
        ([1, np.nan], [1, np.nan], [0, 1], "there are 1 groups of models"),
        ([1, np.inf], [1, 2], [0, 1], "a is no list of finite losses"),
    ],
)
def test_unusable_arrays_are_refused(a, b, groups, says):
    with pytest.raises(InputError, match=says):
        paired_difference(a, b, groups, seed=0)


def test_error_of_a_mean_over_families_is_that_of_the_paired_difference_from_nothing(rng):
    values, groups = rng.normal(1, 1, 80), rng.integers(0, 25, 80)
    estimate, error = bootstrap_error(np.mean, [values], groups, seed=3, n_boot=400)
    once = paired_difference(values, np.zeros(80), groups, seed=3, n_boot=400)
    assert estimate == pytest.approx(values.mean())
    assert error == pytest.approx(once.standard_error)
