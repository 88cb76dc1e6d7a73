"""Gaussians along a graph against the dense normal that their couplings imply."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bayes_lrmf.elimination import eliminate
from bayes_lrmf.gaussian import GraphGaussian

GRAPHS = {
    "single node": (1, []),
    "no edges": (4, []),
    "tree": (6, [(1, 0), (2, 0), (3, 1), (4, 1)]),
    "cycle": (5, [(i, (i + 1) % 5) for i in range(5)]),
    "complete": (4, list(itertools.combinations(range(4), 2))),
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def elimination_of(name):
    n, edges = GRAPHS[name]
    rows, cols = np.array(edges, dtype=int).reshape(-1, 2).T
    return eliminate(n, rows, cols)


def parameters(elimination, rng, batch=()):
    return (
        rng.normal(size=(*batch, elimination.n_nodes)),
        rng.uniform(0.3, 2, size=(*batch, elimination.n_nodes)),
        rng.normal(size=(*batch, elimination.n_entries)),
    )


def dense_normal(elimination, loc, scale, coupling):
    """Return the normal of ``(I + C') (x - loc) = scale * noise``."""
    step = np.eye(elimination.n_nodes)
    for j, i, c in zip(elimination.owner, elimination.neighbour, coupling, strict=True):
        step[j, i] = c
    mixing = np.linalg.solve(step, np.diag(scale))
    return scipy.stats.multivariate_normal(loc, mixing @ mixing.T)


@pytest.mark.parametrize("name", GRAPHS)
def test_density_and_moments_are_those_of_the_dense_normal(name, rng):
    elimination = elimination_of(name)
    loc, scale, coupling = parameters(elimination, rng)
    ours = GraphGaussian(elimination, *map(jnp.asarray, (loc, scale, coupling)))
    normal = dense_normal(elimination, loc, scale, coupling)
    values = rng.normal(size=(4, len(loc)))
    expected = np.atleast_1d(normal.logpdf(values))
    np.testing.assert_allclose(jax.jit(ours.log_prob)(values), expected, rtol=1e-9)
    np.testing.assert_array_equal(ours.mean, loc)
    variance = jax.jit(lambda: ours.variance)()
    np.testing.assert_allclose(variance, normal.cov_object.covariance.diagonal(), rtol=1e-9)


@pytest.mark.parametrize("name", ["cycle", "no edges"])
def test_mean_and_covariance_of_draws(name, rng, key):
    elimination = elimination_of(name)
    loc, scale, coupling = parameters(elimination, rng)
    ours = GraphGaussian(elimination, *map(jnp.asarray, (loc, scale, coupling)))
    draws = np.asarray(jax.jit(lambda k: ours.sample(k, (100_000,)))(key))
    covariance = dense_normal(elimination, loc, scale, coupling).cov_object.covariance
    deviation = np.sqrt(covariance.diagonal())
    # Standard errors are at most sqrt(2 / 100,000) = 0.0045 of the product of deviations.
    error = (np.cov(draws.T) - covariance) / np.outer(deviation, deviation)
    assert np.abs(error).max() < 0.02
    np.testing.assert_allclose((draws.mean(0) - loc) / deviation, 0, atol=0.015)


def test_batches_are_independent_gaussians(rng, key):
    elimination = elimination_of("tree")
    batch = (2, 2)
    loc, scale, coupling = parameters(elimination, rng, batch)
    ours = GraphGaussian(elimination, *map(jnp.asarray, (loc, scale, coupling)))
    assert (ours.batch_shape, ours.event_shape) == (batch, (6,))
    values = rng.normal(size=(4, *batch, 6))

    @jax.jit
    def everything(key, values):
        return ours.sample(key, (7,)), ours.log_prob(values), ours.variance

    draws, log_prob, variance = everything(key, values)
    assert draws.shape == (7, *batch, 6)
    assert log_prob.shape == (4, *batch)
    for at in np.ndindex(batch):
        normal = dense_normal(elimination, loc[at], scale[at], coupling[at])
        expected = normal.logpdf(values[(slice(None), *at)])
        np.testing.assert_allclose(log_prob[(slice(None), *at)], expected, rtol=1e-9)
        np.testing.assert_allclose(variance[at], normal.cov_object.covariance.diagonal())


def test_posterior_of_a_field_with_evidence_at_each_node_is_in_the_family(rng):
    elimination = elimination_of("cycle")
    n, edges = GRAPHS["cycle"]
    prior = 0.3 * np.eye(n)
    for i, j in edges:
        prior[[i, j], [i, j]] += 1
        prior[[i, j], [j, i]] -= 1
    evidence, y = rng.uniform(0.1, 3, n), rng.normal(size=n)
    precision = prior + np.diag(evidence)
    order = np.concatenate([r.nodes for r in elimination.rounds])
    cholesky = np.linalg.cholesky(precision[np.ix_(order, order)])
    scale, coupling = np.empty(n), np.zeros((n, n))
    scale[order] = 1 / cholesky.diagonal()
    coupling[np.ix_(order, order)] = cholesky / cholesky.diagonal()
    loc = np.linalg.solve(precision, evidence * y)
    entries = coupling[elimination.neighbour, elimination.owner]
    ours = GraphGaussian(elimination, *map(jnp.asarray, (loc, scale, entries)))
    values = rng.normal(size=(3, n))
    posterior = scipy.stats.multivariate_normal(loc, np.linalg.inv(precision))
    np.testing.assert_allclose(jax.jit(ours.log_prob)(values), posterior.logpdf(values))


def test_draws_carry_gradients_of_every_parameter(rng, key):
    elimination = elimination_of("cycle")
    given = [jnp.asarray(p) for p in parameters(elimination, rng)]
    weight = jnp.asarray(rng.normal(size=elimination.n_nodes))

    @jax.jit
    def score(*given):
        ours = GraphGaussian(elimination, *given)
        return weight @ ours.sample(key) + ours.log_prob(weight)

    slopes = jax.jit(jax.grad(score, argnums=(0, 1, 2)))(*given)
    for which, slope in enumerate(slopes):
        for i in (0, len(slope) - 1):
            up, down = (
                score(*given[:which], given[which].at[i].add(step), *given[which + 1 :])
                for step in (1e-5, -1e-5)
            )
            assert float(slope[i]) == pytest.approx(float(up - down) / 2e-5, rel=1e-5, abs=1e-7)


def test_single_precision_and_draws_follow_the_key(rng, key):
    elimination = elimination_of("tree")
    loc, scale, coupling = parameters(elimination, rng)
    with jax.enable_x64(False):
        ours = GraphGaussian(elimination, *map(jnp.asarray, (loc, scale, coupling)))
        sample = jax.jit(ours.sample)
        draw, again, other = sample(key), sample(key), sample(jax.random.key(1))
        log_prob = ours.log_prob(draw)
    assert draw.dtype == log_prob.dtype == np.float32
    single = [jnp.asarray(p, "float32") for p in (loc, scale, coupling)]
    assert GraphGaussian(elimination, *single).sample(key).dtype == np.float32
    np.testing.assert_array_equal(draw, again)
    assert not np.allclose(draw, other)
    expected = dense_normal(elimination, loc, scale, coupling).logpdf(np.asarray(draw, float))
    assert float(log_prob) == pytest.approx(expected, rel=1e-5)


def test_scales_must_be_positive():
    elimination = elimination_of("no edges")
    with pytest.raises(ValueError, match="scale"):
        GraphGaussian(elimination, jnp.zeros(4), -jnp.ones(4), jnp.zeros(0), validate_args=True)
