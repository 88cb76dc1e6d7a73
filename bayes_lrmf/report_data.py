"""What a report of a fit says, as plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import probability, whole_number
from bayes_lrmf.diagnose import diagnose
from bayes_lrmf.flag import flag
from bayes_lrmf.item_space import core_draws, item_roots, parents_of_evaluated, steps_of
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import ScoreDraws, score_draws, summarised
from bayes_lrmf.progress import Progress
from bayes_lrmf.retrodiction import calibration

__all__ = ["MOST_MODELS", "ReportData", "report_data"]

MOST_MODELS = 3000
_STEP_DRAWS = 100
_COLD_SHARE = 0.2
_NO_STEPS = ["model", "step", "lower", "upper"]
_FLAG_COLUMNS = ["model", "benchmark", "mean", "lower", "upper", "rule", "value", "reason"]


@dataclass(frozen=True, eq=False)
class ReportData:
    """The tables behind a report.

    Attributes
    ----------
    facts : dict
        ``spec, method, n_evaluated, n_models, n_items, n_responses``: what was fitted; and
        ``provenance``, that of the posterior.
    good : bool
    verdict : tuple of str
        Lines of `diagnose`.
    notes : tuple of str
        What was left out, and why.
    ci_prob : float
    is_point : bool
        Whether there are no intervals.
    models : DataFrame
        ``model, status, family, row, depth``; status is ``evaluated`` or ``cold``. `family` is -1
        without recorded kin among these models, and counts from the largest; `row` and `depth`
        place a model in an indented tree.
    scores : DataFrame
        ``model, benchmark, mean, lower, upper, n_items, n_observed, rank, rank_lower,
        rank_upper``, models in the order of `models`; benchmark `AVERAGE` is the mean over all.
        Ranks are expected ranks among `models`, with intervals.
    edges : DataFrame
        ``child, parent, relation``.
    steps : DataFrame
        ``model, step, lower, upper``: how far evaluated models lie from their recorded parents,
        as posterior means of root mean squares over items, in log-odds.
    inheritance, hyperparameters : DataFrame
        Those of `diagnose`.
    calibration : DataFrame
        What `retrodiction.calibration` returns.
    limits : dict
        ``max_width, threshold, top_k``, those that were given.
    flags : DataFrame
        What `flag` returns for `models` and `limits`, with the means and intervals of `scores`;
        empty for a point estimate.
    """

    facts: dict[str, Any]
    good: bool
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    ci_prob: float
    is_point: bool
    models: pd.DataFrame
    scores: pd.DataFrame
    edges: pd.DataFrame
    steps: pd.DataFrame
    inheritance: pd.DataFrame
    hyperparameters: pd.DataFrame
    calibration: pd.DataFrame
    limits: dict[str, float]
    flags: pd.DataFrame


def report_data(
    posterior: Posterior,
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    ci_prob: float = 0.9,
    most: int = MOST_MODELS,
    max_width: float | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    n_draws: int = 400,
    progress: Progress | None = None,
) -> ReportData:
    """Gather what a report shows.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
        Scores equal those of `predict_benchmarks` and `predict_ranks` with the same key and models.
    models : sequence of str, optional
        By default evaluated models, those with most results first, and those without results that
        have recorded kin: ancestors that join evaluated ones, then descendants, parents before
        children. Where not all fit in `most`, a fifth is kept for those without results.
    ci_prob : float
    most : int
        Not for models that are named.
    max_width, threshold, top_k
        What else to flag, of the models shown: see `flag`. These rules look at the draws that the
        scores are of.
    n_draws : int
    progress : Progress, optional

    Raises
    ------
    InputError
        For an unknown model, naming the nearest; for limits out of range, or asked of a point
        estimate.
    """
    ci_prob = probability(ci_prob, name="ci_prob")
    names, notes = _chosen(posterior, models, whole_number(most, name="most"))
    asked = {"max_width": max_width, "threshold": threshold, "top_k": top_k}
    limits = {name: limit for name, limit in asked.items() if limit is not None}
    flags = pd.DataFrame(columns=_FLAG_COLUMNS)
    if posterior.is_point and not limits:
        notes.append(
            "A point estimate: scores and ranks carry no intervals, and nothing is flagged."
        )
    else:
        # The rules that always apply look at no draw of a score: two are enough.
        flags = flag(
            posterior,
            key=key,
            models=names,
            max_width=max_width,
            threshold=threshold,
            top_k=top_k,
            ci_prob=ci_prob,
            n_draws=n_draws if limits else 2,
        )
    drawn = score_draws(posterior, key=key, models=names, n_draws=n_draws, progress=progress)
    scores = _scores(drawn, ci_prob, posterior.is_point)
    if len(flags):
        own = ["mean", "lower", "upper"]
        flags = flags.drop(columns=own).merge(
            scores[["model", "benchmark", *own]], on=["model", "benchmark"], how="left"
        )[_FLAG_COLUMNS]
    tree = _tree(posterior, names)
    diagnosis = diagnose(posterior, ci_prob=ci_prob)
    design, cells = posterior.design, posterior.design.responses.to_cells()
    return ReportData(
        facts={
            "spec": posterior.spec.name,
            "method": posterior.record.method,
            "provenance": posterior.provenance,
            "n_evaluated": design.n_evaluated,
            "n_models": len(design.models),
            "n_items": int(design.items["trials"].sum()),
            "n_responses": int(
                design.responses.n_observed if cells.trials is None else cells.trials.sum()
            ),
        },
        good=diagnosis.good,
        verdict=diagnosis.lines,
        notes=tuple(notes),
        ci_prob=ci_prob,
        is_point=posterior.is_point,
        models=_models(posterior, names, tree),
        scores=scores,
        edges=pd.DataFrame(
            {
                "child": tree.nodes[tree.child],
                "parent": tree.nodes[tree.parent],
                "relation": tree.relation,
            }
        ),
        steps=_steps(posterior, key, ci_prob, set(names)),
        inheritance=diagnosis.inheritance,
        hyperparameters=diagnosis.hyperparameters,
        calibration=calibration(posterior, key=key, ci_prob=ci_prob),
        limits=limits,
        flags=flags,
    )


def _chosen(
    posterior: Posterior, models: Sequence[str] | None, most: int
) -> tuple[list[str], list[str]]:
    """Return names of models, evaluated ones first, and what to say of the others."""
    design = posterior.design
    if models is not None:
        return list(design.models[np.sort(design.places(models))]), []
    n, n_core = design.n_evaluated, design.n_core
    has_parent = np.zeros(len(design.models), bool)
    has_parent[design.periphery.child] = True
    cold = np.concatenate(
        [np.arange(n, n_core), n_core + np.flatnonzero(has_parent[n_core:])]
    ).astype(int)
    run = np.bincount(design.responses.to_cells().rows, minlength=n)
    kept_free = min(len(cold), int(_COLD_SHARE * most))
    evaluated = np.sort(np.argsort(-run, kind="stable")[: most - kept_free])
    n_kin = len(cold)
    cold = cold[: most - len(evaluated)]
    kept = [*evaluated.tolist(), *cold.tolist()]
    left = [
        (n - len(evaluated), "evaluated, with fewest results"),
        (n_kin - len(cold), "without results"),
        (len(design.models) - n - n_kin, "without results or recorded kin"),
    ]
    parts = [f"{count:,} {which}" for count, which in left if count]
    how = "name them with --models, or allow more with --most"
    notes = [f"models left out: {', '.join(parts)}; {how}"] if parts else []
    return list(design.models[kept]), notes


def _scores(drawn: ScoreDraws, ci_prob: float, is_point: bool) -> pd.DataFrame:
    scores, names = drawn.with_average()
    columns: dict[str, np.ndarray] = {
        "model": np.repeat(drawn.models, len(names)),
        "benchmark": np.tile(names, len(drawn.models)),
    }
    for prefix, draws in (("", scores), ("rank_", drawn.ranks())):
        found = summarised(draws, ci_prob, is_point)
        columns |= {prefix + end: found[end].ravel() for end in ("mean", "lower", "upper")}
    for name, counts in (("n_items", drawn.n_items), ("n_observed", drawn.n_observed)):
        columns[name] = np.concatenate([counts, counts.sum(1, keepdims=True)], axis=1).ravel()
    return pd.DataFrame(columns).rename(columns={"rank_mean": "rank"})


def _tree(posterior: Posterior, names: Sequence[str]) -> Lineage:
    """Return the recorded edges between these models."""
    core, periphery = posterior.design.core, posterior.design.periphery
    child, parent, relation, weight = (
        np.concatenate([getattr(core, name), getattr(periphery, name)])
        for name in ("child", "parent", "relation", "weight")
    )
    return Lineage(periphery.nodes, child, parent, relation, weight).among(names)


def _models(posterior: Posterior, names: Sequence[str], tree: Lineage) -> pd.DataFrame:
    layout, label = tree.layout(), tree.components()
    size = np.bincount(label)[label]
    # Largest first; of two as large, the one whose model comes first.
    first = pd.Series(np.arange(len(label))).groupby(label).transform("min").to_numpy()
    order = np.lexsort((layout["row"], first, -size))
    family = np.full(len(label), -1)
    family[order] = pd.factorize(label[order])[0]
    row = layout["row"].groupby(family).rank().to_numpy(int) - 1
    index = posterior.design.periphery.index
    evaluated = np.array([index[name] for name in names]) < posterior.design.n_evaluated
    return pd.DataFrame(
        {
            "model": names,
            "status": np.where(evaluated, "evaluated", "cold"),
            "family": np.where(size > 1, family, -1),
            "row": row,
            "depth": layout["depth"],
        }
    )


def _steps(posterior: Posterior, key: jax.Array, ci_prob: float, names: set[str]) -> pd.DataFrame:
    design = posterior.design
    if posterior.is_point or not np.any(design.core.child < design.n_evaluated):
        return pd.DataFrame(columns=_NO_STEPS)
    children, weights = parents_of_evaluated(design.core, design.n_evaluated)
    drawn = core_draws(posterior, key=key, n_draws=_STEP_DRAWS)
    steps = steps_of(drawn.rows, children, weights) @ item_roots(drawn.cols)
    length = np.linalg.norm(steps, axis=-1)
    tail = (1 - ci_prob) / 2
    lower, upper = np.quantile(length, [tail, 1 - tail], axis=0)
    columns = (design.core.nodes[children], length.mean(0), lower, upper)
    table = pd.DataFrame(dict(zip(_NO_STEPS, columns, strict=True)))
    return table[table["model"].isin(names)].reset_index(drop=True)
