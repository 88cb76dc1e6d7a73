"""Logit-normal counts against adaptive quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import log_expit
from scipy.stats import norm

from bayes_lrmf.kernels import CountTable, SparseTable
from bayes_lrmf.logit_normal import logit_normal


def by_quadrature(psi, k, n, sd):
    """Return the log of the integral, scaled by its largest value on a fine grid."""
    grid = np.linspace(-150, 150, 300_001)

    def log_integrand(x):
        odds = psi + sd * x
        return k * log_expit(odds) + (n - k) * log_expit(-odds) + norm.logpdf(x)

    values = log_integrand(grid)
    at, top = grid[values.argmax()], values.max()
    found, _ = quad(
        lambda x: np.exp(log_integrand(x) - top), at - 12, at + 12, points=[at - 0.3, at, at + 0.3],
        limit=500, epsabs=0, epsrel=1e-11,
    )  # fmt: skip
    return top + np.log(found)


compiled = jax.jit(logit_normal)


@pytest.mark.ledger
@pytest.mark.parametrize("sd", [0.05, 0.3, 1.0])
@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (1, 1), (0, 200), (140, 200), (997, 1000)])
def test_integral_is_that_of_adaptive_quadrature(k, n, sd, claim):
    with jax.enable_x64(True):
        for psi in (-6.0, -1.0, 0.3, 4.0):
            found = float(compiled(psi, k, n, sd))
            claim(
                "Logit-normal counts: log likelihood, gap",
                "adaptive quadrature of SciPy",
                abs(found - by_quadrature(psi, k, n, sd)),
                2e-5,
            )


def test_derivatives_are_those_of_the_integral():
    slopes = jax.jit(jax.grad(logit_normal, argnums=(0, 3)))
    with jax.enable_x64(True):
        for psi, k, n, sd in ((0.5, 130, 200, 0.4), (-2.0, 3, 40, 0.2)):
            by_psi, by_sd = slopes(psi, float(k), float(n), sd)
            h = 1e-4
            slope = (by_quadrature(psi + h, k, n, sd) - by_quadrature(psi - h, k, n, sd)) / 2 / h
            assert float(by_psi) == pytest.approx(slope, abs=1e-4)
            slope = (by_quadrature(psi, k, n, sd + h) - by_quadrature(psi, k, n, sd - h)) / 2 / h
            assert float(by_sd) == pytest.approx(slope, abs=1e-3)


def test_without_noise_it_is_the_binomial_and_without_trials_nothing(rng):
    psi = jnp.asarray(rng.normal(size=5), jnp.float32)
    k, n = np.array([0, 1, 3, 9, 0]), np.array([1, 1, 5, 9, 0])
    expected = k * log_expit(np.asarray(psi)) + (n - k) * log_expit(-np.asarray(psi))
    np.testing.assert_allclose(compiled(psi, k, n, jnp.zeros(5)), expected, atol=1e-5)
    slope = jax.jit(jax.grad(lambda s: logit_normal(psi, k, n, s).sum()))(jnp.zeros(5))
    assert np.isfinite(slope).all()
    assert float(compiled(0.3, 0, 0, 2.0)) == pytest.approx(0, abs=1e-6)


def test_tables_sum_over_observed_cells(rng):
    n = rng.integers(0, 30, (4, 6)) * (rng.random((4, 6)) < 0.7)
    k = rng.binomial(n, 0.4)
    rows, cols = rng.normal(size=(2, 4)), rng.normal(size=(2, 6))
    sd = np.array([0.0, 0.1, 0.5, 0.5, 1.0, 0.2])
    seen = np.nonzero(n)
    psi = rows.T @ cols
    expected = sum(
        by_quadrature(psi[u, i], k[u, i], n[u, i], sd[i]) for u, i in zip(*seen, strict=True)
    )
    with jax.enable_x64(True):
        for table in (CountTable(k, n), SparseTable.from_cells(*seen, k[seen], n[seen])):

            @jax.jit
            def summed(rows, cols, sd, table=table):
                return table.log_likelihood(rows, cols, None, noise_sd=sd)

            found = summed(rows, cols, sd)
            assert float(found) == pytest.approx(expected, abs=1e-5)
