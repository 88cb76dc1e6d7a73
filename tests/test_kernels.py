"""Log-likelihoods and their gradients against SciPy's distributions, cell by cell."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy import special

from bayes_lrmf import kernels
from bayes_lrmf.kernels import BinaryTable, CountTable, SparseTable, beta_binomial, log_gamma

N_MODELS, N_ITEMS, RANK = 9, 7, 3


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def factors(rng):
    return rng.normal(size=(RANK, N_MODELS)), rng.normal(size=(RANK, N_ITEMS))


@pytest.fixture
def binary(rng):
    """Return 0/1 responses with missing cells, a missing model and a missing item."""
    values = rng.choice(np.array([-1, 0, 1], np.int8), size=(N_MODELS, N_ITEMS))
    values[4], values[:, 2] = -1, -1
    return values


@pytest.fixture
def counts(rng):
    """Return successes and trials that differ by cell, some of them zero."""
    trials = rng.choice([0, 1, 5, 40, 1000], size=(N_MODELS, N_ITEMS)).astype(float)
    trials[3], trials[:, 5] = 0, 0
    return rng.binomial(trials.astype(int), 0.4).astype(float), trials


@pytest.fixture
def concentration(rng):
    return np.exp(rng.normal(2, 2, size=N_ITEMS))


def sparse_of(successes, trials):
    rows, cols = np.nonzero(trials)
    return SparseTable.from_cells(rows, cols, successes[rows, cols], trials[rows, cols])


def value_and_gradients(table, rows, cols, concentration):
    """Return the total, then slopes along rows, cols and, where it matters, concentration."""
    given = [jnp.asarray(x) for x in (rows, cols)]
    if concentration is not None:
        given.append(jnp.asarray(concentration))

    def total(*given):
        over = given[2] if len(given) > 2 else None
        return table.log_likelihood(given[0], given[1], over)

    value, slopes = jax.jit(jax.value_and_grad(total, argnums=tuple(range(len(given)))))(*given)
    if isinstance(table, BinaryTable):
        # Its total has a way of its own when no gradient is wanted.
        assert float(jax.jit(total)(*given)) == pytest.approx(float(value), rel=1e-12)
    return value, *slopes


def log_binomial_coefficient(k, n):
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)


def expected_bernoulli(values, rows, cols):
    p = special.expit(rows.T @ cols)
    seen = values >= 0
    cells = np.where(seen, scipy.stats.bernoulli.logpmf(np.maximum(values, 0), p), 0)
    residual = np.where(seen, values - p, 0)
    return cells, cols @ residual.T, rows @ residual


def expected_binomial(k, n, rows, cols):
    p = special.expit(rows.T @ cols)
    cells = scipy.stats.binom.logpmf(k, n, p) - log_binomial_coefficient(k, n)
    residual = k - n * p
    return cells, cols @ residual.T, rows @ residual


def expected_beta_binomial(k, n, rows, cols, concentration):
    p = special.expit(rows.T @ cols)
    a, b = concentration * p, concentration * (1 - p)
    cells = scipy.stats.betabinom.logpmf(k, n, a, b) - log_binomial_coefficient(k, n)
    digamma = special.digamma
    shared = digamma(concentration) - digamma(n + concentration)
    by_a = digamma(k + a) - digamma(a)
    by_b = digamma(n - k + b) - digamma(b)
    residual = concentration * p * (1 - p) * (by_a - by_b)
    by_concentration = (p * by_a + (1 - p) * by_b + shared).sum(0)
    return cells, cols @ residual.T, rows @ residual, by_concentration


def check(ours, expected, rtol=1e-8):
    assert float(ours[0]) == pytest.approx(expected[0].sum(), rel=rtol)
    for a, b in zip(ours[1:], expected[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_binary_table(binary, factors):
    ours = value_and_gradients(BinaryTable(binary), *factors, None)
    check(ours, expected_bernoulli(binary, *factors), rtol=1e-12)


@pytest.mark.parametrize("kind", [CountTable, sparse_of], ids=["dense", "sparse"])
def test_binomial_table(kind, counts, factors):
    ours = value_and_gradients(kind(*counts), *factors, None)
    check(ours, expected_binomial(*counts, *factors), rtol=1e-10)


@pytest.mark.parametrize("kind", [CountTable, sparse_of], ids=["dense", "sparse"])
def test_beta_binomial_table(kind, counts, factors, concentration):
    ours = value_and_gradients(kind(*counts), *factors, concentration)
    check(ours, expected_beta_binomial(*counts, *factors, concentration))


@pytest.mark.parametrize("over", [True, False])
def test_single_trials_are_bernoulli_under_any_likelihood(over, binary, factors, concentration):
    seen = (binary >= 0).astype(float)
    table = sparse_of(np.maximum(binary, 0).astype(float), seen)
    ours = value_and_gradients(table, *factors, concentration if over else None)
    check(ours[:3], expected_bernoulli(binary, *factors))
    if over:
        np.testing.assert_allclose(ours[3], 0, atol=1e-7)


def test_fractions_of_a_trial_are_cross_entropy(rng, factors):
    share = rng.uniform(size=(N_MODELS, N_ITEMS)).astype("float32").astype(float)
    ours = value_and_gradients(sparse_of(share, np.ones_like(share)), *factors, None)
    p = special.expit(factors[0].T @ factors[1])
    cells = share * np.log(p) + (1 - share) * np.log(1 - p)
    residual = share - p
    check(ours, (cells, factors[1] @ residual.T, factors[0] @ residual), rtol=1e-10)


@pytest.mark.parametrize("block_cells", [1, 2 * N_ITEMS, 3 * N_ITEMS, 500])
@pytest.mark.parametrize("wide", [False, True])
def test_binary_blocks_change_nothing(monkeypatch, block_cells, wide, binary, factors):
    monkeypatch.setattr(kernels, "_BLOCK_CELLS", block_cells)
    if wide:
        binary, factors = np.ascontiguousarray(binary.T), factors[::-1]
    ours = value_and_gradients(BinaryTable(binary), *factors, None)
    check(ours, expected_bernoulli(binary, *factors), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_single_trials_far_from_certainty_and_beyond(dtype):
    """Runs of more cells than one logarithm takes, log-odds up to 80 either way."""
    psi = np.linspace(-80, 80, 101)
    outcome = np.tile(np.array([1, 0, -1], np.int8), 34)[:101]
    rows, cols = jnp.asarray(psi[None], dtype), jnp.ones((1, 1), dtype)
    value, by_row, _ = value_and_gradients(BinaryTable(outcome[:, None]), rows, cols, None)
    side = 2.0 * outcome - 1
    expected = np.where(outcome >= 0, special.log_expit(side * psi), 0)
    rtol = 1e-6 if dtype == "float32" else 1e-13
    assert float(value) == pytest.approx(expected.sum(), rel=rtol)
    slope = np.where(outcome >= 0, side * special.expit(-side * psi), 0)
    np.testing.assert_allclose(by_row[0], slope, atol=rtol)


@pytest.mark.parametrize("block_cells", [4, 20])
def test_sparse_blocks_change_nothing(monkeypatch, block_cells, counts, factors, concentration):
    monkeypatch.setattr(kernels, "_SPARSE_BLOCK", block_cells)
    table = sparse_of(*counts)
    n_cells = np.count_nonzero(counts[1])
    assert table.rows.shape == (-(-n_cells // block_cells), block_cells)
    ours = value_and_gradients(table, *factors, concentration)
    check(ours, expected_beta_binomial(*counts, *factors, concentration))


def test_sparse_table_holds_every_cell_once(monkeypatch, counts):
    monkeypatch.setattr(kernels, "_SPARSE_BLOCK", 12)
    table = sparse_of(*counts)
    real = table.trials > 0
    back = np.zeros((2, N_MODELS, N_ITEMS))
    np.add.at(back[0], (table.rows[real], table.cols[real]), table.successes[real])
    np.add.at(back[1], (table.rows[real], table.cols[real]), table.trials[real])
    np.testing.assert_array_equal(back, counts)
    assert not table.successes[~real].any()


def test_blocks_of_sorted_cells_are_alike(monkeypatch):
    monkeypatch.setattr(kernels, "_SPARSE_BLOCK", 400)
    rows, ones = np.arange(4000), np.ones(4000)
    table = SparseTable.from_cells(rows, rows % 7, ones, ones)
    # Rows are uniform: the mean of a block of 400 has a standard error of 1,155 / sqrt(400).
    np.testing.assert_allclose(table.rows.mean(1), 2000, atol=5 * 58)


def test_table_without_cells_says_nothing(factors):
    none = np.zeros(0)
    empty = SparseTable.from_cells(none, none, none, none)
    assert float(empty.log_likelihood(*map(jnp.asarray, factors), jnp.ones(N_ITEMS))) == 0.0


def distinct_estimates(table, factors, concentration, n_batches):
    keys = jax.random.split(jax.random.key(0), 600)
    one = jax.jit(lambda key, r, c: table.estimate(key, r, c, concentration, n_batches))
    estimates = np.array([one(key, *map(jnp.asarray, factors)) for key in keys])
    return np.unique(np.round(estimates, 8), return_counts=True)


def test_binary_estimate_is_unbiased(binary, factors):
    by_item = expected_bernoulli(binary, *factors)[0].sum(0)
    values, times = distinct_estimates(BinaryTable(binary), factors, None, 3)
    pairs = [N_ITEMS / 2 * sum(pair) for pair in itertools.combinations(by_item, 2)]
    np.testing.assert_allclose(values, np.sort(pairs), atol=1e-7)
    assert np.mean(pairs) == pytest.approx(by_item.sum(), rel=1e-12)
    assert scipy.stats.chisquare(times).pvalue > 1e-3


def test_sparse_estimate_is_unbiased(monkeypatch, counts, factors, concentration):
    monkeypatch.setattr(kernels, "_SPARSE_BLOCK", 8)
    cells = expected_beta_binomial(*counts, *factors, concentration)[0]
    values, times = distinct_estimates(sparse_of(*counts), factors, jnp.asarray(concentration), 3)
    assert len(values) == -(-np.count_nonzero(counts[1]) // 8)
    assert np.mean(values) == pytest.approx(cells.sum(), rel=1e-7)
    assert scipy.stats.chisquare(times).pvalue > 1e-3


def test_gradients_of_estimates_average_to_the_gradient(binary, factors):
    table = BinaryTable(binary)

    def estimate(key, rows, cols):
        return table.estimate(key, rows, cols, None, 3)

    slope = jax.vmap(jax.grad(estimate, argnums=(1, 2)), in_axes=(0, None, None))
    keys = jax.random.split(jax.random.key(1), 5000)
    slopes = jax.jit(slope)(keys, *map(jnp.asarray, factors))
    for ours, expected in zip(slopes, expected_bernoulli(binary, *factors)[1:], strict=True):
        error = np.std(np.asarray(ours), 0) / np.sqrt(len(keys))
        assert (np.abs(np.mean(ours, 0) - expected) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("n_batches", [1, 100])
def test_estimate_from_everything_or_from_one_item(n_batches, binary, factors, key):
    by_item = expected_bernoulli(binary, *factors)[0].sum(0)
    estimate = BinaryTable(binary).estimate(key, *map(jnp.asarray, factors), None, n_batches)
    possible = by_item.sum() if n_batches == 1 else N_ITEMS * by_item
    assert np.abs(float(estimate) - possible).min() < 1e-10


def test_counts_are_never_sampled(counts, factors, concentration, key):
    table, over = CountTable(*counts), jnp.asarray(concentration)
    estimate = jax.jit(lambda k, r, c: table.estimate(k, r, c, over, 5))(key, *factors)
    expected = expected_beta_binomial(*counts, *factors, concentration)[0].sum()
    assert float(estimate) == pytest.approx(expected, rel=1e-9)


def test_single_precision(binary, factors):
    given = [jnp.asarray(f, "float32") for f in factors]
    expected = expected_bernoulli(binary, *factors)
    ours = value_and_gradients(BinaryTable(binary), *given, None)
    # The total is kept in the widest float at hand, gradients in that of the factors.
    assert [x.dtype for x in ours] == ["float64", "float32", "float32"]
    check(ours, expected, rtol=1e-5)
    with jax.enable_x64(False):
        ours = value_and_gradients(BinaryTable(binary), *given, None)
    assert {x.dtype for x in ours} == {np.dtype("float32")}
    check(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [40.0, 800.0, 1e30])
def test_saturated_binary_cells_cost_their_logit(size):
    rows, cols = jnp.array([[size, -size]]), jnp.array([[1.0, -1.0, 1.0]])
    table = BinaryTable(np.array([[1, 1, -1], [1, 0, -1]], np.int8))
    value, by_rows, by_cols = value_and_gradients(table, rows, cols, None)
    # Cells: right, wrong, unseen; wrong, wrong, unseen.
    assert float(value) == pytest.approx(-3 * size, rel=1e-12)
    np.testing.assert_allclose(by_rows, [[-1, 2]], atol=1e-15)
    np.testing.assert_allclose(by_cols, [[-size, 2 * size, 0]], rtol=1e-12)


@pytest.mark.parametrize("trials", [1.0, 30.0, 1e4])
def test_beta_binomial_at_far_logits_and_extreme_concentrations(trials):
    psi, share, concentration = np.meshgrid(
        [-30, -12, -3, 0, 3, 12, 30], [0, 0.25, 1], [0.05, 1, 50, 1e4]
    )
    k = np.round(share * trials)
    a, b = concentration * special.expit(psi), concentration * special.expit(-psi)
    expected = special.betaln(k + a, trials - k + b) - special.betaln(a, b)
    ours = jax.jit(beta_binomial)(psi, k, trials, concentration)
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)


def test_beta_binomial_of_no_trials_is_zero_and_flat():
    psi = jnp.linspace(-50, 50, 21)[:, None] + jnp.zeros(4)
    concentration = jnp.array([0.01, 1.0, 100.0, 1e5]) + jnp.zeros((21, 1))
    none = jnp.zeros(psi.shape)

    @jax.jit
    def everything(psi, none, concentration):
        value = beta_binomial(psi, none, none, concentration)
        slopes = jax.grad(lambda p, c: beta_binomial(p, none, none, c).sum(), (0, 1))
        return value, *slopes(psi, concentration)

    for result in everything(psi, none, concentration):
        np.testing.assert_allclose(result, 0, atol=1e-15)


@pytest.mark.parametrize("concentration", [1e9, 1e12, 1e15])
def test_nothing_cancels_at_large_concentration(concentration):
    psi, k, trials = 0.3, 100.0, 250.0
    with jax.enable_x64(True):
        value, slope = jax.jit(jax.value_and_grad(beta_binomial))(psi, k, trials, concentration)
        binomial = k * psi - trials * np.log1p(np.exp(psi))
        np.testing.assert_allclose(value - binomial, 0, atol=1e4 / concentration + 1e-10)
        np.testing.assert_allclose(slope, k - trials * special.expit(psi), rtol=1e-6)


def test_beta_binomial_tends_to_the_binomial():
    psi, trials = np.linspace(-3, 3, 13), 60.0
    k = np.round(trials * special.expit(psi - 0.5))
    limit = scipy.stats.binom.logpmf(k, trials, special.expit(psi))
    limit = limit - log_binomial_coefficient(k, trials)
    compiled = jax.jit(beta_binomial)
    gaps = [
        np.abs(compiled(psi, k, trials, concentration) - limit).max()
        for concentration in (1e2, 1e4, 1e6)
    ]
    assert gaps[0] > 0.1
    # The gap falls as one over the concentration.
    assert gaps[1] < 0.03 * gaps[0]
    assert gaps[2] < 0.03 * gaps[1]


def test_log_gamma_and_its_derivatives():
    x = np.concatenate([np.geomspace(1e-3, 1e6, 4001), [1.0, 2.0, 1.4616321449683623]])
    np.testing.assert_allclose(jax.jit(log_gamma)(x), special.gammaln(x), rtol=1e-9, atol=1e-9)
    slope = jax.jit(jax.vmap(jax.grad(log_gamma)))
    np.testing.assert_allclose(slope(x), special.digamma(x), rtol=1e-8, atol=1e-8)
    curvature = jax.jit(jax.vmap(jax.grad(jax.grad(log_gamma))))
    np.testing.assert_allclose(curvature(x), special.polygamma(1, x), rtol=1e-6)
