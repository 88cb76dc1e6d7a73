"""Sparse factors against dense Cholesky factors, determinants and inverses."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from bayes_lrmf.elimination import eliminate


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def random_forest(n, seed):
    rng = np.random.default_rng(seed)
    return n, [(i, int(rng.integers(i))) for i in range(1, n) if rng.uniform() < 0.85]


def random_dag(n, seed):
    rng = np.random.default_rng(seed)
    edges = []
    for child in range(1, n):
        parents = rng.choice(child, min(child, int(rng.choice(4, p=[0.1, 0.5, 0.3, 0.1]))), False)
        edges += [(child, int(p)) for p in parents]
    return n, edges


GRAPHS = {
    "single node": (1, []),
    "no edges": (5, []),
    "pair": (2, [(1, 0)]),
    "isolated nodes": (7, [(1, 4), (4, 6), (6, 1)]),
    "repeated edges": (4, [(0, 1), (1, 0), (0, 1), (2, 3), (2, 3)]),
    "chain": (12, [(i, i + 1) for i in range(11)]),
    "star": (9, [(8, i) for i in range(8)]),
    "cycle": (9, [(i, (i + 1) % 9) for i in range(9)]),
    "complete": (6, list(itertools.combinations(range(6), 2))),
    "bipartite": (8, list(itertools.product(range(3), range(3, 8)))),
    "grid": (
        20,
        [(i, i + 1) for i in range(20) if i % 5 < 4] + [(i, i + 5) for i in range(15)],
    ),
    **{f"forest {s}": random_forest(24, s) for s in range(3)},
    **{f"merges {s}": random_dag(14, s) for s in range(3)},
}


@pytest.fixture(params=GRAPHS)
def graph(request):
    return GRAPHS[request.param]


def problem(graph, seed=0):
    """Return the elimination of a graph and a random dense SPD matrix with its pattern."""
    n, edges = graph
    rng = np.random.default_rng(seed)
    rows, cols = np.array(edges, dtype=int).reshape(-1, 2).T
    matrix = np.zeros((n, n))
    for i, j in edges:
        matrix[i, j] = matrix[j, i] = rng.uniform(0.2, 2) * rng.choice([-1, 1])
    matrix += np.diag(np.abs(matrix).sum(1) + rng.uniform(0.1, 2, n))
    return eliminate(n, rows, cols), matrix, rows, cols


def entries(elimination, matrix, rows, cols):
    off = np.zeros(elimination.n_entries)
    off[elimination.entry_of(rows, cols)] = matrix[rows, cols]
    return matrix.diagonal().copy(), off


def order_of(elimination):
    return np.concatenate([r.nodes for r in elimination.rounds])


def dense_lower(elimination, lower):
    dense = np.eye(elimination.n_nodes)
    dense[elimination.neighbour, elimination.owner] = lower
    return dense


def check_against_dense(graph, library):
    elimination, matrix, rows, cols = problem(graph)
    diagonal, off = entries(elimination, matrix, rows, cols)
    right = np.random.default_rng(1).normal(size=len(matrix))

    def everything(diagonal, off, right):
        factor = elimination.factor(diagonal, off)
        x = elimination.solve_upper(factor, right)
        product = elimination.multiply_upper(factor, right)
        return factor, x, product, *elimination.selected_inverse(factor)

    run = everything if library is np else jax.jit(everything)
    factor, x, product, variance, covariance = run(diagonal, off, right)
    lower = dense_lower(elimination, factor.lower)
    np.testing.assert_allclose(lower * np.asarray(factor.diagonal) @ lower.T, matrix, atol=1e-11)

    order = order_of(elimination)
    cholesky = np.linalg.cholesky(matrix[np.ix_(order, order)])
    np.testing.assert_allclose(np.asarray(factor.diagonal)[order], cholesky.diagonal() ** 2)
    ordered = lower[np.ix_(order, order)] * cholesky.diagonal()
    np.testing.assert_allclose(ordered, cholesky, atol=1e-12)
    sign, log_determinant = np.linalg.slogdet(matrix)
    assert sign == 1
    assert np.log(factor.diagonal).sum() == pytest.approx(log_determinant, abs=1e-11)

    expected = np.empty(len(matrix))
    expected[order] = scipy.linalg.solve_triangular(cholesky.T, right[order])
    np.testing.assert_allclose(x, expected, atol=1e-11)
    np.testing.assert_allclose(np.asarray(product)[order], cholesky.T @ right[order], atol=1e-11)

    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(variance, inverse.diagonal(), atol=1e-12)
    owner, neighbour = elimination.owner, elimination.neighbour
    np.testing.assert_allclose(covariance, inverse[owner, neighbour], atol=1e-12)
    for result in (*factor, x, product, variance, covariance):
        assert isinstance(result, np.ndarray if library is np else jax.Array)


def test_everything_equals_dense_algebra(graph):
    check_against_dense(graph, np)


@pytest.mark.parametrize(
    "name", ["single node", "no edges", "isolated nodes", "repeated edges", "complete", "merges 0"]
)
def test_everything_equals_dense_algebra_in_jax(name):
    check_against_dense(GRAPHS[name], jnp)


@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(
                st.tuples(st.integers(0, n - 1), st.integers(1, n - 1)).map(
                    lambda pair: (pair[0], (pair[0] + pair[1]) % n)
                ),
                max_size=3 * n,
            ),
        )
    )
)
def test_any_graph_equals_dense_algebra(graph):
    assert all(i != j < graph[0] for i, j in graph[1])
    check_against_dense(graph, np)


def test_pattern_is_that_of_the_cholesky_factor_and_no_larger(graph):
    elimination, matrix, _, _ = problem(graph)
    order = order_of(elimination)
    assert sorted(order) == list(range(len(matrix)))
    # Random values leave no zero where there is fill, and the dense algorithm none where not.
    cholesky = np.linalg.cholesky(matrix[np.ix_(order, order)])
    assert elimination.n_entries == np.count_nonzero(np.tril(cholesky, -1))


def test_nodes_of_a_round_are_independent_of_each_other(graph):
    elimination, _, _, _ = problem(graph)
    at = np.empty(elimination.n_nodes, int)
    for number, r in enumerate(elimination.rounds):
        at[r.nodes] = number
    assert (at[elimination.owner] < at[elimination.neighbour]).all()


def test_entries_are_found_in_either_direction_and_any_order(graph):
    elimination, _, _, _ = problem(graph)
    shuffled = np.random.default_rng(2).permutation(elimination.n_entries)
    owner, neighbour = elimination.owner[shuffled], elimination.neighbour[shuffled]
    np.testing.assert_array_equal(elimination.entry_of(owner, neighbour), shuffled)
    np.testing.assert_array_equal(elimination.entry_of(neighbour, owner), shuffled)


def test_arrays_given_are_left_alone(graph):
    elimination, matrix, rows, cols = problem(graph)
    diagonal, off = entries(elimination, matrix, rows, cols)
    right = np.ones(len(matrix))
    given_ = [x.copy() for x in (diagonal, off, right)]
    factor = elimination.factor(diagonal, off)
    kept = [x.copy() for x in factor]
    elimination.solve_upper(factor, right)
    elimination.multiply_upper(factor, right)
    elimination.selected_inverse(factor)
    for before, after in zip([*given_, *kept], [diagonal, off, right, *factor], strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", ["merges 0", "no edges"])
def test_batches_of_diagonals_share_entries(name, library):
    elimination, matrix, rows, cols = problem(GRAPHS[name])
    diagonal, off = entries(elimination, matrix, rows, cols)
    extra = np.random.default_rng(3).uniform(0, 3, size=(3, 2))
    right = np.random.default_rng(4).normal(size=(4, 3, 2, len(matrix)))

    def everything(diagonal, off, right):
        factor = elimination.factor(diagonal, off)
        x = elimination.solve_upper(factor, right)
        return x, elimination.multiply_upper(factor, x), *elimination.selected_inverse(factor)

    run = everything if library is np else jax.jit(everything)
    x, back, variance, covariance = run(diagonal + extra[..., None], off, right)
    assert x.shape == right.shape
    assert covariance.shape == (3, 2, elimination.n_entries)
    np.testing.assert_allclose(back, right, atol=1e-11)
    for i, j in itertools.product(range(3), range(2)):
        shifted = matrix + extra[i, j] * np.eye(len(matrix))
        inverse = np.linalg.inv(shifted)
        np.testing.assert_allclose(variance[i, j], inverse.diagonal(), atol=1e-12)
        np.testing.assert_allclose(
            covariance[i, j], inverse[elimination.owner, elimination.neighbour], atol=1e-12
        )
        draws = np.asarray(x)[:, i, j]
        np.testing.assert_allclose(
            ((draws @ shifted) * draws).sum(-1), (right[:, i, j] ** 2).sum(-1), rtol=1e-10
        )


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
def test_batches_of_entries_share_a_diagonal(library):
    elimination, matrix, rows, cols = problem(GRAPHS["cycle"])
    diagonal, off = entries(elimination, matrix, rows, cols)
    shares = np.array([0.0, 0.5, 1.0])

    def everything(diagonal, off):
        factor = elimination.factor(diagonal, off)
        return factor.diagonal, elimination.selected_inverse(factor)[0]

    run = everything if library is np else jax.jit(everything)
    pivots, variance = run(diagonal, shares[:, None] * off)
    for i, share in enumerate(shares):
        mixed = share * matrix + (1 - share) * np.diag(diagonal)
        assert np.log(pivots[i]).sum() == pytest.approx(np.linalg.slogdet(mixed)[1])
        np.testing.assert_allclose(variance[i], np.linalg.inv(mixed).diagonal(), atol=1e-12)


@pytest.mark.parametrize("name", ["merges 1", "repeated edges", "single node"])
def test_gradient_of_the_log_determinant_is_the_inverse(name):
    elimination, matrix, rows, cols = problem(GRAPHS[name])

    def log_determinant(diagonal, off):
        return jnp.log(elimination.factor(diagonal, off).diagonal).sum()

    diagonal, off = (jnp.asarray(x) for x in entries(elimination, matrix, rows, cols))
    by_diagonal, by_entry = jax.jit(jax.grad(log_determinant, argnums=(0, 1)))(diagonal, off)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(by_diagonal, inverse.diagonal(), atol=1e-12)
    # An entry stands on both sides of the diagonal.
    expected = 2 * inverse[elimination.owner, elimination.neighbour]
    np.testing.assert_allclose(by_entry, expected, atol=1e-12)


def test_single_precision_stays_single():
    elimination, matrix, rows, cols = problem(GRAPHS["forest 0"])
    diagonal, off = (jnp.asarray(x, "float32") for x in entries(elimination, matrix, rows, cols))

    @jax.jit
    def everything(diagonal, off, right):
        factor = elimination.factor(diagonal, off)
        x = elimination.solve_upper(factor, right)
        return *factor, x, *elimination.selected_inverse(factor)

    *others, variance, covariance = everything(diagonal, off, jnp.ones(len(matrix), "float32"))
    assert {a.dtype for a in (*others, variance, covariance)} == {np.dtype("float32")}
    np.testing.assert_allclose(variance, np.linalg.inv(matrix).diagonal(), rtol=1e-5)


def test_long_chain_takes_logarithmically_many_rounds():
    n = 20_000
    rows = np.arange(n - 1)
    elimination = eliminate(n, rows, rows + 1)
    assert len(elimination.rounds) <= math.log2(n) + 2
    assert elimination.n_entries <= 2 * n
    off = np.zeros(elimination.n_entries)
    off[elimination.entry_of(rows, rows + 1)] = -1.0
    factor = elimination.factor(np.full(n, 2.5), off)
    banded = np.vstack([np.full(n, 2.5), np.full(n, -1.0)])
    cholesky = scipy.linalg.cholesky_banded(banded, lower=True)
    assert np.log(factor.diagonal).sum() == pytest.approx(2 * np.log(cholesky[0]).sum(), rel=1e-12)
    # Far from the ends the inverse of the Toeplitz matrix is r^|i - j| / (1/r - r), r = 1/2.
    variance, _ = elimination.selected_inverse(factor)
    np.testing.assert_allclose(variance[100:-100], 1 / 1.5, rtol=1e-12)


def test_large_star_takes_two_rounds_whichever_node_is_its_centre():
    n, centre = 20_000, 7_777
    leaves = np.delete(np.arange(n), centre)
    elimination = eliminate(n, leaves, np.full(n - 1, centre))
    assert [len(r.nodes) for r in elimination.rounds] == [n - 1, 1]
    assert elimination.n_entries == n - 1
    factor = elimination.factor(np.where(np.arange(n) == centre, n, 2.0), np.full(n - 1, -1.0))
    # The Schur complement of the leaves is n - (n - 1) / 2.
    expected = (n - 1) * np.log(2) + np.log((n + 1) / 2)
    assert np.log(factor.diagonal).sum() == pytest.approx(expected, rel=1e-12)


def test_leaves_go_before_their_parents_so_that_nothing_fills():
    parents = np.arange(50)
    rows, cols = np.tile(parents, 2), np.concatenate([50 + parents, 100 + parents])
    assert eliminate(150, rows, cols).n_entries == len(rows)


def test_large_random_forest_has_little_fill_and_few_rounds():
    # Most fill is among the highest numbers, whose pairs outnumber what 32 bits count.
    n, edges = random_forest(50_000, 5)
    rows, cols = n - 1 - np.array(edges).T
    elimination = eliminate(n, rows, cols)
    assert len(elimination.rounds) <= 3 * math.log2(n)
    assert len(edges) <= elimination.n_entries <= 2 * len(edges)
    off = np.zeros(elimination.n_entries)
    off[elimination.entry_of(rows, cols)] = -1.0
    diagonal = np.bincount([*rows, *cols], minlength=n) + 0.3
    factor = elimination.factor(diagonal, off)
    sparse = sp.csc_array(
        sp.diags_array(diagonal)
        - sp.coo_array((np.ones(2 * len(rows)), ([*rows, *cols], [*cols, *rows])), shape=(n, n))
    )
    lu = sp.linalg.splu(sparse)
    expected = np.log(np.abs(lu.U.diagonal())).sum()
    assert np.log(factor.diagonal).sum() == pytest.approx(expected, rel=1e-12)
    right = np.random.default_rng(0).normal(size=n)
    x = elimination.solve_upper(factor, right)
    assert x @ (sparse @ x) == pytest.approx(right @ right, rel=1e-12)


@pytest.mark.parametrize("library", [np, jnp], ids=["numpy", "jax"])
def test_solutions_equal_those_of_the_dense_matrix(library):
    elimination, matrix, rows, cols = problem(GRAPHS["merges 0"])
    diagonal, off = entries(elimination, matrix, rows, cols)
    right = np.random.default_rng(5).normal(size=(2, 3, len(matrix)))
    given_ = right.copy()

    def solution(diagonal, off, right):
        return elimination.solve(elimination.factor(diagonal, off), right)

    found = (solution if library is np else jax.jit(solution))(diagonal, off, right)
    np.testing.assert_allclose(found, right @ np.linalg.inv(matrix), atol=1e-11)
    np.testing.assert_array_equal(right, given_)


@pytest.mark.parametrize("max_degree", [-1, 0, 1, 2, 3])
def test_what_is_kept_has_the_schur_complement(graph, max_degree):
    _, matrix, rows, cols = problem(graph)
    n = len(matrix)
    order = eliminate(n, rows, cols, max_degree=max_degree)
    gone = np.setdiff1d(np.arange(n), order.kept)
    assert sorted([*order.kept, *(j for r in order.rounds for j in r.nodes)]) == list(range(n))
    diagonal, off = order.reduce(*entries(order, matrix, rows, cols))
    dense = np.zeros((n, n))
    dense[order.neighbour, order.owner] = dense[order.owner, order.neighbour] = off
    dense[np.arange(n), np.arange(n)] = diagonal
    schur = matrix[np.ix_(order.kept, order.kept)]
    if len(gone):
        across = matrix[np.ix_(order.kept, gone)]
        schur = schur - across @ np.linalg.inv(matrix[np.ix_(gone, gone)]) @ across.T
    np.testing.assert_allclose(dense[np.ix_(order.kept, order.kept)], schur, atol=1e-11)
    if len(order.kept):
        assert (np.count_nonzero(np.abs(schur) > 1e-13, axis=0) - 1).min() > max_degree


def minimum_degree(n, edges):
    """Return the rounds of the greedy rule, with sets and one node at a time."""
    adjacent = [set() for _ in range(n)]
    for i, j in edges:
        adjacent[i].add(j)
        adjacent[j].add(i)
    active, rounds = set(range(n)), []
    while active:
        limit = max(2, min(len(adjacent[j]) for j in active))
        blocked, taken = set(), []
        for j in sorted(active, key=lambda j: (len(adjacent[j]), j)):
            if len(adjacent[j]) <= limit and j not in blocked:
                blocked |= adjacent[j]
                taken.append(j)
        active -= set(taken)
        for j in taken:
            for i in adjacent[j]:
                adjacent[i] |= adjacent[j] - {i}
                adjacent[i].discard(j)
        rounds.append(taken)
    return rounds


@pytest.mark.parametrize(
    "large", [random_forest(2_000, 3), random_dag(300, 4), (500, [(i, i + 1) for i in range(499)])]
)
def test_the_order_is_that_of_the_greedy_rule(large):
    # Files of fits hold factors in this order.
    n, edges = large
    rows, cols = np.array(edges).T
    found = [r.nodes.tolist() for r in eliminate(n, rows, cols).rounds]
    assert found == minimum_degree(n, edges)
