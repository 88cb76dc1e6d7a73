"""What runs tell of hidden models: planned ones, random ones, and rules of thumb, replayed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from analyses import study
from bayes_lrmf.coldstart import add
from bayes_lrmf.comparison import bootstrap_error
from bayes_lrmf.design import make_design
from bayes_lrmf.files import written_whole
from bayes_lrmf.holdouts import families, hold_out_cold
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.joining import joined, on_items_of
from bayes_lrmf.plan import make_plan
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import predict_items, score_draws
from bayes_lrmf.responses import Responses
from bayes_lrmf.spec import read_spec

SEEDS = (0, 1)
LEVELS = {
    "v1": (0, 5, 10, 20, 50, 100, 200),
    "subtasks": (0, 1, 2, 4, 8, 16),
    "simulated items": (0, 20),
}
MORE_LEVELS = {"v1": (300, 400, 600, 800, 1000), "subtasks": (24, 32, 36), "simulated items": (60,)}
"""Of the plain average, which takes that many."""
COVERAGE = (0.5, 0.8, 0.9, 0.95)
PLAIN = "plain average of random runs"
NEAR_ENOUGH = 0.02
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

    @cached_property
    def order(self) -> np.ndarray:
        """A random order of the items for each model, shape (n_models, n_items)."""
        rng = np.random.default_rng([self.seed, 1])
        return rng.random((len(self.truth.models), self.truth.n_items))

    @cached_property
    def known(self) -> np.ndarray:
        """Which results exist, shape (n_models, n_items)."""
        return np.asarray(self.truth.matrices(self.truth.models)[1] > 0)

    def shown(self, seen: np.ndarray) -> Responses:
        """Return the results at `seen` alone."""
        cells = self.truth.to_cells()
        away = ~seen[cells.rows, cells.cols]
        return self.truth.hide(cells=(cells.rows[away], cells.cols[away]))

    def after(self, seen: np.ndarray) -> Posterior:
        """Return the posterior that knows the results at `seen`."""
        return add(self.posterior, responses=self.shown(seen)) if seen.any() else self.posterior


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
    return _best_of_each(replay.order, replay.known & ~seen, n)


def entropy(replay: Replay, posterior: Posterior, seen: np.ndarray, n: int) -> np.ndarray:
    """Return the items that models at large are most divided on."""
    divided = -np.abs(replay.level - 0.5)
    return _best_of_each(np.tile(divided, (len(seen), 1)), replay.known & ~seen, n)


def item_response(replay: Replay, posterior: Posterior, seen: np.ndarray, n: int) -> np.ndarray:
    """Return the items of most Fisher information at each model's ability in a 2PL."""
    table = replay.train
    if seen.any():
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


def judged(replay: Replay, seen: np.ndarray, mean: np.ndarray, draws: Any) -> pd.DataFrame:
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
            "left": ((replay.known & ~seen) @ member)[rows, cols],
        }
    )
    table["error"] = np.abs(table["mean"] - score)
    for q in COVERAGE if draws is not None else ():
        lower, upper = (e[rows, cols] for e in equal_tailed(draws, q))
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


def run(data: study.Data, seed: int) -> pd.DataFrame:
    """Replay every choice on one hold-out; a line for each score, choice and number of runs."""
    replay = replayed(data, seed)
    models, lines = list(replay.truth.models), []
    none = np.zeros_like(replay.known)
    for name, choice in CHOICES.items():
        posterior, seen, before = replay.posterior, none, 0
        for level in LEVELS[data.name]:
            started = time.perf_counter()
            if level:
                seen = seen | choice(replay, posterior, seen, level - before)
                posterior, before = replay.after(seen), level
            key = jax.random.key(seed + 1000)
            draws = score_draws(posterior, key=key, models=models, n_draws=N_DRAWS).scores
            found = judged(replay, seen, draws.mean(0, dtype=float), draws)
            lines.append(found.assign(choice=name, runs=level))
            print(
                f"{data.name}, seed {seed}: {name}, {level} runs a model, mean absolute error "
                f"{found['error'].mean():.4f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    for level in (*LEVELS[data.name], *MORE_LEVELS[data.name]):
        seen = random(replay, replay.posterior, none, level) if level else none
        found = judged(replay, seen, plain_average(replay, seen), None)
        lines.append(found.assign(choice=PLAIN, runs=level))
    return pd.concat(lines, ignore_index=True).assign(seed=seed, data=data.name)


def kept(data: study.Data, seed: int) -> pd.DataFrame:
    """Return what `run` does, from the folder of parts if it stands there already."""
    path = study.FOLDER / "parts" / study.file_name("budget", data.name, f"{seed}.parquet")
    if not path.is_file():
        found = run(data, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            found.to_parquet(temporary)
    return pd.read_parquet(path)


def summary(scores: pd.DataFrame, family: pd.Series) -> pd.DataFrame:
    """Return figures by choice and runs, with standard errors over families."""
    lines = []
    for (choice, runs), part in scores.groupby(["choice", "runs"], sort=False):
        line = {"choice": choice, "runs": runs}
        groups = part["model"].map(family).to_numpy()
        line["mae"], line["mae_error"] = bootstrap_error(
            np.mean, [part["error"]], groups, seed=0, n_boot=400
        )
        found = pd.concat([_found(p) for _, p in part.groupby("seed")])
        line["top_recall"], line["top_recall_error"] = bootstrap_error(
            np.mean, [found], found.index.map(family).to_numpy(), seed=0, n_boot=400
        )
        rest = part[part["left"] > 0]
        for q in COVERAGE if part["width_90"].notna().all() else ():
            at = f"{100 * q:.0f}"
            groups = rest["model"].map(family).to_numpy()
            line[f"coverage_{at}"], line[f"coverage_{at}_error"] = bootstrap_error(
                np.mean, [rest[f"coverage_{at}"]], groups, seed=0, n_boot=400
            )
            line[f"width_{at}"] = rest[f"width_{at}"].mean()
        lines.append(line)
    return pd.DataFrame(lines)


def _found(part: pd.DataFrame) -> pd.Series:
    """Return whether each of the best models by mean score is among those predicted best."""
    table = part.set_index(["model", "benchmark"])[["score", "mean"]].unstack().dropna()
    size = min(TOP, len(table) // 2)
    best = table["score"].mean(axis=1).nlargest(size).index
    predicted = table["mean"].mean(axis=1).nlargest(size).index
    return pd.Series(best.isin(predicted).astype(float), index=best)


def needed(errors: np.ndarray, levels: np.ndarray) -> float:
    """Return the runs a model after which the mean error stays below `NEAR_ENOUGH`.

    Interpolated; NaN if that is more than the most.
    """
    mean = errors.mean(0)
    above = np.flatnonzero(mean > NEAR_ENOUGH)
    if not len(above):
        return float(levels[0])
    last = above[-1]
    if last + 1 == len(mean):
        return float("nan")
    share = (mean[last] - NEAR_ENOUGH) / (mean[last] - mean[last + 1])
    return float(levels[last] + share * (levels[last + 1] - levels[last]))


def runs_needed(scores: pd.DataFrame, family: pd.Series) -> pd.DataFrame:
    """Return by benchmark how many runs each choice needs, and how many more than the plan."""
    lines = []
    benchmarks = ["all", *scores["benchmark"].unique()]
    if len(benchmarks) > 20:
        benchmarks = benchmarks[:1]
    for benchmark in benchmarks:
        part = scores if benchmark == "all" else scores[scores["benchmark"] == benchmark]
        tables = {}
        for choice, own in part.groupby("choice", sort=False):
            pairs = own.set_index(["seed", "model", "benchmark", "runs"])["error"]
            tables[choice] = pairs.unstack()
        groups = tables["plan"].index.get_level_values("model").map(family).to_numpy()
        for choice, table in tables.items():
            levels = table.columns.to_numpy(float)
            value, error = bootstrap_error(
                lambda e, levels=levels: needed(e, levels),
                [table.to_numpy()],
                groups,
                seed=0,
                n_boot=400,
            )
            line = {"benchmark": benchmark, "choice": choice, "runs": value, "error": error}
            if choice != "plan":
                plan, at = tables["plan"].to_numpy(), tables["plan"].columns.to_numpy(float)
                line["more"], line["more_error"] = bootstrap_error(
                    lambda a, b, levels=levels, at=at: needed(a, levels) - needed(b, at),
                    [table.to_numpy(), plan],
                    groups,
                    seed=0,
                    n_boot=400,
                )
            lines.append(line)
    return pd.DataFrame(lines)


def picture(table: pd.DataFrame, name: str) -> None:
    """Draw error, width and coverage against the number of runs."""
    measures = {
        "mae": "mean absolute error of scores",
        "width_90": "mean width of 90 % intervals",
        "coverage_90": "coverage of 90 % intervals",
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for ax, (measure, label) in zip(axes, measures.items(), strict=True):
        for choice, part in table.groupby("choice", sort=False):
            if measure in part and part[measure].notna().any():
                error = part.get(f"{measure}_error")
                ax.errorbar(part["runs"], part[measure], yerr=error, label=choice, marker="o", ms=3)
        ax.set(xscale="symlog", xlabel="results of each model", ylabel=label)
        ax.set_ylim(bottom=0.7 if measure == "coverage_90" else 0)
        ax.set_xlim(left=0)
    axes[0].axhline(NEAR_ENOUGH, color="grey", lw=0.8)
    axes[2].axhline(0.9, color="grey", lw=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(f"What results tell of hidden models, {name}")
    figure.savefig(study.FOLDER / study.file_name("figure_budget", f"{name}.png"), dpi=150)
    plt.close(figure)


def script(quick: bool) -> pd.DataFrame:
    """Write ``figure_budget.csv``, ``figure_budget_needed.csv`` and a picture a table."""
    long, more = [], []
    for name in study.SIMULATED[:1] if quick else study.REAL:
        data = study.load(name)
        family = families(list(data.responses.models), data.background.lineage)
        scores = pd.concat([kept(data, seed) for seed in (SEEDS[:1] if quick else SEEDS)])
        table, enough = summary(scores, family), runs_needed(scores, family)
        print(table.round(4).to_string(index=False))
        print(f"results a model for a mean absolute error of {NEAR_ENOUGH}:")
        print(enough.round(1).to_string(index=False), flush=True)
        long.append(table.assign(data=name))
        more.append(enough.assign(data=name))
        study.write_table(pd.concat(long), "figure_budget")
        study.write_table(pd.concat(more), "figure_budget_needed")
        picture(table, name)
    return pd.concat(long)


if __name__ == "__main__":
    study.command(script, __doc__)
