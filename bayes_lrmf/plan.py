"""Which results to run next: a greedy plan on the Gaussian posterior, all models jointly."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy.stats import norm

from bayes_lrmf.checks import InputError, one_of, positive, probability, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.families import family_gaussians
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.told import ItemCells, Target, ToldFamily

__all__ = ["AT_RANDOM", "FEWEST_AT_RANDOM", "make_plan"]

AT_RANDOM = "at random, for a check that does not lean on the fit"
"""Reason of the runs of a plan that were drawn, not chosen."""

FEWEST_AT_RANDOM = 5
"""Results at random below which a score of them is not worth showing."""

_SPOT = 10
_TOLD_OF_OTHERS = 0.2
_ROUNDING = 1e-9


def make_plan(
    posterior: Posterior,
    *,
    key: jax.Array,
    budget: float,
    models: Sequence[str] | None = None,
    runnable: Sequence[str] | None = None,
    max_width: float | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    ci_prob: float = 0.9,
    costs: pd.DataFrame | None = None,
    whole_benchmarks: bool = False,
    at_random: float = 0.0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Choose results to run so that a target shrinks as fast as it can.

    Without a further argument the target is the sum of the variances of the benchmark scores of
    `models`. At most one of `max_width`, `threshold` and `top_k` names another.

    Parameters
    ----------
    posterior : Posterior
        With uncertainty.
    key : jax key
        For the runs at random; for posteriors of draws also for these.
    budget : float
        Number of items to run, or their cost where `costs` are given.
    models : sequence of str, optional
        Whose scores the plan is for; by default all evaluated models.
    runnable : sequence of str, optional
        Which can be run; by default `models`. Kin of these tell of them too.
    max_width : float, optional
        Only scores whose interval is wider count; the plan ends when none is.
    threshold : float, optional
        The target is the variance of "the score is above `threshold`", summed.
    top_k : int, optional
        The target is the variance of "the mean over benchmarks is among the `top_k` best of
        `models`", summed.
    ci_prob : float
        Of the intervals that `max_width` is about.
    costs : DataFrame, optional
        Column cost, and any of model, benchmark and item that it depends on. Runs without a cost
        are left out.
    whole_benchmarks : bool
        Run all the items of a benchmark that are left, or none.
    at_random : float
        Share of the budget for items at random, in tens of one benchmark of one model:
        `guard` can judge predictions by these without leaning on the fit. They are of benchmarks of
        which all items that were not run have a cost.
    progress : Progress, optional

    Returns
    -------
    DataFrame
        ``model, benchmark, item, gain, reason, rank``, in the order of running; item is empty for
        a whole benchmark. `gain` is the expected decrease of the target.

    Raises
    ------
    InputError
        For a point estimate, unknown models, or numbers out of range.

    Notes
    -----
    The log-odds of models are Gaussian along the lineage, items fixed. A cell with log-odds
    ``x't``, ``w = E[p (1 - p)]`` and n trials is seen as ``x't`` with variance
    ``r = noise + 1 / (n w)``, and is in a score of N trials ``h = n w / N`` times that. With
    ``C`` the covariance of all models of a family and ``g`` the gradient of a score, a run lowers
    the variance of the scores of other models by ``(g'C x)^2 / (r + x'C x)``, and of the score it
    is in by ``(g'C x + h r)^2 / (r + x'C x)``: Bayesian experimental design of linear models
    (Chaloner and Verdinelli 1995, doi:10.1214/ss/1177009939). Runs are chosen one after the other
    for the largest gain by cost. An event of probability P has variance ``P (1 - P)``; once runs
    explain the share c of the variance of its score, ``P - Phi_2(a, a; c)`` of it is left in
    expectation, ``a`` being its distance from the border in standard deviations, which falls at
    the rate ``phi_2(a, a; c)``. Runs of single items are compared by that rate, and their `gain` is
    what is less left after them.
    """
    given = {"max_width": max_width, "threshold": threshold, "top_k": top_k}
    if sum(value is not None for value in given.values()) > 1:
        raise InputError("more than one of max_width, threshold and top_k", fix="give one of them")
    budget = positive(budget, name="budget")
    if not 0 <= at_random < 1:
        raise InputError(f"at_random is {at_random!r}", fix="give a share from 0 to below 1")
    progress = progress or Progress("plan", enabled=False)
    design = posterior.design
    known = design.responses.models if models is None else design.models[design.places(models)]
    wanted = list(known)
    ready = wanted if runnable is None else list(design.models[design.places(runnable)])
    names = list(dict.fromkeys([*wanted, *ready]))
    families, panel = family_gaussians(posterior, names, key=key)
    member = np.eye(len(design.benchmarks))
    if top_k is not None:
        member = np.full((1, len(member)), 1 / len(member))
    cost, items = _Costs(design, costs), ItemCells(design, panel, member)
    count, can = set(wanted), set(ready)
    states = [ToldFamily(design, items, f, count, can, cost.of(f.models)) for f in families]
    target = _target(states, given, ci_prob, len(wanted))
    for state in states:
        state.target = target
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    drawn, spent = _drawn(states, at_random * budget, rng)
    runs = drawn + _chosen(states, budget - spent, whole_benchmarks, progress)
    names_of = design.items["item"].to_numpy(object)
    return pd.DataFrame(
        {
            "model": [run.state.models[run.u] for run in runs],
            "benchmark": [design.benchmarks[run.b] for run in runs],
            "item": ["" if run.item is None else names_of[run.item] for run in runs],
            "gain": np.array([run.gain for run in runs], float),
            "reason": [run.reason for run in runs],
            "rank": np.arange(1, len(runs) + 1),
        }
    )


class _Run(NamedTuple):
    state: ToldFamily
    u: int
    b: int
    item: int | None
    gain: float
    reason: str


class _Costs:
    """What a run of each item costs; infinite where that is not said."""

    def __init__(self, design: Design, table: pd.DataFrame | None) -> None:
        self.design = design
        self.by_model: dict[str, np.ndarray] | None = None
        self.of_items = np.ones(design.n_items)
        if table is None:
            return
        table = _checked_costs(design, table)
        if "model" not in table:
            self.of_items = self._of_items(table)
        else:
            parts = table.groupby("model", sort=False)
            self.by_model = {str(m): self._of_items(part) for m, part in parts}

    def _of_items(self, table: pd.DataFrame) -> np.ndarray:
        keys = [name for name in ("benchmark", "item") if name in table]
        if not keys:
            return np.full(self.design.n_items, float(table["cost"].iloc[0]))
        cost = self.design.items[["benchmark", "item"]].merge(table, on=keys, how="left")["cost"]
        return np.asarray(cost.fillna(np.inf), float)

    def of(self, models: np.ndarray) -> np.ndarray:
        """Return costs, shape (n_models, n_items)."""
        n_items = self.design.n_items
        if self.by_model is None:
            return np.broadcast_to(self.of_items, (len(models), n_items))
        never = np.full(n_items, np.inf)
        return np.stack([self.by_model.get(model, never) for model in models])


def _checked_costs(design: Design, table: pd.DataFrame) -> pd.DataFrame:
    where = "costs"
    if "cost" not in table or table.empty:
        raise InputError("no column cost", where=where, fix="give cost, and benchmark or item")
    cost = pd.to_numeric(table["cost"], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~((cost > 0) & np.isfinite(cost)))
    if len(bad):
        raise InputError(
            f"the cost in row {bad[0] + 1} is {table['cost'].iloc[bad[0]]!r}",
            where=where,
            fix="give a number above 0",
        )
    keys = [name for name in ("model", "benchmark", "item") if name in table]
    found = table[keys].astype(str).assign(cost=cost)
    if "benchmark" in found:
        for name in pd.unique(found["benchmark"]):
            one_of(name, list(design.benchmarks), name="benchmark", where=where)
    elif "item" in found:
        raise InputError("items without their benchmark", where=where, fix="add column benchmark")
    _some_known(design, found, where)
    if found.duplicated(keys).any() if keys else len(found) > 1:
        raise InputError("a run has two costs", where=where, fix="give one row for each")
    return found


def _some_known(design: Design, costs: pd.DataFrame, where: str) -> None:
    """Refuse costs of models or items of which the fit has none: it may lack some of them."""
    if "model" in costs and not costs["model"].isin(design.periphery.index).any():
        one_of(costs["model"].iloc[0], design.periphery.index, name="model", where=where)
    if "item" in costs:
        known = [":".join(pair) for pair in design.items[["benchmark", "item"]].to_numpy(object)]
        named = costs["benchmark"] + ":" + costs["item"]
        if not named.isin(known).any():
            one_of(named.iloc[0], known, name="item", where=where)


def _target(
    states: list[ToldFamily], given: dict[str, float | None], ci_prob: float, n_models: int
) -> Target:
    width, threshold, k = given["max_width"], given["threshold"], given["top_k"]
    if width is not None:
        z = norm.ppf((1 + probability(ci_prob, name="ci_prob")) / 2)
        return Target("width", (positive(width, name="max_width") / (2 * z)) ** 2)
    if threshold is not None:
        return Target("event", probability(threshold, name="threshold"))
    if k is not None:
        k = whole_number(k, name="top_k")
        if k >= n_models:
            raise InputError(f"top_k is {k}, of {n_models} models", fix="give fewer")
        mean = np.concatenate([state.mean[state.wanted, 0] for state in states])
        last, next_ = -np.sort(-mean)[[k - 1, k]]
        return Target("event", float(last + next_) / 2)
    return Target("variance")


def _drawn(
    states: list[ToldFamily], budget: float, rng: np.random.Generator
) -> tuple[list[_Run], float]:
    """Return runs at random, ten of a benchmark of a model at a time, and what they cost."""
    runs: list[_Run] = []
    spent = 0.0
    if budget <= 0:
        return runs, spent
    groups: list[tuple[ToldFamily, int, np.ndarray]] = []
    for state in states:
        of_benchmark = state.items.of_benchmark
        if all(len(items) == 1 for items in of_benchmark):
            # Results at random tell of the mean over benchmarks then.
            of_benchmark = [np.arange(len(state.items.of_item))]
        for u in range(state.n):
            groups += [
                (state, u, items[state.open[u, items]])
                for items in of_benchmark
                if state.is_drawable(u, items) and state.open[u, items].sum() > FEWEST_AT_RANDOM
            ]
    for at in rng.permutation(len(groups)):
        state, u, items = groups[at]
        # Of few that are left half stay, if they can: a score that is known needs no check.
        n = max(min(_SPOT, len(items) // 2), FEWEST_AT_RANDOM)
        # How many does not depend on which: to leave dear ones out, or to draw again where a draw
        # is dear, would make it a draw of the others.
        dearest = np.sort(state.cost[u, items])[::-1][:n]
        n = int((spent + dearest.cumsum() <= budget * (1 + _ROUNDING)).sum())
        if n < FEWEST_AT_RANDOM:
            continue
        chosen = rng.permutation(items)[:n]
        spent += float(state.cost[u, chosen].sum())
        for i in chosen.tolist():
            gain, b = float(state.gains()[u, i]), int(state.items.of_item[i])
            before = _expected(state)
            state.take(u, i)
            gain = gain if before is None else before - state.expected()
            runs.append(_Run(state, u, b, i, gain, AT_RANDOM))
    if not runs:
        raise InputError(
            f"the share at random pays for less than {FEWEST_AT_RANDOM} items of a benchmark "
            "of which all that were not run can be",
            fix="give a larger budget or share, or costs of all items",
        )
    return runs, spent


def _expected(state: ToldFamily) -> float | None:
    """Return what is left of a target; None where gains of runs say what they take of it."""
    return None if state.target.kind == "variance" else state.expected()


def _chosen(states: list[ToldFamily], budget: float, whole: bool, progress: Progress) -> list[_Run]:
    """Return the runs that greedy choice takes, best gain by cost first."""
    queue: list[tuple[float, int, _Best]] = []

    def enqueue(s: int, left: float) -> None:
        best = _best(states[s], whole, left)
        if best is not None:
            heapq.heappush(queue, (-best.gain / best.cost, s, best))

    for s in range(len(states)):
        enqueue(s, budget)
    runs: list[_Run] = []
    left = budget
    cheapest = min((state.cost[state.open].min(initial=np.inf) for state in states), default=0.0)
    while queue and left * (1 + _ROUNDING) >= cheapest:
        _, s, best = heapq.heappop(queue)
        state, u = states[s], best.u
        if best.cost > left * (1 + _ROUNDING):
            enqueue(s, left)
            continue
        b = best.at if whole else int(state.items.of_item[best.at])
        # A plan for ranks has one target a model, their mean over benchmarks.
        target = 0 if len(state.items.member) == 1 else b
        was, before = float(np.sqrt(state.variance[u, target])), _expected(state)
        if whole:
            state.take_whole(u, b)
        else:
            state.take(u, best.at)
        gain = best.gain if before is None else before - state.expected()
        now = float(np.sqrt(state.variance[u, target]))
        others = 1 - best.same / best.gain
        runs.append(
            _Run(
                state,
                u,
                b,
                None if whole else best.at,
                gain,
                _reason(state, u, b, was, now, others),
            )
        )
        left -= best.cost
        progress.update(int(budget - left))
        enqueue(s, left)
    return runs


class _Best(NamedTuple):
    """The best run of a family: `at` is an item, or a benchmark."""

    u: int
    at: int
    gain: float
    same: float
    cost: float


def _best(state: ToldFamily, whole: bool, left: float) -> _Best | None:
    if whole:
        gain, same, cost = state.whole_gains()
    else:
        gain, cost = state.gains(), state.cost
    can = (gain > 0) & (cost <= left * (1 + _ROUNDING))
    value = np.where(can, gain / np.where(can, cost, 1), 0)
    u, at = (int(part) for part in np.unravel_index(int(value.argmax()), value.shape))
    if value[u, at] <= 0:
        return None
    own = float(same[u, at]) if whole else state.own_part(u, at)
    return _Best(u, at, float(gain[u, at]), own, float(cost[u, at]))


def _reason(state: ToldFamily, u: int, b: int, was: float, now: float, others: float) -> str:
    of = "mean score" if len(state.items.member) == 1 else f"score of {state.items.benchmarks[b]}"
    known = f"sd of its {of} {was:.4f}, {now:.4f} after"
    if others < _TOLD_OF_OTHERS:
        return known
    n = int(state.wanted.sum()) - int(state.wanted[u])
    kin = "one relative" if n == 1 else f"{n} relatives"
    return f"{known}; {others:.0%} of the gain is what it tells of {kin}"
