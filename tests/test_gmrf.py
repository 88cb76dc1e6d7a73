"""The lineage field against dense normals, dense derivatives and closed forms."""

from __future__ import annotations

import itertools
import time

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.sparse as sp
import scipy.stats
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

from bayes_lrmf import gmrf
from bayes_lrmf.checks import InputError
from bayes_lrmf.gmrf import KAPPA_RANGE, LaplacianGraph, LineageGMRF


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def adjacency_of(n, edges, weights=None):
    matrix = np.zeros((n, n))
    for at, (i, j) in enumerate(edges):
        matrix[i, j] = matrix[j, i] = 1.0 if weights is None else weights[at]
    return matrix


def every_graph(n):
    pairs = list(itertools.combinations(range(n), 2))
    for chosen in itertools.product([False, True], repeat=len(pairs)):
        yield adjacency_of(n, list(itertools.compress(pairs, chosen)))


def random_graph(n, density, seed):
    rng = np.random.default_rng(seed)
    pairs = [p for p in itertools.combinations(range(n), 2) if rng.uniform() < density]
    return adjacency_of(n, pairs, rng.uniform(0.1, 3, len(pairs)))


RANDOM = {
    "tree-like": random_graph(12, 0.12, 0),
    "components": random_graph(11, 0.15, 1),
    "cycles": random_graph(10, 0.35, 2),
    "dense": random_graph(7, 0.9, 3),
}
CYCLES = adjacency_of(
    7, [(0, 1), (1, 2), (2, 3), (3, 0), (1, 3), (4, 5)], [0.5, 2.0, 1.0, 0.3, 1.4, 0.8]
)


def dense_precision(adjacency, tau, kappa, *, scaled=True):
    q = np.diag(adjacency.sum(1)) - adjacency + kappa * np.eye(len(adjacency))
    if scaled:
        q = q * np.exp(np.log(np.linalg.inv(q).diagonal()).mean())
    return tau * q


def normal_of(precision):
    return scipy.stats.multivariate_normal(np.zeros(len(precision)), np.linalg.inv(precision))


def log_probs(adjacency, values, tau, kappa):
    """Return log densities under the scaled and the plain field."""
    graph = LaplacianGraph(sp.csr_array(adjacency))
    return tuple(
        np.asarray(LineageGMRF(graph, tau=tau, kappa=kappa, scaled=scaled).log_prob(values))
        for scaled in (True, False)
    )


def check_log_probs(adjacency, tau, kappa, **tolerance):
    values = np.random.default_rng(len(adjacency)).normal(size=(5, len(adjacency)))
    for ours, scaled in zip(log_probs(adjacency, values, tau, kappa), (True, False), strict=True):
        expected = normal_of(dense_precision(adjacency, tau, kappa, scaled=scaled)).logpdf(values)
        np.testing.assert_allclose(ours, np.atleast_1d(expected), **tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_log_density_on_every_small_graph(n):
    for number, adjacency in enumerate(every_graph(n)):
        kappa = [0.03, 0.7, 5.0][number % 3]
        check_log_probs(adjacency, 0.3 + number % 4, kappa, rtol=1e-9, atol=1e-9)


@pytest.mark.ledger
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize(("tau", "kappa"), [(1.0, 0.1), (7.0, 2e-4), (0.05, 300.0)])
def test_log_density_on_weighted_graphs(name, tau, kappa, claim):
    values = np.random.default_rng(0).normal(size=(5, len(RANDOM[name])))
    both = log_probs(RANDOM[name], values, tau, kappa)
    for ours, scaled in zip(both, (True, False), strict=True):
        precision = dense_precision(RANDOM[name], tau, kappa, scaled=scaled)
        expected = normal_of(precision).logpdf(values)
        claim(
            "Laplacian field: log density, relative gap",
            "dense normal of SciPy, 12 weighted graphs",
            np.max(np.abs(ours - expected) / np.abs(expected)),
            1e-9,
        )


@pytest.mark.ledger
@pytest.mark.usefixtures("x64")
def test_log_density_on_a_large_graph_with_cycles(rng, claim):
    """Another implementation: Laplacian of networkx, sparse LU of SciPy."""
    graph = nx.barabasi_albert_graph(1500, 2, seed=1)
    for _, _, edge in graph.edges(data=True):
        edge["weight"] = rng.uniform(0.2, 2)
    q = sp.csc_array(nx.laplacian_matrix(graph)) + 0.05 * sp.eye_array(1500, format="csc")
    lu = sp.linalg.splu(sp.csc_matrix(q))
    log_det = np.log(np.abs(lu.U.diagonal())).sum() + np.log(np.abs(lu.L.diagonal())).sum()
    value = rng.normal(size=1500)
    expected = 0.5 * (log_det - 1500 * np.log(2 * np.pi) - value @ (q @ value))
    field = LineageGMRF(
        LaplacianGraph(sp.csr_array(nx.adjacency_matrix(graph))), kappa=0.05, scaled=False
    )
    claim(
        "Laplacian field: log density with cycles, relative gap",
        "networkx and sparse LU of SciPy, 1,500 nodes",
        abs(float(field.log_prob(value)) - expected) / abs(expected),
        1e-9,
    )


@pytest.mark.parametrize("name", RANDOM)
def test_log_density_in_single_precision(name):
    values = np.random.default_rng(0).normal(size=(3, len(RANDOM[name]))).astype("float32")
    ours, _ = log_probs(RANDOM[name], values, 2.0, 0.3)
    assert ours.dtype == np.float32
    expected = normal_of(dense_precision(RANDOM[name], 2.0, 0.3)).logpdf(values)
    np.testing.assert_allclose(ours, expected, rtol=2e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RANDOM)
def test_tables_over_the_whole_range_of_kappa(name):
    adjacency = RANDOM[name]
    kappas = np.geomspace(KAPPA_RANGE[0] * 1.001, KAPPA_RANGE[1] * 0.999, 301)
    graph = LaplacianGraph(adjacency)
    both = graph.log_determinant_and_scale(kappas)
    laplacian = np.diag(adjacency.sum(1)) - adjacency
    dense = laplacian + kappas[:, None, None] * np.eye(len(adjacency))
    np.testing.assert_allclose(both[0], np.linalg.slogdet(dense)[1], atol=1e-8)
    variances = np.linalg.inv(dense).diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(both[1], np.log(variances).mean(1), atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_kappa_outside_its_range_gives_nan_and_is_refused_when_checked():
    graph = LaplacianGraph(CYCLES)
    low, high = 1e-6, 1e4
    near = 1 + 5e-5
    kappas = np.array([low / near, low * near, high / near, high * near])
    for form in (np.asarray, jnp.asarray):
        for values in graph.log_determinant_and_scale(form(kappas)):
            np.testing.assert_array_equal(np.isnan(values), [True, False, False, True])
    log_prob = LineageGMRF(graph, kappa=kappas, validate_args=False).log_prob(
        np.ones(graph.n_nodes)
    )
    np.testing.assert_array_equal(np.isnan(log_prob), [True, False, False, True])
    for wrong in ({"kappa": high * 2}, {"kappa": low / 2}, {"tau": -1.0}):
        with pytest.raises(ValueError, match="invalid"):
            LineageGMRF(graph, **wrong, validate_args=True)


@pytest.mark.usefixtures("x64")
def test_a_field_of_a_graph_alone_is_scaled_and_shrinks_a_tenth(rng):
    value = rng.normal(size=len(CYCLES))
    expected = normal_of(dense_precision(CYCLES, 1.0, 0.1)).logpdf(value)
    assert float(LineageGMRF(LaplacianGraph(CYCLES)).log_prob(value)) == pytest.approx(expected)


@pytest.mark.usefixtures("x64")
def test_a_value_that_is_no_vector_of_numbers_is_told_of_when_checked():
    field = LineageGMRF(LaplacianGraph(CYCLES), validate_args=True)
    with pytest.warns(UserWarning, match="Out-of-support"):
        field.log_prob(np.full(len(CYCLES), np.nan))


def test_parts_are_put_together_unchecked_whatever_jax_makes_of_them():
    field = LineageGMRF(LaplacianGraph(CYCLES), tau=2.0, validate_args=True)
    assert float(jax.tree.map(lambda leaf: -leaf, field).tau) == -2


variance_of = jax.jit(lambda field: field.variance)


@pytest.mark.ledger
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "adjacency", [CYCLES, RANDOM["components"], np.zeros((1, 1)), np.zeros((4, 4))]
)
def test_variance_and_its_geometric_mean(adjacency, claim):
    graph = LaplacianGraph(adjacency)
    for kappa in (0.01, 50.0):
        for scaled in (True, False):
            field = LineageGMRF(graph, tau=4.0, kappa=kappa, scaled=scaled)
            q = dense_precision(adjacency, 4.0, kappa, scaled=scaled)
            variance = variance_of(field)
            claim(
                "Laplacian field: marginal variances, relative gap",
                "dense inverse",
                np.max(np.abs(variance / np.linalg.inv(q).diagonal() - 1)),
                1e-9,
            )
            if scaled:
                assert scipy.stats.gmean(variance) == pytest.approx(1 / 4, rel=1e-9)
            np.testing.assert_allclose(field.precision().toarray(), q, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(field.mean, np.zeros(len(adjacency)))


@pytest.mark.usefixtures("x64")
def test_isolated_nodes_have_variance_one_over_tau_scale_kappa():
    graph = LaplacianGraph(adjacency_of(5, [(1, 2), (2, 3)]))
    plain = LineageGMRF(graph, tau=3.0, kappa=0.2, scaled=False)
    np.testing.assert_allclose(plain.variance[np.array([0, 4])], 1 / (3 * 0.2), rtol=1e-12)


def dense_log_prob(adjacency, value, tau, kappa, *, scaled):
    n = len(adjacency)
    q = jnp.diag(adjacency.sum(1)) - adjacency + kappa * jnp.eye(n)
    if scaled:
        q = q * jnp.exp(jnp.log(jnp.linalg.inv(q).diagonal()).mean())
    q = tau * q
    quadratic = value @ q @ value
    return 0.5 * (jnp.linalg.slogdet(q)[1] - n * jnp.log(2 * jnp.pi) - quadratic)


@pytest.mark.ledger
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_equal_dense_ones(scaled, rng, claim):
    graph = LaplacianGraph(CYCLES)
    value = jnp.asarray(rng.normal(size=len(CYCLES)))

    def ours(value, tau, kappa):
        return LineageGMRF(graph, tau=tau, kappa=kappa, scaled=scaled).log_prob(value)

    def theirs(value, tau, kappa):
        return dense_log_prob(CYCLES, value, tau, kappa, scaled=scaled)

    slopes = [jax.jit(jax.grad(f, argnums=(0, 1, 2))) for f in (ours, theirs)]
    for tau, kappa in [(2.0, 0.3), (0.1, 1e-3)]:
        for a, b in zip(*(s(value, tau, kappa) for s in slopes), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)
            claim(
                "Laplacian field: gradients by value, tau and kappa, relative gap",
                "derivatives of a dense determinant",
                np.max(np.abs(a - b) / (1 + np.abs(b))),
                1e-7,
            )


@pytest.mark.usefixtures("x64")
def test_draws_depend_smoothly_on_tau_and_kappa(rng):
    graph = LaplacianGraph(CYCLES)
    noise = jnp.asarray(rng.normal(size=len(CYCLES)))
    weight = jnp.asarray(rng.normal(size=len(CYCLES)))

    @jax.jit
    def draw(logs):
        return LineageGMRF(graph, tau=jnp.exp(logs[0]), kappa=jnp.exp(logs[1])).color(noise)

    slope = jax.grad(lambda logs: weight @ draw(logs))(jnp.log(jnp.array([2.0, 0.3])))
    for i in range(2):
        step = np.zeros(2)
        step[i] = 1e-5
        up, down = (draw(np.log([2.0, 0.3]) + sign * step) for sign in (1, -1))
        assert slope[i] == pytest.approx(float(weight @ (up - down)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_covariance_of_draws(precision, key):
    with jax.enable_x64(precision == "float64"):
        field = LineageGMRF(LaplacianGraph(CYCLES), tau=2.0, kappa=0.3)
        draws = jax.jit(lambda k: field.sample(k, (100_000,)))(key)
        assert draws.dtype == precision
        covariance = np.cov(np.asarray(draws, float).T)
    expected = np.linalg.inv(dense_precision(CYCLES, 2.0, 0.3))
    # Standard errors are at most sqrt(2 / 100,000) = 0.0045 of the product of deviations.
    deviation = np.sqrt(expected.diagonal())
    error = (covariance - expected) / np.outer(deviation, deviation)
    assert np.abs(error).max() < 0.02
    np.testing.assert_allclose(np.asarray(draws).mean(0) / deviation, 0, atol=0.015)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scaled", [True, False])
def test_whiten_undoes_color_and_yields_unit_noise(scaled, rng):
    field = LineageGMRF(LaplacianGraph(CYCLES), tau=3.0, kappa=0.2, scaled=scaled)
    n = len(CYCLES)
    color, whiten = jax.jit(field.color), jax.jit(field.whiten)
    draws = np.asarray(color(jnp.eye(n)))
    q = dense_precision(CYCLES, 3.0, 0.2, scaled=scaled)
    np.testing.assert_allclose(draws.T @ draws, np.linalg.inv(q), atol=1e-10)
    np.testing.assert_allclose(whiten(draws), np.eye(n), atol=1e-10)
    noise = jnp.asarray(rng.normal(size=(2, 3, n)))
    np.testing.assert_allclose(whiten(color(noise)), noise, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_batches_of_tau_and_kappa(key, rng):
    graph = LaplacianGraph(CYCLES)
    n = len(CYCLES)
    taus, kappas = np.array([0.5, 1.0, 4.0]), np.array([[0.05], [2.0]])
    field = LineageGMRF(graph, tau=taus, kappa=kappas)
    assert (field.batch_shape, field.event_shape) == ((2, 3), (n,))
    values = rng.normal(size=(4, 2, 3, n))

    @jax.jit
    def everything(key, values):
        field = LineageGMRF(graph, tau=taus, kappa=kappas)
        draws = field.sample(key, (4,))
        return draws, field.variance, field.log_prob(values), field.whiten(values)

    draws, variance, log_prob, white = everything(key, values)
    assert draws.shape == (4, 2, 3, n)
    assert field.mean.shape == variance.shape == (2, 3, n)
    assert log_prob.shape == (4, 2, 3)
    for i, j in itertools.product(range(2), range(3)):
        q = dense_precision(CYCLES, taus[j], kappas[i, 0])
        np.testing.assert_allclose(log_prob[:, i, j], normal_of(q).logpdf(values[:, i, j]))
        np.testing.assert_allclose(variance[i, j], np.linalg.inv(q).diagonal(), rtol=1e-9)
        length = ((values[:, i, j] @ q) * values[:, i, j]).sum(-1)
        np.testing.assert_allclose((white[:, i, j] ** 2).sum(-1), length, rtol=1e-9)
    with pytest.raises(InputError, match=r"precision of a batch \(2, 3\)"):
        field.precision()


def test_same_key_same_draw_and_draws_differ(key):
    field = LineageGMRF(LaplacianGraph(CYCLES), tau=jnp.ones(2))
    sample = jax.jit(field.sample)
    draws = sample(key)
    np.testing.assert_array_equal(draws, sample(key))
    assert not np.allclose(draws[0], draws[1])


@pytest.mark.usefixtures("x64")
def test_field_passes_through_jit_and_vmap(rng):
    graph = LaplacianGraph(CYCLES)
    value = rng.normal(size=len(CYCLES))
    taus = jnp.array([0.5, 2.0])
    expected = [normal_of(dense_precision(CYCLES, t, 0.3)).logpdf(value) for t in taus]
    fields = [LineageGMRF(graph, tau=t, kappa=0.3) for t in taus]
    score = jax.jit(lambda field: field.log_prob(value))
    np.testing.assert_allclose([score(f) for f in fields], expected)
    mapped = jax.vmap(lambda t: LineageGMRF(graph, tau=t, kappa=0.3).log_prob(value))(taus)
    np.testing.assert_allclose(mapped, expected)


def program(graph, y=None):
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.5))
    kappa = numpyro.sample("kappa", dist.LogNormal(-1.0, 0.5))
    field = LineageGMRF(graph, tau=tau, kappa=kappa)
    with numpyro.plate("rank", 3):
        factors = numpyro.sample("factors", field)
    effects = numpyro.sample("effects", field.expand([2]).to_event(1))
    centre = factors.sum(0) + effects.sum(0)
    numpyro.sample("y", dist.Normal(centre, 0.5).to_event(1), obs=y)


@pytest.mark.usefixtures("x64")
def test_joint_density_in_a_program_is_the_sum_of_its_parts(rng):
    n = len(CYCLES)
    values = {
        "tau": 1.7,
        "kappa": 0.4,
        "factors": rng.normal(size=(3, n)),
        "effects": rng.normal(size=(2, n)),
    }
    y = rng.normal(size=n)
    graph = LaplacianGraph(CYCLES)
    ours = jax.jit(lambda v: log_density(program, (graph, y), {}, v)[0])(values)
    field = normal_of(dense_precision(CYCLES, 1.7, 0.4))
    expected = (
        scipy.stats.lognorm(0.5).logpdf(1.7)
        + scipy.stats.lognorm(0.5, scale=np.exp(-1)).logpdf(0.4)
        + field.logpdf(values["factors"]).sum()
        + field.logpdf(values["effects"]).sum()
        + scipy.stats.norm(values["factors"].sum(0) + values["effects"].sum(0), 0.5).logpdf(y).sum()
    )
    assert float(ours) == pytest.approx(expected, rel=1e-9)


def test_draws_of_a_program_are_one_field_per_row(key):
    graph = LaplacianGraph(CYCLES)
    draws = jax.jit(lambda k: Predictive(program, num_samples=2)(k, graph))(key)
    n = len(CYCLES)
    assert draws["factors"].shape == (2, 3, n)
    assert draws["effects"].shape == (2, 2, n)
    assert len(np.unique(draws["factors"][..., 0])) == 6


@pytest.mark.slow
def test_variational_fit_finds_the_posterior_mean(key, rng):
    adjacency = adjacency_of(4, [(0, 1), (1, 2)])
    graph = LaplacianGraph(adjacency)
    n = graph.n_nodes
    y = rng.normal(size=n)

    def model():
        x = numpyro.sample("x", LineageGMRF(graph, tau=2.0, kappa=0.3))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    svi = SVI(model, AutoDelta(model), numpyro.optim.Adam(0.05), Trace_ELBO())
    fitted = svi.run(key, 600, progress_bar=False)
    q = dense_precision(adjacency, 2.0, 0.3)
    expected = np.linalg.solve(q + np.eye(n) / 0.25, y / 0.25)
    np.testing.assert_allclose(fitted.params["x_auto_loc"], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("adjacency", "says"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.zeros((3, 2)), r"shape \(3, 2\)"),
        (np.array([[0.0, 1.0], [0.0, 0.0]]), "not symmetric"),
        (np.array([[0.0, 1.0], [2.0, 0.0]]), "not symmetric"),
        (np.array([[0.0, -1.0], [-1.0, 0.0]]), "negative weight"),
        (np.array([[0.0, np.nan], [np.nan, 0.0]]), "weight"),
        (np.array([[1.0, 1.0], [1.0, 0.0]]), "self-loop"),
    ],
)
def test_matrices_that_are_no_graph_are_refused_in_one_line(adjacency, says):
    with pytest.raises(InputError, match=says) as caught:
        LaplacianGraph(sp.csr_array(adjacency))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csc_array, sp.coo_array])
@pytest.mark.parametrize("kind", [float, "float32", int, bool])
def test_any_form_and_kind_of_matrix_is_one_graph(form, kind):
    adjacency = adjacency_of(4, [(0, 1), (1, 2), (0, 2)])
    graph = LaplacianGraph(form(adjacency.astype(kind)))
    np.testing.assert_array_equal(graph.degree, adjacency.sum(1))
    assert repr(graph) == "LaplacianGraph(4 nodes, 3 edges)"
    assert not LaplacianGraph(form(np.zeros((4, 4), kind))).degree.any()


@pytest.mark.usefixtures("x64")
def test_repeated_entries_of_a_matrix_add_up_and_stored_zeros_are_no_edges():
    i, j, w = [0, 1, 0, 1, 2, 0, 1], [1, 0, 1, 0, 0, 2, 2], [1.0, 1.0, 0.5, 0.5, 2.0, 2.0, 0.0]
    given = sp.coo_array((w, (i, j)), shape=(3, 3))
    graph = LaplacianGraph(given)
    assert len(graph.rows) == 2
    # What was given stays as it was.
    np.testing.assert_array_equal(given.data, w)
    adjacency = adjacency_of(3, [(0, 1), (0, 2)], [1.5, 2.0])
    value = np.array([0.3, -1.0, 0.8])
    field = LineageGMRF(graph, tau=1.2, kappa=0.2)
    expected = normal_of(dense_precision(adjacency, 1.2, 0.2)).logpdf(value)
    assert float(field.log_prob(value)) == pytest.approx(expected, rel=1e-9)


N_LARGE = 100_000


@pytest.fixture(scope="module")
def large():
    """Return a forest of unit stars in shuffled order, and the number of leaves of each star."""
    rng = np.random.default_rng(0)
    leaves = rng.geometric(0.2, N_LARGE) - 1
    leaves = leaves[: np.searchsorted(np.cumsum(leaves + 1), N_LARGE)]
    leaves = np.append(leaves, N_LARGE - len(leaves) - leaves.sum() - 1)
    centres = np.cumsum(leaves + 1) - leaves - 1
    leaf = np.setdiff1d(np.arange(N_LARGE), centres)
    names = rng.permutation(N_LARGE)
    ends = names[leaf], names[np.repeat(centres, leaves)]
    half = sp.coo_array((np.ones(len(leaf)), ends), shape=(N_LARGE, N_LARGE))
    return LaplacianGraph(half + half.T), leaves


def table_by_parts(monkeypatch, factors_at_once):
    """Return the table of a graph, and how many factors of it were held at a time."""
    graph = LaplacianGraph(RANDOM["cycles"])
    size = graph.n_nodes + graph.elimination.n_entries
    monkeypatch.setattr(gmrf, "_VALUES_AT_ONCE", int(factors_at_once * size))
    held, factor = [], LaplacianGraph.factor
    monkeypatch.setattr(
        LaplacianGraph, "factor", lambda self, kappa: held.append(len(kappa)) or factor(self, kappa)
    )
    return graph._table, held


def test_the_table_is_made_in_parts_that_memory_holds(monkeypatch):
    at_once, held = table_by_parts(monkeypatch, 1000)
    assert held == [128]
    for factors, expected in ((50.9, [50, 50, 28]), (0.3, [1] * 128)):
        in_parts, held = table_by_parts(monkeypatch, factors)
        assert held == expected
        np.testing.assert_allclose(in_parts, at_once, rtol=0, atol=1e-12)


def star_log_determinant(leaves, kappa):
    # A star of d > 0 leaves has the eigenvalues 0, 1 (d - 1 times) and d + 1.
    d = leaves[leaves > 0]
    others = (d - 1) * np.log1p(kappa) + np.log(d + 1 + kappa)
    return len(leaves) * np.log(kappa) + others.sum()


@pytest.mark.usefixtures("x64")
def test_large_forest_of_stars_in_closed_form(large, key):
    graph, leaves = large
    started = time.perf_counter()
    for kappa in (2e-3, 0.2, 30.0):
        log_determinant, log_scale = graph.log_determinant_and_scale(kappa)
        expected = star_log_determinant(leaves, kappa)
        assert float(log_determinant) == pytest.approx(expected, rel=1e-9)
        centres = (1 + kappa) / (kappa * (leaves + 1 + kappa))
        rims = (1 + 1 / (kappa * (leaves + 1 + kappa))) / (1 + kappa)
        expected = (np.log(centres).sum() + (leaves * np.log(rims)).sum()) / N_LARGE
        assert float(log_scale) == pytest.approx(expected, abs=1e-9)
    field = LineageGMRF(graph, tau=2.0, kappa=30.0)
    draw = field.sample(key)
    # Under the field x' Q x is chi-squared with as many degrees as nodes.
    quadratic = 2 * np.exp(expected) * float(graph.quadratic_form(draw, 30.0))
    assert abs(quadratic - N_LARGE) < 5 * np.sqrt(2 * N_LARGE)
    determinant = N_LARGE * (np.log(2) + expected) + star_log_determinant(leaves, 30.0)
    density = 0.5 * (determinant - N_LARGE * np.log(2 * np.pi) - quadratic)
    assert float(field.log_prob(draw)) == pytest.approx(density, rel=1e-9)
    assert time.perf_counter() - started < 20


def test_large_forest_in_single_precision(large):
    graph, leaves = large
    for kappa in (0.01, 1.0):
        log_determinant, _ = graph.log_determinant_and_scale(kappa)
        assert log_determinant.dtype == np.float32
        expected = star_log_determinant(leaves, kappa)
        assert abs(float(log_determinant) - expected) < 2e-6 * N_LARGE


def test_log_determinant_and_its_gradient_are_those_of_the_dense_matrix():
    graph, kappa = LaplacianGraph(CYCLES), 0.3
    value, by_kappa, by_weight = graph.log_determinant_and_gradient(kappa)

    def dense(kappa, weights):
        matrix = np.zeros((graph.n_nodes, graph.n_nodes))
        matrix[graph.rows, graph.cols] = matrix[graph.cols, graph.rows] = -weights
        np.fill_diagonal(matrix, kappa - matrix.sum(1))
        return np.linalg.slogdet(matrix)[1]

    assert value == pytest.approx(dense(kappa, graph.weights), rel=1e-12)
    h = 1e-5
    slope = (dense(kappa + h, graph.weights) - dense(kappa - h, graph.weights)) / (2 * h)
    assert by_kappa == pytest.approx(slope, rel=1e-7)
    for e in range(len(graph.weights)):
        step = h * (np.arange(len(graph.weights)) == e)
        slope = (dense(kappa, graph.weights + step) - dense(kappa, graph.weights - step)) / (2 * h)
        assert by_weight[e] == pytest.approx(slope, rel=1e-7)


def test_perturbations_have_the_covariance_of_the_precision(rng):
    graph, kappa = LaplacianGraph(CYCLES), 0.3
    drawn = np.array([graph.perturbation(kappa, rng=rng) for _ in range(20_000)])
    expected = np.diag(graph.degree + kappa)
    expected[graph.rows, graph.cols] = expected[graph.cols, graph.rows] = -graph.weights
    # Relative standard error of a variance of 20,000 draws: 1 %.
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.05 * expected.max())
