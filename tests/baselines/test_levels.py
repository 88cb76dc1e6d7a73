"""Shifts of log-odds against one-dimensional optimisation and the means they must give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from bayes_lrmf.baselines.levels import at_own_level, with_mean


def penalised(d, p, y, run, pull):
    s = expit(logit(p) + d)
    return -(run * (y * np.log(s) + (1 - y) * np.log1p(-s))).sum() + pull * d**2 / 2


@pytest.mark.parametrize("pull", [0.01, 2.0])
def test_shifts_maximise_their_penalised_likelihood(rng, pull):
    bench = np.array([0, 0, 1, 1, 1])
    p = rng.uniform(0.1, 0.9, (3, 5))
    y = rng.random((3, 5)).round(1)
    run = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    got = at_own_level(p, y * run, run, bench, pull)
    for u in (0, 1):
        d = minimize_scalar(penalised, args=(p[u], y[u], run[u], pull), tol=1e-10).x
        level = expit(logit(p[u]) + d)
        for b in (0, 1):
            of = bench == b
            c = minimize_scalar(penalised, args=(level[of], y[u, of], run[u, of], pull), tol=1e-10)
            np.testing.assert_allclose(got[u, of], expit(logit(level[of]) + c.x), atol=1e-6)
    np.testing.assert_array_equal(got[2], p[2])


def test_many_models_are_shifted_as_each_alone(rng):
    p, y = rng.uniform(0.1, 0.9, (1100, 2)), rng.integers(0, 2, (1100, 2))
    run = np.ones_like(y)
    got = at_own_level(p, y, run, np.zeros(2, int), 1.0)
    for u in (0, 1023, 1024, 1099):
        alone = at_own_level(p[u : u + 1], y[u : u + 1], run[u : u + 1], np.zeros(2, int), 1.0)
        np.testing.assert_allclose(got[u], alone[0], atol=1e-6)


def test_items_are_shifted_to_a_weighted_mean(rng):
    p, weights = rng.uniform(0.01, 0.99, 7), rng.integers(1, 9, 7)
    target = np.array([1e-6, 0.2, 0.5, 0.999])
    got = with_mean(p, target, weights)
    np.testing.assert_allclose(got @ weights / weights.sum(), target, rtol=1e-5)
    difference = logit(got) - logit(p)
    np.testing.assert_allclose(difference, difference[:, :1].repeat(7, axis=1), atol=1e-9)


def test_one_item_gets_the_mean_itself():
    np.testing.assert_allclose(with_mean(np.array([0.3]), np.array([0.3, 0.8]), np.ones(1)),
                               [[0.3], [0.8]], rtol=1e-6)  # fmt: skip
