"""What a method says of some models, in one form for every method: probabilities and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, probability
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import ScoreDraws, predict_items, score_draws
from bayes_lrmf.responses import Responses

__all__ = ["Forecast", "point_forecast", "posterior_forecast"]


@dataclass(frozen=True, eq=False)
class Forecast:
    """Predictions of some models, of any method.

    Attributes
    ----------
    items : DataFrame
        Columns benchmark, item, trials.
    probabilities : float array, shape (n_models, n_items)
        Of success on each item, observed or not.
    scores : ScoreDraws
        Joint draws of benchmark scores of those models; one draw for a point.
    """

    items: pd.DataFrame
    probabilities: np.ndarray
    scores: ScoreDraws

    @property
    def models(self) -> np.ndarray:
        """Names of the models."""
        return self.scores.models

    @property
    def is_point(self) -> bool:
        """Whether it comes without intervals."""
        return self.scores.kind == "point"

    @property
    def means(self) -> np.ndarray:
        """Expected benchmark scores, shape (n_models, n_benchmarks)."""
        return self.scores.mean()

    def intervals(self, ci_prob: float) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper ends of equal-tailed intervals of the scores.

        Each has shape (n_models, n_benchmarks).

        Raises
        ------
        InputError
            For a point, which has no intervals.
        """
        if self.is_point:
            raise InputError("a point forecast has no intervals", fix="use another method")
        return self.scores.intervals(probability(ci_prob, name="ci_prob"))


def posterior_forecast(
    posterior: Posterior, models: Sequence[str], *, key: jax.Array, n_draws: int = 400
) -> Forecast:
    """Return the forecast of a fit."""
    items = predict_items(posterior, key=key, models=models, n_draws=n_draws)
    n_items = posterior.design.n_items
    return Forecast(
        posterior.design.items,
        items["mean"].to_numpy(float).reshape(-1, n_items),
        score_draws(posterior, key=key, models=models, n_draws=n_draws),
    )


def point_forecast(probabilities: np.ndarray, train: Responses, models: Sequence[str]) -> Forecast:
    """Return the forecast of a method that gives probabilities alone.

    A score counts the responses of `train` as they are, and the others by their probability.

    Parameters
    ----------
    probabilities : array, shape (n_models, n_items)
    train : Responses
        What the method has seen.
    models : sequence of str
        Those of `train` and others.
    """
    probabilities = np.asarray(probabilities, float)
    if probabilities.shape != (len(models), train.n_items):
        raise ValueError(f"probabilities have shape {probabilities.shape}")
    successes, trials = train.matrices(models)
    full = train.items["trials"].to_numpy(float)
    left = np.maximum(full - trials, 0)
    member = np.eye(len(train.benchmarks))[train.benchmark_index]
    total = (trials + left) @ member
    mean = (successes + left * probabilities) @ member / total
    scores = ScoreDraws(
        np.array(list(models), dtype=object),
        train.benchmarks,
        mean[None].astype(np.float32),
        np.rint(total).astype(np.int64),
        np.rint(trials @ member).astype(np.int64),
        "point",
    )
    return Forecast(train.items, probabilities, scores)
