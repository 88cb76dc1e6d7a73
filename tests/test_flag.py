"""Flags: what each rule picks, in which order, and what it says."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.flag import flag
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.predict import predict_ranks, score_draws
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.spec import read_spec

SPEC = dataclasses.replace(read_spec("directed"), rank=2)
KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def data(kin_data):
    return kin_data


@pytest.fixture(scope="module")
def posterior(kin_fit):
    return kin_fit


@pytest.fixture(scope="module")
def drawn(posterior):
    return score_draws(posterior, key=KEY, n_draws=400)


def rule(table, name):
    return table[table["rule"] == name]


def test_wide_intervals_are_flagged_widest_first(posterior, drawn):
    found = rule(flag(posterior, key=KEY, max_width=0.3), "width")
    lower, upper = np.quantile(drawn.scores, [0.05, 0.95], axis=0)
    assert len(found) == ((upper - lower) > 0.3).sum() > 0
    assert (found["value"] > 0.3).all()
    assert found["value"].is_monotonic_decreasing
    assert found["reason"].iloc[0].startswith("the 90% interval is 0.")
    assert rule(flag(posterior, key=KEY, max_width=1), "width").empty
    run = found.set_index(["model", "benchmark"])["reason"]
    for (model, benchmark), reason in run.items():
        at = list(drawn.models).index(model), list(drawn.benchmarks).index(benchmark)
        n = drawn.n_observed[at]
        assert (f"{n} of 20 run" if n else "none run") in reason


def test_scores_on_both_sides_of_a_threshold_are_flagged(posterior, drawn):
    found = rule(flag(posterior, key=KEY, threshold=0.5), "threshold")
    above = (drawn.scores > 0.5).mean(0)
    open_ = np.argwhere((above > 0.1) & (above < 0.9))
    expected = {(drawn.models[u], drawn.benchmarks[b]) for u, b in open_}
    assert set(found.set_index(["model", "benchmark"]).index) == expected
    assert (found["value"] - 0.5).abs().is_monotonic_increasing


def test_models_in_doubt_of_the_best_are_flagged(posterior):
    found = rule(flag(posterior, key=KEY, top_k=5), "rank")
    ranks = predict_ranks(posterior, key=KEY, n_draws=400)
    average = ranks[ranks["benchmark"] == "average"].set_index("model")
    assert set(found["benchmark"]) == {"average"}
    assert found["value"].between(0.1, 0.9).all()
    # Who is in doubt has a rank around the border.
    assert average.loc[found["model"], "lower"].le(5.5).all()
    assert average.loc[found["model"], "upper"].ge(5.5).all()
    assert "among the 5 best of 61" in found["reason"].iloc[0]


def test_a_model_without_results_or_relatives_is_always_flagged(posterior):
    found = rule(flag(posterior, key=KEY), "no kin")
    assert set(found["model"]) == {"nobody/knows"}
    assert len(found) == 3


def test_a_child_that_is_not_like_its_parents_is_flagged(data):
    frame = data.responses.to_frame()
    has_parent = set(data.lineage.nodes[data.lineage.child])
    models = list(data.responses.models)
    child = next(m for m in models if m in has_parent and not data.lineage.children_of(m))
    stranger = max(models, key=lambda m: abs(score(frame, m) - score(frame, child)))
    # The results of another model under its name.
    swapped = frame[frame["model"] != child]
    swapped = pd.concat([swapped, frame[frame["model"] == stranger].assign(model=child)])
    design = make_design(responses_from_frame(swapped), SPEC, lineage=data.lineage)
    found = flag(fit_vb(design, SPEC, key=jax.random.key(0)), key=KEY)
    assert child in set(rule(found, "unlike kin")["model"])
    assert "contradict its kin" in rule(found, "unlike kin")["reason"].iloc[0]


def score(frame, model):
    return frame.loc[frame["model"] == model, "successes"].mean()


def test_bad_wishes_are_refused(posterior, data):
    for wish in ({"max_width": -1}, {"threshold": 2}, {"top_k": 0}, {"top_k": 100}):
        with pytest.raises(InputError):
            flag(posterior, key=KEY, **wish)
    with pytest.raises(InputError, match="unknown model"):
        flag(posterior, key=KEY, models=["nobody"])
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    point = fit_map(make_design(data.responses, spec, lineage=data.lineage), spec, key=KEY)
    with pytest.raises(InputError, match="no uncertainty"):
        flag(point, key=KEY)
