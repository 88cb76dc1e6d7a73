"""Scores of a forecast against what a split held out: responses, benchmark scores, intervals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from bayes_lrmf import metrics
from bayes_lrmf.cells import Cells
from bayes_lrmf.checks import InputError
from bayes_lrmf.forecast import Forecast
from bayes_lrmf.holdouts import Split

__all__ = ["COVERAGE_AT", "benchmark_scores", "mean_over_benchmarks", "per_model", "score"]

COVERAGE_AT = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the intervals whose coverage and width are scored."""

_FEWEST_TRIALS = 20
_FEWEST_MODELS = 3
# Scores are float32: differences of its rounding are no order of models.
_DECIMALS = 6

Families = Mapping[str, int] | pd.Series
Statistic = Callable[..., float]


def score(forecast: Forecast, split: Split, families: Families) -> dict[str, float]:
    """Score a forecast by all that is known of the models of a split.

    Parameters
    ----------
    forecast : Forecast
        Of the models of the split, and maybe others.
    split : Split
    families : Series or mapping
        Family of each model.

    Returns
    -------
    dict
        Of the responses of `split.test`, each trial counting once: ``log_loss``, ``brier``,
        ``auc``, ``accuracy``, ``ece``.

        Of benchmark scores (`benchmark_scores`): ``pearson``, ``pearson_within`` (families) and
        ``spearman``, each a mean over benchmarks; ``pearson_pooled`` and ``mae`` over all pairs.

        Of predictive intervals, on the pairs with held-out responses and a full run:
        ``coverage_50`` and so on, ``width_50`` and so on, ``crps``, ``interval_score_90``.

        What is not defined is NaN: intervals of a point, or correlations of a constant.

    Raises
    ------
    InputError
        If the forecast lacks a model of the split or is about other items, or a model has no
        family.
    """
    rows = _rows(forecast, split)
    label = _labels(families, split)
    y, p, weights = _outcomes(forecast, rows, split.test.to_cells())
    found = {
        "log_loss": metrics.log_loss(y, p, weights=weights),
        "brier": metrics.brier(y, p, weights=weights),
        "auc": metrics.auc(y, p, weights=weights),
        "accuracy": metrics.accuracy(y, p, weights=weights),
        "ece": metrics.ece(y, p, weights=weights),
    }
    observed, predicted = benchmark_scores(forecast, split)
    family = np.broadcast_to(label[:, None], observed.shape)
    pairs = ~np.isnan(observed)
    some, guess = observed[pairs], predicted[pairs]
    found |= {
        "pearson": mean_over_benchmarks(metrics.pearson, observed, predicted),
        "pearson_pooled": metrics.pearson(some, guess) if len(some) else float("nan"),
        "pearson_within": mean_over_benchmarks(metrics.pearson_within, observed, predicted, family),
        "spearman": mean_over_benchmarks(metrics.spearman, observed, predicted),
        "mae": metrics.mae(some, guess) if len(some) else float("nan"),
    }
    return found | _interval_scores(forecast, rows, split)


def per_model(forecast: Forecast, split: Split) -> pd.DataFrame:
    """Return the losses of each model of a split, as `comparison.paired_difference` takes them.

    Returns
    -------
    DataFrame
        Indexed by model: ``trials`` held out and scored; ``log_loss`` and ``brier``, their means
        over those trials; ``abs_error:<benchmark>``, of the benchmark score, NaN where
        `benchmark_scores` has none; ``abs_error``, its mean over benchmarks.

    Raises
    ------
    InputError
        As `score`.
    """
    rows = _rows(forecast, split)
    cells = split.test.to_cells()
    bounds = np.searchsorted(cells.rows, np.arange(split.test.n_models + 1))
    lines = []
    for start, stop in itertools.pairwise(bounds):
        part = cells.taken(np.arange(start, stop))
        y, p, weights = _outcomes(forecast, rows, part)
        lines.append(
            (
                len(y) if weights is None else weights.sum(),
                metrics.log_loss(y, p, weights=weights),
                metrics.brier(y, p, weights=weights),
            )
        )
    index = pd.Index(split.models, name="model")
    table = pd.DataFrame(lines, index=index, columns=["trials", "log_loss", "brier"], dtype=float)
    observed, predicted = benchmark_scores(forecast, split)
    names = [f"abs_error:{benchmark}" for benchmark in split.test.benchmarks]
    errors = pd.DataFrame(np.abs(observed - predicted), index=index, columns=names)
    return pd.concat([table.assign(abs_error=errors.mean(axis=1)), errors], axis=1)


def benchmark_scores(forecast: Forecast, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return observed and predicted benchmark scores, NaN where they are not scored.

    The observed score is the share of successes in all trials of the model, held out or not.
    A pair of model and benchmark is scored if it has at least 20 trials of which some are held
    out, and a benchmark if it has three such models.

    Returns
    -------
    observed, predicted : float arrays, shape (n_models, n_benchmarks)

    Raises
    ------
    InputError
        As `score`.
    """
    rows = _rows(forecast, split)
    successes, trials, is_held = _totals(split)
    pairs = is_held & (trials >= _FEWEST_TRIALS)
    pairs &= pairs.sum(axis=0) >= _FEWEST_MODELS
    observed = np.where(pairs, successes / np.maximum(trials, 1), np.nan)
    return observed, np.where(pairs, np.round(forecast.means[rows], _DECIMALS), np.nan)


def mean_over_benchmarks(
    statistic: Statistic, observed: np.ndarray, predicted: np.ndarray, *others: np.ndarray
) -> float:
    """Return the mean of a statistic over the benchmarks where it is defined.

    Parameters
    ----------
    statistic : function of arrays, returning a float
        Such as `metrics.pearson`.
    observed, predicted, others : arrays, shape (n_models, n_benchmarks)
        Pairs whose observed score is NaN are left out, and benchmarks with less than three.
    """
    values = []
    for b in range(observed.shape[1]):
        some = ~np.isnan(observed[:, b])
        if some.sum() >= _FEWEST_MODELS:
            values.append(statistic(*(x[some, b] for x in (observed, predicted, *others))))
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _interval_scores(forecast: Forecast, rows: np.ndarray, split: Split) -> dict[str, float]:
    names = [f"{what}_{100 * q:.0f}" for q in COVERAGE_AT for what in ("coverage", "width")]
    nothing = dict.fromkeys([*names, "crps", "interval_score_90"], float("nan"))
    successes, trials, is_held = _totals(split)
    member = np.eye(trials.shape[1])[split.truth.benchmark_index]
    full = split.truth.items["trials"].to_numpy(float) @ member
    whole = is_held & (trials == full) & (forecast.scores.n_items[rows] == full)
    if forecast.is_point or not whole.any():
        return nothing
    y = successes / np.maximum(trials, 1)
    found = {}
    for ci_prob in COVERAGE_AT:
        lower, upper = (end[rows][whole] for end in forecast.intervals(ci_prob))
        at = f"{100 * ci_prob:.0f}"
        found[f"coverage_{at}"] = metrics.coverage(lower, upper, y[whole])
        found[f"width_{at}"] = metrics.interval_width(lower, upper)
        if ci_prob == 0.9:
            fine = metrics.interval_score(lower, upper, y[whole], ci_prob)
            found["interval_score_90"] = fine
    total = 0.0
    for b in np.flatnonzero(whole.any(axis=0)):  # one by one, since draws become float64
        some = whole[:, b]
        draws = forecast.scores.scores[:, rows[some], b]
        total += metrics.crps(draws, y[some, b].astype(draws.dtype)) * some.sum()
    found["crps"] = float(total / whole.sum())
    return {name: found[name] for name in nothing}


def _totals(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return successes and trials by benchmark, and where some of the trials are held out."""
    successes, trials = split.truth.totals()
    seen = np.zeros_like(trials)
    row_of = {model: row for row, model in enumerate(split.train.models)}
    at = np.array([row_of.get(model, -1) for model in split.models])
    seen[at >= 0] = split.train.totals()[1][at[at >= 0]]
    return successes, trials, trials > seen


def _outcomes(
    forecast: Forecast, rows: np.ndarray, cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return answers, their probabilities and weights: of counts, a 1 and a 0 per cell."""
    p = forecast.probabilities[rows[cells.rows], cells.cols]
    k = cells.successes.astype(float)
    if cells.trials is None and ((k == 0) | (k == 1)).all():
        return k, p, None
    n = np.ones(len(k)) if cells.trials is None else cells.trials.astype(float)
    y = np.repeat([1.0, 0.0], len(k))
    return y, np.tile(p, 2), np.concatenate([k, n - k])


def _rows(forecast: Forecast, split: Split) -> np.ndarray:
    """Return the row of each model of the split in the forecast."""
    names = ["benchmark", "item"]
    if not np.array_equal(forecast.items[names], split.test.items[names]):
        raise InputError("the forecast is about other items", fix="fit the table of this split")
    row_of = {model: row for row, model in enumerate(forecast.models)}
    missing = [model for model in split.models if model not in row_of]
    if missing:
        raise InputError(
            f"the forecast lacks {len(missing):,} models, such as {missing[0]!r}",
            fix="forecast the models of the split",
        )
    return np.array([row_of[model] for model in split.models], dtype=np.int64)


def _labels(families: Families, split: Split) -> np.ndarray:
    for model in split.models:
        if model not in families:
            raise InputError(f"model {model!r} has no family", fix="name that of every model")
    return np.array([families[model] for model in split.models])
