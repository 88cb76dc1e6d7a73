"""Scaling law: benchmark scores from size and family, spread over the items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from bayes_lrmf.baselines.items import fractions, item_rates
from bayes_lrmf.baselines.levels import at_own_level, inside, with_mean
from bayes_lrmf.checks import InputError, one_of, positive
from bayes_lrmf.responses import Responses

__all__ = ["ScalingLaw", "fit_scaling_law", "scaling_law"]


@dataclass(frozen=True, eq=False)
class ScalingLaw:
    """``score_ub = sigmoid(intercept_b + slope_b x_u + effect_fb)``.

    Here x is the natural logarithm of the number of parameters in billions, and f the family.
    There is no floor at the level of chance: on the Open LLM Leaderboard's benchmarks a floor above
    0 lowered the penalised likelihood, where the family effects are there too.

    Attributes
    ----------
    intercept, slope : ndarray, shape (n_benchmarks,)
    family : ndarray of str, shape (n_families,)
    effect : ndarray, shape (n_families, n_benchmarks)
    mean_size : ndarray, shape (n_families,)
        Mean x of the family, of all models where none of it is known.
    overall_size : float
        Mean x of all models of known size.
    """

    intercept: np.ndarray
    slope: np.ndarray
    family: np.ndarray
    effect: np.ndarray
    mean_size: np.ndarray
    overall_size: float

    def scores(
        self, models: Sequence[str], features: pd.DataFrame, family: Mapping[str, str]
    ) -> np.ndarray:
        """Return predicted scores, shape (n_models, n_benchmarks).

        A missing size is the mean of the family or else of all models; a family that was not
        fitted has no effect.
        """
        at = pd.Index(self.family).get_indexer(pd.Index(_labels(models, family), dtype=object))
        size = _log_sizes(models, features)
        typical = np.where(at >= 0, self.mean_size[at], self.overall_size)
        size = np.where(np.isnan(size), typical, size)
        effect = np.where(at[:, None] >= 0, self.effect[at], 0)
        odds = self.intercept + self.slope * size[:, None] + effect
        return np.asarray(expit(odds))


def scaling_law(
    train: Responses,
    models: Sequence[str],
    features: pd.DataFrame,
    family: Mapping[str, str],
    *,
    ridge: float = 1.0,
    overdispersion: float = 0.05,
    level_pull: float = 1.0,
    pseudo_trials: float = 1.0,
) -> np.ndarray:
    """Predict items so that their mean over a benchmark is the score of a fitted scaling law.

    ``p_ui = sigmoid(logit r_i + delta_ub)`` with r from `item_rates` and delta such that the mean
    over the benchmark's items, weighted by their trials, is the score. A model's own responses
    then move its level, as for `lineage_mean`.

    Parameters
    ----------
    train : Responses
    models : sequence of str
        Those of `train` and others.
    features : DataFrame
        Indexed by model; column params_b, the number of parameters in billions. A model may be
        missing, and so may its size.
    family : mapping of str to str
        Label of a model's family; a model not in it stands alone.
    ridge, overdispersion
        As for `fit_scaling_law`.
    level_pull : float
        Precision of the shifts to a model's own level.
    pseudo_trials : float
        As for `item_rates`.

    Returns
    -------
    ndarray, shape (n_models, n_items)
        Probabilities of success.

    Raises
    ------
    InputError
        For numbers out of range, or features without params_b.
    """
    level_pull = positive(level_pull, name="level_pull")
    law = fit_scaling_law(
        train,
        features,
        family,
        ridge=ridge,
        overdispersion=overdispersion,
    )
    scores = inside(law.scores(models, features, family))
    rates = item_rates(train, pseudo_trials=pseudo_trials)
    trials = train.items["trials"].to_numpy(float)
    p = np.empty((len(models), train.n_items))
    for b in range(len(train.benchmarks)):
        of = train.benchmark_index == b
        p[:, of] = with_mean(rates[of], scores[:, b], trials[of])
    return at_own_level(p, *fractions(train, models), train.benchmark_index, level_pull)


def fit_scaling_law(
    train: Responses,
    features: pd.DataFrame,
    family: Mapping[str, str],
    *,
    ridge: float = 1.0,
    overdispersion: float = 0.05,
) -> ScalingLaw:
    """Fit one law per benchmark by penalised quasi-likelihood.

    Maximises ``sum_u w_ub [s log q + (1 - s) log(1 - q)] - ridge / 2 sum_f effect_fb^2`` over the
    models that ran the benchmark, with q the law's score, s = (k + 1/2) / (n + 1) the one of k in
    n trials, and w = n / (1 + (n - 1) overdispersion), the number of independent trials that are
    worth n alike ones (Williams 1982). Items are taken as a fair sample of their benchmark.

    Parameters
    ----------
    train : Responses
    features, family
        As for `scaling_law`.
    ridge : float
        Precision of the family effects.
    overdispersion : float
        Correlation of the trials of one model on one benchmark, from 0 to 1.

    Raises
    ------
    InputError
        For numbers out of range, or features without params_b.
    """
    ridge = positive(ridge, name="ridge")
    if not 0 <= overdispersion <= 1:
        raise InputError(f"overdispersion is {overdispersion!r}", fix="give a number from 0 to 1")
    names, at = np.unique(_labels(train.models, family).astype(str), return_inverse=True)
    size = _log_sizes(train.models, features)
    known = ~np.isnan(size)
    overall = float(size[known].mean()) if known.any() else 0.0
    count = np.bincount(at[known], minlength=len(names))
    total = np.bincount(at[known], size[known], minlength=len(names))
    mean_size = np.where(count > 0, total / np.maximum(count, 1), overall)
    size = np.where(known, size, mean_size[at])
    spread = float(size.std()) or 1.0  # nobody's size differs: the slope stays at 0
    x = (size - overall) / spread
    successes, trials = train.totals()
    fits = []
    for k, n in zip(successes.T, trials.T, strict=True):
        run = n > 0
        score = (k[run] + 0.5) / (n[run] + 1)
        weight = n[run] / (1 + (n[run] - 1) * overdispersion)
        fits.append(_fitted(score, weight, x[run], at[run], len(names), ridge))
    intercept, slope, *effect = np.array(fits).T
    slope = slope / spread
    return ScalingLaw(
        intercept - slope * overall,
        slope,
        names.astype(object),
        np.array(effect),
        mean_size,
        overall,
    )


def _fitted(
    score: np.ndarray,
    weight: np.ndarray,
    x: np.ndarray,
    family: np.ndarray,
    n_families: int,
    ridge: float,
) -> np.ndarray:
    """Return intercept, slope and the effect of each family, of one benchmark."""

    def odds(theta: np.ndarray) -> np.ndarray:
        return theta[0] + theta[1] * x + theta[2:][family]

    def summed(by_model: np.ndarray) -> np.ndarray:
        by_family = np.bincount(family, by_model, minlength=n_families)
        return np.concatenate([[by_model.sum(), by_model @ x], by_family])

    penalty = np.concatenate([[0, 0], np.full(n_families, ridge)])

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        eta = odds(theta)
        loss = (weight * (np.logaddexp(0, eta) - score * eta)).sum()
        gradient = summed(weight * (expit(eta) - score)) + penalty * theta
        return float(loss + theta @ (penalty * theta) / 2), gradient

    def curvature(theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        share = expit(odds(theta))
        return summed(weight * share * (1 - share) * odds(direction)) + penalty * direction

    best = minimize(
        objective,
        np.zeros(2 + n_families),
        jac=True,
        hessp=curvature,
        method="trust-ncg",
        options={"gtol": 1e-6},
    )
    return np.asarray(best.x)


def _labels(models: Sequence[str] | np.ndarray, family: Mapping[str, str]) -> np.ndarray:
    return np.array([family.get(name, name) for name in models], dtype=object)


def _log_sizes(models: Sequence[str] | np.ndarray, features: pd.DataFrame) -> np.ndarray:
    one_of("params_b", [str(c) for c in features.columns], name="column", where="features")
    if features.index.has_duplicates:
        name = features.index[features.index.duplicated()][0]
        raise InputError(f"model {name!r} stands twice", where="features", fix="keep one line each")
    size = features["params_b"].reindex(pd.Index(models)).to_numpy(dtype=float, na_value=np.nan)
    return np.asarray(np.log(np.where(size > 0, size, np.nan)))
