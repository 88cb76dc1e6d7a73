"""New models in a fitted posterior: against the engine of the fit, and files."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf import coldstart
from bayes_lrmf.checks import InputError
from bayes_lrmf.coldstart import add
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.inference.vb_closing import Closed
from bayes_lrmf.inference.vb_fit import VariationalFit
from bayes_lrmf.inference.vb_items import ItemGaussians
from bayes_lrmf.lineage import Lineage, lineage_from_frame
from bayes_lrmf.posterior import DrawsState
from bayes_lrmf.predict import predict_benchmarks, predict_items
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

SPEC = dataclasses.replace(read_spec("directed"), rank=2)
KEY = jax.random.key(5)


@functools.cache
def drawn(trials):
    sizes = {"n_items": 60} if trials == 1 else {"n_items": 12, "trials": trials}
    return simulate(
        SPEC, key=jax.random.key(1), n_models=90, n_benchmarks=3, density=0.7, cold_share=0, **sizes
    )


def split(trials):
    """Simulated data, six leaves of it held out, and a fit without these."""
    data = drawn(trials)
    leaves = [m for m in data.responses.models if not data.lineage.children_of(m)]
    held = leaves[-6:]
    kept = [m for m in data.responses.models if m not in held]
    lineage = data.lineage.among([m for m in data.lineage.nodes if m not in held])
    design = make_design(data.responses.select_models(kept), SPEC, lineage=lineage)
    posterior = fit_vb(design, SPEC, key=jax.random.key(0), tolerance=1e-7)
    return data, held, posterior


@pytest.fixture(scope="module", params=[1, 40], ids=["items", "counts"])
def bounded(request):
    """A fit that keeps the covariances of the bound, whose fixed point its engine can tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayes_lrmf.inference.vb.close", lambda fit, _: Closed(fit, fit, 0, True))
        patch.setattr("bayes_lrmf.inference.vb._NEGLIGIBLE_GAIN", 1e-4)
        return split(request.param)


@pytest.fixture(scope="module")
def of_items():
    return split(1)


def first_results(responses, models, n):
    """The first `n` results of each model."""
    cells = responses.select_models(models).to_cells()
    rank = np.concatenate([np.arange(c) for c in np.bincount(cells.rows)])
    away = rank >= n
    return responses.select_models(models).hide(cells=(cells.rows[away], cells.cols[away]))


def near(lineage, models):
    """Edges to the parents of some models."""
    return lineage.among([*models, *(p for m in models for p in lineage.parents_of(m))])


def test_a_model_without_responses_is_predicted_as_if_it_had_been_there(of_items):
    data, held, posterior = of_items
    added = add(posterior, lineage=data.lineage)
    design = make_design(posterior.design.responses, SPEC, lineage=data.lineage, extra_models=held)
    known = dataclasses.replace(posterior, design=design)
    for models in (held, list(posterior.design.responses.models[:5])):
        a, b = (predict_benchmarks(p, key=KEY, models=models) for p in (added, known))
        pd.testing.assert_frame_equal(a, b)
    alone = add(posterior, lineage=near(data.lineage, held[:1]))
    assert set(alone.design.models) - set(posterior.design.models) == {held[0]}


def engine_of(grown):
    """The engine of `fit_vb` over all cells of a grown design, items and scales as they were."""
    design, values = grown.design, grown.state.values
    fit = VariationalFit.start(design, SPEC, grown.state.centre())
    root = values["item_root"].astype(float)
    items = ItemGaussians(
        design,
        SPEC,
        values["item_mean"].astype(float),
        root @ root.mT,
        fit.items.group_mean,
        float(values["intercept_sd"]),
    )
    noise = values.get("overdispersion_sd")
    prior = coldstart._prior(grown, design)
    return dataclasses.replace(fit, items=items, prior=prior, noise_sd=noise)


def test_fold_in_is_where_the_engine_of_the_fit_ends(bounded, monkeypatch):
    data, held, posterior = bounded
    new = first_results(data.responses, held, 8)
    curved = add(posterior, lineage=data.lineage, responses=new)
    monkeypatch.setattr(coldstart, "_CURVATURE_ROUNDS", 0)
    grown = add(posterior, lineage=data.lineage, responses=new)
    fit = engine_of(grown)
    for _ in range(40):
        evidence = fit.cells.about_models(fit.local(), fit.items.local(), fit.noise)
        fit = fit._with_models(evidence, learn=False)
    core = grown.design.core.index
    at = [core[m] for m in held]
    sd = np.sqrt(np.diagonal(fit.moments.variance, axis1=1, axis2=2))
    gap = np.abs(grown.state.values["model_mean"] - fit.moments.mean)[at] / sd[at]
    # Old cells and old steps keep the weights that the fit gave them: a small difference stays.
    assert np.sqrt(np.mean(gap**2)) < 0.08
    assert gap.max() < 0.2
    np.testing.assert_allclose(deviations(grown)[at], sd[at], rtol=0.05)
    # The expected curvature is less than the bound's: a wider posterior, whose means follow the
    # weights of its steps and no more.
    bound, wider = deviations(grown)[at], deviations(curved)[at]
    assert (wider > 0.99 * bound).all()
    assert (wider / bound).mean() > 1.005
    moved = (curved.state.values["model_mean"] - grown.state.values["model_mean"])[at]
    assert np.abs(moved / bound).max() < 0.1
    # Kin learn as well: the parents are no longer where they were.
    parents = [core[p] for m in held for p in data.lineage.parents_of(m)]
    before = posterior.state.values["model_mean"]
    old = [posterior.design.core.index[p] for m in held for p in data.lineage.parents_of(m)]
    moved = np.abs(grown.state.values["model_mean"][parents] - before[old]).max(1)
    assert (moved > 1e-6).all()


def deviations(posterior):
    """Standard deviations of all core nodes."""
    system = coldstart._system(posterior)
    factor = system.blocks.factor(system.diagonal, system.off)
    variance, _ = system.blocks.selected_inverse(factor)
    return np.sqrt(np.diagonal(variance, axis1=1, axis2=2))


def test_families_alone_are_predicted_as_in_the_whole(of_items):
    data, held, posterior = of_items
    new = first_results(data.responses, held[:2], 6)
    lineage = near(data.lineage, held[:2])
    whole, part = (add(posterior, lineage=lineage, responses=new, whole=w) for w in (True, False))
    assert len(part.design.models) <= len(whole.design.models)
    a, b = (coldstart._system(p) for p in (whole, part))
    at = [whole.design.core.index[m] for m in part.design.core.nodes]
    np.testing.assert_allclose(b.mean, a.mean[at], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b.diagonal, a.diagonal[at], rtol=1e-3, atol=1e-3)


def test_more_results_of_a_model_of_the_fit_move_it_and_its_children(of_items):
    data, _, posterior = of_items
    responses = posterior.design.responses
    children = [responses.models[c] for c in data.lineage.child if c < responses.n_models]
    model = data.lineage.parents_of(children[0])[0]
    full = data.truth[data.truth["model"] == model].drop(columns="probability")
    seen = responses.select_models([model]).to_frame()[["benchmark", "item"]]
    left = full.merge(seen, on=["benchmark", "item"], how="left", indicator=True)
    left = left[left["_merge"] == "left_only"].drop(columns="_merge")
    all_right = responses_from_frame(left.assign(successes=1))
    grown = add(posterior, responses=all_right)
    child = data.lineage.children_of(model)[0]
    for name in (model, child):
        before, after = (
            predict_items(p, key=KEY, models=[name], n_draws=400)["mean"].mean()
            for p in (posterior, grown)
        )
        assert after > before + 0.005
    with pytest.raises(InputError, match="already"):
        add(grown, responses=all_right)


def test_results_may_come_in_parts(of_items):
    data, held, posterior = of_items
    new = first_results(data.responses, held[:2], 6)
    at_once = add(posterior, lineage=data.lineage, responses=new)
    # Known by name first, then the one, then the other.
    grown = add(posterior, lineage=data.lineage)
    assert set(held) <= set(grown.design.periphery.nodes[grown.design.n_core :])
    for model in held[:2]:
        grown = add(grown, responses=new.select_models([model]))
    assert set(grown.design.core.nodes) == set(at_once.design.core.nodes)
    a, b = (coldstart._system(p) for p in (at_once, grown))
    at = [grown.design.core.index[m] for m in at_once.design.core.nodes]
    gap = np.abs(a.mean - b.mean[at]) / deviations(at_once)
    assert gap.max() < 0.1


def test_kin_are_nothing_to_a_fit_without_lineage(of_items):
    data, held, posterior = of_items
    spec = dataclasses.replace(read_spec("mf"), rank=2)
    point = fit_map(make_design(posterior.design.responses, spec), spec, key=jax.random.key(0))
    found = predict_benchmarks(add(point, lineage=data.lineage), key=KEY, models=held)
    # All alike: nothing is known of any of them.
    assert found.groupby("benchmark")["mean"].nunique().eq(1).all()


def test_a_grown_posterior_survives_its_file(of_items, tmp_path):
    data, held, posterior = of_items
    new = first_results(data.responses, held[:3], 5)
    grown = add(posterior, lineage=data.lineage, responses=new)
    write_posterior(grown, tmp_path / "p.nc")
    again = read_posterior(tmp_path / "p.nc")
    assert "responses added" in again.record.message
    a, b = (predict_benchmarks(p, key=KEY, models=held) for p in (grown, again))
    pd.testing.assert_frame_equal(a, b, rtol=1e-5)


def test_edges_into_models_of_the_fit_are_left_out_and_said(of_items):
    _, held, posterior = of_items
    child = posterior.design.core.nodes[posterior.design.core.child[0]]
    edge = Lineage(
        np.array([child, held[0]], object),
        np.array([0], np.int32),
        np.array([1], np.int32),
        np.array(["finetune"], object),
        np.ones(1),
    )
    assert "left out" in add(posterior, lineage=edge).design.notes[-1]


def test_other_fits_take_models_too(of_items):
    """Responses of theirs are tested with `redrawn`; draws of the directed prior refuse these."""
    data, held, posterior = of_items
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    lineage = data.lineage.among([m for m in data.lineage.nodes if m not in held])
    design = make_design(posterior.design.responses, spec, lineage=lineage)
    point = fit_map(design, spec, key=jax.random.key(0))
    added = add(point, lineage=data.lineage)
    assert len(predict_benchmarks(added, key=KEY, models=held)) == 6 * 3
    new = first_results(data.responses, held, 2)
    draws = DrawsState({n: v[None] for n, v in posterior.draws(3, key=KEY).items()})
    with pytest.raises(InputError, match="cannot be folded"):
        add(dataclasses.replace(posterior, state=draws), responses=new, key=KEY)
    with pytest.raises(InputError, match="nothing to add"):
        add(posterior)


@pytest.mark.parametrize("with_parents", [False, True])
def test_models_of_which_none_is_known_are_added_with_results(kin_fit, with_parents):
    design = kin_fit.design
    names = np.array(["new/base", "new/kid"], dtype=object)
    table = dataclasses.replace(
        design.responses.select_models(design.responses.models[:2]), models=names
    )
    lineage = None
    if with_parents:
        edges = {"child": ["new/kid"], "parent": ["new/base"], "relation": ["finetune"]}
        lineage = lineage_from_frame(pd.DataFrame(edges))
    grown = add(kin_fit, lineage=lineage, responses=table)
    items = predict_items(grown, key=jax.random.key(0), models=list(names), n_draws=400)
    seen = items.dropna(subset="observed")
    # They are predicted what they showed, more or less.
    assert np.corrcoef(seen["mean"], seen["observed"])[0, 1] > 0.5
    assert len(grown.design.responses.models) == len(design.responses.models) + 2
