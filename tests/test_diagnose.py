"""Verdicts follow the evidence."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bayes_lrmf.design import make_design
from bayes_lrmf.diagnose import diagnose, trials_a_parameter
from bayes_lrmf.inference import fit_map
from bayes_lrmf.posterior import DrawsState, FitRecord, Posterior
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


@pytest.fixture(scope="module")
def point():
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    data = simulate(spec, key=jax.random.key(0), n_models=12, n_items=10, density=0.8)
    design = make_design(data.responses, spec, lineage=data.lineage)
    return fit_map(design, spec, key=jax.random.key(0))


def drawn(point, *, shift=0.0, diverging=0, n_draws=600, turn=False):
    """Independent draws around a point, two chains; `shift` parts the chains' intercepts."""
    rng = np.random.default_rng(0)
    values = {}
    for name, value in point.state.values.items():
        noise = rng.standard_normal((2, n_draws, *np.shape(value)))
        positive = name not in ("factor", "loading", "intercept", "effect_unit")
        scale = 0.02 * np.abs(value) if positive else 0.1
        values[name] = value + scale * noise
    values["intercept"][1] += shift
    if turn:
        values["factor"][1] *= -1
        values["loading"][1] *= -1
    lost = np.zeros((2, n_draws), bool)
    lost.ravel()[:diverging] = True
    stats = {
        "diverging": lost,
        "n_steps": np.full((2, n_draws), 15),
        "acceptance_rate": np.full((2, n_draws), 0.9),
    }
    record = FitRecord("nuts", True, "", sample_stats=stats)
    return Posterior(point.design, point.spec, DrawsState(values), record)


def test_a_point_is_good_when_the_search_ended(point):
    found = diagnose(point)
    assert found.good
    assert found.lines[0] == "GOOD: map converged"
    assert any("no intervals" in line for line in found.lines)
    assert found.hyperparameters.empty
    cut = fit_map(point.design, point.spec, key=jax.random.key(0), max_iterations=2)
    found = diagnose(cut)
    assert not found.good
    assert "--max-steps" in found.lines[0]


def test_fit_of_observed_is_that_of_its_cells(point):
    y = point.design.responses.dense
    v = point.state.values
    member = point.design.benchmark_index == point.design.effect_benchmarks[:, None]
    effects = (v["benchmark_sd"] * v["effect_unit"]).T @ member
    psi = (v["factor"].T @ v["loading"] + effects)[: len(y)] + v["intercept"]
    p, seen = 1 / (1 + np.exp(-psi)), y >= 0
    loss = -np.mean(np.log(np.where(y == 1, p, 1 - p))[seen])
    line = next(line for line in diagnose(point).lines if line.startswith("on observed"))
    assert f"log loss {loss:.4f}, mean response {y[seen].mean():.4f}" in line


def test_trials_a_parameter_are_four_times_the_information_of_cells(point):
    y = point.design.responses.dense
    v = point.state.values
    member = point.design.benchmark_index == point.design.effect_benchmarks[:, None]
    effects = (v["benchmark_sd"] * v["effect_unit"]).T @ member
    psi = (v["factor"].T @ v["loading"] + effects)[: len(y)] + v["intercept"]
    p = 1 / (1 + np.exp(-psi))
    n_parameters = len(y) * (2 + len(member)) + y.shape[1] * 3
    expected = 4 * (p * (1 - p))[y >= 0].sum() / n_parameters
    assert trials_a_parameter(point) == pytest.approx(expected, rel=1e-4)


def test_draws_alike_are_good_whatever_the_rotation(point):
    assert diagnose(drawn(point)).good
    found = diagnose(drawn(point, turn=True))
    assert found.good
    assert "R-hat at most 1.0" in found.lines[1]


@pytest.mark.parametrize("fault", [{"shift": 0.5}, {"diverging": 1}, {"n_draws": 60}])
def test_draws_apart_divergent_or_few_are_not(point, fault):
    found = diagnose(drawn(point, **fault))
    assert not found.good
    assert found.lines[0].startswith("NOT CONVERGED")
    if "diverging" in fault:
        assert "1 divergences" in found.lines[1]


def test_hyperparameters_have_intervals_of_their_draws(point):
    posterior = drawn(point)
    rows = diagnose(posterior, ci_prob=0.5).hyperparameters.set_index("parameter")
    draws = posterior.draws(1000, key=jax.random.key(0))["factor_sd"]
    expected = np.quantile(draws, [0.25, 0.75])
    np.testing.assert_allclose(rows.loc["factor_sd", ["lower", "upper"]].to_numpy(float), expected)
