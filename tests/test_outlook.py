"""Models that do not exist yet: against draws of a design that knows them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.coldstart import add
from bayes_lrmf.design import make_design
from bayes_lrmf.directed import STEPS, StepScales
from bayes_lrmf.draws import rows_and_columns
from bayes_lrmf.inference import fit_map
from bayes_lrmf.lineage import Lineage, lineage_from_frame
from bayes_lrmf.outlook import predict_child, predict_merge
from bayes_lrmf.predict import score_draws
from bayes_lrmf.spec import read_spec

SPEC = dataclasses.replace(read_spec("directed"), rank=2)
KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def data(kin_data):
    return kin_data


@pytest.fixture(scope="module")
def posterior(kin_fit):
    return kin_fit


def test_a_merge_is_predicted_as_if_the_lineage_had_it(data, posterior):
    a, b = data.responses.models[:2]
    found = predict_merge(posterior, {a: 3, b: 1}, key=KEY, n_draws=4000)
    lineage, n = data.lineage, len(data.lineage.nodes)
    bigger = Lineage(
        np.append(lineage.nodes, "the merge"),
        np.append(lineage.child, [n, n]).astype(np.int32),
        np.append(lineage.parent, [lineage.index[a], lineage.index[b]]).astype(np.int32),
        np.append(lineage.relation, ["merge", "merge"]),
        np.append(lineage.weight, [0.75, 0.25]),
    )
    known = dataclasses.replace(posterior, design=make_design(data.responses, SPEC, lineage=bigger))
    draws = score_draws(known, key=KEY, models=["the merge", a, b], n_draws=4000)
    own = draws.of("the merge")
    np.testing.assert_allclose(found.scores["mean"][:3], own.mean(0), atol=0.01)
    np.testing.assert_allclose(found.scores["sd"][:3], own.std(0), rtol=0.1)
    np.testing.assert_allclose(
        found.beats[a][:3], draws.probability_greater("the merge", a), atol=0.04
    )
    best = draws.probability_best("the merge", [a, b]).to_numpy()
    assert (found.beats["best parent"][:3].to_numpy() >= best - 0.04).all()
    assert (found.beats["best parent"] <= found.beats[[a, b]].min(axis=1) + 1e-9).all()
    assert list(found.scores["benchmark"]) == [*draws.benchmarks, "average"]
    assert "best parent" in str(found)


@pytest.mark.parametrize("weight", [0.1, 0.9])
def test_a_merge_with_a_model_without_kin_is_made_of_both(data, posterior, weight):
    a, b = data.responses.models[0], "nobody/knows"
    edges = pd.DataFrame({"child": "kid", "parent": [a, b], "relation": "merge"})
    edges["weight"] = [weight, 1 - weight]
    grown = add(posterior, lineage=lineage_from_frame(edges))
    design = grown.design
    values = grown.draws(4000, key=KEY)
    rows, _ = rows_and_columns(grown, values, rng=np.random.default_rng(0))
    own, first, second = (rows[:, 0, list(design.models).index(m)] for m in ("kid", a, b))
    scales = StepScales.from_values(posterior.state.values)
    drift = scales.drift[STEPS.index("merge"), 0, 0]
    step = own - weight * first - (1 - weight) * second
    # A step from both, which knows neither of them.
    assert step.mean() == pytest.approx(drift, abs=float(4 * step.std() / 4000**0.5))
    for parent in (first, second):
        assert abs(np.corrcoef(step, parent)[0, 1]) < 0.07
    sd = np.sqrt(scales.factor_covariance[0, 0, 0])
    assert second.std() > 0.7 * sd
    found = predict_merge(posterior, {a: weight, b: 1 - weight}, key=KEY, n_draws=4000)
    drawn = score_draws(grown, key=KEY, models=["kid", a, b], n_draws=4000)
    np.testing.assert_allclose(found.scores["mean"][:3], drawn.of("kid").mean(0), atol=0.015)
    np.testing.assert_allclose(found.scores["sd"][:3], drawn.of("kid").std(0), rtol=0.1)


def test_a_merge_with_a_stranger_to_the_fit_is_made_of_both(data, posterior):
    a = data.responses.models[0]
    edges = pd.DataFrame({"child": "kid", "parent": [a, "stranger"], "relation": "merge"})
    grown = add(posterior, lineage=lineage_from_frame(edges.assign(weight=[0.1, 0.9])))
    tree = grown.design.periphery
    mine = tree.child == tree.index["kid"]
    assert dict(zip(tree.nodes[tree.parent[mine]], tree.weight[mine], strict=True)) == {
        a: pytest.approx(0.1), "stranger": pytest.approx(0.9)
    }  # fmt: skip


def test_a_child_of_a_model_without_kin_stands_by_it(posterior):
    found = predict_child(posterior, "nobody/knows", key=KEY, relation="quantized", n_draws=4000)
    parent = score_draws(posterior, key=KEY, models=["nobody/knows"], n_draws=4000)
    own, of = found.scores["sd"][:3].to_numpy(), parent.of("nobody/knows").std(0)
    assert (own > 0.9 * of).all()
    edges = pd.DataFrame({"child": ["kid"], "parent": ["nobody/knows"], "relation": "quantized"})
    grown = add(posterior, lineage=lineage_from_frame(edges), whole=False)
    drawn = score_draws(grown, key=KEY, models=["kid", "nobody/knows"], n_draws=2000)
    kid, parent = drawn.of("kid"), drawn.of("nobody/knows")
    for b in range(3):
        assert np.corrcoef(kid[:, b], parent[:, b])[0, 1] > 0.5


def test_a_child_has_an_interval_that_grows_with_its_probability(data, posterior):
    parent = data.responses.models[3]
    child = predict_child(posterior, parent, key=KEY, relation="finetune")
    assert (child.scores["lower"] < child.scores["mean"]).all()
    assert (child.scores["mean"] < child.scores["upper"]).all()
    assert child.beats[parent].between(0, 1).all()
    wider = predict_child(posterior, parent, key=KEY, ci_prob=0.99)
    assert (wider.scores["upper"] >= child.scores["upper"] - 1e-9).all()


def test_a_point_has_neither_intervals_nor_probabilities(data):
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    point = fit_map(make_design(data.responses, spec, lineage=data.lineage), spec, key=KEY)
    found = predict_child(point, data.responses.models[0], key=KEY)
    assert found.scores["mean"].notna().all()
    assert found.scores[["sd", "lower", "upper"]].isna().all(axis=None)
    assert found.beats.drop(columns="benchmark").isna().all(axis=None)


def test_bad_parents_are_refused(posterior):
    model = posterior.design.models[0]
    with pytest.raises(InputError, match="unknown model"):
        predict_child(posterior, model + "x", key=KEY)
    with pytest.raises(InputError, match="relation"):
        predict_child(posterior, model, key=KEY, relation="finetuned")
    with pytest.raises(InputError, match="weight of"):
        predict_merge(posterior, {model: 0.0}, key=KEY)
    with pytest.raises(InputError, match="no parents"):
        predict_merge(posterior, {}, key=KEY)
