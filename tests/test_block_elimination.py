"""Block factors against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_lrmf.block_elimination import block_elimination


def _problem(rng, n=25, size=3):
    """A random tree with merges (parents joined), and a positive definite matrix on it."""
    rows, cols = [], []
    for child in range(3, n - 2):
        parents = rng.choice(child, rng.integers(1, 4), replace=False)
        rows += [child] * len(parents)
        cols += parents.tolist()
        rows += [a for i, a in enumerate(parents) for _ in parents[:i]]
        cols += [b for i, _ in enumerate(parents) for b in parents[:i]]
    rows, cols = np.array(rows), np.array(cols)
    blocks = block_elimination(n, rows, cols)
    dense = np.zeros((n, size, n, size))
    for i, j in zip(rows, cols, strict=True):
        block = rng.normal(size=(size, size))
        dense[i, :, j] = block
        dense[j, :, i] = block.T
    flat = dense.reshape(n * size, n * size)
    flat += (np.abs(np.linalg.eigvalsh(flat)).max() + 1) * np.eye(n * size)
    at = np.arange(n)
    off = np.zeros((blocks.n_entries, size, size))
    off[:] = dense[blocks.order.neighbour, :, blocks.order.owner]
    return blocks, dense[at, :, at], off, flat


@pytest.fixture
def problem(rng):
    return _problem(rng)


def test_determinant_and_solution_are_those_of_the_dense_matrix(problem, rng):
    blocks, diagonal, off, dense = problem
    factor = blocks.factor(diagonal, off)
    assert factor.log_determinant == pytest.approx(np.linalg.slogdet(dense)[1])
    right = rng.normal(size=diagonal.shape[:2])
    expected = np.linalg.solve(dense, right.ravel()).reshape(right.shape)
    np.testing.assert_allclose(blocks.solve(factor, right), expected, rtol=1e-10, atol=1e-12)
    several = np.stack([right, 2 * right], axis=-1)
    found = blocks.solve(factor, several)
    np.testing.assert_allclose(found[..., 1], 2 * expected, rtol=1e-10, atol=1e-12)


def test_the_matrix_comes_back_from_its_factor(problem):
    blocks, diagonal, off, _ = problem
    found = blocks.precision(blocks.factor(diagonal, off))
    np.testing.assert_allclose(found[0], diagonal, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[1], off, rtol=1e-9, atol=1e-9)


def test_products_are_those_of_the_dense_matrix(problem, rng):
    blocks, diagonal, off, dense = problem
    x = rng.normal(size=diagonal.shape[:2])
    expected = (dense @ x.ravel()).reshape(x.shape)
    np.testing.assert_allclose(blocks.multiply(diagonal, off, x), expected, rtol=1e-9, atol=1e-9)


def test_pairs_of_the_pattern_are_told_from_others(problem):
    order = problem[0].order
    assert order.joins(order.neighbour, order.owner).all()
    assert order.joins(order.owner, order.neighbour).all()
    n = order.n_nodes
    pairs = {*zip(order.owner.tolist(), order.neighbour.tolist(), strict=True)}
    others = [(i, j) for i in range(n) for j in range(i) if not {(i, j), (j, i)} & pairs]
    assert not order.joins(*np.array(others).T).any()


def test_the_selected_inverse_is_that_of_the_dense_matrix(problem):
    blocks, diagonal, off, dense = problem
    variance, covariance = blocks.selected_inverse(blocks.factor(diagonal, off))
    n, size = diagonal.shape[:2]
    inverse = np.linalg.inv(dense).reshape(n, size, n, size)
    at = np.arange(n)
    np.testing.assert_allclose(variance, inverse[at, :, at], rtol=1e-9, atol=1e-12)
    expected = inverse[blocks.order.neighbour, :, blocks.order.owner]
    np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)


def test_joint_covariances_of_some_nodes_are_those_of_the_dense_inverse(problem, rng):
    blocks, diagonal, off, dense = problem
    n, size = diagonal.shape[:2]
    inverse = np.linalg.inv(dense).reshape(n, size, n, size)
    factor = blocks.factor(diagonal, off)
    for nodes in (np.arange(n), rng.permutation(n), rng.permutation(n)[:7], np.array([4])):
        found = blocks.joint_covariance(factor, nodes)
        expected = inverse[nodes][:, :, nodes]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_colouring_noise_gives_the_covariance_of_the_matrix(problem):
    blocks, diagonal, off, dense = problem
    n, size = diagonal.shape[:2]
    # The linear map itself, from unit vectors: C C' is the covariance, without Monte Carlo error.
    unit = np.eye(n * size).reshape(n, size, n * size)
    map_ = blocks.color(blocks.factor(diagonal, off), unit).reshape(n * size, n * size)
    np.testing.assert_allclose(map_ @ map_.T, np.linalg.inv(dense), rtol=1e-9, atol=1e-12)


def test_blocks_are_located_with_their_orientation(problem):
    blocks, _, off, dense = problem
    n, size = blocks.n_nodes, off.shape[-1]
    whole = dense.reshape(n, size, n, size)
    order = blocks.order
    rows = np.concatenate([order.owner, order.neighbour])
    cols = np.concatenate([order.neighbour, order.owner])
    entry, transposed = blocks.located(rows, cols)
    found = np.where(transposed[:, None, None], off[entry].mT, off[entry])
    np.testing.assert_array_equal(found, whole[rows, :, cols])


def test_isolated_nodes_and_single_precision(rng):
    blocks = block_elimination(4, np.array([0]), np.array([1]))
    root = rng.normal(size=(4, 2, 2))
    diagonal = (root @ root.mT + 2 * np.eye(2)).astype(np.float32)
    off = np.zeros((1, 2, 2), np.float32)
    factor = blocks.factor(diagonal, off)
    assert factor.root.dtype == np.float32
    variance, _ = blocks.selected_inverse(factor)
    np.testing.assert_allclose(variance, np.linalg.inv(diagonal), rtol=1e-4)
    assert blocks.color(factor, np.ones((4, 2, 5), np.float32)).dtype == np.float32
    joint = blocks.joint_covariance(factor, np.array([3, 2]))
    np.testing.assert_allclose(joint[[0, 1], :, [0, 1]], variance[[3, 2]], rtol=1e-6)
    assert not joint[0, :, 1].any()
