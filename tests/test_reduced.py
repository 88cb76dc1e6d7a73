"""Gaussians that are eliminated in part, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_lrmf.elimination import eliminate
from bayes_lrmf.gmrf import LaplacianGraph
from bayes_lrmf.reduced import reduced_gaussian
from bayes_lrmf.simulate import grown_lineage


def problem(rng, n=300, max_degree=3, kappa=0.4):
    """The Laplacian of a lineage with merges from anywhere, and its dense twin."""
    lineage = grown_lineage(n, rng=rng, partner="any", merge_share=0.5)
    graph = LaplacianGraph(lineage.adjacency())
    order = eliminate(n, graph.rows, graph.cols, max_degree=max_degree)
    off = np.zeros(order.n_entries)
    off[order.entry_of(graph.rows, graph.cols)] = -graph.weights
    dense = np.diag(graph.degree + kappa)
    dense[graph.rows, graph.cols] = dense[graph.cols, graph.rows] = -graph.weights
    return graph, reduced_gaussian(order, graph.degree + kappa, off), dense


@pytest.mark.parametrize("max_degree", [-1, 2, 3, 300])
def test_solutions_are_those_of_the_dense_matrix(rng, max_degree):
    _, gaussian, dense = problem(rng, max_degree=max_degree)
    n_kept = len(gaussian.order.kept)
    assert n_kept == {-1: 300, 300: 0}.get(max_degree, n_kept)
    right = rng.normal(size=(3, len(dense)))
    found = gaussian.solve(right)
    np.testing.assert_allclose(found, right @ np.linalg.inv(dense), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(gaussian.solve(right[0]), found[0], rtol=1e-7, atol=1e-8)


def test_the_log_determinant_is_within_its_error(rng):
    _, gaussian, dense = problem(rng)
    assert 20 < len(gaussian.order.kept) < 150
    found = gaussian.log_determinant(rng=rng, n_probes=64)
    expected = np.linalg.slogdet(dense)[1]
    assert 0 < found.error < 0.5
    assert abs(found.value - expected) < 4 * found.error
    whole = problem(rng, max_degree=300)
    exact = whole[1].log_determinant(rng=rng)
    assert exact.error == 0
    assert exact.value == pytest.approx(np.linalg.slogdet(whole[2])[1])


def test_quadrature_over_all_signs_is_the_determinant(rng):
    # Over all vectors of signs the mean of v' log(A) v is the trace, so nothing is left to chance.
    _, gaussian, dense = problem(rng, n=12, max_degree=0)
    m = len(gaussian.order.kept)
    assert m > 5

    class AllSigns:
        def choice(self, values, shape):
            return np.array(np.meshgrid(*[values] * m)).reshape(m, -1)

    found = gaussian.log_determinant(rng=AllSigns(), n_probes=2**m)
    assert found.value == pytest.approx(np.linalg.slogdet(dense)[1], abs=1e-9)


def test_variances_and_draws_are_those_of_the_dense_inverse(rng):
    kappa = 0.4
    graph, gaussian, dense = problem(rng, kappa=kappa)
    variance = np.linalg.inv(dense).diagonal()
    right = [graph.perturbation(kappa, rng=rng) for _ in range(400)]
    found = gaussian.variances(right)
    # 400 draws alone have a relative standard error of 7 % each.
    np.testing.assert_allclose(found, variance, rtol=0.1)
    assert np.sqrt(np.mean((found / variance - 1) ** 2)) < 0.02
    plain = (gaussian.solve(np.array(right)) ** 2).mean(0)
    assert 0.04 < np.sqrt(np.mean((plain / variance - 1) ** 2)) < 0.11


def test_variances_without_what_is_kept_are_exact(rng):
    graph, gaussian, dense = problem(rng, max_degree=300)
    found = gaussian.variances([graph.perturbation(0.4, rng=rng)])
    np.testing.assert_allclose(found, np.linalg.inv(dense).diagonal(), rtol=1e-10)


def test_a_matrix_that_is_not_definite_is_refused(rng):
    graph, gaussian, _ = problem(rng)
    off = np.full(gaussian.order.n_entries, -1.0)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        reduced_gaussian(gaussian.order, np.full(graph.n_nodes, 0.5), off)
    # All nodes are kept, so that it shows in the spectrum of what is kept alone.
    _, gaussian, _ = problem(rng, max_degree=-1)
    off = np.full(gaussian.order.n_entries, -1.0)
    wrong = reduced_gaussian(gaussian.order, np.full(graph.n_nodes, 0.5), off)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        wrong.log_determinant(rng=rng)
