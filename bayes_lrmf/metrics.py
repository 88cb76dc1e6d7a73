"""Scores of predictions on plain arrays.

Every score takes arrays of one shape (any; `crps` also takes draws, along a first axis), reads them
as float64 and returns one float, the mean over all values. Scores of probabilities take weights of
that shape too, which count a value as that many equal ones: k successes in n trials are a 1 of
weight k and a 0 of weight n - k. Arrays must be finite and not empty: a missing response is no
response to score, so drop such cells before.
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
    "interval_width",
    "log_loss",
    "mae",
    "pearson",
    "pearson_within",
    "rmse",
    "spearman",
]

Floats = NDArray[np.float64]


def log_loss(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean of ``-y log p - (1 - y) log(1 - p)``, in nats.

    Parameters
    ----------
    y : array-like, shape (...)
        Responses in [0, 1]; a fraction k / n scores as the mean over its n trials.
    p : array-like, shape (...)
        Predicted probabilities. Those nearer to 0 or 1 than the machine epsilon of their own type
        are moved to it, so that a saturated sigmoid costs much but not everything.
    weights : array-like, shape (...), optional

    References
    ----------
    Good (1952), Rational decisions.
    """
    kind = np.asarray(p).dtype
    eps = float(np.finfo(kind if kind.kind == "f" else np.float64).eps)
    y, p = _fractions(y=y, p=p)
    p = np.clip(p, eps, 1 - eps)
    return _mean(-(y * np.log(p) + (1 - y) * np.log1p(-p)), weights)


def brier(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the Brier score, the mean of ``(y - p)^2``.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Responses and predicted probabilities, both in [0, 1].
    weights : array-like, shape (...), optional

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    y, p = _fractions(y=y, p=p)
    return _mean((y - p) ** 2, weights)


def accuracy(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the share of responses on the side of one half that was predicted.

    Parameters
    ----------
    y : array-like, shape (...)
        Responses, each 0 or 1.
    p : array-like, shape (...)
        Predicted probabilities in [0, 1]; one half counts as predicting 1.
    weights : array-like, shape (...), optional
    """
    y, p = _fractions(y=y, p=p)
    _check_binary(y)
    return _mean((p >= 0.5) == (y == 1), weights)


def auc(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: P(a 1 ranks above a 0), ties counting one half.

    ``sum_v n1_v (n0_{<v} + n0_v / 2) / (n0 n1)`` over the different values v of `p`, which is the
    Mann-Whitney statistic over its maximum; n0 and n1 count the 0s and 1s, or sum their weights.

    Parameters
    ----------
    y : array-like, shape (...)
        Responses, each 0 or 1. NaN is returned when all are equal.
    p : array-like, shape (...)
        Predictions on any scale; only their order matters.
    weights : array-like, shape (...), optional

    References
    ----------
    Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.
    """
    y, p = _aligned(y=y, p=p)
    _check_binary(y)
    counts = np.ones(len(y)) if weights is None else _checked_weights(weights, len(y))
    _, index = np.unique(p, return_inverse=True)
    ones = np.bincount(index, weights=counts * y)
    zeros = np.bincount(index, weights=counts * (1 - y))
    pairs = ones.sum() * zeros.sum()
    if pairs == 0:
        return float("nan")
    return float(np.dot(ones, np.cumsum(zeros) - zeros / 2) / pairs)


def ece(y: ArrayLike, p: ArrayLike, bins: int = 15, *, weights: ArrayLike | None = None) -> float:
    """Return the expected calibration error over equally wide bins of [0, 1].

    ``sum_b (n_b / n) |mean y in b - mean p in b|``; bin b holds ``b / bins <= p < (b + 1) / bins``
    and the last one also 1.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Responses and predicted probabilities, both in [0, 1].
    bins : int
        Number of bins.
    weights : array-like, shape (...), optional

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015); 15 bins as in Guo et al. (2017).
    """
    bins = whole_number(bins, name="bins")
    y, p = _fractions(y=y, p=p)
    index = np.minimum((p * bins).astype(np.intp), bins - 1)
    counts = np.ones(len(y)) if weights is None else _checked_weights(weights, len(y))
    gaps = np.bincount(index, weights=counts * (y - p), minlength=bins)
    return float(np.abs(gaps).sum() / counts.sum())


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


def pearson_within(y: ArrayLike, p: ArrayLike, groups: ArrayLike) -> float:
    """Return Pearson's correlation after taking each group's mean from both arrays.

    Groups of one say nothing about differences within groups and are dropped. NaN when no larger
    group is left, or nothing differs within them.

    Parameters
    ----------
    y, p : array-like, shape (...)
        Observed and predicted values.
    groups : array-like, shape (...)
        Label of each value's group.
    """
    y, p = _aligned(y=y, p=p)
    _, first, index, counts = np.unique(
        np.asarray(groups).ravel(), return_index=True, return_inverse=True, return_counts=True
    )
    if len(index) != len(y):
        raise InputError(
            f"there are {len(index):,} groups and {len(y):,} values",
            fix="give each value the label of its group",
        )
    several = counts[index] > 1
    if not several.any():
        return float("nan")
    within = []
    for values in (y, p):
        # Taken from the first of its group, equal values leave an exact zero.
        steps = values - values[first][index]
        means = np.bincount(index, weights=steps) / counts
        within.append((steps - means[index])[several])
    return pearson(*within)


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


def interval_width(lower: ArrayLike, upper: ArrayLike) -> float:
    """Return the mean width of intervals.

    Parameters
    ----------
    lower, upper : array-like, shape (...)
        Ends of the intervals.
    """
    lower, upper, _ = _intervals(lower, upper, lower)
    return float(np.mean(upper - lower))


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


def _mean(values: Floats | NDArray[np.bool_], weights: ArrayLike | None) -> float:
    if weights is None:
        return float(np.mean(values))
    return float(np.average(values, weights=_checked_weights(weights, len(values))))


def _checked_weights(weights: ArrayLike, n: int) -> Floats:
    checked = _finite(weights, "weights").ravel()
    if len(checked) != n:
        raise InputError(
            f"there are {len(checked):,} weights and {n:,} values", fix="give each value a weight"
        )
    if (checked < 0).any() or not checked.any():
        raise InputError(
            "weights are negative or all zero", fix="give the number of trials of each value"
        )
    return checked


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
