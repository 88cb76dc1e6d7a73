"""Item, benchmark and rank predictions from joint draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from bayes_lrmf.cell_draws import (
    cell_probabilities,
    noise_given,
    noise_of_means,
    successes_left,
)
from bayes_lrmf.checks import InputError, one_of, probability, whole_number
from bayes_lrmf.draws import concentration_of, noise_sd_of, rows_and_columns
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import AVERAGE

__all__ = [
    "LEVELS",
    "ScoreDraws",
    "predict",
    "predict_benchmarks",
    "predict_items",
    "predict_ranks",
    "score_draws",
    "summarised",
]

LEVELS = ("benchmark", "item", "rank")
_N_DRAWS = 400
_BLOCK_VALUES = 8_000_000
_FEW_ITEMS = 64
_FLOAT32 = 1e-7
_MOST_ITEM_ROWS = 20_000_000


@dataclass(frozen=True, eq=False)
class ScoreDraws:
    """Joint draws of benchmark scores, as a full run would show them.

    Attributes
    ----------
    models, benchmarks : arrays of str
    scores : float32 array, shape (n_draws, n_models, n_benchmarks)
        On 0..1. A point estimate has one draw, its expectation.
    n_items, n_observed : int arrays, shape (n_models, n_benchmarks)
        Trials of a full run, and those observed.
    kind : {"point", "predictive", "conformal"}
    """

    models: np.ndarray
    benchmarks: np.ndarray
    scores: np.ndarray
    n_items: np.ndarray
    n_observed: np.ndarray
    kind: str

    def with_average(self) -> tuple[np.ndarray, np.ndarray]:
        """Return draws with the mean over benchmarks last, and the names of the columns."""
        scores = np.concatenate([self.scores, self.scores.mean(-1, keepdims=True)], axis=-1)
        return scores, np.array([*self.benchmarks, AVERAGE], dtype=object)

    def ranks(self) -> np.ndarray:
        """Return ranks among these models, `with_average`: 1 is the highest, ties share a mean."""
        scores, _ = self.with_average()
        return np.stack([pd.DataFrame(-draw).rank().to_numpy() for draw in scores])

    def mean(self) -> np.ndarray:
        """Return expected scores, float64 of shape (n_models, n_benchmarks)."""
        return self._whole(self.scores.mean(0, dtype=np.float64))

    def intervals(self, ci_prob: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of equal-tailed intervals, float64 of shape (n_models, n_benchmarks).

        They are the fractions that scores are, so that a score at an end is inside.
        """
        if self.kind == "conformal":
            # What is promised is promised of both ends, whole.
            tail = (1 - ci_prob) / 2
            lower, upper = np.quantile(self.scores, [tail, 1 - tail], axis=0).astype(np.float64)
        else:
            lower, upper = (self._whole(end) for end in equal_tailed(self.scores, ci_prob))
        return lower, upper

    def _whole(self, scores: np.ndarray) -> np.ndarray:
        nearest = np.rint(scores * self.n_items) / self.n_items
        return np.where(np.abs(nearest - scores) < _FLOAT32, nearest, scores)

    def of(self, model: str) -> np.ndarray:
        """Return the draws of one model, shape (n_draws, n_benchmarks)."""
        names = list(self.models)
        one_of(model, names, name="model")
        return np.asarray(self.scores[:, names.index(model)])

    def probability_greater(self, model: str, other: str) -> pd.Series:
        """Return P(score of `model` > score of `other`) by benchmark; ties count half."""
        a, b = self.of(model), self.of(other)
        return pd.Series(((a > b) + 0.5 * (a == b)).mean(0), index=self.benchmarks)

    def probability_above(self, model: str, threshold: float) -> pd.Series:
        """Return P(score of `model` > threshold) by benchmark."""
        return pd.Series((self.of(model) > threshold).mean(0), index=self.benchmarks)

    def probability_best(self, model: str, others: Sequence[str]) -> pd.Series:
        """Return P(`model` scores above every one of `others`) by benchmark; ties are split."""
        rivals = np.stack([self.of(other) for other in others])
        own, best = self.of(model), rivals.max(0)
        tied = (own == best) / (1 + (rivals == best).sum(0))
        return pd.Series(((own > best) + tied).mean(0), index=self.benchmarks)


def _chosen(posterior: Posterior, models: Sequence[str] | None) -> np.ndarray:
    design = posterior.design
    return np.arange(len(design.models)) if models is None else design.places(models)


def _prepared(
    posterior: Posterior, models: Sequence[str] | None, key: jax.Array, n_draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray], np.random.Generator]:
    draw_key, rest = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rest)).tolist())
    values = posterior.draws(whole_number(n_draws, name="n_draws"), key=draw_key)
    chosen = _chosen(posterior, models)
    rows, cols = rows_and_columns(posterior, values, rng=rng, chosen=chosen)
    return chosen, rows, cols, values, rng


def _blocks(chosen: np.ndarray, per_model: int) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // max(per_model, 1))
    for start in range(0, len(chosen), size):
        yield slice(start, min(start + size, len(chosen)))


@jax.jit
def _moments(
    rows: Any, cols: Any, seen: Any, trials: Any, left: Any, overlap: Any, noise: Any
) -> tuple[Any, Any]:
    """Return mean and variance of the successes among the trials left, (n_draws, n_models).

    `seen` and `trials` are what cells showed; `overlap` is the intra-class correlation of trials of
    one item, (n_draws, n_items); `noise` is added to the log-odds of cells, (n_draws, n_models,
    n_items) or 0.
    """
    p = jax.nn.sigmoid(jnp.einsum("dcm,dci->dmi", rows, cols) + noise)
    rho = overlap[:, None, :]
    p = ((1 - rho) * p + rho * seen) / (1 - rho + rho * trials)
    inflation = 1 + jnp.maximum(left - 1, 0) * rho / (1 + rho * trials)
    mean = (left * p).sum(-1)
    return mean, (left * inflation * p * (1 - p)).sum(-1)


def score_draws(
    posterior: Posterior,
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    n_draws: int = _N_DRAWS,
    progress: Progress | None = None,
) -> ScoreDraws:
    """Draw benchmark scores: observed responses as they are, the rest drawn.

    Given a draw of the parameters, the successes among a model's unobserved trials of a benchmark
    are a sum of independent Bernoulli (Beta-Binomial, logit-normal) counts, whose over-dispersion
    is drawn given what their cells showed. Over few items each is drawn, over many their sum, from
    the Beta of the same mean and variance on [0, trials], rounded to whole counts.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    models : sequence of str, optional
        All by default, cold-start models too.
    n_draws : int
    progress : Progress, optional

    Raises
    ------
    InputError
        For an unknown model, naming the nearest.
    """
    progress = progress or Progress("predict", enabled=False)
    design = posterior.design
    chosen, rows, cols, values, rng = _prepared(posterior, models, key, n_draws)
    n_drawn = len(rows)
    of_item = design.benchmark_index
    noise_sd, noise = noise_sd_of(posterior, values), np.zeros((), np.float32)
    concentration = concentration_of(posterior, values)
    overlap: np.ndarray = np.zeros((n_drawn, design.n_items), np.float32)
    if concentration is not None:
        overlap = 1 / (1 + concentration)
    full = design.items["trials"].to_numpy(np.float32)
    scores = np.empty((n_drawn, len(chosen), len(design.benchmarks)), np.float32)
    n_items = np.empty(scores.shape[1:], np.int64)
    n_observed = np.empty_like(n_items)

    def each(at: np.ndarray, k: np.ndarray, n: np.ndarray, of: slice | list[int]) -> np.ndarray:
        """Return sums over items of successes that are drawn cell by cell."""
        psi = rows[:, :, of].mT @ cols[:, :, at]
        sd = None if noise_sd is None else noise_sd[:, at]
        phi = None if concentration is None else concentration[:, at]
        p = cell_probabilities(psi, k, n, sd, phi, rng)
        left = np.rint(np.maximum(full[at] - n, 0)).astype(np.int64)
        return np.asarray(rng.binomial(left, p).sum(-1), np.float32)

    for b in range(len(design.benchmarks)):
        items = np.flatnonzero(of_item == b)
        columns, correlation = cols[:, :, items], overlap[:, items]
        for block in _blocks(chosen, n_drawn * len(items)):
            cells = design.responses.matrices(design.models[chosen[block]])
            successes, trials = cells[0][:, items], cells[1][:, items]
            left = np.maximum(full[items] - trials, 0)
            n_left, seen = left.sum(1), successes.sum(1)
            drawn: np.ndarray
            if len(items) <= _FEW_ITEMS and not posterior.is_point:
                drawn = each(items, successes, trials, block)
            else:
                if noise_sd is not None:
                    psi = rows[:, :, block].mT @ columns
                    told = psi, successes, trials, noise_sd[:, items]
                    noise = noise_of_means(*told) if posterior.is_point else noise_given(*told, rng)
                mean, variance = _moments(
                    rows[:, :, block], columns, successes, trials, left, correlation, noise
                )
                drawn = np.asarray(mean)
                if not posterior.is_point:
                    drawn = successes_left(drawn, np.asarray(variance), n_left, rng)
                    n_open = (left > 0).sum(1)
                    for m in np.flatnonzero((n_open > 0) & (n_open <= _FEW_ITEMS)):
                        at = np.flatnonzero(left[m] > 0)
                        own = successes[m : m + 1, at], trials[m : m + 1, at]
                        drawn[:, m] = each(items[at], *own, [block.start + m])[:, 0]
            total = n_left + trials.sum(1)
            scores[:, block, b] = (seen + drawn) / total
            n_items[block, b], n_observed[block, b] = total, trials.sum(1)
            progress.update(b * len(chosen) + block.stop)
    return ScoreDraws(
        design.models[chosen], design.benchmarks, scores, n_items, n_observed, posterior.kind
    )


def summarised(draws: np.ndarray, ci_prob: float, is_point: bool) -> dict[str, np.ndarray]:
    """Return mean, sd, lower and upper of draws along axis 0; a point has a mean alone."""
    ends = None if is_point else equal_tailed(draws, ci_prob)
    return _summary(draws, ends)


def _summary(
    draws: np.ndarray, ends: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, np.ndarray]:
    mean = draws.mean(0, dtype=np.float64)
    if ends is None:
        empty = np.full(mean.shape, np.nan)
        return {"mean": mean, "sd": empty, "lower": empty, "upper": empty}
    sd = draws.std(0, ddof=1, dtype=np.float64)
    return {"mean": mean, "sd": sd, "lower": ends[0], "upper": ends[1]}


def predict_benchmarks(
    posterior: Posterior,
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    ci_prob: float = 0.9,
    n_draws: int = _N_DRAWS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict benchmark scores on 0..1 with equal-tailed predictive intervals.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    models : sequence of str, optional
        All by default, cold-start models too.
    ci_prob : float
    n_draws : int
    progress : Progress, optional

    Returns
    -------
    DataFrame
        ``model, benchmark, mean, sd, lower, upper, n_items, n_observed, kind``; sd and interval
        are empty for a point estimate.

    Raises
    ------
    InputError
        For an unknown model, naming the nearest, or numbers out of range.
    """
    ci_prob = probability(ci_prob, name="ci_prob")
    draws = score_draws(posterior, key=key, models=models, n_draws=n_draws, progress=progress)
    ends = None if posterior.is_point else draws.intervals(ci_prob)
    summary = _summary(draws.scores, ends) | {"mean": draws.mean()}
    n_models, n_benchmarks = draws.n_items.shape
    return pd.DataFrame(
        {
            "model": np.repeat(draws.models, n_benchmarks),
            "benchmark": np.tile(draws.benchmarks, n_models),
            **{name: value.ravel() for name, value in summary.items()},
            "n_items": draws.n_items.ravel(),
            "n_observed": draws.n_observed.ravel(),
            "kind": draws.kind,
        }
    )


def predict_items(
    posterior: Posterior,
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    ci_prob: float = 0.9,
    n_draws: int = _N_DRAWS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict the probability of success of each model on each item, with credible intervals.

    Over-dispersion of cells that were run is drawn given what they showed.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    models : sequence of str, optional
        All by default, cold-start models too.
    ci_prob : float
    n_draws : int
    progress : Progress, optional

    Returns
    -------
    DataFrame
        ``model, benchmark, item, mean, sd, lower, upper, observed, kind``; ``observed`` is the
        response as a fraction, empty where the item was not run.

    Raises
    ------
    InputError
        For an unknown model, or more than 20 million rows.
    """
    ci_prob = probability(ci_prob, name="ci_prob")
    progress = progress or Progress("predict", enabled=False)
    items = posterior.design.items
    n_rows = len(_chosen(posterior, models)) * len(items)
    if n_rows > _MOST_ITEM_ROWS:
        raise InputError(f"{n_rows:,} item predictions", fix="choose models with --models")
    chosen, rows, cols, values, rng = _prepared(posterior, models, key, n_draws)
    noise_sd, concentration = noise_sd_of(posterior, values), None
    if not posterior.is_point:
        concentration = concentration_of(posterior, values)
    parts = []
    for block in _blocks(chosen, len(rows) * len(items)):
        psi = rows[:, :, block].mT @ cols
        names = posterior.design.models[chosen[block]]
        successes, trials = posterior.design.responses.matrices(names)
        luck = None if posterior.is_point else rng
        p = cell_probabilities(psi, successes, trials, noise_sd, concentration, luck)
        summary = summarised(p, ci_prob, posterior.is_point)
        observed = np.where(trials > 0, successes / np.maximum(trials, 1), np.nan).astype(float)
        n = len(observed)
        parts.append(
            pd.DataFrame(
                {
                    "model": np.repeat(names, len(items)),
                    "benchmark": np.tile(items["benchmark"].to_numpy(object), n),
                    "item": np.tile(items["item"].to_numpy(object), n),
                    **{name: value.ravel() for name, value in summary.items()},
                    "observed": observed.ravel(),
                    "kind": "point" if posterior.is_point else "credible",
                }
            )
        )
        progress.update(block.stop)
    return pd.concat(parts, ignore_index=True)


def predict_ranks(
    posterior: Posterior,
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    ci_prob: float = 0.9,
    n_draws: int = _N_DRAWS,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict each model's rank among `models`, by benchmark and on the mean over benchmarks.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    models : sequence of str, optional
        All by default, cold-start models too; ranks are among these.
    ci_prob : float
    n_draws : int
    progress : Progress, optional

    Returns
    -------
    DataFrame
        ``model, benchmark, mean, sd, lower, upper, probability_first, n_models, kind``; rank 1 is
        the highest score, ties share the mean of their ranks, and of being first.

    Raises
    ------
    InputError
        For an unknown model, naming the nearest, or numbers out of range.
    """
    ci_prob = probability(ci_prob, name="ci_prob")
    draws = score_draws(posterior, key=key, models=models, n_draws=n_draws, progress=progress)
    ranks, (_, names) = draws.ranks(), draws.with_average()
    summary = summarised(ranks, ci_prob, posterior.is_point)
    first = ranks == ranks.min(1, keepdims=True)
    first = (first / first.sum(1, keepdims=True)).mean(0)
    n_models = len(draws.models)
    return pd.DataFrame(
        {
            "model": np.repeat(draws.models, len(names)),
            "benchmark": np.tile(names, n_models),
            **{name: value.ravel() for name, value in summary.items()},
            "probability_first": np.nan if posterior.is_point else first.ravel(),
            "n_models": n_models,
            "kind": draws.kind,
        }
    )


def predict(posterior: Posterior, level: str = "benchmark", **options: Any) -> pd.DataFrame:
    """Predict at one of `LEVELS`.

    Parameters
    ----------
    posterior : Posterior
    level : {"benchmark", "item", "rank"}
    **options
        Those of `predict_benchmarks`, `predict_items` or `predict_ranks`.

    Raises
    ------
    InputError
        For an unknown level, and as the function of the level.
    """
    functions = {"benchmark": predict_benchmarks, "item": predict_items, "rank": predict_ranks}
    return functions[one_of(level, LEVELS, name="level")](posterior, **options)
