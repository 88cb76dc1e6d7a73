"""Variational Bayes: sums by hand, bounds by quadrature, dense twins, promises of a fit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import expit, roots_hermitenorm
from scipy.stats import norm

from analyses import reference_predictions
from analyses.corrections import mean_psi, sd_psi
from analyses.reference_predictions import read_predictions
from bayes_lrmf.block_elimination import BlockFactor
from bayes_lrmf.checks import InputError
from bayes_lrmf.cli import main
from bayes_lrmf.design import make_design
from bayes_lrmf.diagnose import diagnose
from bayes_lrmf.directed import STEPS, DirectedGraph, StepScales
from bayes_lrmf.draws import rows_and_columns
from bayes_lrmf.inference import fit_map, fit_method, fit_vb
from bayes_lrmf.inference.vb import _start_values
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_fit import VariationalFit
from bayes_lrmf.inference.vb_items import scale_mode
from bayes_lrmf.inference.vb_local import ItemMoments, ModelMoments, local_maps
from bayes_lrmf.inference.vb_passes import cell_curvature, cell_terms
from bayes_lrmf.lineage import write_lineage
from bayes_lrmf.predict import predict_benchmarks, predict_items, score_draws
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.scale_mixture import SCALE_GRID
from bayes_lrmf.simulate import simulate, simulated_lineage
from bayes_lrmf.spec import HyperPrior, read_spec
from bayes_lrmf.storage import read_posterior, write_posterior
from bayes_lrmf.vech import unvech, vech

DIRECTED = dataclasses.replace(read_spec("directed"), rank=2)
LRMF = dataclasses.replace(read_spec("laplacian"), rank=2)


def directed_data(rng, n_models=60, n_items=40, trials=1, k=1, step_sd=0.3, density=0.7, noise=0.0):
    """Draw steps down a random family, and responses of two benchmarks; no effects."""
    lineage = simulated_lineage(n_models, rng=rng)
    graph = DirectedGraph(lineage)
    t = np.zeros((n_models, k))
    for j in range(n_models):  # simulated families list parents first
        mine = graph.child == j
        if mine.any():
            t[j] = graph.weight[mine] @ t[graph.parent[mine]] + step_sd * rng.standard_t(5, size=k)
        else:
            t[j] = rng.normal(size=k)
    x = 1 + 0.5 * rng.normal(size=(k, n_items))
    psi = t @ x + 0.5 * rng.normal(size=n_items)
    cell = psi + noise * rng.normal(size=psi.shape)
    seen = rng.random(psi.shape) < density
    rows, cols = np.nonzero(seen)
    frame = pd.DataFrame(
        {
            "model": lineage.nodes[rows],
            "benchmark": np.where(cols % 2, "odd", "even"),
            "item": [f"q{c}" for c in cols],
            "successes": rng.binomial(trials, expit(cell[rows, cols])),
            "trials": trials,
        }
    )
    return responses_from_frame(frame), lineage, psi


@pytest.fixture(scope="module")
def binary():
    return simulate(LRMF, key=jax.random.key(3), n_models=40, n_items=30, n_benchmarks=2)


@pytest.fixture(scope="module")
def counts():
    spec = dataclasses.replace(LRMF, likelihood="binomial")
    return simulate(spec, key=jax.random.key(4), n_models=30, n_items=12, n_benchmarks=3, trials=30)


def problem(spec, data):
    return make_design(data.responses, spec, lineage=data.lineage)


def started(design, spec):
    values = _start_values(design, spec, jax.random.key(0), Progress("", enabled=False), None)
    return VariationalFit.start(design, spec, values)


@pytest.mark.parametrize("kind", ["binary", "counts", "noisy counts"])
@pytest.mark.parametrize("dense", [True, False])
def test_sums_over_cells_are_those_of_a_loop(kind, dense, rng, request, monkeypatch):
    data = request.getfixturevalue("binary" if kind == "binary" else "counts")
    if not dense:
        monkeypatch.setattr("bayes_lrmf.inference.vb_cells._DENSE_CELLS", 0)
        monkeypatch.setattr("bayes_lrmf.inference.vb_cells._DENSE_COUNT_CELLS", 0)
    design = problem(LRMF, data)
    maps, panel = local_maps(design, LRMF)
    size = LRMF.rank + 2
    table = CellTable(design, LRMF, panel, size)
    assert table.dense == dense

    def moments(n, size):
        mean = np.concatenate([rng.normal(size=(n, size - 1)), np.ones((n, 1))], axis=1)
        root = 0.3 * rng.normal(size=(n, size, size))
        root[:, -1] = 0
        return mean, root @ root.mT + mean[..., :, None] * mean[..., None, :]

    n_models, n_panels, k = design.n_evaluated, len(maps), LRMF.rank
    items = ItemMoments(
        *(f(x) for f, x in zip((np.array, vech), moments(design.n_items, size), strict=True))
    )
    # Effects correlate with factors, and with nothing that panels share.
    mean, second = moments(n_models, k + 1)
    effect_mean = rng.normal(size=(n_panels, n_models))
    effect_second = 0.1 * rng.normal(size=(n_panels, n_models, size))
    effect_second[..., :-1] += effect_mean[..., None] * mean
    effect_second[..., k] = effect_mean
    effect_second[..., -1] = effect_mean**2 + 2
    models = ModelMoments(mean, vech(second), effect_mean, effect_second)
    whole_second = np.zeros((n_panels, n_models, size, size))
    whole_second[..., :-1, :-1] = second
    whole_second[..., -1, :] = whole_second[..., :, -1] = effect_second
    whole_mean = np.concatenate(
        [np.broadcast_to(mean, (n_panels, *mean.shape)), effect_mean[..., None]], axis=2
    )
    noise = rng.uniform(0.1, 0.5, design.n_items) if kind == "noisy counts" else None
    by_item = table.about_items(models, items, noise)
    by_model = table.about_models(models, items, noise)
    successes, n = design.responses.matrices(design.responses.models)
    of_items = np.zeros((design.n_items, size, size)), np.zeros((design.n_items, size))
    of_models = np.zeros_like(whole_second), np.zeros_like(whole_mean)
    curvature_i, curvature_m = np.zeros_like(of_items[0]), np.zeros_like(of_models[0])
    bound, squares, exact_squares = 0.0, np.zeros(design.n_items), np.zeros(design.n_items)
    for u, i in np.argwhere(n > 0):
        at = panel[i], u
        s, v = whole_second[at], unvech(items.second[i])
        psi = whole_mean[at] @ items.mean[i]
        centred = float(successes[u, i]) - float(n[u, i]) / 2
        noise_i = None if noise is None else noise[i]
        of_cell = (np, centred, float(n[u, i]), (s * v).sum(), psi, noise_i)
        terms = cell_terms(*of_cell)
        weight, pull = terms[0], terms[1]
        bound += terms[2] + (pull * psi if noise is None else 0.0)
        bend, noise_square = cell_curvature(*of_cell)
        curvature_i[i] += bend * s
        curvature_m[at] += bend * v
        exact_squares[i] += noise_square
        of_items[0][i] += weight * s
        of_items[1][i] += pull * whole_mean[at]
        of_models[0][at] += weight * v
        of_models[1][at] += pull * items.mean[i]
        squares[i] += 0 if noise is None else terms[3]

    def alike(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)

    def alike_squares(found, expected):
        alike(unvech(found.shared), expected.sum(0)[:, :-1, :-1])
        alike(found.effect, expected[..., -1])

    alike(unvech(by_item.square), of_items[0])
    alike(by_item.linear, of_items[1])
    alike_squares(by_model.square, of_models[0])
    alike(by_model.linear, of_models[1].sum(0)[:, :-1])
    alike(by_model.effect_linear, of_models[1][..., -1])
    assert by_item.bound == pytest.approx(bound, rel=1e-8)
    bend = table.curvature(models, items, noise)
    alike(unvech(bend.of_items), curvature_i)
    alike_squares(bend.of_models, curvature_m)
    if noise is not None:
        np.testing.assert_allclose(bend.noise, exact_squares)
        np.testing.assert_allclose(by_item.noise, squares)


def test_the_bound_is_exact_without_uncertainty_and_below_it_with_noise():
    nodes, weights = roots_hermitenorm(200)
    weights = weights / weights.sum()
    for k, n, psi in ((1, 1, 0.7), (0, 1, 2.0), (7, 10, -0.5), (180, 250, 1.5)):
        exact = k * psi - n * np.logaddexp(0, psi)
        terms = cell_terms(np, k - n / 2, n, psi**2, psi, None)
        assert terms[2] + (k - n / 2) * psi == pytest.approx(exact)
        variance = 0.3
        at = psi + np.sqrt(variance) * nodes
        integral = np.log(weights @ np.exp(k * at - n * np.logaddexp(0, at) - exact)) + exact
        bound = cell_terms(np, k - n / 2, n, psi**2, psi, variance)[2]
        assert integral - 0.1 < bound <= integral + 1e-9


@pytest.mark.ledger
@pytest.mark.parametrize(("k", "n", "mean", "sd"), [(1, 1, 4.0, 1.5), (7, 10, -0.5, 0.4)])
def test_curvature_is_that_of_the_expected_log_likelihood(k, n, mean, sd, claim):
    def expected(mean):
        def at(z):
            psi = mean + sd * z
            return norm.pdf(z) * (k * psi - n * np.logaddexp(0, psi))

        return quad(at, -12, 12, epsabs=1e-12)[0]

    step = 1e-2
    bend = (expected(mean + step) - 2 * expected(mean) + expected(mean - step)) / step**2
    known = (np, k - n / 2, n, mean**2 + sd**2, mean, None)
    claim(
        "vb: expected curvature of a cell, gap",
        "second difference of adaptive quadrature",
        abs(cell_curvature(*known)[0] + bend),
        2e-3,
    )
    assert cell_curvature(*known)[0] < cell_terms(*known)[0]


@pytest.mark.parametrize(("k", "n", "psi", "variance"), [(180, 250, 1.5, 0.3), (3, 200, -3.0, 0.5)])
def test_curvature_of_a_noisy_count_is_that_of_its_integral(k, n, psi, variance):
    nodes, weights = roots_hermitenorm(200)

    def integral(mean):
        at = mean + np.sqrt(variance) * nodes
        value = k * at - n * np.logaddexp(0, at)
        top = value.max()
        return top + np.log(weights @ np.exp(value - top))

    step = 1e-2
    bend = (integral(psi + step) - 2 * integral(psi) + integral(psi - step)) / step**2
    found, _ = cell_curvature(np, k - n / 2, n, psi**2, psi, variance)
    assert found == pytest.approx(-bend, rel=0.1)


def test_noise_has_the_second_moment_of_its_posterior():
    # Many trials: the log-odds of the cell are known, and the noise is what psi lacks.
    k, n, psi, variance = 6000, 10_000, 0.0, 0.5
    squares = cell_terms(np, k - n / 2, n, psi**2, psi, variance)[3]
    assert squares == pytest.approx(np.log(0.6 / 0.4) ** 2, rel=0.02)


@pytest.mark.ledger
@pytest.mark.parametrize("lineage", ["directed", "laplacian", "none"])
@pytest.mark.parametrize("kind", ["binary", "counts"])
def test_the_elbo_never_falls(lineage, kind, request, claim):
    data = request.getfixturevalue(kind)
    spec = dataclasses.replace(DIRECTED, lineage=lineage)
    design = problem(spec, data)
    fit = started(design, spec)
    fit, _ = fit.swept(learn=True)
    fixed = []
    for _ in range(8):
        fit, elbo = fit.swept(learn=False)
        fixed.append(elbo)
    claim(
        "vb: greatest fall of the ELBO in a sweep, scales given, relative",
        "it never falls, 6 problems",
        -np.diff(fixed).min() / abs(fixed[-1]),
        1e-8,
    )
    learned = []
    for _ in range(15):
        fit, elbo = fit.swept(learn=True)
        learned.append(elbo)
    # Penalties of the directed prior are no part of the ELBO, and may cost some at first.
    gains = np.diff(learned)[3 if lineage == "directed" else 0 :]
    assert (gains >= -1e-8 * abs(learned[-1])).all()
    assert learned[-1] > fixed[-1]


def test_scales_of_a_field_are_where_the_bound_is_flat(binary):
    spec = dataclasses.replace(LRMF, benchmark_effects=False)
    fit = started(problem(spec, binary), spec)
    fit, _ = fit.swept(learn=True)
    prior = fit.prior.updated(fit.moments, learn=True)
    best = prior.log_density(fit.moments)
    for name in ("kappa", "factor_sd"):
        slopes = [
            dataclasses.replace(
                prior, hyper=prior.hyper | {name: prior.hyper[name] * np.exp(step)}
            ).log_density(fit.moments)
            - best
            for step in (-0.02, 0.02)
        ]
        # A parabola at its top: as much is lost on either side, next to nothing.
        assert min(slopes) > -0.05
        assert max(slopes) <= 1e-6


@pytest.mark.ledger
def test_the_gaussian_of_models_is_that_of_the_dense_system(binary, claim):
    design = problem(DIRECTED, binary)
    fit = started(design, DIRECTED)
    for _ in range(2):
        fit, _ = fit.swept(learn=True)
    old = fit.prior
    evidence = fit.cells.about_models(fit.local(), fit.items.local(), None)
    new = fit._with_models(evidence, learn=False)
    n, size = fit.moments.mean.shape
    k = DIRECTED.rank
    diagonal, off, linear = old.precision()
    order = design.blocks.order
    dense = np.zeros((n, size, n, size))
    at = np.arange(n)
    dense[at, :, at] = diagonal
    dense[order.neighbour, :, order.owner] = off
    dense[order.owner, :, order.neighbour] = off.mT
    shared = unvech(evidence.square.shared)
    for u in range(design.n_evaluated):
        dense[u, :k, u, :k] += shared[u, :k, :k]
        linear[u, :k] += evidence.linear[u, :k] - shared[u, :k, k]
        for effect, weight, pull in zip(
            fit.maps, evidence.square.effect[:, u], evidence.effect_linear[:, u], strict=True
        ):
            into = np.zeros((k + 1, size))
            into[:k, :k], into[k, k:] = np.eye(k), effect
            square = np.zeros((k + 1, k + 1))
            square[k, :k] = square[:k, k] = weight[:k]
            square[k, k] = weight[k + 1]
            dense[u, :, u] += into.T @ square @ into
            linear[u] += into[k] * (pull - weight[k])
    flat = dense.reshape(n * size, -1)
    covariance = np.linalg.inv(flat)
    mean = (covariance @ linear.ravel()).reshape(n, size)
    blocks = covariance.reshape(n, size, n, size)[at, :, at]
    claim(
        "vb: Gaussian posterior of all models given items, gap of means and covariances",
        "dense linear system",
        max(np.abs(new.moments.mean - mean).max(), np.abs(new.moments.variance - blocks).max()),
        1e-8,
    )


def test_other_coordinates_leave_psi_alone(binary):
    design = problem(DIRECTED, binary)
    fit, _ = started(design, DIRECTED).swept(learn=True)
    turned, _ = fit._standardised()

    def moments(f):
        return mean_psi(f), sd_psi(f)

    for before, after in zip(moments(fit), moments(turned), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)
    items = turned.items
    centred = items.mean - items.group_mean[design.item_groups]
    second = (centred.T @ centred + items.covariance.sum(0)) / len(centred)
    np.testing.assert_allclose(second[:2, :2], np.eye(2), atol=1e-9)
    np.testing.assert_allclose(second[2, :2], 0, atol=1e-9)
    before, after = fit.prior, turned.prior
    assert before.log_density(fit.moments) - after.log_density(turned.moments) == pytest.approx(
        _log_volume(fit, turned), rel=1e-6
    )


def _log_volume(fit, turned):
    """Of the change of all factors, which their entropy gains and their log density loses."""
    k = fit.spec.rank
    ratio = np.linalg.slogdet(turned.moments.variance[:, :k, :k])[1]
    return 0.5 * (ratio - np.linalg.slogdet(fit.moments.variance[:, :k, :k])[1]).sum()


def test_the_mode_of_a_scale_is_that_of_its_density():
    prior = HyperPrior(0.3, 0.7)
    grid = np.exp(np.linspace(-4, 2, 200_001))
    density = -12 * np.log(grid) - 3.0 / (2 * grid**2) - (np.log(grid / 0.3) / 0.7) ** 2 / 2
    assert scale_mode(12, 3.0, prior) == pytest.approx(grid[density.argmax()], rel=1e-4)
    assert scale_mode(12, 3.0, HyperPrior(0.3)) == 0.3


def test_scales_and_probabilities_of_a_directed_family_are_recovered(rng):
    # Several hundred steps: the standard error of a scale is about 5 %, a tail is hardly known.
    responses, lineage, psi = directed_data(rng, n_models=400, n_items=80, step_sd=0.4)
    spec = dataclasses.replace(DIRECTED, rank=1, benchmark_effects=False)
    design = make_design(responses, spec, lineage=lineage)
    fitted = fit_vb(design, spec, key=jax.random.key(0))
    assert fitted.record.converged
    values = fitted.state.values
    x = np.abs(values["item_mean"][:, 0]).mean()
    sd = np.sqrt(values["step_factor_covariance"][STEPS.index("finetune"), 0, 0]) * x
    assert sd == pytest.approx(0.4, rel=0.2)
    root = np.sqrt(values["step_factor_covariance"][0, 0, 0]) * x
    assert root > 1.5 * sd
    assert values["step_factor_tail"][STEPS.index("finetune")] < 15
    items = predict_items(fitted, key=jax.random.key(1), models=list(lineage.nodes))
    cols = [int(q[1:]) for q in design.items["item"]]
    found = items["mean"].to_numpy().reshape(len(lineage.nodes), -1)
    truth = expit(psi[:, cols])
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.07
    inside = (items["lower"].to_numpy().reshape(truth.shape) <= truth) & (
        truth <= items["upper"].to_numpy().reshape(truth.shape)
    )
    # Models and items are independent in the approximation, which makes it a little narrow.
    assert 0.85 < inside.mean() < 0.95


def test_over_dispersion_of_counts_is_learned(rng):
    responses, lineage, _ = directed_data(
        rng, n_models=80, n_items=30, trials=200, noise=0.4, density=0.9
    )
    spec = dataclasses.replace(DIRECTED, rank=1, benchmark_effects=False)
    design = make_design(responses, spec, lineage=lineage)
    fitted = fit_vb(design, spec, key=jax.random.key(0))
    np.testing.assert_allclose(fitted.state.values["overdispersion_sd"], 0.4, rtol=0.12)
    # A cell that was not run spreads by it, and by the Binomial.
    assert "overdispersion_sd" in fitted.draws(3, key=jax.random.key(1))
    draws = score_draws(fitted, key=jax.random.key(1), n_draws=200)
    assert np.isfinite(draws.scores).all()


@pytest.fixture(scope="module")
def fitted(binary):
    spec = dataclasses.replace(DIRECTED, features=("params_b",), kind="type")
    names = list(binary.lineage.nodes)
    features = pd.DataFrame(
        {"params_b": np.linspace(1, 70, len(names)), "type": ["chat", "base"] * (len(names) // 2)},
        index=names,
    )
    design = make_design(
        binary.responses,
        spec,
        lineage=binary.lineage,
        features=features,
        extra_models=["a/stranger"],
    )
    return fit_vb(design, spec, key=jax.random.key(0), max_sweeps=20)


def test_the_file_holds_what_memory_holds(fitted, tmp_path):
    path, again = tmp_path / "a.nc", tmp_path / "b.nc"
    write_posterior(fitted, path)
    read = read_posterior(path)
    assert read.state.values.keys() == fitted.state.values.keys()
    for name, value in fitted.state.values.items():
        np.testing.assert_array_equal(read.state.values[name], value)
        assert read.state.values[name].dtype == value.dtype
    write_posterior(read, again)
    assert path.read_bytes() == again.read_bytes()
    for predict in (predict_benchmarks, predict_items):
        one, other = (predict(p, key=jax.random.key(1), n_draws=20) for p in (fitted, read))
        pd.testing.assert_frame_equal(one, other)
    good = diagnose(read)
    assert "last sweep" in " ".join(good.lines)


def test_draws_have_the_moments_of_the_fit(fitted):
    draws = fitted.draws(4000, key=jax.random.key(5))
    design, values = fitted.design, fitted.state.values
    factor = BlockFactor(values["model_root"].astype(float), values["model_lower"].astype(float))
    variance, _ = design.blocks.selected_inverse(factor)
    sd = np.sqrt(np.diagonal(variance, axis1=1, axis2=2)[:, :2])
    found = draws["factor"].std(0).T
    np.testing.assert_allclose(found, sd, rtol=0.08)
    gap = draws["factor"].mean(0).T - values["model_mean"][:, :2]
    assert np.abs(gap / sd).max() < 5 / np.sqrt(4000)


def test_a_stranger_follows_the_roots_and_a_cold_child_its_parents(fitted):
    design, values = fitted.design, fitted.state.values
    scales = StepScales.from_values(values)
    normal = np.tile(SCALE_GRID == 1, (6, 1)).astype(float)
    tame = dataclasses.replace(scales, factor_shares=normal, effect_shares=normal).to_values()
    state = dataclasses.replace(fitted.state, values=values | tame)
    posterior = dataclasses.replace(fitted, state=state)
    draws = posterior.draws(3000, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    place = {m: i for i, m in enumerate(design.models)}
    cold = next(c for c in design.periphery.child if (design.periphery.child == c).sum() == 1)
    edge = int(np.flatnonzero(design.periphery.child == cold)[0])
    parent = design.periphery.parent[edge]
    assert parent < design.n_core
    chosen = np.array([cold, place["a/stranger"], parent])
    rows, _ = rows_and_columns(posterior, draws, rng=rng, chosen=chosen)
    step = STEPS.index(design.periphery.relation[edge])
    child, stranger, mother = (rows[:, :2, i].astype(float) for i in range(3))
    moved = child - mother
    kind = design.covariates.kind[cold]
    drift, spread = scales.drift[step, kind, :2], scales.factor_covariance[step]
    error = np.sqrt(np.diagonal(spread) / 3000)
    assert (np.abs(moved.mean(0) - drift) < 5 * error).all()
    np.testing.assert_allclose(np.cov(moved.T), spread, atol=0.1 * spread.max())
    at = place["a/stranger"]
    centre, root = design.covariates.values[at] @ scales.coefficient, scales.factor_covariance[0]
    error = np.sqrt(np.diagonal(root) / 3000)
    assert (np.abs(stranger.mean(0) - centre[:2]) < 5 * error).all()
    np.testing.assert_allclose(np.cov(stranger.T), root, atol=0.1 * root.max())


def test_a_fit_may_start_from_another(fitted):
    again = fit_vb(fitted.design, fitted.spec, key=jax.random.key(0), start=fitted, max_sweeps=3)
    # Variances of steps are not yet integrated out again, which makes the bound lower.
    assert again.record.trace[0] == pytest.approx(fitted.record.trace[-1], rel=5e-2)
    assert again.record.trace[-1] < again.record.trace[0]


def test_what_is_not_conjugate_is_refused(binary, counts, key):
    for spec, words in (
        (dataclasses.replace(LRMF, intercept=False), "intercepts"),
        (read_spec("paper"), "point estimate"),
    ):
        with pytest.raises(InputError, match=words):
            fit_vb(problem(spec, binary), spec, key=key)
    with pytest.raises(InputError, match="Beta-Binomial"):
        fit_vb(problem(LRMF, counts), LRMF, key=key)
    for method in ("map", "svi"):
        with pytest.raises(InputError, match="directed prior of spec directed; use method vb or"):
            fit_method(method, problem(DIRECTED, binary), DIRECTED, key=key)


@pytest.mark.slow
def test_laplacian_scales_end_where_those_of_nuts_lie():
    spec = dataclasses.replace(LRMF, rank=1, benchmark_effects=False)
    data = simulate(spec, key=jax.random.key(2), n_models=300, n_items=60, density=0.8)
    fitted = fit_vb(problem(spec, data), spec, key=jax.random.key(0))
    draws = fitted.draws(2, key=jax.random.key(1))
    # Loadings have a mean of their own, so that the data know the scale of psi, not of either side.
    scale, truth = (
        np.mean(v["factor_sd"]) * np.sqrt(np.mean(np.square(v["loading"])))
        for v in (draws, data.values)
    )
    assert scale == pytest.approx(truth, rel=0.3)
    # 300 models tell little of it: by NUTS 90 % of it are in here, the median at .46.
    assert 0.22 < draws["kappa"][0] < 0.93
    assert draws["intercept_sd"][0] == pytest.approx(1.0, rel=0.3)
    point = fit_map(problem(spec, data), spec, key=jax.random.key(0))
    a, b = (predict_items(p, key=jax.random.key(2)) for p in (fitted, point))
    known = data.truth.set_index(["model", "benchmark", "item"])["probability"]
    errors = [
        np.sqrt(np.mean((t.set_index(["model", "benchmark", "item"])["mean"] - known) ** 2))
        for t in (a, b)
    ]
    assert errors[0] < errors[1] + 0.005


@pytest.mark.slow
def test_fits_work_whichever_module_is_imported_first():
    run = "import bayes_lrmf.posterior, numpyro.distributions as d; d.distribution"
    subprocess.run([sys.executable, "-c", run], check=True)


def test_the_command_line_fits_and_predicts_strangers(tmp_path, capsys):
    tree = simulated_lineage(30, rng=np.random.default_rng(1))
    rng = np.random.default_rng(2)
    names = list(tree.nodes[:25])
    wide = pd.DataFrame(
        rng.integers(0, 2, (25, 8)), columns=[f"{b}:{i}" for b in "xy" for i in range(4)]
    )
    wide.insert(0, "model", names)
    wide.to_csv(tmp_path / "r.csv", index=False)
    write_lineage(tree, tmp_path / "l.csv")
    table = pd.DataFrame({"model": names, "params_b": np.linspace(1, 50, 25), "type": "chat"})
    table["date"] = pd.date_range("2024-01-01", periods=25).strftime("%Y-%m-%d")
    table.to_csv(tmp_path / "m.csv", index=False)
    post = tmp_path / "p.nc"
    arguments = ["fit", tmp_path / "r.csv", "--lineage", tmp_path / "l.csv", "--spec", "directed"]
    arguments += ["--models-table", tmp_path / "m.csv", "--max-steps", 3, "-o", post]
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    told = capsys.readouterr().err
    assert ended.value.code in (0, 3), told
    assert "method vb, spec directed: chosen for this table" in told
    assert "no column 'architecture'" in told
    assert read_posterior(post).design.covariates.names == ("intercept", "params_b", "date")
    cold = [str(m) for m in tree.nodes[25:]]
    with pytest.raises(SystemExit):
        main(["predict", str(post), "--models", ",".join(cold), "-o", str(tmp_path / "o.csv")])
    out = pd.read_csv(tmp_path / "o.csv")
    assert list(out["model"].unique()) == cold
    assert ((out["lower"] < out["mean"]) & (out["mean"] < out["upper"])).all()


@pytest.mark.ledger
@pytest.mark.slow
@pytest.mark.parametrize(("name", "prior"), [("laplacian", "Laplacian"), ("directed", "directed")])
def test_probabilities_near_those_of_nuts(name, prior, claim):
    case, kept = reference_predictions.CASES[name], read_predictions(name)
    data = case.drawn()
    assert kept.is_of(data)
    design = case.design(data)
    vb = fit_vb(design, case.declared(), key=jax.random.key(0))
    found = predict_items(vb, key=jax.random.key(2), n_draws=1000)
    if name == "directed":
        # Models without responses among them: each draw steps down with scales of its own.
        assert (~found["model"].isin(design.responses.models)).sum() > 20
    found = found.set_index(["model", "benchmark", "item"])
    nuts = kept.table()
    assert set(found.index) == set(nuts.index)
    nuts = nuts.loc[found.index]
    gap = np.sqrt(np.mean((nuts["mean"] - found["mean"]) ** 2))
    ratio = (found["sd"] / nuts["sd"]).mean()
    of = f"vb, {prior} prior"
    claim(f"{of}: RMS gap of posterior means of probabilities", "nuts", gap, 0.01)
    claim(f"{of}: mean ratio of posterior sd, less one", "nuts", abs(ratio - 1), 0.15)
