"""Scores of predictions on plain arrays.

Every score takes arrays of one shape (any; `crps` also takes draws, along a first axis), reads them
as float64 and returns one float, the unweighted mean over all values. Arrays must be finite and not
empty: a missing response is no response to score, so drop such cells before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_lrmf.checks import InputError, probability, whole_number

__all__ = [
    "accuracy",
    "auc",
    "brier",
    "coverage",
    "crps",
    "ece",
    "interval_score",
    "log_loss",
    "mae",
    "pearson",
    "rmse",
    "spearman",
]

Floats = NDArray[np.float64]


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Return the mean of ``-y log p - (1 - y) log(1 - p)``, in nats.

    Parameters
    ----------
    y : array-like, shape (...)
        Responses in [0, 1]; a fraction k / n scores as the mean over its n trials.
    p : array-like, shape (...)
        Predicted probabilities. Those nearer to 0 or 1 than the machine epsilon of their own type
        are moved to it, so that a saturated sigmoid costs much but not everything.

    References
    ----------
    Good (1952), Rational decisions.
    """
    kind = np.asarray(p).dtype
    eps = float(np.finfo(kind if kind.kind == "f" else np.float64).eps)
    y, p = _fractions(y=y, p=p)
    p = np.clip(p, eps, 1 - eps)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Return the Brier score, the mean of ``(y - p)^2``.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Responses and predicted probabilities, both in [0, 1].

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    y, p = _fractions(y=y, p=p)
    return float(np.mean((y - p) ** 2))


def accuracy(y: ArrayLike, p: ArrayLike) -> float:
    """Return the share of responses on the side of one half that was predicted.

    Parameters
    ----------
    y : array-like, shape (...)
        Responses, each 0 or 1.
    p : array-like, shape (...)
        Predicted probabilities in [0, 1]; one half counts as predicting 1.
    """
    y, p = _fractions(y=y, p=p)
    _check_binary(y)
    return float(np.mean((p >= 0.5) == (y == 1)))


def auc(y: ArrayLike, p: ArrayLike) -> float:
    """Return the area under the ROC curve: P(a 1 ranks above a 0), ties counting one half.

    ``(sum of ranks of the 1s - n1 (n1 + 1) / 2) / (n0 n1)`` with average ranks, which is the
    Mann-Whitney statistic over its maximum.

    Parameters
    ----------
    y : array-like, shape (...)
        Responses, each 0 or 1. NaN is returned when all are equal.
    p : array-like, shape (...)
        Predictions on any scale; only their order matters.

    References
    ----------
    Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.
    """
    y, p = _aligned(y=y, p=p)
    _check_binary(y)
    n_ones = float(y.sum())
    n_zeros = len(y) - n_ones
    if n_ones == 0 or n_zeros == 0:
        return float("nan")
    rank_sum = float(_average_ranks(p)[y == 1].sum())
    return (rank_sum - n_ones * (n_ones + 1) / 2) / (n_zeros * n_ones)


def ece(y: ArrayLike, p: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error over equally wide bins of [0, 1].

    ``sum_b (n_b / n) |mean y in b - mean p in b|``; bin b holds ``b / bins <= p < (b + 1) / bins``
    and the last one also 1.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Responses and predicted probabilities, both in [0, 1].
    bins : int
        Number of bins.

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015); 15 bins as in Guo et al. (2017).
    """
    bins = whole_number(bins, name="bins")
    y, p = _fractions(y=y, p=p)
    index = np.minimum((p * bins).astype(np.intp), bins - 1)
    gaps = np.bincount(index, weights=y - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(y))


def pearson(y: ArrayLike, p: ArrayLike) -> float:
    """Return Pearson's correlation, or NaN when either array is constant.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Observed and predicted values.
    """
    y, p = _aligned(y=y, p=p)
    if np.ptp(y) == 0 or np.ptp(p) == 0:
        return float("nan")
    y, p = _standardised(y), _standardised(p)
    return float(np.clip(np.dot(y, p), -1.0, 1.0))


def spearman(y: ArrayLike, p: ArrayLike) -> float:
    """Return Spearman's rank correlation, Pearson's on average ranks, or NaN for constants.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Observed and predicted values.
    """
    y, p = _aligned(y=y, p=p)
    return pearson(_average_ranks(y), _average_ranks(p))


def mae(y: ArrayLike, p: ArrayLike) -> float:
    """Return the mean absolute error, the mean of ``|y - p|``.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Observed and predicted values.
    """
    y, p = _aligned(y=y, p=p)
    return float(np.mean(np.abs(y - p)))


def rmse(y: ArrayLike, p: ArrayLike) -> float:
    """Return the root of the mean of ``(y - p)^2``.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Observed and predicted values.
    """
    y, p = _aligned(y=y, p=p)
    return float(np.sqrt(np.mean((y - p) ** 2)))


def crps(draws: ArrayLike, y: ArrayLike) -> float:
    """Return the mean continuous ranked probability score, estimated fairly from draws.

    ``mean_s |x_s - y| - sum_{s < t} |x_s - x_t| / (S (S - 1))`` for each value: the energy form
    ``E|X - y| - E|X - X'| / 2`` with pairs of different draws, so that its expectation does not
    depend on the number of draws. It can be slightly negative.

    Parameters
    ----------
    draws : array-like, shape (S, ...)
        At least two draws from each predictive distribution.
    y : array-like, shape (...)
        Observed values.

    References
    ----------
    Gneiting and Raftery (2007), equation 21; Ferro (2014), Fair scores for ensemble forecasts.
    """
    x, y = _finite(draws, "draws"), _finite(y, "y")
    if x.shape[1:] != y.shape:
        raise InputError(
            f"draws have shape {x.shape} and y has shape {y.shape}",
            fix="give draws of shape (n_draws, *y.shape)",
        )
    n = len(x)
    if n < 2:
        raise InputError("draws hold one draw", fix="give at least two")
    error = np.abs(x - y).mean(axis=0)
    # Neighbours in order, gap k lying between k (n - k) pairs: a sum without cancellation.
    gaps = np.diff(np.sort(x, axis=0), axis=0)
    k = np.arange(1.0, n)
    spread = np.tensordot(k * (n - k), gaps, axes=1) / (n * (n - 1))
    return float(np.mean(error - spread))


def interval_score(lower: ArrayLike, upper: ArrayLike, y: ArrayLike, ci_prob: float) -> float:
    """Return the mean interval score: width plus a fine for every miss; less is better.

    ``(u - l) + 2 / alpha (l - y)+ + 2 / alpha (y - u)+`` with ``alpha = 1 - ci_prob``. Among all
    intervals the equal-tailed ones of the true distribution have the least expected score.

    Parameters
    ----------
    lower, upper : array-like, shape (...)
        Ends of the intervals.
    y : array-like, shape (...)
        Observed values.
    ci_prob : float
        Probability that the intervals claim to hold, strictly between 0 and 1.

    References
    ----------
    Gneiting and Raftery (2007), equation 43.
    """
    alpha = 1 - probability(ci_prob, name="ci_prob")
    lower, upper, y = _intervals(lower, upper, y)
    missed = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return float(np.mean(upper - lower + 2 / alpha * missed))


def coverage(lower: ArrayLike, upper: ArrayLike, y: ArrayLike) -> float:
    """Return the share of values with ``lower <= y <= upper``.

    Parameters
    ----------
    lower, upper : array-like, shape (...)
        Ends of the intervals.
    y : array-like, shape (...)
        Observed values.
    """
    lower, upper, y = _intervals(lower, upper, y)
    return float(np.mean((lower <= y) & (y <= upper)))


def _finite(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is not an array of numbers", fix="give numbers, without missing ones"
        ) from error
    if array.size == 0:
        raise InputError(f"{name} is empty", fix="give at least one value")
    n_bad = int(np.count_nonzero(~np.isfinite(array)))
    if n_bad:
        raise InputError(
            f"{name} has {n_bad:,} of {array.size:,} values that are not finite",
            fix="drop those cells before scoring",
        )
    return array


def _aligned(**arrays: ArrayLike) -> list[Floats]:
    """Return finite arrays of equal shape, flattened."""
    checked = [_finite(values, name) for name, values in arrays.items()]
    if len({array.shape for array in checked}) > 1:
        shapes = ", ".join(
            f"{name} {array.shape}" for name, array in zip(arrays, checked, strict=True)
        )
        raise InputError(f"shapes differ: {shapes}", fix="give arrays of one shape")
    return [array.ravel() for array in checked]


def _fractions(**arrays: ArrayLike) -> list[Floats]:
    checked = _aligned(**arrays)
    for name, array in zip(arrays, checked, strict=True):
        outside = array[(array < 0) | (array > 1)]
        if len(outside):
            raise InputError(f"{name} has the value {outside[0]:g}", fix="give values in [0, 1]")
    return checked


def _check_binary(y: Floats) -> None:
    other = y[(y != 0) & (y != 1)]
    if len(other):
        raise InputError(f"y has the value {other[0]:g}", fix="give responses of 0 or 1")


def _intervals(lower: ArrayLike, upper: ArrayLike, y: ArrayLike) -> list[Floats]:
    checked = _aligned(lower=lower, upper=upper, y=y)
    n_crossed = int(np.count_nonzero(checked[0] > checked[1]))
    if n_crossed:
        raise InputError(
            f"lower is above upper in {n_crossed:,} of {len(checked[0]):,} intervals",
            fix="give the lower end first",
        )
    return checked


def _average_ranks(values: Floats) -> Floats:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def _standardised(values: Floats) -> Floats:
    # Scaled before and after centring, so that neither huge nor tiny values leave the range.
    values = values / np.abs(values).max()
    values = values - values.mean()
    values = values / np.abs(values).max()
    return values / np.linalg.norm(values)
