"""What runs tell of hidden models: planned ones, random ones, and rules of thumb, replayed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from analyses import study
from bayes_lrmf.coldstart import add
from bayes_lrmf.design import make_design
from bayes_lrmf.holdouts import hold_out_cold
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.plan import make_plan
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import predict_items, score_draws
from bayes_lrmf.responses import Responses
from bayes_lrmf.spec import read_spec

SEEDS = (0, 1)
LEVELS = {"v1": (0, 5, 10, 20, 50, 100, 200), "subtasks": (0, 1, 2, 4, 8, 16)}
QUICK_LEVELS = {"simulated items": (0, 5, 20, 60)}
COVERAGE = (0.5, 0.8, 0.9, 0.95)
TOP = 20
N_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Replay:
    """Hidden models, all their results, and a fit that saw none of these.

    Attributes
    ----------
    train : Responses
    truth : Responses
    posterior : Posterior
        Of the families of the hidden models.
    level : array, shape (n_items,)
        Mean result of each item in `train`.
    """

    train: Responses
    truth: Responses
    posterior: Posterior
    level: np.ndarray
    seed: int

    @property
    def known(self) -> np.ndarray:
        """Which results exist, shape (n_models, n_items)."""
        return np.asarray(self.truth.matrices(self.truth.models)[1] > 0)

    def shown(self, seen: np.ndarray) -> Responses:
        """Return the results at `seen` alone."""
        cells = self.truth.to_cells()
        away = ~seen[cells.rows, cells.cols]
        return self.truth.hide(cells=(cells.rows[away], cells.cols[away]))

    def after(self, posterior: Posterior, new: np.ndarray) -> Posterior:
        """Return a posterior that knows the results at `new` too."""
        return add(posterior, responses=self.shown(new)) if new.any() else posterior


Choice = Callable[[Replay, Posterior, np.ndarray, int], np.ndarray]


def planned(replay: Replay, posterior: Posterior, seen: np.ndarray, n: int) -> np.ndarray:
    """Return `n` more runs a model on average, where the plan puts them."""
    models, items = list(replay.truth.models), replay.truth.items
    rows, cols = np.nonzero(replay.known & ~seen)
    costs = pd.DataFrame(
        {
            "model": np.array(models, dtype=object)[rows],
            "benchmark": items["benchmark"].to_numpy(object)[cols],
            "item": items["item"].to_numpy(object)[cols],
            "cost": 1.0,
        }
    )
    key = jax.random.key(replay.seed)
    plan = make_plan(posterior, key=key, budget=n * len(models), models=models, costs=costs)
    new = np.zeros_like(seen)
    place = {key: i for i, key in enumerate(zip(items["benchmark"], items["item"], strict=True))}
    at = [place[key] for key in zip(plan["benchmark"], plan["item"], strict=True)]
    new[[models.index(m) for m in plan["model"]], at] = True
    return new


def _best_of_each(value: np.ndarray, free: np.ndarray, n: int) -> np.ndarray:
    order = np.argsort(-np.where(free, value, -np.inf), axis=1, kind="stable")[:, :n]
    new = np.zeros_like(free)
    np.put_along_axis(new, order, True, axis=1)
    return new & free


def random(replay: Replay, posterior: Posterior, seen: np.ndarray, n: int) -> np.ndarray:
    """Return `n` more runs of each model, at random."""
    rng = np.random.default_rng([replay.seed, int(seen.sum())])
    return _best_of_each(rng.random(seen.shape), replay.known & ~seen, n)


def entropy(replay: Replay, posterior: Posterior, seen: np.ndarray, n: int) -> np.ndarray:
    """Return the items that models at large are most divided on."""
    divided = -np.abs(replay.level - 0.5)
    return _best_of_each(np.tile(divided, (len(seen), 1)), replay.known & ~seen, n)


def item_response(replay: Replay, posterior: Posterior, seen: np.ndarray, n: int) -> np.ndarray:
    """Return the items of most Fisher information at each model's ability in a 2PL."""
    table = replay.train
    if seen.any():
        from bayes_lrmf.joining import joined, on_items_of

        table = joined(table, on_items_of(table, replay.shown(seen)))
    spec = read_spec("irt")
    names = list(replay.truth.models)
    design = make_design(table, spec, extra_models=names)
    key = jax.random.key(replay.seed)
    fitted = fit_map(design, spec, key=key)
    items = predict_items(fitted, key=key, models=names)
    p = items["mean"].to_numpy(float).reshape(seen.shape)
    trials = replay.truth.items["trials"].to_numpy(float)
    slope = np.asarray(fitted.state.values["loading"], float)[0]
    return _best_of_each(slope**2 * p * (1 - p) * trials, replay.known & ~seen, n)


CHOICES: dict[str, Choice] = {
    "plan": planned,
    "random": random,
    "entropy": entropy,
    "information": item_response,
}


def replayed(data: study.Data, seed: int) -> Replay:
    """Hide models and fit the others."""
    lineage, spec = data.background.lineage, read_spec("lrmf")
    split = hold_out_cold(data.responses, lineage, seed=seed)
    posterior = fit_vb(
        make_design(split.train, spec, lineage=lineage), spec, key=jax.random.key(seed)
    )
    print(f"{data.name}, seed {seed}: {posterior.record.message}", flush=True)
    models = list(split.truth.models)
    parents = [p for m in models for p in lineage.parents_of(m)]
    tree = lineage.among(dict.fromkeys([*models, *parents]))
    near = add(posterior, lineage=tree, whole=False)
    k, n = split.train.matrices(split.train.models)
    level = k.sum(0) / np.maximum(n.sum(0), 1)
    return Replay(split.train, split.truth, near, level, seed)


def judged(replay: Replay, mean: np.ndarray, draws: Any) -> pd.DataFrame:
    """Return a line for each score that a full run shows: error, and intervals around it."""
    successes, trials = replay.truth.totals()
    member = np.eye(trials.shape[1])[replay.truth.benchmark_index]
    full = replay.truth.items["trials"].to_numpy(float) @ member
    rows, cols = np.nonzero(trials == full)
    score = (successes / np.maximum(trials, 1)).astype(np.float32)[rows, cols]
    table = pd.DataFrame(
        {
            "model": replay.truth.models[rows],
            "benchmark": replay.truth.benchmarks[cols],
            "score": score,
            "mean": mean[rows, cols],
        }
    )
    table["error"] = np.abs(table["mean"] - score)
    if draws is not None:
        for q in COVERAGE:
            tail = (1 - q) / 2
            lower, upper = (e[rows, cols] for e in np.quantile(draws, [tail, 1 - tail], axis=0))
            table[f"width_{100 * q:.0f}"] = upper - lower
            table[f"coverage_{100 * q:.0f}"] = ((lower <= score) & (score <= upper)).astype(float)
    return table


def plain_average(replay: Replay, seen: np.ndarray) -> np.ndarray:
    """Return what runs show by themselves; the mean of models at large where there are none."""
    k, n = replay.truth.matrices(replay.truth.models)
    member = np.eye(len(replay.truth.benchmarks))[replay.truth.benchmark_index]
    trials = replay.truth.items["trials"].to_numpy(float)
    at_large = (replay.level * trials) @ member / (trials @ member)
    known = (n * seen) @ member
    own = (k * seen) @ member / np.maximum(known, 1)
    return np.where(known > 0, own, at_large)


def run(data: study.Data, seed: int, levels: tuple[int, ...]) -> pd.DataFrame:
    """Replay every choice on one hold-out."""
    replay = replayed(data, seed)
    models = list(replay.truth.models)
    lines = []
    for name, choice in CHOICES.items():
        posterior, seen, before = replay.posterior, np.zeros_like(replay.known), 0
        for level in levels:
            started = time.perf_counter()
            if level > before:
                new = choice(replay, posterior, seen, level - before)
                chosen = time.perf_counter() - started
                posterior, seen, before = replay.after(posterior, new), seen | new, level
            key = jax.random.key(seed + 1000)
            draws = score_draws(posterior, key=key, models=models, n_draws=N_DRAWS).scores
            found = judged(replay, draws.mean(0, dtype=float), draws)
            lines.append(found.assign(choice=name, runs=level, seed=seed))
            if name == "random":
                found = judged(replay, plain_average(replay, seen), None)
                lines.append(found.assign(choice="random, plain average", runs=level, seed=seed))
            error = lines[-1]["error"].mean()
            took = f"{chosen:.0f} s to choose, " if level else ""
            print(
                f"{data.name}, seed {seed}: {name}, {level} runs a model, MAE {error:.4f}, "
                f"{took}{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return pd.concat(lines, ignore_index=True)
