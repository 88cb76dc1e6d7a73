"""Draws of cells: noise given what was seen, Beta-Binomial probabilities, sums over many cells."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from bayes_lrmf.cell_draws import (
    cell_probabilities,
    noise_given,
    noise_of_means,
    successes_left,
)

N_DRAWS = 20_000
GRID = np.linspace(-25, 25, 10_001)


def drawn(psi, k, n, sd, rng):
    one = np.ones((1, 1))
    psi = np.full((N_DRAWS, 1, 1), psi, np.float32)
    return noise_given(psi, k * one, n * one, np.full(psi.shape[:2], sd, np.float32), rng)[:, 0, 0]


@pytest.mark.parametrize(
    ("psi", "k", "n", "sd"),
    [
        (0.3, 0, 0, 0.7),
        (0.3, 40, 100, 0.4),
        (2.0, 400, 400, 0.5),
        (-8.0, 400, 400, 0.4),
        (6.0, 0, 300, 1.0),
        (0.0, 1, 1, 0.5),
        (-3.0, 3, 10, 0.3),
        (-4.0, 0, 20, 2.0),
        (0.0, 0, 3, 2.0),
        (3.0, 5, 5, 1.5),
    ],
)
def test_noise_given_what_a_cell_showed(psi, k, n, sd, rng):
    found = drawn(psi, k, n, sd, rng)
    log_p = k * (psi + GRID) - n * np.logaddexp(0, psi + GRID) - (GRID / sd) ** 2 / 2
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    mean = weight @ GRID
    deviation = np.sqrt(weight @ (GRID - mean) ** 2)
    assert found.mean() == pytest.approx(mean, abs=0.15 * deviation)
    assert found.std() == pytest.approx(deviation, rel=0.12)
    p, exact = scipy.special.expit(psi + found), scipy.special.expit(psi + GRID)
    assert p.mean() == pytest.approx(weight @ exact, rel=0.06)


def test_what_a_point_predicts_is_the_mean_over_noise():
    k, n = np.array([[0.0, 40.0, 400.0]]), np.array([[0.0, 100.0, 400.0]])
    psi, sd = np.array([[[1.2, 0.3, 2.0]]]), np.array([[0.9, 0.4, 0.5]])
    p = cell_probabilities(psi, k, n, sd, None, None)[0, 0]
    for i in range(3):
        at = psi[0, 0, i] + GRID
        log_p = k[0, i] * at - n[0, i] * np.logaddexp(0, at) - (GRID / sd[0, i]) ** 2 / 2
        weight = np.exp(log_p - log_p.max())
        expected = weight @ scipy.special.expit(at) / weight.sum()
        assert p[i] == pytest.approx(expected, abs=2e-3)
    noise = noise_of_means(psi, k, n, sd)
    np.testing.assert_allclose(scipy.special.expit(psi + noise)[0, 0], p, rtol=1e-12)


def test_without_noise_there_is_none(rng):
    np.testing.assert_array_equal(drawn(1.0, 3, 5, 0.0, rng), np.zeros(N_DRAWS))


def test_probabilities_of_beta_binomial_cells_are_betas(rng):
    psi = np.full((N_DRAWS, 1, 3), 0.5)
    k, n = np.array([[0.0, 7.0, 1.0]]), np.array([[0.0, 10.0, 1.0]])
    phi = np.tile([6.0, 6.0, np.inf], (N_DRAWS, 1))
    p = cell_probabilities(psi, k, n, None, phi, rng)[:, 0]
    expected = scipy.special.expit(0.5)
    for i, (right, wrong) in enumerate(((0, 0), (7, 3))):
        beta = scipy.stats.beta(6 * expected + right, 6 * (1 - expected) + wrong)
        assert scipy.stats.kstest(p[:, i], beta.cdf).pvalue > 1e-3
    np.testing.assert_allclose(p[:, 2], expected)


def test_sums_have_the_moments_asked_for(rng):
    n = np.array([400.0, 400.0, 70.0, 70.0, 5.0, 3.0, 0.0])
    mean = np.array([300.0, 12.0, 35.0, 2.0, 5.0, 0.0, 0.0])
    variance = np.array([60.0, 5.0, 0.9, 1.2, 0.0, 0.0, 0.0])
    counts = successes_left(np.tile(mean, (N_DRAWS, 1)), np.tile(variance, (N_DRAWS, 1)), n, rng)
    np.testing.assert_array_equal(counts, np.rint(counts))
    np.testing.assert_allclose(counts[:, :4].mean(0), mean[:4], atol=0.2)
    np.testing.assert_allclose(counts[:, :3].var(0), variance[:3], rtol=0.05)
    # Few are expected, and not of trials that are alike.
    assert counts[:, 3].var() == pytest.approx(variance[3], rel=0.1)
    # What is certain is not drawn.
    np.testing.assert_array_equal(counts[:, 4:], np.tile([5.0, 0.0, 0.0], (N_DRAWS, 1)))


@pytest.mark.parametrize("p", [0.001, 0.01, 0.99])
def test_sums_of_rare_results_have_none_as_often_as_they_should(p, rng):
    n = np.array([100.0])
    mean, variance = np.full((N_DRAWS, 1), 100 * p), np.full((N_DRAWS, 1), 100 * p * (1 - p))
    counts = successes_left(mean, variance, n, rng)
    expected = scipy.stats.binom(100, p).pmf([0, 1, 2, 98, 99, 100])
    found = [(counts == c).mean() for c in (0, 1, 2, 98, 99, 100)]
    np.testing.assert_allclose(found, expected, atol=0.012)
