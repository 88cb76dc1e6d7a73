"""Flags: what each rule picks, in which order, and what it says."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import networkx as nx
import numpy as np
import pandas as pd
import pytest

import bayes_lrmf.flag as flags
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.flag import flag
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.predict import ScoreDraws, predict_ranks, score_draws
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
    lower, upper = drawn.intervals(0.9)
    width = (upper - lower).ravel()
    # Ends are twentieths: of an interval that is .3 wide as written, floats may differ by more.
    assert (np.abs(width - 0.3) < 1e-9).any()
    expected = np.sort(width[width > 0.3 + 1e-9])[::-1]
    np.testing.assert_allclose(found["value"], expected)
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
    assert (found["value"] - 0.5).abs().is_monotonic_increasing
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


@pytest.fixture
def by_hand(posterior, data, monkeypatch):
    """Return ten draws of three models on two benchmarks, in place of those of the fit.

    One has results and relatives, one relatives alone, one neither. On "x" they are above 0.5 in
    9, 5 and 2 of ten draws; "y" is 0.5 in all of them.
    """
    names = posterior.design.models
    cold = sorted(set(names) - set(data.responses.models) - {"nobody/knows"})[0]
    models = np.array([data.responses.models[0], cold, "nobody/knows"], dtype=object)
    scores = np.full((10, 3, 2), 0.5, np.float32)
    for u, above in enumerate((9, 5, 2)):
        scores[:, u, 0] = np.where(np.arange(10) < above, 0.6 + 0.01 * u, 0.4)
    drawn = ScoreDraws(
        models, np.array(["x", "y"], dtype=object), scores, np.full((3, 2), 8),
        np.array([[3, 8], [0, 0], [0, 0]]), "predictive",
    )  # fmt: skip
    monkeypatch.setattr(flags, "score_draws", lambda *_, **__: drawn)
    return drawn


def test_undecided_are_those_of_ten_draws(posterior, by_hand):
    # At 80 %, open is more than two draws of ten on either side; at 79 %, more than 2.1.
    found = rule(flag(posterior, key=KEY, threshold=0.5, ci_prob=0.8), "threshold")
    assert list(found["model"]) == [by_hand.models[1]]
    assert list(found["benchmark"]) == ["x"]
    assert list(found["value"]) == [0.5]
    assert (
        found["reason"]
        .iloc[0]
        .startswith("the score is above 0.5 with probability 0.50: undecided; none run, ")
    )
    # At 85 % the one with two draws above comes second, at 95 % the one with nine third.
    found = rule(flag(posterior, key=KEY, threshold=0.5, ci_prob=0.85), "threshold")
    assert list(found["model"]) == list(by_hand.models[[1, 2]])
    assert "no evaluated relative" in found["reason"].iloc[1]
    found = rule(flag(posterior, key=KEY, threshold=0.5, ci_prob=0.95), "threshold")
    assert list(found["model"]) == list(by_hand.models[[1, 2, 0]])
    assert "3 of 8 run, " in found["reason"].iloc[2]
    assert set(found["benchmark"]) == {"x"}
    # A score on the threshold is not above it.
    found = rule(flag(posterior, key=KEY, threshold=0.4, ci_prob=0.8), "threshold")
    assert list(found["value"]) == [0.5]


def test_an_event_and_its_opposite_are_not_both_likelier_than_half(posterior, by_hand):
    found = flag(posterior, key=KEY, threshold=0.5, top_k=1, ci_prob=0.4)
    assert set(found["rule"]) == {"no kin"}


def test_ranks_in_doubt_are_those_of_ten_draws(posterior, by_hand):
    average = by_hand.scores.mean(-1)
    # Ties go to the first, so that there is one best model in every draw.
    first = np.bincount(average.argmax(1), minlength=3) / 10
    assert list(first) == [0.5, 0.3, 0.2]
    found = rule(flag(posterior, key=KEY, top_k=1, ci_prob=0.7), "rank")
    assert list(found["model"]) == list(by_hand.models[:1])
    found = rule(flag(posterior, key=KEY, top_k=1, ci_prob=0.75), "rank")
    assert list(found["model"]) == list(by_hand.models[:2])
    for row in found.to_dict("records"):
        u = list(by_hand.models).index(row["model"])
        assert row["value"] == first[u]
        assert row["benchmark"] == "average"
        assert row["reason"] == f"among the 1 best of 3 with probability {first[u]:.2f}: undecided"
        assert row["mean"] == pytest.approx(average[:, u].mean())
        assert (row["lower"], row["upper"]) == equal_tailed(average[:, u], 0.75)
    # The second is among the two best in all ten draws, the others in eight and in two.
    found = rule(flag(posterior, key=KEY, top_k=2, ci_prob=0.85), "rank")
    assert set(found["model"]) == set(by_hand.models[[0, 2]])
    found = rule(flag(posterior, key=KEY, top_k=1, ci_prob=0.95), "rank")
    assert list(found["model"]) == list(by_hand.models)
    for bad in (3, 4):
        with pytest.raises(InputError, match=f"top_k is {bad}, of 3 models"):
            flag(posterior, key=KEY, top_k=bad)


def test_widths_and_kin_are_those_of_ten_draws(posterior, data, by_hand):
    found = rule(flag(posterior, key=KEY, max_width=0.2, ci_prob=0.5), "width")
    lower, upper = equal_tailed(by_hand.scores[:, 1, 0], 0.5)
    assert list(found["model"]) == [by_hand.models[1]]
    assert found["value"].iloc[0] == pytest.approx(upper - lower)
    assert found["lower"].iloc[0] == pytest.approx(lower)
    assert "the 50% interval is 0.21 wide, more than 0.2: none run" in found["reason"].iloc[0]
    # An interval as wide as allowed is not wider.
    same = flag(posterior, key=KEY, max_width=found["value"].iloc[0], ci_prob=0.5)
    assert rule(same, "width").empty
    alone = rule(flag(posterior, key=KEY), "no kin")
    assert list(alone["model"]) == ["nobody/knows"] * 2
    assert list(alone["benchmark"]) == ["x", "y"]
    assert list(alone["value"]) == [0, 0]
    # One result is enough for a prediction of its own.
    by_hand.n_observed[2, 1] = 1
    assert rule(flag(posterior, key=KEY), "no kin").empty


def test_rows_of_all_rules_are_numbered_through(posterior, by_hand):
    found = flag(posterior, key=KEY, threshold=0.5, top_k=1, max_width=0.1)
    assert found["rule"].nunique() == 4
    assert list(found.index) == list(range(len(found)))


def test_parents_are_compared_where_a_fit_tells_of_steps(posterior, monkeypatch):
    def fitted(lineage="directed", edges=1, state=posterior.state):
        return SimpleNamespace(
            spec=SimpleNamespace(lineage=lineage),
            design=SimpleNamespace(core=SimpleNamespace(child=np.zeros(edges, int))),
            state=state,
        )

    far = pd.DataFrame(
        {
            "model": ["a", "b", "c"],
            "doubtful": [True, False, True],
            "tail_probability": [0.02, 0.5, 0.01],
            "reason": ["far", "near", "further"],
        }
    )
    monkeypatch.setattr(flags, "recorded_parents", lambda *_, **__: far)
    table = pd.DataFrame({"model": ["a", "b", "c", "d"]})
    found = flags._unlike_kin(fitted(), table, KEY)
    assert list(found["model"]) == ["c", "a"]
    assert list(found["value"]) == [0.01, 0.02]
    assert list(found["reason"]) == [
        "its results contradict its kin: further",
        "its results contradict its kin: far",
    ]
    for other in (fitted("laplacian"), fitted("none"), fitted(edges=0), fitted(state=None)):
        assert flags._unlike_kin(other, table, KEY).empty


def test_relatives_are_counted_as_networkx_does(posterior, data):
    counted = flags._evaluated_relatives(posterior.design)
    graph = nx.Graph()
    names = list(posterior.design.models)
    graph.add_nodes_from(names)
    nodes = data.lineage.nodes
    graph.add_edges_from(zip(nodes[data.lineage.child], nodes[data.lineage.parent], strict=True))
    evaluated = set(data.responses.models)
    for at, name in enumerate(names):
        family = nx.node_connected_component(graph, name) - {name}
        assert counted[at] == len(family & evaluated), name
    assert counted.max() > 1


@pytest.mark.parametrize(
    ("observed", "kin", "says"),
    [
        (0, 0, "none run, no evaluated relative"),
        (1, 1, "1 of 7 run, one evaluated relative"),
        (7, 2, "7 of 7 run, 2 evaluated relatives"),
    ],
)
def test_what_is_known_in_words(observed, kin, says):
    row = {"n_observed": observed, "n_items": 7, "n_kin": kin}
    assert flags._what_is_known(row) == says


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
