"""Errors, intervals and warnings where the lineage or the responses are not what a spec assumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.special import expit, logit

from analyses import study
from bayes_lrmf.cells import Cells, held
from bayes_lrmf.design import make_design
from bayes_lrmf.diagnose import diagnose, trials_a_parameter
from bayes_lrmf.flag import flag
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.lineage_quality import likely_parents, recorded_parents
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import predict_items, score_draws
from bayes_lrmf.random_parents import parent_ranks
from bayes_lrmf.responses import Responses
from bayes_lrmf.simulate import Simulation, simulate
from bayes_lrmf.spec import Spec, read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

RANK = 2
CI_PROB = 0.9
SIZES = {
    "counts": {"n_models": 240, "n_items": 32, "n_benchmarks": 4, "density": 0.5, "trials": 50},
    "0/1": {"n_models": 240, "n_items": 200, "n_benchmarks": 4, "density": 0.8},
}
QUICK = {"counts": {"n_models": 60, "n_items": 16, "n_benchmarks": 2, "density": 0.5, "trials": 20}}
BESIDE = {
    ("lrmf", "0/1"): ("none", "rewired 30 %", "3 cells a model"),
    ("directed", "counts"): ("none", "rewired 30 %"),
    ("laplacian", "counts"): ("none", "rewired 30 %"),
}
"""Fewer disturbances, for other tables and specs."""
N_SEEDS = 3
_PARTS = study.FOLDER / "parts" / "robustness"
_MEMORISED, _FLAT = 0.98, 0.999
COLUMNS = [
    "cell_mae", "cell_rms", "cell_cover", "cell_width", "score_mae", "score_cover", "score_width",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class World:
    """Every cell of a table, what of it is seen, and the lineage that a fit is told.

    Attributes
    ----------
    items : DataFrame
    successes, probability : arrays, shape (n_models, n_items)
        Models in the order of the lineage.
    seen : bool array, shape (n_models, n_items)
    lineage : Lineage
    groups : mapping
        Positions of models to be reported apart.
    hidden : set
        Pairs of names, in their order, that no edge joins although they are parent and child or
        one model.
    """

    items: pd.DataFrame
    successes: np.ndarray
    probability: np.ndarray
    seen: np.ndarray
    lineage: Lineage
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    hidden: set[tuple[str, ...]] = field(default_factory=set)

    @property
    def models(self) -> np.ndarray:
        """Names, in the order of rows."""
        return self.lineage.nodes

    @property
    def cold(self) -> np.ndarray:
        """Positions of the models without a response."""
        return np.flatnonzero(~self.seen.any(1))

    @property
    def responses(self) -> Responses:
        """The table that a fit sees."""
        full = self.items["trials"].to_numpy()
        if (full == 1).all():
            content: np.ndarray | Cells = np.where(self.seen, self.successes, -1).astype(np.int8)
        else:
            rows, cols = (at.astype(np.int32) for at in np.nonzero(self.seen))
            right = self.successes[rows, cols].astype(np.float32)
            content = Cells(rows, cols, right, full[cols].astype(np.float32))
        dense, cells = held(content, self.seen.shape, full_trials=full)
        table = Responses(self.models, self.items, dense, cells)
        table = table.select_items(np.flatnonzero(self.seen.any(0)))
        return table.select_models(self.models[self.seen.any(1)])


def spec_of(name: str) -> Spec:
    """Return the spec by that name, with as many factors as are simulated."""
    return dataclasses.replace(read_spec(name), rank=RANK, likelihood="logit_normal")


Disturbance = Callable[[World, np.random.Generator], World]


@cache
def world(spec_name: str, seed: int, **sizes: Any) -> World:
    """Simulate a table in which some models have no response."""
    data = simulate(spec_of(spec_name), key=jax.random.key(seed), **sizes)
    seen = np.zeros(data.successes.shape, bool)
    place = data.items.reset_index().set_index(["benchmark", "item"])["index"]
    cols = place.loc[pd.MultiIndex.from_frame(data.responses.items[["benchmark", "item"]])]
    rows = [data.lineage.index[m] for m in data.responses.models]
    seen[np.ix_(rows, cols)] = data.responses.matrices(data.responses.models)[1] > 0
    return World(data.items, data.successes, _with_noise(data, seed), seen, data.lineage)


def _with_noise(data: Simulation, seed: int) -> np.ndarray:
    """Return probabilities of cells with over-dispersion, drawn apart from that of the results.

    That is what is predicted of a cell that was not run, and these alone are looked at.
    """
    p = data.probability()
    sd = data.values.get("overdispersion_sd")
    many = data.items["trials"].to_numpy() > 1
    if sd is None or not many.any():
        return p
    of_item = pd.factorize(data.items["benchmark"])[0]
    noise = np.random.default_rng([seed, 7]).standard_normal(p.shape) * np.asarray(sd)[of_item]
    return np.asarray(expit(logit(p) + noise * many))


def with_edges(lineage: Lineage, keep: np.ndarray, parent: np.ndarray | None = None) -> Lineage:
    """Return a lineage with some edges only, or other parents; weights sum to one again."""
    parent = lineage.parent if parent is None else parent
    child, weight = lineage.child[keep], lineage.weight[keep]
    total = np.bincount(child, weight, minlength=len(lineage.nodes))
    return Lineage(
        lineage.nodes,
        child,
        parent[keep].astype(np.int32),
        lineage.relation[keep],
        weight / total[child],
    )


def rewired(share: float) -> Disturbance:
    """Record random evaluated models as parents on a share of the edges, without a cycle."""

    def disturb(told: World, rng: np.random.Generator) -> World:
        lineage = told.lineage
        child, parent = lineage.child.tolist(), lineage.parent.copy()
        able = np.flatnonzero(told.seen.any(1))
        chosen = rng.choice(len(child), round(share * len(child)), replace=False)
        for edge in chosen.tolist():
            mine = lineage.child == child[edge]
            below = _descendants(lineage.child, parent, child[edge])
            parent[edge] = rng.choice(np.setdiff1d(able, [*below, *parent[mine]]))
        new = with_edges(lineage, np.ones(len(child), bool), parent)
        touched = np.unique(lineage.child[chosen])
        return dataclasses.replace(told, lineage=new, groups={"rewired": touched})

    return disturb


def _descendants(child: np.ndarray, parent: np.ndarray, start: int) -> set[int]:
    found, stack = {start}, [start]
    while stack:
        new = set(child[parent == stack.pop()].tolist()) - found
        found |= new
        stack += new
    return found


def removed(share: float) -> Disturbance:
    """Leave out a share of the edges."""

    def disturb(told: World, rng: np.random.Generator) -> World:
        n = len(told.lineage.child)
        gone = rng.choice(n, round(share * n), replace=False)
        keep = ~np.isin(np.arange(n), gone)
        touched = np.unique(told.lineage.child[gone])
        new = with_edges(told.lineage, keep)
        ends = told.models[np.stack([told.lineage.child, told.lineage.parent], axis=1)[gone]]
        hidden = {tuple(sorted(pair)) for pair in ends.tolist()}
        return dataclasses.replace(told, lineage=new, groups={"removed": touched}, hidden=hidden)

    return disturb


def contaminated(told: World, rng: np.random.Generator) -> World:
    """Let one in twenty evaluated children know the first benchmark by heart."""
    lineage = told.lineage
    able = np.intersect1d(lineage.child, np.flatnonzero(told.seen.any(1)))
    chosen = rng.choice(able, len(told.models) // 20, replace=False)
    on = np.ix_(chosen, np.flatnonzero(told.items["benchmark"] == told.items["benchmark"][0]))
    p, y = told.probability.copy(), told.successes.copy()
    p[on] = _MEMORISED
    y[on] = rng.binomial(told.items["trials"].to_numpy()[on[1]], _MEMORISED, p[on].shape)
    down, up = np.isin(lineage.parent, chosen), np.isin(lineage.child, chosen)
    kin = np.union1d(lineage.child[down], lineage.parent[up])
    groups = {"contaminated": chosen, "their kin": np.setdiff1d(kin, chosen)}
    return dataclasses.replace(told, probability=p, successes=y, groups=groups)


def duplicated(told: World, rng: np.random.Generator) -> World:
    """Enter one in ten evaluated models again, under another name and without an edge."""
    able = np.flatnonzero(told.seen.any(1))
    chosen = rng.choice(able, len(told.models) // 10, replace=False)
    copies = np.array([f"copy/{i}" for i in range(len(chosen))], dtype=object)
    twice = np.concatenate([np.arange(len(told.models)), chosen])
    lineage = dataclasses.replace(told.lineage, nodes=np.concatenate([told.lineage.nodes, copies]))
    return World(
        told.items,
        told.successes[twice],
        told.probability[twice],
        told.seen[twice],
        lineage,
        {"duplicated": np.concatenate([chosen, len(told.models) + np.arange(len(chosen))])},
        {tuple(sorted(pair)) for pair in zip(copies, told.models[chosen], strict=True)},
    )


def flat(told: World, rng: np.random.Generator) -> World:
    """Make one in twenty items, and one in forty evaluated models, all right, as many all wrong."""
    p = told.probability.copy()
    items = rng.permutation(len(told.items))
    models = rng.permutation(np.flatnonzero(told.seen.any(1)))
    n_items, n_models = len(items) // 20, len(told.models) // 40
    for to, at in enumerate((slice(0, n_models), slice(n_models, 2 * n_models))):
        p[models[at]] = (1 - _FLAT, _FLAT)[to]
    for to, at in enumerate((slice(0, n_items), slice(n_items, 2 * n_items))):
        p[:, items[at]] = (1 - _FLAT, _FLAT)[to]
    changed = p != told.probability
    y = np.where(changed, (p > 0.5) * told.items["trials"].to_numpy(), told.successes)
    return dataclasses.replace(
        told, probability=p, successes=y, groups={"all right or wrong": models[: 2 * n_models]}
    )


def sparse(told: World, rng: np.random.Generator) -> World:
    """Keep three responses of each model."""
    order = np.where(told.seen, rng.random(told.seen.shape), 2.0)
    few = order <= np.sort(order, axis=1)[:, [2]]
    return dataclasses.replace(told, seen=told.seen & few)


DISTURBANCES: dict[str, Disturbance] = {
    "none": lambda told, _: told,
    **{f"rewired {share:.0%}".replace("%", " %"): rewired(share) for share in (0.1, 0.3, 0.5)},
    **{f"removed {share:.0%}".replace("%", " %"): removed(share) for share in (0.1, 0.3, 0.5)},
    "contaminated": contaminated,
    "duplicated": duplicated,
    "all right or wrong": flat,
    "one benchmark": lambda told, _: told,
    "3 cells a model": sparse,
}


def fitted(told: World, spec: Spec, seed: int, name: str) -> Posterior:
    """Fit what is seen, or read the fit if an earlier run has done it."""
    path = _PARTS / f"{study.file_name(name.replace('/', ''))}.nc"
    if path.exists():
        return read_posterior(path)
    design = make_design(
        told.responses, spec, lineage=told.lineage, extra_models=list(told.models[told.cold])
    )
    posterior = fit_vb(design, spec, key=jax.random.key(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_posterior(posterior, path)
    return posterior


def measured(told: World, posterior: Posterior, seed: int) -> pd.DataFrame:
    """Return a line for each group of models: errors, coverage and width of intervals.

    Of cells: probabilities of those not run. Of scores: those that a full run shows.
    """
    key = jax.random.key(seed + 1000)
    table = predict_items(posterior, key=key, ci_prob=CI_PROB)
    row = table["model"].map(told.lineage.index).to_numpy()
    place = told.items.reset_index().set_index(["benchmark", "item"])["index"]
    col = place.loc[pd.MultiIndex.from_frame(table[["benchmark", "item"]])].to_numpy()
    cells = _judged(table, told.probability[row, col]).assign(row=row)
    cells = cells[table["observed"].isna().to_numpy()]
    drawn = score_draws(posterior, key=key)
    at = np.array([told.lineage.index[m] for m in drawn.models])
    used = np.unique(col)
    full, of_item = told.items["trials"].to_numpy(), told.items["benchmark"].to_numpy()
    parts = [used[of_item[used] == b] for b in drawn.benchmarks]
    right = [told.successes[np.ix_(at, part)].sum(1) / full[part].sum() for part in parts]
    scores = np.stack(right, axis=1)
    lower, upper = drawn.intervals(CI_PROB)
    spread = {"lower": lower, "upper": upper, "mean": drawn.scores.mean(0)}
    flat_scores = pd.DataFrame({name: value.ravel() for name, value in spread.items()})
    totals = _judged(flat_scores, scores.ravel()).assign(row=np.repeat(at, scores.shape[1]))
    lines = []
    for name, mine in _groups(told):
        some, whole = (part[part["row"].isin(mine)] for part in (cells, totals))
        if len(some):
            figures = [
                some["error"].mean(), np.sqrt((some["error"] ** 2).mean()), some["inside"].mean(),
                some["width"].mean(), whole["error"].mean(), whole["inside"].mean(),
                whole["width"].mean(),
            ]  # fmt: skip
            lines.append((name, len(mine), *figures))
    return pd.DataFrame(lines, columns=["models", "n_models", *COLUMNS])


def _judged(table: pd.DataFrame, truth: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "error": np.abs(table["mean"].to_numpy() - truth),
            "inside": (table["lower"].to_numpy() <= truth) & (truth <= table["upper"].to_numpy()),
            "width": (table["upper"] - table["lower"]).to_numpy(),
        }
    )


def _groups(told: World) -> Iterator[tuple[str, np.ndarray]]:
    whole = np.arange(len(told.models))
    for name, kind in (("cold", told.cold), ("observed", np.setdiff1d(whole, told.cold))):
        yield name, kind
        for group, mine in told.groups.items():
            yield f"{name}, {group}", np.intersect1d(kind, mine)
        if told.groups:
            touched = np.concatenate(list(told.groups.values()))
            yield f"{name}, others", np.setdiff1d(kind, touched)


def said(told: World, posterior: Posterior, seed: int) -> dict[str, float]:
    """Return what the tool notices: shares of runs and numbers of models, by notice.

    Right are doubtful parents of rewired and contaminated children, and likely parents that were
    removed or are the same model by another name.
    """
    key = jax.random.key(seed + 2000)
    found = diagnose(posterior)
    ranks = parent_ranks(posterior, key=key)
    out = {
        "not_converged": float(not found.good),
        "warned_parents": float(any("as good as random" in w for w in found.warnings)),
        "warned_few": float(any("coin flips" in w for w in found.warnings)),
        "trials": trials_a_parameter(posterior),
        "share_random": ranks.share_random,
        "n_children": len(ranks.children),
    }
    evaluated = set(posterior.design.responses.models)
    touched = {m for m in named(told, "rewired", "contaminated") if m in evaluated}
    every = flag(posterior, key=key, n_draws=50)
    out |= _jumping(told, every[every["rule"] == "jump"])
    flags = every.drop_duplicates(["model", "rule"])
    for rule in ("no kin", "unlike kin"):
        out[f"flagged_{rule.replace(' ', '_')}"] = int((flags["rule"] == rule).sum())
    if posterior.spec.lineage != "directed":
        return out
    table = recorded_parents(posterior, key=key)
    doubtful = set(table.loc[table["doubtful"], "model"])
    likely = likely_parents(posterior, key=key)
    pairs = [tuple(sorted(pair)) for pair in likely[["model", "other"]].to_numpy()]
    out |= {
        "doubtful": len(doubtful),
        "doubtful_right": len(doubtful & touched),
        "touched": len(touched),
        "likely": len(pairs),
        "likely_right": len(set(pairs) & told.hidden),
        "hidden": sum(set(pair) <= evaluated for pair in told.hidden),
    }
    return out


def _jumping(told: World, flags: pd.DataFrame) -> dict[str, float]:
    """Return how many models are marked on a benchmark, and how many of these rightly.

    Right are contaminated models, and cold ones next to them, on the first benchmark.
    """
    first = told.items["benchmark"][0]
    leans = flags["reason"].str.startswith("no results").to_numpy(bool)
    marked = pd.MultiIndex.from_frame(flags[["model", "benchmark"]])
    odd = {(m, first) for m in named(told, "contaminated")}
    cold = {(m, first) for m in named(told, "their kin")} & {
        (str(m), first) for m in told.models[told.cold]
    }
    return {
        "jumping": int((~leans).sum()),
        "jumping_right": len(set(marked[~leans]) & odd),
        "memorised": len(odd),
        "leaning": int(leans.sum()),
        "leaning_right": len(set(marked[leans]) & cold),
        "cold_kin": len(cold),
    }


def named(told: World, *groups: str) -> set[str]:
    """Return the names of models in these groups."""
    return {str(told.models[at]) for group in groups for at in told.groups.get(group, ())}


@dataclass(frozen=True)
class Run:
    """A fit of the study: a spec and table, a disturbance and a seed."""

    spec: str
    table: str
    disturbance: str
    seed: int

    def made(self, sizes: dict[str, dict[str, Any]]) -> tuple[World, Posterior]:
        """Return what is true and what was fitted."""
        size = sizes[self.table]
        if self.disturbance == "one benchmark":
            size = size | {"n_benchmarks": 1}
        at = list(DISTURBANCES).index(self.disturbance)
        told = DISTURBANCES[self.disturbance](
            world(self.spec, self.seed, **size), np.random.default_rng([self.seed, at])
        )
        name = f"{self.spec} {self.table} {size['n_models']} {self.disturbance} {self.seed}"
        return told, fitted(told, spec_of(self.spec), self.seed, name)


def runs(quick: bool) -> list[Run]:
    """Return the fits of the study, one seed of all before the next."""
    if quick:
        return [Run("lrmf", "counts", name, 0) for name in ("none", "rewired 50 %")]
    found = []
    for seed in range(N_SEEDS):
        found += [Run("lrmf", "counts", name, seed) for name in DISTURBANCES]
        for (spec, table), names in BESIDE.items():
            found += [Run(spec, table, name, seed) for name in names]
    return found


_KEYS = ["spec", "table", "disturbance"]


def summary(lines: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return means over seeds, their standard errors, and the number of seeds."""
    grouped = lines.drop(columns="seed").groupby(keys, sort=False)
    error = grouped.sem(ddof=1).add_suffix("_error")
    return grouped.mean().join(error).join(lines.groupby(keys)["seed"].nunique()).reset_index()


def shown(table: pd.DataFrame, columns: dict[str, str], *, decimals: int = 3) -> pd.DataFrame:
    """Return columns as ``mean ± standard error``."""
    out = table[[c for c in table if c in (*_KEYS, "models")]].copy()
    for name, heading in columns.items():
        means, errors = table[name], table[f"{name}_error"]
        out[heading] = [
            "" if np.isnan(m) else f"{m:.{decimals}f}" + (f" ± {e:.{decimals}f}" * (e == e))
            for m, e in zip(means, errors, strict=True)
        ]
    return out


def script(quick: bool) -> pd.DataFrame:
    """Write ``robustness.csv``, ``robustness_notices.csv`` and ``robustness.md``.

    They are written after each seed: a study cut short has whole ones of fewer seeds.
    """
    measures, notices = [], []
    for seed, some in groupby(runs(quick), key=lambda run: run.seed):
        for run in some:
            told, posterior = run.made(QUICK if quick else SIZES)
            measures.append(measured(told, posterior, seed).assign(**dataclasses.asdict(run)))
            notices.append(said(told, posterior, seed) | dataclasses.asdict(run))
            print(f"{run.spec}, {run.table}, {run.disturbance}, seed {seed}", flush=True)
        found = summary(pd.concat(measures, ignore_index=True), [*_KEYS, "models"])
        noticed = summary(pd.DataFrame(notices), _KEYS)
        study.write_table(found, "robustness")
        study.write_table(noticed, "robustness_notices")
        headings = {
            "cell_mae": "cells: MAE", "cell_cover": "cover", "cell_width": "width",
            "score_mae": "scores: MAE", "score_cover": "cover ", "score_width": "width ",
        }  # fmt: skip
        pages = [study.markdown(shown(found, headings)), study.markdown(_of_notices(noticed))]
        (study.FOLDER / "robustness.md").write_text("\n".join(pages), encoding="utf-8")
    print("\n".join(pages))
    return found


def _of_notices(noticed: pd.DataFrame) -> pd.DataFrame:
    shares = {
        "not_converged": "not converged",
        "warned_few": "warns of few responses",
        "warned_parents": "warns of parents",
    }
    out = noticed[_KEYS].copy()
    for name, heading in shares.items():
        out[heading] = [
            f"{m * n:.0f} of {n}" for m, n in zip(noticed[name], noticed["seed"], strict=True)
        ]
    estimates = {"trials": "coin flips a parameter", "share_random": "parents as good as random"}
    for name, heading in estimates.items():
        decimals = 1 if name == "trials" else 2
        out[heading] = shown(noticed, {name: heading}, decimals=decimals)[heading]
    of_what = {
        "doubtful": "touched", "likely": "hidden", "jumping": "memorised", "leaning": "cold_kin",
    }  # fmt: skip
    for name, of in of_what.items():
        out[f"{name}: right / listed / to be found"] = [
            "" if np.isnan(n) else f"{right:.1f} / {n:.1f} / {m:.1f}"
            for right, n, m in zip(
                noticed[f"{name}_right"], noticed[name], noticed[of], strict=True
            )
        ]
    for name in ("flagged_no_kin", "flagged_unlike_kin"):
        out[name.replace("_", " ")] = noticed[name].map("{:.1f}".format)
    return out


if __name__ == "__main__":
    study.command(script, __doc__)
