"""Scale mixtures against scipy's Student-t, quadrature and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from bayes_lrmf.scale_mixture import (
    SCALE_GRID,
    Cavity,
    central_shares,
    learned_shares,
    log_classes,
    mixed,
    student_shares,
)


@pytest.mark.parametrize("tail", [2.0, 4.0, 30.0])
@pytest.mark.parametrize("size", [1, 8, 16])
def test_student_shares_give_the_multivariate_student_t(tail, size, rng):
    step = rng.normal(size=(30, size)) * rng.uniform(0.2, 3, (30, 1))
    _, found = mixed(log_classes((step**2).sum(1), size), student_shares(np.array(tail)))
    exact = stats.multivariate_t(shape=np.eye(size), df=tail).logpdf(step)
    # Of two degrees of freedom 0.1 % has a variance beyond the grid.
    np.testing.assert_allclose(found, exact, atol=5e-3)


def test_shares_sum_to_one_and_pool_over_relations():
    counts = np.zeros((3, len(SCALE_GRID)))
    counts[1, 20] = 1000.0
    shares = learned_shares(counts)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares[0], central_shares())
    # A relation without steps has the shares of all of them together, by hand.
    pooled = (counts[1] + 20 * central_shares()) / 1020
    np.testing.assert_allclose(shares[2], pooled)
    np.testing.assert_allclose(shares[1], (counts[1] + 10 * pooled) / 1010)


def test_the_cavity_is_the_posterior_without_its_prior(rng):
    precision, linear = rng.uniform(0.1, 5, (7, 3)), rng.normal(size=(7, 3))
    weight = rng.uniform(0.2, 4, 7)
    total = precision + weight[:, None]
    cavity = Cavity.of(linear / total, 1 / total, weight)
    np.testing.assert_allclose(cavity.precision, precision)
    np.testing.assert_allclose(cavity.linear, linear)


def test_evidence_and_moments_of_a_cavity_are_those_of_quadrature():
    precision, linear = 1.7, -0.6
    cavity = Cavity(np.array([[precision]]), np.array([[linear]]))

    def integral(scale, power):
        def at(e):
            likelihood = np.exp(linear * e - precision * e**2 / 2)
            return e**power * likelihood * stats.norm.pdf(e, scale=np.sqrt(scale))

        width = 12 * np.sqrt(scale)
        return integrate.quad(at, -width, width, limit=200, points=[0.0])[0]

    for z in (8, 20, 26):
        total = integral(SCALE_GRID[z], 0)
        assert cavity.log_classes()[0, z] == pytest.approx(np.log(total))
        mean = integral(SCALE_GRID[z], 1) / total
        assert cavity.means()[0, z, 0] == pytest.approx(mean)
        square = integral(SCALE_GRID[z], 2) / total
        assert cavity.variances()[0, z, 0] == pytest.approx(square - mean**2)
        assert cavity.log_normal(1 / SCALE_GRID[[z]])[0] == pytest.approx(np.log(total))


def test_the_matched_normal_has_the_second_moment_of_the_mixture(rng):
    cavity = Cavity(rng.uniform(0, 3, (5, 4)), rng.normal(size=(5, 4)))
    share = rng.dirichlet(np.full(len(SCALE_GRID), 0.3), size=5)
    weight = cavity.matched(share, np.ones(5))
    total = cavity.precision + weight[:, None]
    normal = (1 / total + (cavity.linear / total) ** 2).sum(1)
    mixed = (share * (cavity.variances() + cavity.means() ** 2).sum(-1)).sum(-1)
    np.testing.assert_allclose(normal, mixed, rtol=1e-8)
    # Nothing but the prior: the variance of the mixture itself.
    blank = Cavity(np.zeros((1, 4)), np.zeros((1, 4)))
    assert 1 / blank.matched(share[:1], np.ones(1))[0] == pytest.approx(share[0] @ SCALE_GRID)


@pytest.mark.parametrize("start", [1e-6, 1.0, 1e6])
def test_the_matched_normal_is_found_from_anywhere_and_stays_on_the_grid(start, rng):
    n = 300
    cavity = Cavity(
        rng.lognormal(0, 3, (n, 6)), rng.normal(size=(n, 6)) * rng.lognormal(0, 3, (n, 1))
    )
    share = rng.dirichlet(np.full(len(SCALE_GRID), 0.05), size=n)
    weight = cavity.matched(share, np.full(n, start))
    wanted = (share * (cavity.variances() + cavity.means() ** 2).sum(-1)).sum(-1)

    def square(precision):
        total = cavity.precision + precision[:, None]
        return (1 / total + (cavity.linear / total) ** 2).sum(1)

    ends = 1 / SCALE_GRID[-1], 1 / SCALE_GRID[0]
    inside = (weight > 1.001 * ends[0]) & (weight < 0.999 * ends[1])
    assert inside.mean() > 0.9
    np.testing.assert_allclose(square(weight)[inside], wanted[inside], rtol=1e-8)
    # At an end because the answer is beyond it, or there.
    low, high = weight <= 1.001 * ends[0], weight >= 0.999 * ends[1]
    assert (square(np.full(n, ends[0]))[low] <= wanted[low] * 1.01).all()
    assert (square(np.full(n, ends[1]))[high] >= wanted[high] * 0.99).all()


def test_shares_and_density_of_a_mixture(rng):
    log_density, shares = rng.normal(0, 30, (7, 5)), rng.dirichlet(np.ones(5), size=7)
    found, value = mixed(log_density, shares)
    dense = log_density + np.log(shares)
    np.testing.assert_allclose(value, np.log(np.exp(dense).sum(1)), rtol=1e-10)
    np.testing.assert_allclose(found, np.exp(dense - value[:, None]), rtol=1e-9)
