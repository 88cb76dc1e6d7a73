"""Hold-out of leaf children, and its scores against sums by hand."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.evaluate import hide_leaf_children, score_cold_start
from bayes_lrmf.inference import fit_map, fit_svi
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.predict import predict_benchmarks, predict_items
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


def family(edges):
    rows = [dict(zip(("child", "parent", "relation"), edge.split(), strict=True)) for edge in edges]
    return lineage_from_frame(pd.DataFrame(rows))


def table(models, rng):
    values = rng.integers(0, 2, (len(models), 12)).astype(float)
    frame = pd.DataFrame(values, columns=[f"b{i % 2}:{i}" for i in range(12)])
    return frame.assign(model=models)[["model", *frame.columns]]


def test_half_of_the_leaf_children_lose_every_cell(rng):
    leaves = [f"leaf{i}" for i in range(10)]
    edges = [f"{leaf} base finetune" for leaf in leaves]
    edges += ["base root finetune", "far base ancestor", "gone base finetune", "orphan lost merge"]
    responses = responses_from_frame(table(["root", "base", "far", "orphan", *leaves], rng))
    train, hidden = hide_leaf_children(responses, family(edges), seed=0)
    assert len(hidden) == 5
    assert set(hidden) <= set(leaves)
    assert set(train.models) == set(responses.models) - set(hidden)
    assert train.n_observed == 12 * len(train.models)
    assert hide_leaf_children(responses, family(edges), seed=0)[1] == hidden
    assert hide_leaf_children(responses, family(edges), seed=1)[1] != hidden


def test_twins_go_together_or_stay(rng):
    frame = table(["base", "a", "b", "copy"], rng)
    cells = frame.columns[1:]
    frame.loc[2, cells] = frame.loc[1, cells].to_numpy()
    frame.loc[3, cells] = frame.loc[0, cells].to_numpy()
    edges = [f"{child} base finetune" for child in ("a", "b", "copy")]
    responses = responses_from_frame(frame)
    for seed in range(4):
        # "copy" has the responses of its own parent, which stays.
        assert hide_leaf_children(responses, family(edges), seed=seed)[1] == ["a", "b"]


def test_a_family_without_children_in_the_table_is_refused(rng):
    responses = responses_from_frame(table(["a", "b"], rng))
    with pytest.raises(InputError, match="no leaf child"):
        hide_leaf_children(responses, family(["a base finetune"]), seed=0)


def test_scores_are_those_of_the_tables(key):
    spec = read_spec("lrmf")
    data = simulate(
        spec, key=key, n_models=30, n_items=60, n_benchmarks=2, density=1.0, cold_share=0.0
    )
    train, hidden = hide_leaf_children(data.responses, data.lineage, seed=0)
    design = make_design(train, spec, lineage=data.lineage)
    assert not set(hidden) & set(design.responses.models)
    fitted = fit_map(design, spec, key=key, max_iterations=30)
    truth = data.responses.select_models(hidden)
    found = score_cold_start(fitted, truth, key=key)

    y = truth.dense.astype(float)
    p = predict_items(fitted, key=key, models=list(truth.models))["mean"].to_numpy()
    p = p.reshape(y.shape)
    assert found["log_loss"] == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))
    guess = predict_benchmarks(fitted, key=key, models=list(truth.models))
    guess = guess["mean"].to_numpy().reshape(len(y), 2)
    score = np.stack([y[:, data.responses.benchmark_index == b].mean(1) for b in (0, 1)], axis=1)
    r = [np.corrcoef(score[:, b], guess[:, b])[0, 1] for b in (0, 1)]
    assert found["pearson"] == pytest.approx(np.mean(r))
    assert found["mae"] == pytest.approx(np.abs(score - guess).mean())
    assert np.isnan(found["coverage_90"])


@pytest.mark.slow
def test_coverage_counts_scores_inside(key):
    spec = read_spec("lrmf")
    data = simulate(spec, key=jax.random.key(5), n_models=30, n_items=48, density=1.0)
    train, hidden = hide_leaf_children(data.responses, data.lineage, seed=0)
    design = make_design(train, spec, lineage=data.lineage)
    fitted = fit_svi(design, spec, key=key, max_steps=400)
    truth = data.responses.select_models(hidden)
    found = score_cold_start(fitted, truth, key=key, n_draws=100)
    for ci_prob in (0.5, 0.9):
        rows = predict_benchmarks(
            fitted, key=key, models=list(truth.models), ci_prob=ci_prob, n_draws=100
        )
        y = pd.DataFrame(truth.dense).T.groupby(data.responses.benchmark_index).mean().T
        y = y.to_numpy().ravel()
        inside = (rows["lower"] <= y) & (y <= rows["upper"])
        assert found[f"coverage_{100 * ci_prob:.0f}"] == pytest.approx(inside.mean(), abs=1e-6)
    # Too few items a benchmark for a correlation that says anything.
    assert np.isnan(found["pearson"])
    assert found["width_50"] < found["width_90"] < found["width_95"]
