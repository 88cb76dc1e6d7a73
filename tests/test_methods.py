"""Methods of the study: settings chosen on validation cells, forecasts of the split's models."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from bayes_lrmf import methods
from bayes_lrmf.baselines import item_mean, scaling_law
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.forecast import point_forecast
from bayes_lrmf.holdouts import hold_out_cold
from bayes_lrmf.inference import fit_map
from bayes_lrmf.methods import METHODS, Background, Method, run_method
from bayes_lrmf.predict import predict_items
from bayes_lrmf.scoring import benchmark_scores
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import HyperPrior, Penalty, read_spec

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def data():
    return simulate(
        read_spec("mf"), key=jax.random.key(4), n_models=40, n_items=40, merge_share=0, cold_share=0
    )


@pytest.fixture(scope="module")
def background(data):
    size = np.random.default_rng(1).choice([1.0, 7.0, 70.0], 40)
    features = pd.DataFrame({"params_b": size}, index=pd.Index(data.lineage.nodes, name="model"))
    return Background(data.lineage, features)


@pytest.fixture(scope="module")
def split(data):
    return hold_out_cold(data.responses, data.lineage, seed=0)


@pytest.fixture
def shrunk(monkeypatch):
    """Return a method of three settings that keeps what it was given."""
    seen = []

    def predict(split, background, settings, key):
        seen.append(split)
        p = settings["level"] * np.ones((len(split.models), split.train.n_items))
        return point_forecast(p, split.train, split.models)

    grid = [{"level": level} for level in (0.1, 0.5, 0.9)]
    monkeypatch.setitem(METHODS, "level", Method(predict, grid, "the same everywhere"))
    return seen


def test_settings_are_chosen_by_log_loss_of_validation_cells(shrunk, split, background):
    validation = hold_out_cold(split.train, background.lineage, seed=1)
    run = run_method("level", split, background, key=KEY, validation=validation)
    rate = validation.test.to_frame()["successes"].mean()
    losses = [-rate * np.log(q) - (1 - rate) * np.log(1 - q) for q in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(run.validation["log_loss"], losses)
    assert run.settings == {"level": [0.1, 0.5, 0.9][int(np.argmin(losses))]}
    assert (run.forecast.probabilities == run.settings["level"]).all()
    # Candidates saw the validation split alone, and the split itself was seen once, at the end.
    assert [s is validation for s in shrunk] == [True, True, True, False]
    assert shrunk[-1] is split


def test_without_validation_the_first_settings_are_used(shrunk, split, background):
    run = run_method("level", split, background, key=KEY)
    assert run.settings == {"level": 0.1}
    assert run.validation.empty
    assert len(shrunk) == 1


def test_a_single_candidate_is_not_tried_on_validation(split, background):
    run = run_method("item_mean", split, background, key=KEY, validation=split)
    np.testing.assert_array_equal(
        run.forecast.probabilities, item_mean(split.train, list(split.models))
    )
    assert run.validation.empty


def test_settings_replace_medians_of_the_spec(split, background):
    settings = {"factor_sd": 0.3, "kappa": 0.1}
    forecast = METHODS["lrmf_map"].predict(split, background, settings, KEY)
    spec = read_spec("laplacian")
    spec = dataclasses.replace(
        spec,
        factor_sd=HyperPrior(0.3, spec.factor_sd.log_sd),
        kappa=HyperPrior(0.1, spec.kappa.log_sd),
    )
    design = make_design(split.train, spec, lineage=background.lineage, extra_models=split.models)
    fitted = fit_map(design, spec, key=jax.random.split(KEY)[0])
    by_hand = predict_items(fitted, key=KEY, models=list(split.models))["mean"].to_numpy()
    np.testing.assert_allclose(forecast.probabilities.ravel(), by_hand, atol=2e-3)
    assert forecast.is_point
    first = METHODS["lrmf_map"].predict(split, background, METHODS["lrmf_map"].grid[0], KEY)
    assert np.abs(first.probabilities - forecast.probabilities).max() > 0.02


def test_the_paper_gets_its_penalty(split, background, monkeypatch):
    specs = []
    fit = methods.fit_method
    monkeypatch.setattr(
        methods, "fit_method", lambda m, d, spec, **o: specs.append(spec) or fit(m, d, spec, **o)
    )
    settings = {"models": 2.0, "items": 0.3, "ridge": 0.7}
    METHODS["paper"].predict(split, background, settings, KEY)
    assert specs[0].penalty == Penalty(2.0, 0.3, 0.7)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_blend_is_the_average_of_log_odds(share, split, background):
    forecast = METHODS["lrmf_scaling"].predict(split, background, {"share": share}, KEY)
    of_map = METHODS["lrmf_map"].predict(split, background, {}, KEY).probabilities
    names = [*split.train.models, *split.models]
    label = background.lineage.core(names).components()
    family = {name: str(label[i]) for i, name in enumerate(names)}
    law = scaling_law(split.train, split.models, background.features, family)
    by_hand = expit((1 - share) * logit(of_map) + share * logit(law))
    np.testing.assert_allclose(forecast.probabilities, by_hand, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["item_mean", "lineage_mean", "nearest", "scaling", "irt", "mf", "paper"]
)
def test_every_grid_makes_forecasts_of_the_models_of_the_split(name, split, background):
    method = METHODS[name]
    assert method.summary
    for settings in (method.grid[0], method.grid[-1]):
        forecast = method.predict(split, background, settings, KEY)
        assert list(forecast.models) == list(split.models)
        p = forecast.probabilities
        assert p.shape == (len(split.models), split.train.n_items)
        assert ((p > 0) & (p < 1)).all()


def test_mistakes_say_what_to_do(split, background):
    with pytest.raises(InputError, match="did you mean 'lrmf_svi'"):
        run_method("lrmf_sv", split, background, key=KEY)
    bare = Background(background.lineage)
    with pytest.raises(InputError, match=r"scaling needs features.*--models-table"):
        run_method("scaling", split, bare, key=KEY)


def test_conformal_intervals_come_from_errors_on_the_validation_split(shrunk, monkeypatch):
    table = simulate(
        read_spec("mf"), key=jax.random.key(4), n_models=140, n_items=80, density=1, cold_share=0
    )
    background = Background(table.lineage)
    split = hold_out_cold(table.responses, table.lineage, seed=0)
    validation = hold_out_cold(split.train, table.lineage, seed=1)
    method = dataclasses.replace(METHODS["level"], conformal=True)
    monkeypatch.setitem(METHODS, "level_conformal", method)
    assert run_method("level_conformal", split, background, key=KEY).forecast.is_point
    run = run_method("level_conformal", split, background, key=KEY, validation=validation)
    level = run.settings["level"]
    np.testing.assert_allclose(run.forecast.probabilities, level)
    lower, upper = run.forecast.intervals(0.8)
    observed = benchmark_scores(point_of(validation, level), validation)[0]
    for b, scores in enumerate(observed.T):
        known = scores[~np.isnan(scores)]
        assert len(known) >= 20
        half = np.sort(np.abs(known - level))[int(np.ceil(0.8 * (len(known) + 1))) - 1]
        np.testing.assert_allclose(upper[:, b], min(level + half, 1), atol=2e-3)
        np.testing.assert_allclose(lower[:, b], max(level - half, 0), atol=2e-3)


def point_of(split, level):
    p = level * np.ones((len(split.models), split.train.n_items))
    return point_forecast(p, split.train, split.models)
