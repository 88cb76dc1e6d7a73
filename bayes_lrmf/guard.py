"""Scores that stay true where the fit is wrong, from items that were run at random."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
from scipy import stats

from bayes_lrmf.checks import InputError, probability
from bayes_lrmf.coldstart import add
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.joining import on_items_of
from bayes_lrmf.plan import AT_RANDOM, FEWEST_AT_RANDOM
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import predict_benchmarks, predict_items, score_draws
from bayes_lrmf.responses import AVERAGE, Responses

__all__ = ["at_random", "guard"]

_FALSE_DISCOVERIES = 0.05
_COLUMNS = [
    *("model", "benchmark", "n_random", "mean", "lower", "upper"),
    *("model_mean", "model_lower", "model_upper", "p_value", "disagree"),
]


def at_random(responses: Responses, plan: pd.DataFrame) -> tuple[Responses, int]:
    """Return the results of the runs of a plan that were drawn at random, and how many lack.

    Parameters
    ----------
    responses : Responses
        What was run.
    plan : DataFrame
        From `make_plan`. Without a column reason all of it was drawn.

    Raises
    ------
    InputError
        If the plan has no runs at random, or none of them was run.
    """
    missing = [name for name in ("model", "benchmark", "item") if name not in plan]
    if missing:
        raise InputError(f"no column {missing[0]}", where="plan", fix="give the CSV of the plan")
    drawn = plan if "reason" not in plan else plan[plan["reason"] == AT_RANDOM]
    wanted = set(
        zip(
            drawn["model"].astype(str),
            drawn["benchmark"].astype(str),
            drawn["item"].astype(str),
            strict=True,
        )
    )
    if not wanted:
        raise InputError(
            "the plan has no runs at random", where="plan", fix="make it with a share at random"
        )
    cells, items = responses.to_cells(), responses.items
    keys = zip(
        responses.models[cells.rows],
        items["benchmark"].to_numpy(object)[cells.cols],
        items["item"].to_numpy(object)[cells.cols],
        strict=True,
    )
    kept = np.array([key in wanted for key in keys], bool)
    if not kept.any():
        raise InputError(
            "no result of a run at random", where="responses", fix="run these items of the plan"
        )
    found = responses.hide(cells=(cells.rows[~kept], cells.cols[~kept]))
    return found, len(wanted) - int(kept.sum())


def guard(
    posterior: Posterior,
    responses: Responses,
    *,
    key: jax.Array,
    updated: Posterior | None = None,
    ci_prob: float = 0.9,
    n_draws: int = 400,
) -> pd.DataFrame:
    """Estimate scores from items run at random, beside those of the fit.

    Parameters
    ----------
    posterior : Posterior
        One that has not seen these results.
    responses : Responses
        Of items drawn at random from those of a benchmark that the model had not run, all that
        were drawn.
    key : jax key
    updated : Posterior, optional
        What scores are compared with; by default `posterior` with `responses` added.
    ci_prob : float
    n_draws : int

    Returns
    -------
    DataFrame
        ``model, benchmark, n_random, mean, lower, upper, model_mean, model_lower, model_upper,
        p_value, disagree``, for pairs with five items at random and some left to run.
        ``mean`` is unbiased over draws of the items however wrong the fit is. ``disagree`` marks
        pairs whose score of the fit lies further from it than chance allows, with at most 5 % false
        ones expected among them.
        In tables of one item a benchmark, items at random tell of the mean over benchmarks.

    Raises
    ------
    InputError
        If there is no such pair.

    Notes
    -----
    With predictions p of N items, of which n drawn at random show y, the mean is that of p plus
    that of ``y - p`` over the n (augmented inverse probability weighting; prediction-powered
    inference, Angelopoulos et al. 2023, arXiv:2301.09633), with variance
    ``(1 - n / N) s^2 / n`` and quantiles of Student's t. A score near 0 or 1 shows few results of
    the rarer kind: ``s^2`` is the variance with one right and one wrong result of a single trial
    more, and no less than the fit expects. Items that were run in part count as drawn in two stages
    (Cochran 1977, section 10.3). Discoveries are those of Benjamini and Hochberg.
    """
    ci_prob = probability(ci_prob, name="ci_prob")
    table = on_items_of(posterior.design.responses, responses)
    names, design = list(table.models), posterior.design
    if any(name not in design.periphery.index for name in names):
        raise InputError(
            "some models of the results are not in the fit", fix="add them with their lineage first"
        )
    if updated is None:
        updated = add(posterior, responses=responses, key=key)
    items = predict_items(posterior, key=key, models=names, n_draws=n_draws)
    p = items["mean"].to_numpy(float).reshape(len(names), -1)
    before = design.responses.matrices(names)
    drawn = table.matrices(names)
    full = design.items["trials"].to_numpy(float)
    single = len(design.benchmarks) == design.n_items
    scores = predict_benchmarks(updated, key=key, models=names, ci_prob=ci_prob, n_draws=n_draws)
    shown = scores.set_index(["model", "benchmark"])[["mean", "lower", "upper"]]
    rows = []
    for u, model in enumerate(names):
        groups = [(AVERAGE, np.arange(design.n_items))]
        if not single:
            groups = [
                (name, np.flatnonzero(design.benchmark_index == b))
                for b, name in enumerate(design.benchmarks)
            ]
        for benchmark, of_group in groups:
            k, n = (part[u, of_group].astype(float) for part in before)
            y, m = (part[u, of_group].astype(float) for part in drawn)
            whole = np.maximum(full[of_group], np.maximum(n, m))
            q, left = p[u, of_group], whole - n
            scale = 1 / whole if single else np.ones(len(of_group))
            seen = (m > 0) & (n == 0)
            if seen.sum() < FEWEST_AT_RANDOM or (n + m >= full[of_group]).all():
                continue
            # Of a full run, where part of one was seen.
            each = (whole / np.maximum(m, 1) * scale)[seen]
            residual = (y - m * q)[seen] * each
            expected = (m * q * (1 - q))[seen] * each**2
            total = len(of_group) if single else float(whole.sum())
            base = float((scale * (k + left * q)).sum())
            if (full[of_group] == 1).all():
                centre = q[seen].mean()
                further = np.array([1 - centre, -centre])
            else:
                further = np.zeros(0)
            # What is left of the items drawn varies too.
            rate, part = (y + 1) / (m + 2), 1 - m / whole
            within = float(((m * rate * (1 - rate) * part)[seen] * each**2).mean())
            n_left = int((n == 0).sum())
            mean, sd = _estimate(base, residual, further, expected, within, n_left, total)
            reach = sd * stats.t.ppf((1 + ci_prob) / 2, len(residual) - 1)
            known = _of_fit(updated, shown, model, benchmark, key, ci_prob, n_draws)
            z = abs(mean - known[0]) / sd if sd > 0 else 0.0
            p_value = 2 * stats.t.sf(z, len(residual) - 1)
            ends = max(mean - reach, 0.0), min(mean + reach, 1.0)
            rows.append((model, benchmark, len(residual), mean, *ends, *known, p_value))
    if not rows:
        raise InputError(
            f"no benchmark of a model has {FEWEST_AT_RANDOM} results at random, and items left",
            fix="run more items at random, but not all",
        )
    found = pd.DataFrame(rows, columns=_COLUMNS[:-1])
    adjusted = stats.false_discovery_control(found["p_value"].to_numpy())
    return found.assign(disagree=adjusted < _FALSE_DISCOVERIES)


def _estimate(
    base: float,
    residual: np.ndarray,
    further: np.ndarray,
    expected: np.ndarray,
    within: float,
    n_left: int,
    total: float,
) -> tuple[float, float]:
    """Return mean and standard deviation of a score; `base` is the sum of what is expected.

    `further` residuals count in their spread alone; `within` is the variance that stays however
    many items are drawn.
    """
    n = len(residual)
    spread = max(np.append(residual, further).var(ddof=1), expected.mean())
    mean = (base + n_left * residual.mean()) / total
    share = n / n_left
    variance = ((1 - share) * spread + share * within) / n
    return float(mean), float(n_left * np.sqrt(variance) / total)


def _of_fit(
    posterior: Posterior,
    shown: pd.DataFrame,
    model: str,
    benchmark: str,
    key: jax.Array,
    ci_prob: float,
    n_draws: int,
) -> tuple[float, float, float]:
    """Return mean and interval of a score of the fit."""
    if benchmark != AVERAGE:
        mean, lower, upper = shown.loc[[(model, benchmark)]].to_numpy(float)[0].tolist()
        return mean, lower, upper
    draws = score_draws(posterior, key=key, models=[model], n_draws=n_draws).scores
    average = draws[:, 0].mean(-1)
    lower, upper = equal_tailed(average, ci_prob)
    return float(average.mean()), float(lower), float(upper)
