"""Scores from items at random: true however wrong the fit is."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bayes_lrmf.checks import InputError
from bayes_lrmf.coldstart import add
from bayes_lrmf.design import make_design
from bayes_lrmf.guard import _estimate, at_random, guard
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.plan import AT_RANDOM, make_plan
from bayes_lrmf.predict import predict_items, score_draws
from bayes_lrmf.responses import AVERAGE, responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

KEY = jax.random.key(4)


def simulated(n_items, n, bias, rng, level=0.0):
    """A score, and the estimate of it from n items at random, with predictions off by `bias`."""
    logit = rng.normal(level, 1.2, n_items)
    y = (rng.random(n_items) < 1 / (1 + np.exp(-logit))).astype(float)
    p = 1 / (1 + np.exp(-(logit + bias)))
    drawn = rng.permutation(n_items)[:n]
    residual, centre = (y - p)[drawn], p[drawn].mean()
    further, expected = np.array([1 - centre, -centre]), (p * (1 - p))[drawn]
    mean, sd = _estimate(p.sum(), residual, further, expected, 0.0, n_items, n_items)
    return y.mean(), mean, sd * stats.t.ppf(0.95, n - 1)


@pytest.mark.parametrize("bias", [0.0, 1.5])
@pytest.mark.parametrize("n", [8, 30])
def test_intervals_hold_what_they_state_for_right_and_wrong_predictions(n, bias):
    rng = np.random.default_rng(0)
    truth, mean, reach = np.array([simulated(100, n, bias, rng) for _ in range(3000)]).T
    assert abs((mean - truth).mean()) < 3 * (mean - truth).std() / np.sqrt(3000)
    inside = np.abs(mean - truth) <= reach
    assert 0.88 < inside.mean() < 0.96


@pytest.mark.parametrize(
    ("n_items", "n", "bias", "level"),
    [
        (100, 5, 4.0, 3.0),
        (100, 10, 0.0, 3.0),
        (100, 10, 2.0, 3.0),
        (100, 20, -2.0, -3.0),
        (1000, 30, 0.0, 4.0),
        (1000, 30, 3.0, 4.0),
    ],
)
def test_intervals_hold_near_the_ends_too(n_items, n, bias, level):
    """Where most samples are all right, and have no spread of their own."""
    rng = np.random.default_rng(0)
    truth, mean, reach = np.array([simulated(n_items, n, bias, rng, level) for _ in range(2000)]).T
    inside = np.abs(mean - truth) <= reach
    assert inside.mean() > 0.89
    # Nor does a fit that is right seem to be wrong.
    if bias == 0:
        z = np.abs(mean - truth) / (reach / stats.t.ppf(0.95, n - 1))
        assert (2 * stats.t.sf(z, n - 1) < 0.01).mean() < 0.01


@pytest.mark.parametrize(
    ("n_items", "n", "m", "full", "bias"),
    [(16, 12, 100, 400, 1.0), (40, 10, 100, 400, 0.5), (16, 16, 50, 400, 0.5), (30, 8, 40, 40, 0)],
)
def test_intervals_of_items_that_were_run_in_part(n_items, n, m, full, bias):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        logit = rng.normal(-1, 1, n_items)
        k = rng.binomial(full, 1 / (1 + np.exp(-logit)))
        q = 1 / (1 + np.exp(-logit - bias))
        drawn = rng.permutation(n_items)[:n]
        y, q_drawn = rng.hypergeometric(k[drawn], full - k[drawn], m), q[drawn]
        rate = (y + 1) / (m + 2)
        within = (rate * (1 - rate) * (1 - m / full) / m).mean()
        expected = q_drawn * (1 - q_drawn) / m
        parts = y / m - q_drawn, np.zeros(0), expected, within
        mean, sd = _estimate(q.sum(), *parts, n_items, n_items)
        inside.append(abs(mean - (k / full).mean()) <= sd * stats.t.ppf(0.95, n - 1))
    assert 0.89 < np.mean(inside) < 0.97


def test_good_predictions_make_short_intervals():
    rng = np.random.default_rng(0)
    good = [simulated(100, 40, 0.0, rng)[2] for _ in range(300)]
    bad = [simulated(100, 40, 3.0, rng)[2] for _ in range(300)]
    assert np.mean(good) < 0.98 * np.mean(bad)


@pytest.fixture(scope="module")
def runs(kin_data, kin_fit):
    """A plan of which half is at random, run by the truth, and by a truth turned around."""
    cold = [m for m in kin_data.lineage.nodes if m not in kin_data.responses.models]
    plan = make_plan(kin_fit, key=KEY, budget=80, models=cold, at_random=0.5)
    truth = kin_data.truth.set_index(["model", "benchmark", "item"])["probability"]
    keys = list(zip(plan["model"], plan["benchmark"], plan["item"], strict=True))
    p = truth.loc[keys].to_numpy()
    rng = np.random.default_rng(0)
    y = (rng.random(len(p)) < p).astype(int)
    frame = plan[["model", "benchmark", "item"]]
    return plan, frame.assign(response=y), frame.assign(response=1 - y)


def test_a_right_fit_agrees_with_runs_at_random(kin_fit, runs):
    plan, right, _ = runs
    drawn, n_missing = at_random(responses_from_frame(right), plan)
    assert n_missing == 0
    assert drawn.n_observed == (plan["reason"] == AT_RANDOM).sum() == 40
    found = guard(kin_fit, drawn, key=KEY)
    assert len(found) == 4
    assert (found["n_random"] == 10).all()
    assert not found["disagree"].any()
    assert (found["lower"] < found["mean"]).all()
    assert (found["mean"] < found["upper"]).all()
    assert found["p_value"].between(0, 1).all()


def test_a_model_unlike_its_predictions_is_noticed(kin_fit, runs):
    """Against the fit before these results: it has not yet seen that all answers are turned."""
    plan, _, turned = runs
    drawn, _ = at_random(responses_from_frame(turned), plan)
    found = guard(kin_fit, drawn, key=KEY, updated=kin_fit)
    assert found["disagree"].any()


def test_estimates_are_of_what_was_run_and_of_residuals_over_the_rest(kin_data, kin_fit):
    """By hand, for a model that had run half of the items before."""
    design, model = kin_fit.design, kin_fit.design.responses.models[3]
    k, n = (part[0].astype(float) for part in design.responses.matrices([model]))
    truth = kin_data.truth[kin_data.truth["model"] == model]
    left = design.items.assign(left=n == 0).merge(truth, on=["benchmark", "item"], sort=False)
    left = left[left["left"]].groupby("benchmark").head(7)
    new = left[["model", "benchmark", "item"]].assign(response=left["successes"])
    found = guard(kin_fit, responses_from_frame(new), key=KEY, updated=kin_fit)
    p = predict_items(kin_fit, key=KEY, models=[model], n_draws=400)["mean"].to_numpy()
    assert len(found) == 3
    for row in found.to_dict("records"):
        of = (design.items["benchmark"] == row["benchmark"]).to_numpy()
        mine = new[new["benchmark"] == row["benchmark"]]
        at = design.items.reset_index().set_index(["benchmark", "item"])["index"]
        cols = at.loc[list(zip(mine["benchmark"], mine["item"], strict=True))].to_numpy()
        residual = mine["response"].to_numpy() - p[cols]
        n_left = int((of & (n == 0)).sum())
        assert 7 <= n_left < of.sum()
        total = k[of].sum() + p[of & (n == 0)].sum() + n_left * residual.mean()
        assert row["mean"] == pytest.approx(total / of.sum(), rel=1e-6)


def test_missing_runs_are_counted_and_other_results_left_out(runs):
    plan, right, _ = runs
    drawn = plan["reason"] == AT_RANDOM
    some = responses_from_frame(pd.concat([right[drawn][:33], right[~drawn]]))
    found, n_missing = at_random(some, plan)
    assert n_missing == 7
    assert found.n_observed == 33
    everything, n_missing = at_random(some, plan[["model", "benchmark", "item"]])
    assert everything.n_observed == some.n_observed
    assert n_missing == 7


def test_what_cannot_be_judged_is_refused(kin_fit, runs):
    plan, right, _ = runs
    table = responses_from_frame(right)
    with pytest.raises(InputError, match="no runs at random"):
        at_random(table, plan[plan["reason"] != AT_RANDOM])
    with pytest.raises(InputError, match="no result of a run at random"):
        at_random(responses_from_frame(right[plan["reason"] != AT_RANDOM]), plan)
    with pytest.raises(InputError, match="no column item"):
        at_random(table, plan[["model", "benchmark"]])
    few = responses_from_frame(right[:4])
    with pytest.raises(InputError, match="has 5 results at random"):
        guard(kin_fit, few, key=KEY)
    one = right[right["model"] == right["model"].iloc[0]].assign(model="who/knows")
    strange = responses_from_frame(one)
    with pytest.raises(InputError, match="not in the fit"):
        guard(kin_fit, strange, key=KEY)


@pytest.mark.slow
def test_benchmarks_of_one_item_are_judged_by_their_mean():
    """Of counts, items at random tell of the mean over benchmarks."""
    spec = dataclasses.replace(read_spec("directed"), rank=1)
    data = simulate(spec, key=KEY, n_models=30, n_items=12, n_benchmarks=12, trials=40, density=1)
    models = list(data.responses.models)
    cells = data.responses.to_cells()
    hidden = (cells.rows == len(models) - 1) & (cells.cols < 8)
    train = data.responses.hide(cells=(cells.rows[hidden], cells.cols[hidden]))
    posterior = fit_vb(make_design(train, spec, lineage=data.lineage), spec, key=KEY, max_sweeps=15)
    drawn = data.responses.hide(cells=(cells.rows[~hidden], cells.cols[~hidden]))
    drawn = drawn.hide(cells=([len(models) - 1], [0]))
    (found,) = guard(posterior, drawn, key=KEY, updated=posterior).to_dict("records")
    assert (found["model"], found["benchmark"], found["n_random"]) == (models[-1], AVERAGE, 7)
    k, n = (part[0].astype(float) for part in data.responses.matrices([models[-1]]))
    draws = score_draws(posterior, key=KEY, models=[models[-1]], n_draws=400).scores.mean(-1)
    np.testing.assert_allclose(found["model_mean"], draws.mean(), atol=1e-6)
    # Seven of eight hidden items known, four from before: almost all of the mean.
    assert abs(found["mean"] - (k / n).mean()) < 0.05
    assert found["upper"] - found["lower"] < 0.1


@pytest.mark.slow
def test_counts_of_a_part_of_a_run_are_judged_by_a_full_one():
    """A hundred of four hundred trials: an estimate of the score of all."""
    spec = dataclasses.replace(read_spec("directed"), rank=1)
    data = simulate(spec, key=KEY, n_models=24, n_items=24, n_benchmarks=24, trials=400, density=1)
    cells, rng = data.responses.to_cells(), np.random.default_rng(0)
    last = len(data.responses.models) - 8
    frame = data.responses.to_frame()
    mine = cells.rows >= last
    part = frame[mine].copy()
    p = part["successes"] / part["trials"]
    part["successes"], part["trials"] = rng.binomial(100, p), 100
    hidden = mine & (cells.cols < 16)
    train = data.responses.hide(cells=(cells.rows[hidden], cells.cols[hidden]))
    posterior = fit_vb(make_design(train, spec, lineage=data.lineage), spec, key=KEY, max_sweeps=15)
    some = responses_from_frame(part[(cells.cols[mine] < 12)])
    found = guard(posterior, some, key=KEY, updated=posterior).set_index("model")
    k, n = data.responses.matrices(list(found.index))
    truth = (k / n).mean(1)
    assert (found["n_random"] == 12).all()
    assert np.abs((found["mean"] - truth).mean()) < 0.015
    assert ((found["lower"] <= truth) & (truth <= found["upper"])).sum() >= 6


def test_pairs_that_were_run_in_full_are_not_judged(kin_data, kin_fit):
    """Their score is known: the fit that has seen the results cannot disagree."""
    model = kin_fit.design.responses.models[3]
    _, n = kin_fit.design.responses.matrices([model])
    left = kin_fit.design.items[n[0] == 0]
    whole = left["benchmark"] == "bench1"
    some = left[whole | (left.groupby("benchmark").cumcount() < 6)]
    new = some[["benchmark", "item"]].assign(model=model, response=1)
    found = guard(kin_fit, responses_from_frame(new), key=KEY)
    assert set(found["benchmark"]) == {"bench2", "bench3"}
    with pytest.raises(InputError, match="results at random, and items left"):
        guard(kin_fit, responses_from_frame(new[whole[new.index]]), key=KEY)


def test_more_trials_than_usual_make_an_interval_too():
    """An item of forty trials elsewhere that was run a hundred times."""
    spec = dataclasses.replace(read_spec("directed"), rank=1)
    data = simulate(spec, key=KEY, n_models=20, n_items=16, n_benchmarks=1, trials=40, density=1)
    frame = data.responses.to_frame()
    last = data.responses.models[-1]
    train = responses_from_frame(frame[frame["model"] != last])
    options = {"key": KEY, "max_sweeps": 3}
    posterior = fit_vb(make_design(train, spec, lineage=data.lineage), spec, **options)
    posterior = add(posterior, lineage=Lineage.empty([last]))
    mine = frame[frame["model"] == last].head(8)
    mine = mine.assign(successes=mine["successes"] * 100 // 40, trials=100)
    (row,) = guard(posterior, responses_from_frame(mine), key=KEY, updated=posterior).to_dict(
        "records"
    )
    assert row["lower"] < row["mean"] < row["upper"]
