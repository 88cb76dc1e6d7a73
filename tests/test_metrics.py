"""Tests of the scores: against scikit-learn, SciPy, closed forms and sums worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import scoringrules
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bayes_lrmf import metrics
from bayes_lrmf.checks import InputError

PAIR_SCORES = [
    metrics.log_loss,
    metrics.brier,
    metrics.accuracy,
    metrics.auc,
    metrics.ece,
    metrics.pearson,
    metrics.spearman,
    metrics.mae,
    metrics.rmse,
]

sizes = st.shared(st.integers(2, 40), key="size")
answers = sizes.flatmap(lambda n: hnp.arrays(np.int8, n, elements=st.integers(0, 1)))
# Sixteenths: many ties, and values on the edges of bins.
probabilities = sizes.flatmap(
    lambda n: hnp.arrays(np.float64, n, elements=st.integers(0, 16).map(lambda k: k / 16))
)
values = sizes.flatmap(
    lambda n: hnp.arrays(np.float64, n, elements=st.integers(-999, 999).map(lambda k: k / 8))
)


@given(answers, probabilities)
def test_probability_scores_equal_scikit_learn(y, p):
    assert metrics.log_loss(y, p) == pytest.approx(
        sklearn.metrics.log_loss(y, p, labels=[0, 1]), rel=1e-9
    )
    assert metrics.brier(y, p) == pytest.approx(
        sklearn.metrics.brier_score_loss(y, p, pos_label=1), rel=1e-12
    )
    assert metrics.accuracy(y, p) == sklearn.metrics.accuracy_score(y, p >= 0.5)
    if y.min() < y.max():
        assert metrics.auc(y, p) == pytest.approx(sklearn.metrics.roc_auc_score(y, p), rel=1e-12)
    else:
        assert math.isnan(metrics.auc(y, p))


WEIGHTED_SCORES = [metrics.log_loss, metrics.brier, metrics.accuracy, metrics.auc, metrics.ece]


@given(
    answers,
    probabilities,
    sizes.flatmap(lambda n: hnp.arrays(np.int8, n, elements=st.integers(0, 5))),
)
def test_weights_count_a_value_so_many_times(y, p, weights):
    if not weights.any():
        return
    for score in WEIGHTED_SCORES:
        once = score(y, p, weights=weights)
        repeated = score(np.repeat(y, weights), np.repeat(p, weights))
        assert once == pytest.approx(repeated, rel=1e-9, abs=1e-12, nan_ok=True)


def test_weighted_scores_equal_scikit_learn(rng):
    y, p, w = rng.integers(0, 2, 80), rng.integers(1, 16, 80) / 16, rng.exponential(size=80)
    pairs = {
        metrics.log_loss: sklearn.metrics.log_loss(y, p, sample_weight=w),
        metrics.brier: sklearn.metrics.brier_score_loss(y, p, sample_weight=w),
        metrics.auc: sklearn.metrics.roc_auc_score(y, p, sample_weight=w),
        metrics.accuracy: sklearn.metrics.accuracy_score(y, p >= 0.5, sample_weight=w),
    }
    for score, expected in pairs.items():
        assert score(y, p, weights=w) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("score", WEIGHTED_SCORES)
@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1], "there are 1 weights and 2 values"),
        ([1, -1], "weights are negative or all zero"),
        ([0, 0], "weights are negative or all zero"),
        ([1, np.nan], "weights has 1 of 2 values that are not finite"),
    ],
)
def test_unusable_weights_are_refused(score, weights, says):
    with pytest.raises(InputError, match=says):
        score([1, 0], [0.5, 0.5], weights=weights)


@given(values, values)
def test_distances_equal_scikit_learn(y, p):
    assert metrics.mae(y, p) == pytest.approx(sklearn.metrics.mean_absolute_error(y, p))
    assert metrics.rmse(y, p) == pytest.approx(sklearn.metrics.root_mean_squared_error(y, p))


@given(values, values)
def test_correlations_equal_scipy(y, p):
    if np.ptp(y) == 0 or np.ptp(p) == 0:
        assert math.isnan(metrics.pearson(y, p))
        assert math.isnan(metrics.spearman(y, p))
        return
    assert metrics.pearson(y, p) == pytest.approx(scipy.stats.pearsonr(y, p)[0], abs=1e-9)
    assert metrics.spearman(y, p) == pytest.approx(scipy.stats.spearmanr(y, p)[0], abs=1e-9)


def test_auc_by_counting_pairs(rng):
    y = rng.integers(0, 2, 60)
    p = rng.integers(0, 8, 60)
    difference = p[y == 1][:, None] - p[y == 0][None, :]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert metrics.auc(y, p) == pytest.approx(expected, rel=1e-12)


def test_auc_and_spearman_see_only_order(rng):
    y = rng.integers(0, 2, 100)
    p = rng.normal(size=100)
    assert metrics.auc(y, p) == metrics.auc(y, np.exp(3 * p) + 7)
    assert metrics.auc(y, p) == pytest.approx(1 - metrics.auc(y, -p), rel=1e-12)
    assert metrics.spearman(p, p**3) == pytest.approx(1, rel=1e-12)


def test_ece_by_hand():
    # Four bins: {0, .2}, {.3}, {.5}, {.75, 1}; the last holds 1, and .5 and .75 open their bins.
    p = [0.0, 0.2, 0.3, 0.5, 0.75, 1.0]
    y = [0, 1, 0, 1, 1, 1]
    expected = (abs(1 - 0.2) + abs(0 - 0.3) + abs(1 - 0.5) + abs(2 - 1.75)) / 6
    assert metrics.ece(y, p, bins=4) == pytest.approx(expected, rel=1e-12)


def test_ece_of_true_and_of_shifted_probabilities(rng):
    p = rng.uniform(0, 0.8, 200_000)
    y = rng.uniform(size=p.size) < p
    # Under the truth only noise is left, about 0.3 / sqrt(n / bins) in each bin.
    assert metrics.ece(y, p) < 0.01
    assert metrics.ece(y, p + 0.2) == pytest.approx(0.2, abs=0.01)


def test_one_bin_is_the_difference_of_means(rng):
    y, p = rng.integers(0, 2, 50), rng.uniform(size=50)
    assert metrics.ece(y, p, bins=1) == pytest.approx(abs(y.mean() - p.mean()), rel=1e-12)


def test_fractions_score_as_their_trials():
    trials = metrics.log_loss([1, 1, 0, 0, 0], [0.3] * 5)
    assert metrics.log_loss([0.4], [0.3]) == pytest.approx(trials, rel=1e-12)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_saturated_probabilities_cost_much_but_not_everything(kind):
    p = np.array([1.0, 0.0], dtype=kind)
    assert metrics.log_loss([0, 1], p) == pytest.approx(-math.log(np.finfo(kind).eps), rel=1e-6)
    assert metrics.log_loss([1, 0], p) == pytest.approx(0.0, abs=1e-6)


def test_accuracy_counts_one_half_as_a_one():
    assert metrics.accuracy([1, 0], [0.5, 0.5]) == 0.5
    assert metrics.accuracy([1, 0], [0.5, np.nextafter(0.5, 0)]) == 1.0


@pytest.mark.parametrize("scale", [1e-300, 1e307])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_pearson_survives_extreme_scales(rng, scale, shift):
    y, p = rng.normal(size=(2, 30))
    expected = metrics.pearson(y, p)
    assert metrics.pearson((y + shift) * scale, p) == pytest.approx(expected, rel=1e-9)


def test_constants_have_no_correlation():
    # The mean of many 0.1s is not 0.1, so a variance of exactly zero cannot be the test.
    for score in (metrics.pearson, metrics.spearman):
        assert math.isnan(score([0.1] * 7, range(7)))
        assert math.isnan(score(range(7), [0.1] * 7))
        assert math.isnan(score([1.0], [2.0]))


def test_pearson_within_by_hand():
    # Between the groups y falls as p rises; within a and b it rises with p; c has one value.
    y, p = [5, 6, 1, 3, 9], [0.1, 0.2, 0.7, 0.8, 0.5]
    dy, dp = np.array([-0.5, 0.5, -1, 1]), np.array([-0.05, 0.05, -0.05, 0.05])
    expected = (dy @ dp) / math.sqrt((dy @ dy) * (dp @ dp))
    groups = ["a", "a", "b", "b", "c"]
    assert metrics.pearson_within(y, p, groups) == pytest.approx(expected, rel=1e-12)
    assert metrics.pearson(y, p) < 0 < expected
    assert metrics.pearson_within(y, p, ["a"] * 5) == pytest.approx(metrics.pearson(y, p))


def test_pearson_within_equals_a_regression_on_group_indicators(rng):
    groups = np.repeat(np.arange(12), 4)
    y, p = rng.normal(size=(2, 48)) + groups
    indicators = np.eye(12)[groups]
    residuals = [v - indicators @ np.linalg.lstsq(indicators, v)[0] for v in (y, p)]
    expected = scipy.stats.pearsonr(*residuals)[0]
    assert metrics.pearson_within(y, p, groups) == pytest.approx(expected, rel=1e-9)


def test_pearson_within_needs_differences_within_groups():
    assert math.isnan(metrics.pearson_within([1, 2, 3], [1, 2, 3], [0, 1, 2]))
    # The mean of three 0.1s is not 0.1.
    assert math.isnan(
        metrics.pearson_within([1, 2, 3, 4, 5, 6], [0.1] * 3 + [0.7] * 3, [0] * 3 + [1] * 3)
    )
    with pytest.raises(InputError, match="2 groups and 3 values"):
        metrics.pearson_within([1, 2, 3], [1, 2, 3], [0, 1])


def normal_crps(mean, sd, y):
    """Return the CRPS of N(mean, sd) at y: Gneiting and Raftery (2007), after equation 21."""
    z = (y - mean) / sd
    phi, cdf = scipy.stats.norm.pdf(z), scipy.stats.norm.cdf(z)
    return sd * (z * (2 * cdf - 1) + 2 * phi - 1 / math.sqrt(math.pi))


def test_crps_of_a_normal(rng):
    mean, sd, y = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.3, 2.0]), np.array([0.2, 0.1, 3.0])
    draws = mean + sd * rng.normal(size=(40_000, 3))
    expected = normal_crps(mean, sd, y)
    assert metrics.crps(draws, y) == pytest.approx(expected.mean(), abs=0.02)
    for i in range(3):
        # Standard error about sd / sqrt(40,000) = 0.005 sd.
        assert metrics.crps(draws[:, i], y[i]) == pytest.approx(expected[i], abs=0.025 * sd[i])


def test_crps_is_fair_with_two_draws(rng):
    # 60,000 forecasts of two draws each score as the distribution does; the plain form would be
    # higher by E|X - X'| / 4 = 0.28.
    draws = rng.normal(size=(2, 60_000))
    expected = normal_crps(0.0, 1.0, 0.5)
    assert metrics.crps(draws, np.full(60_000, 0.5)) == pytest.approx(expected, abs=0.015)


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=5),
        elements=st.integers(-99, 99).map(lambda k: k / 4),
    )
)
def test_crps_equals_the_sum_over_pairs(x):
    y = x.mean(axis=0)
    n = len(x)
    pairs = np.abs(x[:, None] - x[None, :]).sum(axis=(0, 1)) / (2 * n * (n - 1))
    expected = (np.abs(x - y).mean(axis=0) - pairs).mean()
    assert metrics.crps(x, y) == pytest.approx(expected, abs=1e-9)


def test_scores_of_distributions_equal_scoringrules(rng):
    draws, y = rng.normal(size=(30, 6)), rng.normal(size=6)
    expected = scoringrules.crps_ensemble(y, draws, m_axis=0, estimator="fair").mean()
    assert metrics.crps(draws, y) == pytest.approx(expected, rel=1e-9)
    lower, upper = np.quantile(draws, [0.1, 0.9], axis=0)
    expected = scoringrules.interval_score(y, lower, upper, 0.2).mean()
    assert metrics.interval_score(lower, upper, y, ci_prob=0.8) == pytest.approx(expected)


def test_crps_of_one_value_drawn_over_and_over_is_the_error():
    assert metrics.crps([3.0, 3.0, 3.0], 5.0) == 2.0


def test_interval_score_by_hand():
    # One inside, one below by 1, one above by 2; alpha = 0.2, so a miss of d costs 10 d.
    score = metrics.interval_score([0, 0, 0], [4, 4, 4], [1, -1, 6], ci_prob=0.8)
    assert score == pytest.approx((4 + (4 + 10) + (4 + 20)) / 3, rel=1e-12)


def test_interval_score_is_least_for_the_true_interval(rng):
    y = rng.normal(size=100_000)
    ends = {z: np.full(y.size, z) for z in (0.8, 1.2816, 1.8)}
    scores = {z: metrics.interval_score(-e, e, y, ci_prob=0.8) for z, e in ends.items()}
    assert min(scores, key=scores.get) == 1.2816


def test_width_is_the_mean():
    assert metrics.interval_width([0, 0.5], [1, 0.75]) == (1 + 0.25) / 2
    with pytest.raises(InputError, match="lower is above upper in 1 of 1"):
        metrics.interval_width([1], [0])


def test_coverage_counts_the_ends(rng):
    assert metrics.coverage([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0.5, 1.1]) == 0.75
    y = rng.normal(size=100_000)
    wide = np.full(y.size, 1.6449)
    assert metrics.coverage(-wide, wide, y) == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize("score", PAIR_SCORES)
def test_any_shape_and_kind_of_array_gives_one_float(score):
    y, p = [[0, 1, 1], [1, 0, 1]], [[0.2, 0.7, 0.4], [0.9, 0.1, 0.5]]
    once = score(y, p)
    assert type(once) is float
    assert once == score(np.array(y, bool).ravel(), np.ravel(p))
    assert once == pytest.approx(score(np.array(y, np.int8), np.array(p, np.float32)), rel=1e-6)


@pytest.mark.parametrize("score", PAIR_SCORES)
@pytest.mark.parametrize(
    ("y", "p", "says"),
    [
        ([1, 0], [0.5], r"shapes differ: y \(2,\), p \(1,\)"),
        ([[1, 0]], [0.5, 0.5], r"shapes differ: y \(1, 2\), p \(2,\)"),
        ([1, np.nan], [0.5, 0.5], "y has 1 of 2 values that are not finite"),
        ([1, 0], [0.5, np.inf], "p has 1 of 2 values that are not finite"),
        ([], [], "y is empty"),
        (["yes", "no"], [0.5, 0.5], "y is not an array of numbers"),
        ([1, None], [0.5, 0.5], "y has 1 of 2 values that are not finite"),
    ],
)
def test_unusable_arrays_are_refused_in_one_line(score, y, p, says):
    with pytest.raises(InputError, match=says) as caught:
        score(y, p)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", [metrics.log_loss, metrics.brier, metrics.accuracy, metrics.ece])
def test_probabilities_outside_the_unit_interval_are_refused(score):
    with pytest.raises(InputError, match=r"p has the value 1\.5"):
        score([1, 0], [1.5, 0.5])
    with pytest.raises(InputError, match="y has the value -1"):
        score([-1, 0], [0.5, 0.5])


@pytest.mark.parametrize("score", [metrics.accuracy, metrics.auc])
def test_fractions_are_refused_where_only_answers_make_sense(score):
    with pytest.raises(InputError, match=r"y has the value 0\.4"):
        score([0.4, 1], [0.5, 0.5])


def test_other_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="bins is 0"):
        metrics.ece([1], [0.5], bins=0)
    with pytest.raises(InputError, match="one draw"):
        metrics.crps([[1.0, 2.0]], [1.0, 2.0])
    with pytest.raises(InputError, match=r"draws have shape \(2, 2\) and y has shape \(3,\)"):
        metrics.crps([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="lower is above upper in 1 of 2"):
        metrics.coverage([0, 2], [1, 1], [0, 0])
    with pytest.raises(InputError, match="ci_prob is 1"):
        metrics.interval_score([0], [1], [0], ci_prob=1.0)
