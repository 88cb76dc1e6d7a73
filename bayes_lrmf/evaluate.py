"""Hold-out designs, and scores of predictions against what was held out."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd

from bayes_lrmf import metrics
from bayes_lrmf.checks import InputError, probability
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import predict_benchmarks, predict_items
from bayes_lrmf.responses import Responses

__all__ = ["hide_leaf_children", "score_cold_start"]

COVERAGE_AT = (0.5, 0.8, 0.9, 0.95)
_FEWEST_TRIALS = 20


def hide_leaf_children(
    responses: Responses, lineage: Lineage, *, seed: int, share: float = 0.5
) -> tuple[Responses, list[str]]:
    """Hide all results of a random share of the leaf children.

    A leaf child has a recorded direct parent in the table and no child there. Models with
    identical responses (re-uploads) are hidden together, and never when one of them would stay.

    Parameters
    ----------
    responses : Responses
    lineage : Lineage
    seed : int
    share : float
        Of the leaf children, between 0 and 1.

    Returns
    -------
    train : Responses
        Without the hidden models.
    hidden : list of str

    Raises
    ------
    InputError
        If the table has no leaf children.
    """
    probability(share, name="share")
    inside = np.isin(lineage.nodes, responses.models.astype(object))
    both = inside[lineage.child] & inside[lineage.parent]
    direct = both & (lineage.relation != "ancestor")
    leaves = np.setdiff1d(lineage.child[direct], lineage.parent[both])
    names = sorted(lineage.nodes[leaves])
    twins = _groups_of_identical(responses)
    candidates = set(names)
    groups = sorted({tuple(sorted(twins[m])) for m in names if twins[m] <= candidates})
    if not groups:
        raise InputError("no leaf child to hide", fix="give a lineage that knows the models")
    order = np.random.default_rng(seed).permutation(len(groups))
    hidden: list[str] = []
    for g in order:
        if len(hidden) >= share * len(names):
            break
        hidden += groups[g]
    gone = set(hidden)
    return responses.select_models([m for m in responses.models if m not in gone]), sorted(hidden)


def _groups_of_identical(responses: Responses) -> dict[str, set[str]]:
    cells = responses.to_cells()
    bounds = np.searchsorted(cells.rows, np.arange(responses.n_models + 1))
    groups: dict[bytes, set[str]] = {}
    for i, model in enumerate(responses.models):
        part = slice(bounds[i], bounds[i + 1])
        key = cells.cols[part].tobytes() + cells.successes[part].tobytes()
        groups.setdefault(key, set()).add(model)
    return {model: group for group in groups.values() for model in group}


def score_cold_start(
    posterior: Posterior, truth: Responses, *, key: jax.Array, n_draws: int = 400
) -> dict[str, float]:
    """Score predictions of models the posterior has not seen against their real responses.

    Parameters
    ----------
    posterior : Posterior
    truth : Responses
        The held-out models alone.
    key : jax key
    n_draws : int

    Returns
    -------
    dict
        ``log_loss`` per trial over cells; ``pearson`` (mean over benchmarks of r over models) and
        ``mae`` of benchmark scores over pairs with at least 20 trials run; ``coverage_*`` and
        ``width_*`` of predictive intervals over pairs run in full (NaN for a point estimate).
    """
    models = list(truth.models)
    items = predict_items(posterior, key=key, models=models)
    cells = truth.to_cells()
    p = items["mean"].to_numpy(float).reshape(truth.shape)[cells.rows, cells.cols]
    n = np.ones(len(p)) if cells.trials is None else cells.trials.astype(float)
    k = cells.successes.astype(float)
    out = {"log_loss": float(-(k * np.log(p) + (n - k) * np.log1p(-p)).sum() / n.sum())}
    right, run = truth.totals()
    score = right / np.maximum(run, 1)
    for ci_prob in COVERAGE_AT:
        table = predict_benchmarks(
            posterior, key=key, models=models, ci_prob=ci_prob, n_draws=n_draws
        )
        wide = {c: _wide(table, c, score.shape) for c in ("mean", "lower", "upper", "n_items")}
        if ci_prob == COVERAGE_AT[0]:
            some = run >= _FEWEST_TRIALS
            r = [
                metrics.pearson(score[some[:, b], b], wide["mean"][some[:, b], b])
                for b in np.flatnonzero(some.sum(0) > 1)
            ]
            out["pearson"] = float(np.nanmean(r)) if r else float("nan")
            out["mae"] = metrics.mae(score[some], wide["mean"][some]) if r else float("nan")
        whole = run == wide["n_items"]
        at = f"{100 * ci_prob:.0f}"
        if posterior.is_point:
            out[f"coverage_{at}"] = out[f"width_{at}"] = float("nan")
            continue
        lower, upper = wide["lower"][whole], wide["upper"][whole]
        out[f"coverage_{at}"] = metrics.coverage(lower, upper, score[whole])
        out[f"width_{at}"] = float((upper - lower).mean())
    return out


def _wide(table: pd.DataFrame, column: str, shape: tuple[int, ...]) -> np.ndarray:
    return table[column].to_numpy(float).reshape(shape)
