"""Units of a search against dense curvatures; the spectral start against dense singular values."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy import special

from bayes_lrmf.design import make_design
from bayes_lrmf.inference import map as search
from bayes_lrmf.inference import scales, start
from bayes_lrmf.inference.checkpoint import Checkpoint, Interrupted
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.scales import diagonal_units, joint_units
from bayes_lrmf.inference.start import initial_values
from bayes_lrmf.program import components, fixed_hyperparameters
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

RANK = 2
SPECS = {
    "laplacian": {},
    "ability": {"ability": True},
    "no intercepts": {"intercept": False},
}


@functools.cache
def made(name, *, trials=1, density=0.7, n_models=24, n_items=18):
    # One spec draws the tables for all: JAX compiles anew for every other.
    plain = dataclasses.replace(read_spec("laplacian"), rank=RANK)
    data = simulate(
        plain, key=jax.random.key(5), n_models=n_models, n_items=n_items, density=density,
        trials=trials,
    )  # fmt: skip
    spec = dataclasses.replace(plain, **SPECS[name])
    return make_design(data.responses, spec, lineage=data.lineage), spec


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def point(design, spec, seed=0):
    hyper = fixed_hyperparameters(design, spec)
    rng = np.random.default_rng(seed)
    begin = initial_values(design, spec, hyper, key=jax.random.key(0))
    return hyper, {n: v + 0.3 * rng.standard_normal(v.shape) for n, v in begin.items()}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_there_and_back(name, joint):
    design, spec = made(name)
    hyper, values = point(design, spec)
    units = diagonal_units(design, spec, hyper, values)
    if joint:
        units = joint_units(design, spec, hyper, values, units)
    back = units.sites(units.flat(values))
    assert back.keys() == values.keys()
    for site, value in values.items():
        np.testing.assert_allclose(back[site], value, atol=1e-10)


@pytest.mark.parametrize("block", [7, 10**6])
@pytest.mark.parametrize(("trials", "density"), [(1, 0.7), (1, 0.1), (40, 0.7)])
@pytest.mark.parametrize("name", SPECS)
def test_joint_units_whiten_the_curvature_of_each_model_and_item(
    monkeypatch, name, trials, density, block
):
    monkeypatch.setattr(scales, "_BLOCK_CELLS", block)
    design, spec = made(name, trials=trials, density=density)
    hyper, values = point(design, spec)
    units = diagonal_units(design, spec, hyper, values)
    units = joint_units(design, spec, hyper, values, units)
    cells = design.responses.to_cells()
    weight = np.zeros((design.n_core, design.n_items))
    weight[cells.rows, cells.cols] = scales.effective_trials(design, cells, hyper)
    rows, cols = components(design, values | hyper)
    p = special.expit(rows.T @ cols)
    weight *= p * (1 - p)
    sd, kappa = float(hyper["factor_sd"]), float(hyper["kappa"])
    node = (design.graph.degree + kappa) / (1 + kappa)
    x, prior = values["loading"].T, np.repeat(node[:, None] / sd**2, RANK, axis=1)
    if "ability_unit" in values:
        x = np.column_stack([x, np.full(len(x), float(hyper["ability_sd"]))])
        prior = np.column_stack([prior, node])
    check_white(units.roots[0], weight, x, prior)
    z, prior = values["factor"].T, np.ones((design.n_items, RANK))
    if "intercept" in values:
        z = np.column_stack([z, np.ones(len(z))])
        level = np.full(design.n_items, float(hyper["intercept_sd"]) ** -2)
        prior = np.column_stack([prior, level])
    check_white(units.roots[1], weight.T, z, prior)


def check_white(roots, weight, across, prior):
    precision = np.einsum("ni,ia,ib->nab", weight, across, across)
    precision += prior[:, :, None] * np.eye(prior.shape[1])
    white = np.einsum("nab,nac,ncd->nbd", roots, precision, roots)
    np.testing.assert_allclose(
        white, np.broadcast_to(np.eye(len(white[0])), white.shape), atol=2e-5
    )


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_start_has_the_leading_singular_vectors_of_residuals(monkeypatch, density):
    monkeypatch.setattr(start, "_POWERS", 60)
    design, spec = made("laplacian", density=density, n_models=90, n_items=60)
    hyper = fixed_hyperparameters(design, spec)
    values = initial_values(design, spec, hyper, key=jax.random.key(0))
    cells = design.responses.to_cells()
    p = special.expit(values["intercept"])
    residual = np.zeros(design.responses.shape)
    noise = np.sqrt(p * (1 - p))[cells.cols]
    residual[cells.rows, cells.cols] = (cells.successes - p[cells.cols]) / noise
    left, _, right = np.linalg.svd(residual)
    factor = values["factor"][:, : design.n_evaluated].T
    cosine = left[:, :RANK].T @ (factor / np.linalg.norm(factor, axis=0))
    np.testing.assert_allclose(np.abs(cosine), np.eye(RANK), atol=1e-5)
    # Residuals of an item are its log-odds times the root of what a cell tells of them.
    told = np.bincount(cells.cols, minlength=design.n_items) * p * (1 - p)
    across = values["loading"] * np.sqrt(told)
    cosine = right[:RANK] @ (across / np.linalg.norm(across, axis=1, keepdims=True)).T
    np.testing.assert_allclose(np.abs(cosine), np.eye(RANK), atol=1e-5)
    sd = float(hyper["factor_sd"])
    np.testing.assert_allclose(
        np.linalg.norm(factor / sd, axis=0), np.linalg.norm(values["loading"], axis=1), rtol=1e-6
    )


def test_singular_values_are_kept_as_the_formula_says():
    """Gavish & Donoho (2017) for a square matrix: sqrt(y^2 - 4) above two, and a tenth below."""
    y = np.array([5.0, 3.0, 1.9])
    np.testing.assert_allclose(
        start._shrunk(10 * y, 100, 100, 1.0), 10 * np.array([21**0.5, 5**0.5, 0.19]), rtol=1e-12
    )
    np.testing.assert_allclose(
        start._shrunk(5 * y, 100, 100, 0.25), 20 * np.array([21**0.5, 5**0.5, 0.19]), rtol=1e-12
    )


def test_more_factors_than_models_or_items():
    design, spec = made("laplacian", n_models=12, n_items=5)
    spec = dataclasses.replace(spec, rank=7)
    values = initial_values(
        design, spec, fixed_hyperparameters(design, spec), key=jax.random.key(0)
    )
    assert values["loading"].shape == (7, design.n_items)
    assert all(np.isfinite(v).all() for v in values.values())


@pytest.mark.parametrize("name", SPECS)
def test_joint_units_lead_to_the_same_mode(monkeypatch, name):
    design, spec = made(name, n_models=40)
    found = {}
    for begun_anew in (3, 10**6):
        monkeypatch.setattr(search, "_JOINT_FROM", begun_anew)
        fit = fit_map(
            design, spec, key=jax.random.key(0), tolerance=1e-13, max_iterations=5000,
            precision="float64",
        )  # fmt: skip
        assert fit.record.converged
        found[begun_anew] = fit
    rows = [
        components(design, {n: v[0] for n, v in f.state.draw(1, jax.random.key(0), design).items()})
        for f in found.values()
    ]
    first, second = (r.T @ c for r, c in rows)
    np.testing.assert_allclose(first, second, atol=1e-4)
    # What they save is little where so few parameters are left.
    assert len(found[3].record.trace) < 1.2 * len(found[10**6].record.trace)


@pytest.mark.parametrize("name", SPECS)
def test_factors_to_spare_are_left_out_at_least_loss(monkeypatch, name):
    """Products of what is left are the best approximation (Eckart & Young 1936), evenly shared."""
    design, spec = made(name)
    wide = dataclasses.replace(spec, rank=RANK + 2)
    hyper, values = point(design, wide)
    left = start.narrowed(values, spec, hyper)
    whole = values["factor"].T @ values["loading"]
    u, size, v = np.linalg.svd(whole, full_matrices=False)
    best = (u[:, :RANK] * size[:RANK]) @ v[:RANK]
    np.testing.assert_allclose(left["factor"].T @ left["loading"], best, atol=1e-10)
    norms = (left["factor"] / hyper["factor_sd"]) ** 2, left["loading"] ** 2
    np.testing.assert_allclose(norms[0].sum(1), norms[1].sum(1), rtol=1e-9)
    # The mean of loadings is turned as they are.
    turn = np.linalg.lstsq(values["loading"].T, left["loading"].T)[0].T
    np.testing.assert_allclose(left["loading_mean"], turn @ values["loading_mean"], atol=1e-10)
    for other in values.keys() - {"factor", "loading", "loading_mean"}:
        np.testing.assert_array_equal(left[other], values[other])


def test_a_start_with_factors_to_spare_ends_at_a_mode(monkeypatch):
    design, spec = made("laplacian", n_models=40)
    options = {"tolerance": 1e-13, "max_iterations": 5000, "precision": "float64"}
    plain = fit_map(design, spec, key=jax.random.key(0), **options)
    monkeypatch.setattr(search, "_WIDE_FROM", 0)
    seen = []

    class Watch:
        def update(self, n, **shown):
            seen.append(shown.get("stage"))

    fit = fit_map(design, spec, key=jax.random.key(0), progress=Watch(), **options)
    assert seen.count("start") == search._WIDE_ITERATIONS
    assert len(fit.record.trace) == len(seen) - search._WIDE_ITERATIONS
    assert fit.state.values["factor"].shape == plain.state.values["factor"].shape
    assert fit.record.trace[-1] == pytest.approx(plain.record.trace[-1], rel=1e-6)


@pytest.mark.slow
def test_ctrl_c_in_the_start_leaves_a_point_of_the_spec(monkeypatch, tmp_path):
    monkeypatch.setattr(search, "_WIDE_FROM", 0)
    design, spec = made("laplacian")
    whole = fit_map(design, spec, key=jax.random.key(0))

    class Stops:
        def update(self, n, **shown):
            if shown.get("stage") == "start" and n == 7:
                raise KeyboardInterrupt

        def say(self, text):
            pass

    with (
        pytest.raises(Interrupted) as caught,
        Checkpoint(tmp_path / "c", seconds=0) as checkpoint,
    ):
        fit_map(design, spec, key=jax.random.key(0), checkpoint=checkpoint, progress=Stops())
    assert caught.value.posterior().state.values["factor"].shape == (RANK, design.n_core)
    with Checkpoint(tmp_path / "c", seconds=0) as checkpoint:
        again = fit_map(design, spec, key=jax.random.key(0), checkpoint=checkpoint)
    np.testing.assert_array_equal(again.record.trace, whole.record.trace)
    for name, value in whole.state.values.items():
        np.testing.assert_array_equal(again.state.values[name], value)


@functools.cache
def undisturbed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_JOINT_FROM", 4)
        return fit_map(*made("laplacian"), key=jax.random.key(0))


@pytest.mark.parametrize(
    "at", [6, pytest.param(2, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)]
)
def test_goes_on_from_either_stage(monkeypatch, tmp_path, at):
    """Stopped after some iterations, in rough units up to the fourth."""
    design, spec = made("laplacian")
    whole = undisturbed()
    monkeypatch.setattr(search, "_JOINT_FROM", 4)
    assert len(whole.record.trace) > 10

    class Stops:
        def __init__(self, at):
            self.at, self.said = at, []

        def update(self, n, **_):
            if n == self.at:
                raise KeyboardInterrupt

        def say(self, text):
            self.said.append(text)

    path = tmp_path / "c"
    with pytest.raises(Interrupted) as caught, Checkpoint(path, seconds=0) as checkpoint:
        fit_map(design, spec, key=jax.random.key(0), checkpoint=checkpoint, progress=Stops(at))
    partial = caught.value.posterior()
    np.testing.assert_array_equal(partial.record.trace, whole.record.trace[:at])
    later = Stops(None)
    with Checkpoint(path, seconds=0) as checkpoint:
        again = fit_map(design, spec, key=jax.random.key(0), checkpoint=checkpoint, progress=later)
    assert later.said[0].startswith("resumed from iteration")
    np.testing.assert_array_equal(again.record.trace, whole.record.trace)
    for name, value in whole.state.values.items():
        np.testing.assert_array_equal(again.state.values[name], value)
