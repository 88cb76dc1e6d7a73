"""Whether one method is better than another: paired differences over groups of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_lrmf.checks import InputError, probability, whole_number

__all__ = ["Difference", "bootstrap_difference", "bootstrap_error", "paired_difference"]

Statistic = Callable[..., float]


@dataclass(frozen=True)
class Difference:
    """How much a statistic of one method exceeds that of another on the same models.

    Attributes
    ----------
    estimate : float
        First minus second.
    standard_error : float
        Over resampled groups; NaN if the statistic is undefined in nearly all of them.
    lower, upper : float
        Ends of the bootstrap interval, percentiles of the resampled differences.
    ci_prob : float
    n_models, n_groups : int
        With few groups, below 20 or so, the error and the interval are too small.
    """

    estimate: float
    standard_error: float
    lower: float
    upper: float
    ci_prob: float
    n_models: int
    n_groups: int


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int,
    n_boot: int = 2000,
    ci_prob: float = 0.9,
) -> Difference:
    """Compare the mean losses of two methods on the same models.

    Models of one group (a family) err together, so whole groups are resampled.

    Parameters
    ----------
    a, b : array-like, shape (n_models,)
        Loss of each model; a model for which both are NaN is left out.
    groups : array-like, shape (n_models,)
        Label of each model's group.
    seed : int
    n_boot : int
        Number of resampled tables.
    ci_prob : float

    Raises
    ------
    InputError
        For arrays of different lengths, a model that only one method has a loss for, or less
        than two groups.

    References
    ----------
    Field and Welsh (2007), Bootstrapping clustered data (the cluster bootstrap).
    """
    a, b, groups = _vector(a, "a"), _vector(b, "b"), np.asarray(groups)
    _check_lengths([a, b], groups)
    one_sided = np.isnan(a) != np.isnan(b)
    if one_sided.any():
        raise InputError(
            f"{int(one_sided.sum()):,} models have a loss of one method alone",
            fix="compare on models that both methods predict",
        )
    scored = ~np.isnan(a)
    members = _members(groups[scored])
    d = (a - b)[scored]
    total = np.array([d[rows].sum() for rows in members])
    size = np.array([len(rows) for rows in members])
    drawn = _times_drawn(len(members), seed, n_boot)
    return _difference(float(d.mean()), drawn @ total / (drawn @ size), members, ci_prob)


def bootstrap_difference(
    statistic: Statistic,
    arrays_a: Sequence[ArrayLike],
    arrays_b: Sequence[ArrayLike],
    groups: ArrayLike,
    *,
    seed: int,
    n_boot: int = 2000,
    ci_prob: float = 0.9,
) -> Difference:
    """Compare a statistic that is no mean, such as a correlation, of two methods.

    Parameters
    ----------
    statistic : function of arrays, returning a float
        Called with the rows of all `arrays_a`, and with those of all `arrays_b`.
    arrays_a, arrays_b : sequences of arrays, each of shape (n_models, ...)
        What the statistic needs of each method, such as observed and predicted scores.
    groups, seed, n_boot, ci_prob
        As for `paired_difference`. Both methods get the same resampled models.

    Raises
    ------
    InputError
        For arrays of different lengths, or less than two groups.
    """
    of_a, of_b = [np.asarray(x) for x in arrays_a], [np.asarray(x) for x in arrays_b]
    groups = np.asarray(groups)
    _check_lengths([*of_a, *of_b], groups)
    members = _members(groups)

    def difference(rows: NDArray[np.intp]) -> float:
        return statistic(*(x[rows] for x in of_a)) - statistic(*(x[rows] for x in of_b))

    resampled = _resampled(difference, members, seed, n_boot)
    estimate = difference(np.arange(len(groups)))
    return _difference(estimate, resampled, members, ci_prob)


def bootstrap_error(
    statistic: Statistic,
    arrays: Sequence[ArrayLike],
    groups: ArrayLike,
    *,
    seed: int,
    n_boot: int = 2000,
) -> tuple[float, float]:
    """Return a statistic of one method and its standard error over resampled groups.

    Parameters
    ----------
    statistic, arrays, groups, seed, n_boot
        As for `bootstrap_difference`.

    Raises
    ------
    InputError
        As `bootstrap_difference`.
    """
    values, groups = [np.asarray(x) for x in arrays], np.asarray(groups)
    _check_lengths(values, groups)
    members = _members(groups)

    def of_rows(rows: NDArray[np.intp]) -> float:
        return float(statistic(*(x[rows] for x in values)))

    resampled = _resampled(of_rows, members, seed, n_boot)
    found = _difference(of_rows(np.arange(len(groups))), resampled, members, 0.9)
    return found.estimate, found.standard_error


def _resampled(
    of_rows: Callable[[NDArray[np.intp]], float],
    members: Sequence[NDArray[np.intp]],
    seed: int,
    n_boot: int,
) -> NDArray[np.float64]:
    rows = np.concatenate(members)
    group = np.repeat(np.arange(len(members)), [len(m) for m in members])
    drawn = _times_drawn(len(members), seed, n_boot)
    return np.array([of_rows(np.repeat(rows, times[group])) for times in drawn])


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isinf(array).any():
        raise InputError(f"{name} is no list of finite losses", fix="give one loss per model")
    return array


def _check_lengths(arrays: Sequence[NDArray[np.generic]], groups: NDArray[np.generic]) -> None:
    lengths = {len(x) for x in (*arrays, groups)}
    if len(lengths) > 1:
        raise InputError(
            "arrays differ in length: " + ", ".join(f"{n:,}" for n in sorted(lengths)),
            fix="give one row per model",
        )


def _members(groups: NDArray[np.generic]) -> list[NDArray[np.intp]]:
    label, index = np.unique(groups, return_inverse=True)
    if len(label) < 2:
        raise InputError(
            f"there are {len(label)} groups of models", fix="compare on at least two families"
        )
    bounds = np.cumsum(np.bincount(index))[:-1]
    return np.split(np.argsort(index, kind="stable"), bounds)


def _times_drawn(n_groups: int, seed: int, n_boot: int) -> NDArray[np.int64]:
    """Return how often each group is drawn, shape (n_boot, n_groups)."""
    n_boot = whole_number(n_boot, name="n_boot", minimum=2)
    chances = np.full(n_groups, 1 / n_groups)
    return np.random.default_rng(seed).multinomial(n_groups, chances, size=n_boot)


def _difference(
    estimate: float,
    resampled: NDArray[np.float64],
    members: Sequence[NDArray[np.intp]],
    ci_prob: float,
) -> Difference:
    tail = (1 - probability(ci_prob, name="ci_prob")) / 2
    known = resampled[~np.isnan(resampled)]
    error = lower = upper = float("nan")
    if len(known) > 1:
        error = float(known.std(ddof=1))
        lower, upper = (float(q) for q in np.quantile(known, [tail, 1 - tail]))
    n_models = sum(len(rows) for rows in members)
    return Difference(estimate, error, lower, upper, ci_prob, n_models, len(members))
