"""New responses in draws and points: against importance sampling, and fitting again."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import betabinom

from bayes_lrmf.checks import InputError
from bayes_lrmf.coldstart import add
from bayes_lrmf.design import make_design
from bayes_lrmf.draws import rows_and_columns
from bayes_lrmf.inference import fit_map, fit_svi
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.logit_normal import logit_normal
from bayes_lrmf.posterior import DrawsState, PointState
from bayes_lrmf.predict import predict_benchmarks, predict_items
from bayes_lrmf.redraw import _Cells
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

SPEC = dataclasses.replace(read_spec("laplacian"), rank=2)
KEY = jax.random.key(6)


@pytest.fixture(scope="module", params=[1, 30], ids=["items", "counts"])
def split(request):
    """Simulated data, two leaves held out, and a point fitted without these."""
    n = 40 if request.param == 1 else 8
    data = simulate(
        SPEC, key=KEY, n_models=50, n_items=n, n_benchmarks=2, density=0.8, trials=request.param
    )
    leaves = [m for m in data.responses.models if not data.lineage.children_of(m)]
    held = [m for m in leaves if data.lineage.parents_of(m)][-2:]
    kept = [m for m in data.responses.models if m not in held]
    design = make_design(
        data.responses.select_models(kept), SPEC, lineage=data.lineage, extra_models=held
    )
    return data, held, fit_map(design, SPEC, key=KEY)


def repeated(point, n):
    """Draws that are all the same, so that what is drawn anew is one conditional."""
    values = {k: np.broadcast_to(v, (1, n, *np.shape(v))) for k, v in point.state.values.items()}
    record = dataclasses.replace(point.record, method="svi")
    return dataclasses.replace(point, state=DrawsState(dict(values)), record=record)


@pytest.mark.slow
def test_draws_follow_the_conditional(split):
    """Moments of the probabilities, by weighing draws of the prior conditional by likelihood."""
    data, held, point = split
    prior = repeated(point, 20_000)
    # Few results, so that the prior counts as much as they do.
    cells = data.responses.select_models(held[:1]).to_cells()
    away = np.arange(len(cells.rows)) >= 5
    new = data.responses.select_models(held[:1])
    new = new.hide(cells=(cells.rows[away], cells.cols[away]))
    found = add(repeated(point, 3000), responses=new, key=KEY)
    at = np.array([point.design.periphery.index[held[0]]])
    rows, cols = rows_and_columns(
        prior, prior.draws(20_000, key=KEY), rng=np.random.default_rng(0), chosen=at
    )
    psi = np.einsum("df,fi->di", rows[:, :, 0], cols[0]).astype(float)
    k, n = (part[0].astype(float) for part in new.matrices(held[:1]))
    p = 1 / (1 + np.exp(-psi))
    if "concentration" in point.state.values:
        c = np.asarray(point.state.values["concentration"])[point.design.benchmark_index]
        log_weight = betabinom.logpmf(k, n, np.maximum(p * c, 1e-9), np.maximum((1 - p) * c, 1e-9))
    else:
        log_weight = k * np.log(p) + (n - k) * np.log1p(-p)
    log_weight = log_weight.sum(1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1 / (weight**2).sum() > 100
    within = 0.0
    if "concentration" in point.state.values:
        # What is predicted of a cell is given what it showed.
        c = np.where(point.design.items["trials"] > 1, c, 1e12)
        p = (c * p + k) / (c + n)
        within = weight @ (p * (1 - p) / (c + n + 1))
    mean = weight @ p
    sd = np.sqrt(weight @ (p - mean) ** 2 + within)
    items = predict_items(found, key=KEY, models=held[:1], n_draws=3000)
    assert np.sqrt(np.mean((items["mean"] - mean) ** 2)) < 0.02
    np.testing.assert_allclose(items["sd"].mean(), sd.mean(), rtol=0.1)


def test_models_below_are_predicted_as_before(split):
    """The graph grows, and with it the unit of its scale: what others are predicted stays."""
    data, held, point = split
    stranger = data.responses.select_models(held[:1])
    stranger = dataclasses.replace(stranger, models=np.array(["a/stranger"], dtype=object))
    draws = repeated(point, 400)
    grown = add(draws, responses=stranger, key=KEY)
    a, b = (predict_benchmarks(p, key=KEY, models=held[1:], n_draws=400) for p in (draws, grown))
    np.testing.assert_allclose(a["sd"], b["sd"], rtol=1e-3)
    np.testing.assert_allclose(a["mean"], b["mean"], atol=1e-3)


def test_a_point_moves_to_where_a_fit_would_put_it(split):
    data, held, point = split
    new = data.responses.select_models(held)
    grown = add(point, responses=new, key=KEY)
    assert isinstance(grown.state, PointState)
    again = fit_map(make_design(data.responses, SPEC, lineage=data.lineage), SPEC, key=KEY)
    a, b, c = (predict_items(p, key=KEY, models=held) for p in (grown, again, point))
    gap = np.sqrt(np.mean((a["mean"] - b["mean"]) ** 2))
    before = np.sqrt(np.mean((c["mean"] - b["mean"]) ** 2))
    assert gap < 0.06
    assert gap < 0.5 * before
    others = list(point.design.responses.models)
    a, b = (predict_items(p, key=KEY, models=others) for p in (grown, point))
    np.testing.assert_allclose(a["mean"], b["mean"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("split", [1], indirect=True, ids=["items"])
def test_gaussians_become_draws_that_are_written_and_read(split, tmp_path):
    data, held, point = split
    svi = fit_svi(point.design, SPEC, key=KEY, max_steps=400)
    new = data.responses.select_models(held)
    grown = add(svi, responses=new, key=KEY)
    assert isinstance(grown.state, DrawsState)
    before, after = (
        predict_benchmarks(p, key=KEY, models=held, n_draws=1000) for p in (svi, grown)
    )
    assert (after["n_observed"] > 0).all()
    assert after["sd"].mean() < 0.7 * before["sd"].mean()
    path = tmp_path / "grown.nc"
    write_posterior(grown, path)
    same = predict_benchmarks(read_posterior(path), key=KEY, models=held, n_draws=1000)
    np.testing.assert_allclose(same["mean"], after["mean"], atol=1e-6)
    with pytest.raises(InputError, match="give a key"):
        add(svi, responses=new)


def test_models_without_recorded_kin_and_kin_of_each_other_are_added(split):
    data, held, point = split
    new = data.responses.select_models(held)
    strange = dataclasses.replace(new, models=np.array(["a/stranger", "b/stranger"], dtype=object))
    grown = add(repeated(point, 50), responses=strange, key=KEY)
    table = predict_benchmarks(grown, key=KEY, models=["a/stranger", "b/stranger"])
    assert table["mean"].between(0, 1).all()

    edges = pd.DataFrame(
        {
            "child": ["b/stranger", "a/stranger"],
            "parent": ["a/stranger", held[0]],
            "relation": ["finetune", "finetune"],
        }
    )
    tree = lineage_from_frame(edges)
    one = strange.select_models(["b/stranger"])
    grown = add(repeated(point, 50), lineage=tree, responses=one, key=KEY)
    assert {"a/stranger", "b/stranger"} <= set(grown.design.core.nodes)


@pytest.mark.parametrize("sd", [pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_noisy_counts_are_read_with_their_noise(sd, rng):
    """Log-odds of 2 under noise show a mean nearer to one half, which is not theirs."""
    psi = 2 + sd * rng.standard_normal(200)
    n = np.full(200, 400.0)
    k = rng.binomial(400, 1 / (1 + np.exp(-psi))).astype(float)
    variance = np.full((1, 200), sd**2)
    cells = _Cells(np.ones((1, 1, 200)), np.zeros((1, 200)), k, n, np.zeros((1, 200)), variance)
    mode, root = cells.mode(np.zeros((1, 1)), np.full((1, 1), 1e-4))
    grid = np.linspace(1.5, 2.5, 201)
    value = [float(np.sum(np.asarray(logit_normal(np.full(200, x), k, n, sd)))) for x in grid]
    weight = np.exp(value - np.max(value))
    weight /= weight.sum()
    exact = weight @ grid
    deviation = np.sqrt(weight @ (grid - exact) ** 2)
    assert mode[0, 0] == pytest.approx(exact, abs=0.3 * deviation)
    assert 1 / root[0, 0, 0] == pytest.approx(deviation, rel=0.02)
