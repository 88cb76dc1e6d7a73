"""Plans: gains against dense conditioning, greedy against exhaustive, targets, costs, replay."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm

from bayes_lrmf.checks import InputError
from bayes_lrmf.coldstart import add
from bayes_lrmf.directed import StepScales, step_index
from bayes_lrmf.draws import rows_and_columns
from bayes_lrmf.families import family_gaussians
from bayes_lrmf.plan import AT_RANDOM, make_plan
from bayes_lrmf.posterior import DrawsState
from bayes_lrmf.predict import score_draws
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.scale_mixture import SCALE_GRID
from bayes_lrmf.told import ItemCells, Target, ToldFamily

KEY = jax.random.key(3)


def told(posterior, models, *, member=None, target=None):
    """The families of some models, ready to be planned for."""
    families, panel = family_gaussians(posterior, models, key=KEY)
    design = posterior.design
    member = np.eye(len(design.benchmarks)) if member is None else member
    items = ItemCells(design, panel, member)
    chosen = set(models)
    found = []
    for family in families:
        cost = np.ones((len(family.models), design.n_items))
        one = ToldFamily(design, items, family, chosen, chosen, cost)
        one.target = target or Target("variance")
        found.append(one)
    return found


class Dense:
    """The joint Gaussian of scores and of what cells would show, as one covariance matrix."""

    def __init__(self, state):
        n, (n_items, size) = state.n, state.items.x.shape
        n_targets = len(state.items.member)
        # Random numbers: the models, then an error of each cell.
        self.joint = np.zeros((n * size + n * n_items,) * 2)
        self.joint[: n * size, : n * size] = state.covariance
        errors = np.arange(n * size, len(self.joint))
        self.joint[errors, errors] = np.where(state.open, state.noise, 0).ravel()
        self.cells = np.zeros((n * n_items, len(self.joint)))
        self.scores = np.zeros((n * n_targets, len(self.joint)))
        for u, i in itertools.product(range(n), range(n_items)):
            cell = np.zeros(len(self.joint))
            cell[u * size : (u + 1) * size] = state.items.x[i]
            cell[n * size + u * n_items + i] = 1
            self.cells[u * n_items + i] = cell
            if state.open[u, i]:
                weight = state.items.member[:, state.items.of_item[i]]
                at = slice(u * n_targets, (u + 1) * n_targets)
                self.scores[at] += np.outer(weight * state.share[u, i], cell)
        self.shape = (n, n_items)

    def variance(self, runs=()):
        """Variances of scores given what some cells show."""
        cov = self.joint
        if len(runs):
            a = self.cells[[np.ravel_multi_index(r, self.shape) for r in runs]]
            cross = cov @ a.T
            cov = cov - cross @ np.linalg.solve(a @ cross, cross.T)
        return np.einsum("ij,jk,ik->i", self.scores, cov, self.scores)


def cold_children(data):
    """Models that were never run and have parents."""
    tree = data.lineage
    return [m for m in tree.nodes if m not in data.responses.models and tree.parents_of(m)]


@pytest.fixture(scope="module")
def family(kin_data, kin_fit):
    """Four kin, of whom one was never run."""
    lineage = kin_data.lineage
    cold = [m for m in lineage.nodes if m not in kin_data.responses.models]
    near = next(m for m in cold if lineage.parents_of(m))
    return [near, *lineage.kin_of(near, 2)][:4]


def test_gains_are_those_of_conditioning_the_dense_gaussian(kin_fit, family):
    (state,) = told(kin_fit, family)
    dense = Dense(state)
    before = dense.variance()
    np.testing.assert_allclose(state.variance.ravel(), before, rtol=1e-8)
    gains, runs = state.gains(), []
    some = np.argwhere(state.open)[:: max(1, int(state.open.sum()) // 25)]
    for u, i in some:
        expected = (before - dense.variance([(u, i)])).sum()
        np.testing.assert_allclose(gains[u, i], expected, rtol=1e-8)
    for u, i in some[:5]:
        own = before - dense.variance([(u, i)])
        at = slice(u * 3, (u + 1) * 3)
        np.testing.assert_allclose(state.own_part(u, i), own[at].sum(), rtol=1e-8)
    for u, i in some[[0, 3, 4, 9]]:
        state.take(u, i)
        runs.append((u, i))
        np.testing.assert_allclose(state.variance.ravel(), dense.variance(runs), rtol=1e-8)
    u, i = some[12]
    expected = (dense.variance(runs) - dense.variance([*runs, (u, i)])).sum()
    np.testing.assert_allclose(state.gains()[u, i], expected, rtol=1e-8)


@pytest.mark.parametrize("average", [False, True])
def test_a_whole_benchmark_is_all_of_its_items(kin_fit, family, average):
    member = np.full((1, 3), 1 / 3) if average else None
    (state,) = told(kin_fit, family, member=member)
    dense = Dense(state)
    gain, same, cost = state.whole_gains()
    runs = [(0, i) for i in state.left(0, 1)]
    before, after = dense.variance(), dense.variance(runs)
    n_targets = len(state.items.member)
    np.testing.assert_allclose(gain[0, 1], (before - after).sum(), rtol=1e-7)
    np.testing.assert_allclose(same[0, 1], (before - after)[:n_targets].sum(), rtol=1e-7)
    assert cost[0, 1] == len(runs)
    state.take_whole(0, 1)
    np.testing.assert_allclose(state.variance.ravel(), np.maximum(after, 1e-12), rtol=1e-6)
    assert not len(state.left(0, 1))


@pytest.mark.parametrize(
    "target", [Target("variance"), Target("event", 0.6), Target("width", 0.01)]
)
def test_gains_brought_up_to_date_are_those_found_at_once(kin_fit, family, target):
    (asked,), (unasked,) = (told(kin_fit, family, target=target) for _ in range(2))
    cells, first = np.argwhere(asked.open)[::40], asked.gains()
    for k, (u, i) in enumerate(cells):
        asked.gains()
        for state in (asked, unasked):
            if k == 2:
                state.take_whole(u, asked.items.of_item[i])
            elif state.open[u, i]:
                state.take(u, i)
    assert len(cells) > 3
    assert np.abs(asked.gains() - first).max() > 0.1 * first.max()
    np.testing.assert_allclose(asked.gains(), unasked.gains(), rtol=1e-8, atol=1e-13)


@pytest.mark.slow
def test_greedy_is_close_to_the_best_of_all_plans(kin_fit, family):
    """No plan of three of eighteen runs lowers the variance by 1 % more than the greedy one."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(4):
        (state,) = told(kin_fit, family)
        dense = Dense(state)
        free = np.argwhere(state.open)
        some = free[rng.permutation(len(free))[:18]]
        allowed = np.zeros_like(state.open)
        allowed[tuple(some.T)] = True
        state.cost = np.where(allowed, 1.0, np.inf)
        start, chosen = dense.variance().sum(), []
        for _ in range(3):
            value = np.where(allowed, state.gains(), 0)
            u, i = np.unravel_index(value.argmax(), value.shape)
            state.take(u, i)
            chosen.append((u, i))
        greedy = start - dense.variance(chosen).sum()
        best = max(
            start - dense.variance(runs).sum()
            for runs in itertools.combinations([tuple(r) for r in some], 3)
        )
        ratios.append(greedy / best)
    assert min(ratios) > 0.99
    assert max(ratios) <= 1 + 1e-9


def test_what_a_plan_expects_comes_true(kin_data, kin_fit):
    """After the runs, sd of scores are those expected, on average over models."""
    cold = cold_children(kin_data)
    plan = make_plan(kin_fit, key=KEY, budget=12 * len(cold), models=cold)
    assert len(plan) == 12 * len(cold)
    assert plan["rank"].tolist() == list(range(1, len(plan) + 1))
    rng = np.random.default_rng(1)
    truth = kin_data.truth.set_index(["model", "benchmark", "item"])["probability"]
    keys = list(zip(plan["model"], plan["benchmark"], plan["item"], strict=True))
    y = rng.random(len(keys)) < truth.loc[keys].to_numpy()
    frame = plan[["model", "benchmark", "item"]].assign(response=y.astype(int))
    after = add(kin_fit, responses=responses_from_frame(frame))
    draws = score_draws(after, key=KEY, models=cold, n_draws=2000)
    states = told(kin_fit, cold)
    before = {m: s.variance[u].copy() for s in states for u, m in enumerate(s.models)}
    items = kin_fit.design.items
    column = {k: i for i, k in enumerate(zip(items["benchmark"], items["item"], strict=True))}
    for model, benchmark, item in keys:
        state = next(s for s in states if model in s.models)
        state.take(list(state.models).index(model), column[benchmark, item])
    expected = {m: s.variance[u] for s in states for u, m in enumerate(s.models)}
    found = draws.scores.var(0)
    ratio = found.sum() / sum(v.sum() for v in expected.values())
    assert 0.8 < ratio < 1.25
    assert sum(v.sum() for v in expected.values()) < 0.6 * sum(v.sum() for v in before.values())


@pytest.mark.slow
def test_gaussians_have_the_moments_of_the_draws(kin_data, kin_fit, family):
    ((gaussian,), panel) = family_gaussians(kin_fit, family, key=KEY)
    values = kin_fit.draws(20_000, key=KEY)
    at = np.array([kin_fit.design.periphery.index[m] for m in gaussian.models])
    rows, _ = rows_and_columns(kin_fit, values, rng=np.random.default_rng(0), chosen=at)
    flat = rows[:, :-1].transpose(2, 1, 0).reshape(-1, len(rows))
    evaluated = np.array([m in kin_data.responses.models for m in gaussian.models])
    size = gaussian.mean.shape[1]
    exact = gaussian.covariance.reshape(len(flat), -1)
    known = np.repeat(evaluated, size)
    sd = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(flat.mean(1), gaussian.mean.ravel(), atol=0.05 * sd.max())
    np.testing.assert_allclose(
        (np.cov(flat) / np.outer(sd, sd))[np.ix_(known, known)],
        (exact / np.outer(sd, sd))[np.ix_(known, known)],
        atol=0.04,
    )
    psi = np.einsum("nd,id->ni", gaussian.mean, panel.vectors) + panel.offset
    centre = kin_fit.state.centre()
    row = centre["factor"].T @ centre["loading"] + centre["intercept"]
    effects = kin_fit.design.benchmark_index
    row = row + centre["effect_unit"].T[:, effects] * centre.get("benchmark_sd", 1.0)
    inside = [kin_fit.design.core.index[m] for m in gaussian.models[evaluated]]
    np.testing.assert_allclose(psi[evaluated], row[inside], atol=1e-4)


def test_a_model_without_results_is_a_step_away_from_its_parents(kin_data, kin_fit):
    """Covariance and mean of the mixture of its steps, by hand."""
    lineage = kin_data.lineage
    child = cold_children(kin_data)[0]
    parents = lineage.parents_of(child)
    ((family,), _) = family_gaussians(kin_fit, [child, *parents], key=KEY)
    weight = np.array(
        [
            lineage.weight[
                np.flatnonzero(
                    (lineage.child == lineage.index[child]) & (lineage.parent == lineage.index[p])
                )[0]
            ]
            for p in parents
        ]
    )
    order = [list(family.models).index(m) for m in (child, *parents)]
    cov = family.covariance[order][:, :, order]
    mean = family.mean[order]
    scales = StepScales.from_values(kin_fit.state.values)
    design = kin_fit.design
    at = np.array([design.periphery.index[child]])
    step = step_index(design.periphery)[at]
    own = np.zeros((mean.shape[1],) * 2)
    k = scales.rank
    own[:k, :k] = scales.factor_covariance[step[0]] * (scales.factor_shares[step[0]] @ SCALE_GRID)
    effects = scales.effect_variance[step[0]] * (scales.effect_shares[step[0]] @ SCALE_GRID)
    own[np.arange(k, len(own)), np.arange(k, len(own))] = effects
    inherited = np.einsum("p,q,piqj->ij", weight, weight, cov[1:, :, 1:])
    np.testing.assert_allclose(cov[0, :, 0], inherited + own, rtol=1e-4, atol=1e-6)
    across = np.einsum("p,piqj->iqj", weight, cov[1:, :, 1:])
    np.testing.assert_allclose(cov[0, :, 1:], across, rtol=1e-4, atol=1e-6)
    centre = scales.centre(step, design.covariates, at)[0]
    np.testing.assert_allclose(mean[0], weight @ mean[1:] + centre, rtol=1e-4, atol=1e-5)


def test_posteriors_of_draws_are_planned_by_their_moments(kin_fit, family):
    """Draws of the same posterior, rotated each on its own, lead to nearly the same gains."""
    values = kin_fit.draws(1500, key=KEY)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((1500, 2, 2)))[0].astype(np.float32)
    values["factor"] = turn @ values["factor"]
    values["loading"] = turn @ values["loading"]
    scales = {
        name: np.broadcast_to(v, (1500, *np.shape(v)))
        for name, v in kin_fit.state.values.items()
        if name.startswith("step_")
    }
    # Steps of descendants are not rotated along: models of the core alone.
    state = DrawsState({n: np.asarray(v)[None] for n, v in (values | scales).items()})
    drawn = dataclasses.replace(kin_fit, state=state)
    models = [m for m in family if m in kin_fit.design.core.index]
    (a,), (b,) = told(kin_fit, models), told(drawn, models)
    np.testing.assert_allclose(np.sqrt(b.variance), np.sqrt(a.variance), rtol=0.15)
    free = a.open & b.open
    first, second = a.gains()[free], b.gains()[free]
    assert np.corrcoef(first, second)[0, 1] > 0.95
    assert second[first.argmax()] > 0.9 * second.max()


def test_events_count_as_much_as_their_variance_falls():
    """P - Phi_2(a, a; c), by quadrature of scipy."""
    mean, first, border = np.array([0.55]), np.array([0.01]), 0.5
    target, a = Target("event", border), 0.5

    def left(share):
        both = multivariate_normal([0, 0], [[1, share], [share, 1]]).cdf([a, a])
        return norm.cdf(a) - both

    for share in (0.0, 0.3, 0.8):
        step = 1e-3
        slope = (left(max(share - step, 0)) - left(share + step)) / (
            share + step - max(share - step, 0)
        )
        variance = first * (1 - share)
        weight = target.weight(mean, first, variance)[0]
        np.testing.assert_allclose(weight * first[0], slope, rtol=0.02)


def test_thresholds_ranks_and_widths_choose_what_they_are_about(kin_fit):
    models = list(kin_fit.design.responses.models[:25])
    draws = score_draws(kin_fit, key=KEY, models=models, n_draws=1000)
    distance = np.abs(draws.scores.mean(0) - 0.7) / draws.scores.std(0)
    plan = make_plan(kin_fit, key=KEY, budget=15, models=models, threshold=0.7)
    place = {m: u for u, m in enumerate(draws.models)}
    column = {b: j for j, b in enumerate(draws.benchmarks)}
    of_run = [
        distance[place[m], column[b]] for m, b in zip(plan.model, plan.benchmark, strict=True)
    ]
    assert np.median(of_run) < np.quantile(distance, 0.25)
    average = draws.scores.mean(-1)
    ranked = (-average).argsort(1).argsort(1) < 5
    inside = ranked.mean(0)
    plan = make_plan(kin_fit, key=KEY, budget=15, models=models, top_k=5)
    open_ = np.array([inside[place[m]] for m in plan.model.unique()])
    assert (open_ * (1 - open_)).mean() > 3 * (inside * (1 - inside)).mean()
    width = np.quantile(draws.scores, 0.95, axis=0) - np.quantile(draws.scores, 0.05, axis=0)
    limit = float(np.quantile(width, 0.9))
    plan = make_plan(kin_fit, key=KEY, budget=400, models=models, max_width=limit)
    assert 0 < len(plan) < 400
    wide = {(m, b) for m in models for b in column if width[place[m], column[b]] > 0.8 * limit}
    assert set(zip(plan.model, plan.benchmark, strict=True)) <= wide


def test_costs_are_kept_to_and_dear_items_avoided(kin_fit):
    models = list(kin_fit.design.responses.models[:8])
    free = make_plan(kin_fit, key=KEY, budget=20, models=models)
    first = free["benchmark"].mode()[0]
    costs = pd.DataFrame({"benchmark": kin_fit.design.benchmarks, "cost": 1.0})
    costs.loc[costs["benchmark"] == first, "cost"] = 50.0
    plan = make_plan(kin_fit, key=KEY, budget=20, models=models, costs=costs)
    assert first not in set(plan["benchmark"])
    assert len(plan) == 20
    # Where all can be paid, gain by cost decides: here the best of the dearer half just loses.
    gains = {
        (m, i): g
        for s in told(kin_fit, models)
        for m, row in zip(s.models, s.gains(), strict=True)
        for i, g in enumerate(row)
    }
    (model, item), best = max(gains.items(), key=lambda pair: pair[1])
    dear = kin_fit.design.items["benchmark"].iloc[item]
    others = [g for (_, i), g in gains.items() if kin_fit.design.items["benchmark"].iloc[i] != dear]
    for cost, wins in ((0.95 * best / max(others), True), (1.05 * best / max(others), False)):
        costs["cost"] = np.where(costs["benchmark"] == dear, cost, 1.0)
        plan = make_plan(kin_fit, key=KEY, budget=20, models=models, costs=costs)
        assert (plan["benchmark"].iloc[0] == dear) == wins
        assert not wins or plan["model"].iloc[0] == model
    one = pd.DataFrame({"model": models[:1], "cost": [2.0]})
    plan = make_plan(kin_fit, key=KEY, budget=7, models=models, costs=one)
    assert plan["model"].tolist() == models[:1] * 3
    items = kin_fit.design.items.iloc[:2][["benchmark", "item"]].assign(cost=3)
    plan = make_plan(kin_fit, key=KEY, budget=100, models=models, costs=items)
    assert set(plan["item"]) <= set(items["item"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"benchmark": ["bench1"]}, "no column cost"),
        ({"benchmark": ["bench1"], "cost": ["dear"]}, "the cost in row 1 is 'dear'"),
        ({"benchmark": ["bench1"], "cost": [-1]}, "give a number above 0"),
        ({"benchmark": ["banch1"], "cost": [1]}, "did you mean 'bench1'"),
        ({"item": ["q1"], "cost": [1]}, "items without their benchmark"),
        ({"benchmark": ["bench1"] * 2, "cost": [1, 2]}, "two costs"),
        ({"cost": [1, 2]}, "two costs"),
    ],
)
def test_bad_costs_are_refused_in_one_line(kin_fit, columns, message):
    with pytest.raises(InputError, match=message):
        make_plan(kin_fit, key=KEY, budget=5, costs=pd.DataFrame(columns))


def test_a_relative_is_run_for_what_it_tells_of_others(kin_data, kin_fit):
    """With the parent alone to run, its runs are for the children, and the reason says so."""
    lineage = kin_data.lineage
    evaluated = set(kin_data.responses.models)
    cold = [m for m in lineage.nodes if m not in evaluated and lineage.parents_of(m)]
    child = next(m for m in cold if lineage.parents_of(m)[0] in evaluated)
    parent = lineage.parents_of(child)[0]
    plan = make_plan(kin_fit, key=KEY, budget=4, models=[child], runnable=[parent])
    assert set(plan["model"]) == {parent}
    assert plan["reason"].str.contains("100% of the gain is what it tells of one relative").all()
    assert (plan["gain"] > 0).all()
    assert plan["gain"].is_monotonic_decreasing


def test_a_share_is_drawn_in_tens_and_the_rest_planned(kin_data, kin_fit):
    cold = [m for m in kin_data.lineage.nodes if m not in kin_data.responses.models]
    plan = make_plan(kin_fit, key=KEY, budget=50, models=cold, at_random=0.5)
    drawn = plan["reason"] == AT_RANDOM
    assert len(plan) == 50
    assert drawn.sum() == 25
    sizes = plan[drawn].groupby(["model", "benchmark"]).size()
    assert sorted(sizes) == [5, 10, 10]
    assert not plan.duplicated(["model", "benchmark", "item"]).any()
    again = make_plan(kin_fit, key=KEY, budget=50, models=cold, at_random=0.5)
    pd.testing.assert_frame_equal(plan, again)
    other = make_plan(kin_fit, key=jax.random.key(9), budget=50, models=cold, at_random=0.5)
    assert set(map(tuple, plan[drawn].to_numpy()[:, :3])) != set(
        map(tuple, other[other["reason"] == AT_RANDOM].to_numpy()[:, :3])
    )


def test_arguments_are_checked(kin_fit):
    models = list(kin_fit.design.responses.models[:3])
    for options, message in (
        ({"budget": 0}, "budget is 0"),
        ({"budget": 3, "at_random": 1}, "share from 0 to below 1"),
        ({"budget": 8, "at_random": 0.5}, "pays for less than 5 items"),
        ({"budget": 3, "top_k": 3}, "top_k is 3, of 3 models"),
        ({"budget": 3, "top_k": 1, "threshold": 0.5}, "more than one of"),
        ({"budget": 3, "runnable": ["sim/model-x"]}, "unknown model"),
    ):
        with pytest.raises(InputError, match=message):
            make_plan(kin_fit, key=KEY, models=models, **options)


def test_large_families_are_cut_along_the_lineage(kin_fit, monkeypatch):
    models = list(kin_fit.design.responses.models)
    whole, _ = family_gaussians(kin_fit, models, key=KEY)
    monkeypatch.setattr("bayes_lrmf.families._MOST_TOGETHER", 5)
    parts, _ = family_gaussians(kin_fit, models, key=KEY)
    assert max(len(p.models) for p in parts) <= 5 < max(len(w.models) for w in whole)
    assert sorted(m for p in parts for m in p.models) == sorted(models)
    for part in parts:
        one = next(w for w in whole if part.models[0] in w.models)
        at = [list(one.models).index(m) for m in part.models]
        np.testing.assert_allclose(part.covariance, one.covariance[at][:, :, at], atol=1e-10)


def test_what_is_left_of_an_event_is_what_two_normals_say():
    border, mean, first = 0.6, np.array([0.6, 0.5, 0.7, 0.45]), np.array([0.01, 0.01, 0.02, 0.004])
    target = Target("event", border)
    a = (mean - border) / np.sqrt(first)
    p = norm.cdf(a)
    np.testing.assert_allclose(target.left(mean, first, first), p * (1 - p), rtol=1e-9)
    np.testing.assert_allclose(target.left(mean, first, 0 * first), 0, atol=1e-12)
    for share in (0.1, 0.6, 0.95):
        both = [multivariate_normal([0, 0], [[1, share], [share, 1]]).cdf([x, x]) for x in a]
        variance = first * (1 - share)
        np.testing.assert_allclose(target.left(mean, first, variance), p - both, atol=1e-6)
        step = 1e-6 * first
        slope = target.left(mean, first, variance + step) - target.left(mean, first, variance)
        weight = target.weight(mean, first, variance)
        np.testing.assert_allclose(slope / step, weight, rtol=1e-3)


def test_a_whole_benchmark_gains_what_is_left_of_an_event_less(kin_data, kin_fit):
    """One model alone: nothing of it is a rate."""
    (state,) = told(kin_fit, cold_children(kin_data)[:1], target=Target("event", 0.55))
    gain, same, _ = state.whole_gains()
    np.testing.assert_allclose(gain, same, rtol=1e-6)
    before = state.expected()
    state.take_whole(0, 1)
    assert same[0, 1] == pytest.approx(before - state.expected(), rel=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_gains_of_a_plan_for_an_event_add_up_to_what_it_takes(kin_data, kin_fit, whole):
    model = cold_children(kin_data)[0]
    options = {"models": [model], "threshold": 0.55, "whole_benchmarks": whole}
    plan = make_plan(kin_fit, key=KEY, budget=1000, **options)
    (state,) = told(kin_fit, [model])
    state.target = Target("event", 0.55)
    # All that is left is run, and nothing of the variance stays.
    assert plan["gain"].sum() == pytest.approx(state.expected(), rel=0.02)
    assert (plan["gain"] > 0).all()


def test_draws_are_of_benchmarks_that_can_be_run_as_a_whole(kin_data, kin_fit):
    """Half of the items have no cost: a draw of the others would not be one of the benchmark."""
    model = cold_children(kin_data)[0]
    items = kin_fit.design.items[["benchmark", "item"]]
    half = items.assign(cost=1.0)[(items.index % 2 == 0) | (items["benchmark"] == "bench2")]
    options = {"models": [model], "budget": 40, "at_random": 0.5}
    plan = make_plan(kin_fit, key=KEY, costs=half, **options)
    assert set(plan.loc[plan["reason"] == AT_RANDOM, "benchmark"]) == {"bench2"}
    # As many are drawn as could be paid if all were dear: no draw is one of cheap items.
    dear = items.assign(cost=np.where(items.index % 2 == 0, 1.0, 4.0))
    share = []
    for seed in range(30):
        plan = make_plan(kin_fit, key=jax.random.key(seed), costs=dear, **options | {"budget": 60})
        drawn = plan[plan["reason"] == AT_RANDOM].head(7)
        assert (drawn["benchmark"] == drawn["benchmark"].iloc[0]).all()
        share.append(drawn.merge(dear)["cost"].eq(4).mean())
    assert abs(np.mean(share) - 0.5) < 0.1


def test_half_of_what_is_left_of_a_benchmark_is_not_drawn(kin_data, kin_fit):
    models = cold_children(kin_data)[:2]
    items = kin_fit.design.items
    some = items[items.groupby("benchmark").cumcount() < 12]
    run = [(models[0], b, i, 1) for b, i in zip(some["benchmark"], some["item"], strict=True)]
    table = pd.DataFrame(run, columns=["model", "benchmark", "item", "response"])
    known = add(kin_fit, responses=responses_from_frame(table))
    plan = make_plan(known, key=KEY, budget=400, models=models, at_random=0.9)
    drawn = plan[plan["reason"] == AT_RANDOM].groupby(["model", "benchmark"]).size()
    left = items["benchmark"].value_counts().iloc[0]
    assert (drawn[models[1]] == min(10, left // 2)).all()
    assert (drawn[models[0]] == max((left - 12) // 2, 5)).all()
