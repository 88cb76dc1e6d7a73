"""The directed prior of the program: its density by hand, its draws, and the way back up."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats as st
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy.special import logsumexp

from bayes_lrmf.checks import InputError
from bayes_lrmf.descent import ascend, central_scales, descend, wave_basis
from bayes_lrmf.design import make_design
from bayes_lrmf.directed import STEPS, StepScales
from bayes_lrmf.inference import fit_map, fit_svi
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.program import program
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.scale_mixture import SCALE_GRID, central_shares
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

NODES = ["base", "other", "tuned", "merged", "small"]


def family():
    """Return two roots, a child, a merge of both lines, and a quantisation of that."""
    return Lineage(
        np.array(NODES, dtype=object),
        np.array([2, 3, 3, 4], np.int32),
        np.array([0, 2, 1, 3], np.int32),
        np.array(["finetune", "merge", "merge", "quantized"], dtype=object),
        np.array([1.0, 0.7, 0.3, 1.0]),
    )


def small_design(rng, shape="student_t", rank=2, trials=20, likelihood="logit_normal"):
    spec = dataclasses.replace(
        read_spec("directed"), rank=rank, step_shape=shape, features=("size",), kind="type",
        likelihood=likelihood,
    )  # fmt: skip
    rows, cols = np.divmod(np.arange(20), 4)
    frame = pd.DataFrame(
        {
            "model": np.array(NODES)[rows],
            "benchmark": np.where(cols < 2, "x", "y"),
            "item": [f"q{c}" for c in cols],
            "successes": rng.integers(0, trials + 1, 20),
            "trials": trials,
        }
    )
    features = pd.DataFrame(
        {"size": [1.0, 3.0, 1.0, 2.0, 1.5], "type": ["chat", None, "chat", "base", "chat"]},
        index=NODES,
    )
    responses = responses_from_frame(frame)
    return make_design(responses, spec, lineage=family(), features=features), spec


def random_sites(design, spec, rng):
    """Return values of every site of the program, not at any special point."""
    shapes = {}

    def traced():
        trace = handlers.trace(handlers.seed(program, jax.random.key(0))).get_trace(design, spec)
        sampled = {n: s for n, s in trace.items() if s["type"] == "sample" and n != "responses"}
        shapes.update({n: np.shape(s["value"]) for n, s in sampled.items()})

    jax.eval_shape(traced)
    sites = {}
    for name, shape in shapes.items():
        sites[name] = 0.5 * rng.normal(size=shape)
        if name in ("intercept_sd", "overdispersion_sd"):
            # Little noise, of which quadrature leaves next to no error.
            sites[name] = 0.2 * np.exp(sites[name])
        elif name.endswith("log_square"):
            sites[name] += np.log(6.0)
    return sites


def values_at(design, spec, sites):
    @jax.jit
    def made(sites):
        seeded = handlers.seed(handlers.substitute(program, data=sites), jax.random.key(0))
        trace = handlers.trace(seeded).get_trace(design, spec)
        return {n: s["value"] for n, s in trace.items() if s["type"] == "deterministic"}

    return {name: np.asarray(value) for name, value in made(sites).items()}


def log_wishart(bartlett_log_square, below, freedom):
    """Return the density of Bartlett's coordinates: log chi-squares, and normals below."""
    k = len(bartlett_log_square)
    square = np.exp(bartlett_log_square)
    value = st.chi2.logpdf(square, freedom - np.arange(k)) + bartlett_log_square
    return value.sum() + st.norm.logpdf(below).sum()


def covariances(spec, sites, rank):
    """Return covariances of steps from a definition of the Wishart by its Bartlett factor."""
    freedom = [rank + 1.0] + [2.0 * (rank + 1)] * len(STEPS)
    factors = []
    for log_square, below in zip(sites["spread_log_square"], sites["spread_below"], strict=True):
        lower = np.diag(np.exp(log_square / 2))
        lower[np.tril_indices(rank, -1)] = below
        factors.append(lower)
    out = []
    inverse = [np.linalg.inv(f @ f.T) for f in factors]
    pooled_root = spec.step_sd.median * np.sqrt(freedom[0]) * np.linalg.inv(factors[0]).T
    for r in range(len(STEPS)):
        root = spec.factor_sd.median * np.eye(rank) if r == 0 else pooled_root
        out.append(freedom[r + 1] * root @ inverse[r + 1] @ root.T)
    log_prior = sum(
        log_wishart(a, b, f)
        for a, b, f in zip(sites["spread_log_square"], sites["spread_below"], freedom, strict=True)
    )
    return np.array(out), log_prior


@pytest.mark.parametrize("shape", ["student_t", "mixture"])
def test_density_is_that_of_dense_matrices(shape, rng):
    with jax.enable_x64(True):
        design, spec = small_design(rng, shape)
        sites = random_sites(design, spec, rng)
        # Steps far out, where tails matter.
        sites["white_factor"][3] += 4.0
        found = float(jax.jit(lambda s: log_density(program, (design, spec), {}, s)[0])(sites))
        values = values_at(design, spec, sites)
    k, e, n = 2, 2, len(NODES)
    covariance, expected = covariances(spec, sites, k)
    np.testing.assert_allclose(values["step_factor_covariance"], covariance, rtol=1e-9)
    # Variances of effects: inverse chi-square around a pooled one.
    log_square = sites["effect_log_square"]
    freedom = np.array([2.0] + [10.0] * len(STEPS))[:, None]
    expected += (st.chi2.logpdf(np.exp(log_square), freedom) + log_square).sum()
    ratio = freedom / np.exp(log_square)
    variance = np.concatenate([0.3**2 * ratio[1:2], spec.step_sd.median**2 * ratio[0] * ratio[2:]])
    np.testing.assert_allclose(values["step_effect_variance"], variance, rtol=1e-9)
    # Shapes of the steps.
    if shape == "student_t":
        white = sites["white_tail"]
        expected += st.norm.logpdf(white).sum()
        root = np.log(4.0) + 0.7 * white[:, 1:2]
        tail = np.exp(np.hstack([root, np.log(4.0) + 0.7 * white[:, :1] + 0.5 * white[:, 2:]]))
        np.testing.assert_allclose(values["step_factor_tail"], tail[0])
    else:
        white = sites["white_shares"]
        expected += st.norm.logpdf(white).sum()
        moved = np.concatenate([white[:, 1:2], white[:, :1] + white[:, 2:]], axis=1)
        shares = central_shares() * np.exp(moved @ wave_basis().T)
        shares /= shares.sum(-1, keepdims=True)
        np.testing.assert_allclose(values["step_factor_shares"], shares[0], atol=1e-12)
    # Mean steps, by their own densities: N(0, S / 2) has the white one times a Jacobian.
    for name in ("white_coefficient", "white_effect_coefficient", "white_drift"):
        expected += st.norm.logpdf(sites[name]).sum()
    # Factors and effects in their own units; white sites differ by a Jacobian.
    whole = np.zeros((len(STEPS), k + e, k + e))
    whole[:, :k, :k] = covariance
    whole[:, [2, 3], [2, 3]] = variance
    weights = np.eye(n)
    lineage = design.core
    weights[lineage.child, lineage.parent] -= lineage.weight
    fields = np.concatenate([values["factor"], values["effect_unit"]]).T
    steps = weights @ fields
    kind_of = {"root": 0, "finetune": 1, "merge": 2, "quantized": 4}
    for j, name in enumerate(["root", "root", "finetune", "merge", "quantized"]):
        assert STEPS[kind_of[name]] == name
        r = kind_of[name]
        if r == 0:
            centre = design.covariates.values[j] @ values["step_coefficient"]
        else:
            centre = values["step_drift"][r, design.covariates.kind[j]]
        gap = steps[j] - centre
        half_log = 0.5 * np.linalg.slogdet(whole[r])[1]
        if shape == "student_t":
            expected += st.multivariate_t.logpdf(gap[:k], np.zeros(k), covariance[r], tail[0, r])
            expected += st.t.logpdf(gap[k:], tail[1, r], scale=np.sqrt(variance[r])).sum()
        else:
            parts = [
                st.multivariate_normal.logpdf(gap[:k], np.zeros(k), s * covariance[r])
                for s in SCALE_GRID
            ]
            expected += logsumexp(parts, b=shares[0, r])
            for b in range(e):
                parts = st.norm.logpdf(gap[k + b], scale=np.sqrt(SCALE_GRID * variance[r, b]))
                expected += logsumexp(parts, b=shares[1, r])
        expected += half_log
    # Drifts and coefficients as they enter, on one relation and one feature.
    root = np.linalg.cholesky(covariance[2])
    drawn = values["step_drift"][2, :, :k] - values["step_drift"][2, :1, :k]
    white = sites["white_drift"][1, 1:, :k] - sites["white_drift"][1, 1:2, :k]
    size = np.linalg.norm(np.linalg.solve(root, drawn.T), axis=0)
    np.testing.assert_allclose(size, np.linalg.norm(white, axis=1) / np.sqrt(2), atol=1e-9)
    root = np.linalg.cholesky(covariance[0])
    size = np.linalg.norm(np.linalg.solve(root, values["step_coefficient"][1, :k]))
    np.testing.assert_allclose(size, np.linalg.norm(sites["white_coefficient"][1]) / np.sqrt(2))
    np.testing.assert_allclose(values["step_coefficient"][0, :k], sites["white_coefficient"][0])
    np.testing.assert_array_equal(values["step_coefficient"][0, k:], 0)
    # Items, and the likelihood by sums over a fine grid of the noise.
    of_item = design.item_groups
    expected += st.norm.logpdf(sites["loading_mean"]).sum()
    expected += st.norm.logpdf(sites["loading"] - sites["loading_mean"][:, of_item]).sum()
    expected += st.norm.logpdf(sites["intercept_mean"], scale=2.0).sum()
    expected += st.norm.logpdf(
        sites["intercept"], sites["intercept_mean"][of_item], sites["intercept_sd"]
    ).sum()
    expected += st.lognorm.logpdf(sites["intercept_sd"], 0.5)
    expected += st.lognorm.logpdf(sites["overdispersion_sd"], 1.0, scale=0.2).sum()
    psi = fields[:, :k] @ sites["loading"] + sites["intercept"]
    psi += fields[:, k + design.benchmark_index]
    noise = np.linspace(-9, 9, 4001)
    cells = design.responses.to_cells()
    for u, i, y, m in zip(cells.rows, cells.cols, cells.successes, cells.trials, strict=True):
        odds = psi[u, i] + sites["overdispersion_sd"][design.benchmark_index[i]] * noise
        parts = y * odds - m * np.logaddexp(0, odds) + st.norm.logpdf(noise)
        expected += logsumexp(parts) + np.log(noise[1] - noise[0])
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", ["student_t", "mixture"])
def test_the_way_up_undoes_the_way_down(shape, rng):
    with jax.enable_x64(True):
        design, spec = small_design(rng, shape)
        sites = random_sites(design, spec, rng)
        if shape == "mixture":
            sites["white_shares"] *= 0
        values = values_at(design, spec, sites)
        fields = np.concatenate([values["factor"], values["effect_unit"]]).T
        again = ascend(design, spec, fields, StepScales.from_values(values))
        assert set(again) == {n for n in sites if not n.startswith(("loading", "inter", "over"))}
        back = values_at(design, spec, sites | again)
    for name, value in values.items():
        np.testing.assert_allclose(back[name], value, atol=1e-9, err_msg=name)


def test_draws_have_the_moments_of_the_steps(rng):
    design, spec = small_design(rng)
    fixed = {n: np.asarray(v, np.float32) for n, v in central_scales(design, spec).items()}
    down = handlers.substitute(lambda: descend(design, spec), data=fixed)
    drawn = jax.jit(jax.vmap(lambda key: handlers.seed(down, key)()))(
        jax.random.split(jax.random.key(3), 20_000)
    )
    factor, effect = np.asarray(drawn["factor"], float), np.asarray(drawn["effect_unit"], float)
    # t_4 has variance 2, and a fourth moment only by chance: medians of absolute values tell.
    tuned = factor[:, :, 2] - factor[:, :, 0]
    merged = factor[:, :, 3] - 0.7 * factor[:, :, 2] - 0.3 * factor[:, :, 1]
    middle = st.t.ppf(0.75, 4)
    # Standard error of a median of 20,000 absolute values: about 0.9 %.
    for step, sd in ((factor[:, :, 0], 0.5), (tuned, 0.2), (merged, 0.2)):
        np.testing.assert_allclose(np.median(np.abs(step), axis=0), middle * sd, rtol=0.04)
        # Scales are shared by the factors of a step.
        assert st.spearmanr(np.abs(step[:, 0]), np.abs(step[:, 1])).statistic > 0.1
    np.testing.assert_allclose(np.median(np.abs(effect[:, :, 1]), axis=0), middle * 0.3, rtol=0.04)
    assert abs(st.spearmanr(np.abs(effect[:, 0, 1]), np.abs(effect[:, 1, 1])).statistic) < 0.03


@pytest.mark.slow
def test_precisions_of_steps_are_centred_on_the_pooled_one(rng):
    design, spec = small_design(rng)
    down = jax.jit(jax.vmap(lambda key: handlers.seed(descend, key)(design, spec)))
    drawn = down(jax.random.split(jax.random.key(4), 20_000))
    precision = np.linalg.inv(np.asarray(drawn["step_factor_covariance"], float))
    # W(6, I / 6) has relative variances of 2 / 6: standard errors below 1 %.
    np.testing.assert_allclose(precision[:, 0].mean(0), np.eye(2) / 0.5**2, atol=0.15)
    # Twice as spread for children, whose centre is drawn: mean I / 0.04.
    np.testing.assert_allclose(precision[:, 2].mean(0), np.eye(2) / 0.2**2, atol=1.5)
    inverse = 1 / np.asarray(drawn["step_effect_variance"], float)
    np.testing.assert_allclose(inverse[:, 0].mean(0), 1 / 0.3**2, rtol=0.03)
    np.testing.assert_allclose(inverse[:, 4].mean(0), 1 / 0.2**2, rtol=0.06)


def test_waves_are_a_smooth_process_of_unit_variance():
    basis = wave_basis()
    covariance = basis @ basis.T
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.1)
    gap = np.log(SCALE_GRID) - np.log(SCALE_GRID)[20]
    expected = np.exp(-0.5 * (gap / np.log(4)) ** 2)
    np.testing.assert_allclose(covariance[20], expected, atol=0.05)


@pytest.mark.parametrize("name", ["directed", "lrmf"])
def test_simulated_families_step_as_they_say(name):
    spec = dataclasses.replace(read_spec(name), rank=2)
    data = simulate(spec, key=jax.random.key(5), n_models=60, n_items=12, n_benchmarks=3, trials=50)
    design = make_design(data.responses, spec, lineage=data.lineage)
    assert design.n_evaluated < 60
    np.testing.assert_allclose(
        data.values["step_factor_covariance"][1], 0.04 * np.eye(2), atol=1e-6
    )
    psi = data.values["factor"].T @ data.values["loading"] + data.values["intercept"]
    of_item = np.repeat([0, 1, 2], 4)
    psi = psi + data.values["effect_unit"].T[:, of_item]
    p = data.truth["probability"].to_numpy().reshape(60, 12)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-psi)), atol=1e-5)
    # Over-dispersed counts: 0.2 on the log-odds adds more than half of the Binomial's variance.
    odds = np.clip(data.truth["probability"], 0.1, 0.9)
    known = odds == data.truth["probability"]
    share = data.truth["successes"] / 50
    z = (share - odds) / np.sqrt(odds * (1 - odds) / 50)
    expected = 1 + 0.2**2 * 50 * (odds * (1 - odds))[known].mean()
    assert (z[known] ** 2).mean() == pytest.approx(expected, rel=0.25)


def test_a_directed_prior_is_refused_where_there_is_no_guide(rng, key):
    design, spec = small_design(rng)
    for fit in (fit_map, fit_svi):
        with pytest.raises(
            InputError, match="directed prior of spec directed; use method vb or nuts"
        ):
            fit(design, spec, key=key)
