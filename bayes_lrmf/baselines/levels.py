"""Shifts of log-odds: to what a model has shown, or to a mean it should have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import elementwise
from scipy.special import expit, logit

__all__ = ["at_own_level", "with_mean"]

_EDGE = 1e-12
_BLOCK = 1024  # models at once


def at_own_level(
    p: np.ndarray, fraction: np.ndarray, seen: np.ndarray, benchmark: np.ndarray, pull: float
) -> np.ndarray:
    """Shift each model's log-odds towards its own responses, overall and then by benchmark.

    The shift d maximises ``sum_i seen_i [y_i log s_i + (1 - y_i) log(1 - s_i)] - pull d^2 / 2``
    with ``s_i = sigmoid(logit p_i + d)``: first one d over all items, then another for every
    benchmark on top of it. A model without responses keeps its probabilities.

    Parameters
    ----------
    p : ndarray, shape (n_models, n_items)
    fraction, seen : ndarray, shape (n_models, n_items)
        As from `items.fractions`.
    benchmark : ndarray of int, shape (n_items,)
        Index of each item's benchmark.
    pull : float
        Precision of a shift.

    Returns
    -------
    ndarray, shape (n_models, n_items)
    """
    out = np.array(p, dtype=np.float64)
    warm = np.flatnonzero(seen.any(axis=1))
    for rows in np.split(warm, range(_BLOCK, len(warm), _BLOCK)):
        odds, y, run = logit(out[rows]), fraction[rows], seen[rows]
        odds += _shifts(odds, y, run, pull)[:, None]
        for b in np.unique(benchmark):
            of = benchmark == b
            odds[:, of] += _shifts(odds[:, of], y[:, of], run[:, of], pull)[:, None]
        out[rows] = inside(expit(odds))
    return out


def _shifts(odds: np.ndarray, y: np.ndarray, run: np.ndarray, pull: float) -> np.ndarray:
    def gradient(shift: np.ndarray, row: np.ndarray) -> np.ndarray:
        residual = y[row] - expit(odds[row] + shift[:, None])
        return (run[row] * residual).sum(axis=1) - pull * shift

    at = np.arange(len(odds))
    # The gradient falls at least as fast as its penalty, so its zero is no further away.
    reach = gradient(np.zeros(len(odds)), at) / pull
    return _root(gradient, np.minimum(reach, 0), np.maximum(reach, 0), at)


def with_mean(p: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Shift the log-odds of items alike, so that their weighted mean is `target`.

    Parameters
    ----------
    p : ndarray, shape (n_items,)
    target : ndarray, shape (n_models,)
        Strictly between 0 and 1.
    weights : ndarray, shape (n_items,)

    Returns
    -------
    ndarray, shape (n_models, n_items)
    """
    odds, share = logit(p), weights / weights.sum()

    def excess(shift: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return expit(odds + shift[:, None]) @ share - goal

    wanted = logit(target)
    shift = _root(excess, wanted - odds.max(), wanted - odds.min(), target)
    return inside(expit(odds + shift[:, None]))


def _root(
    f: Callable[[np.ndarray, np.ndarray], np.ndarray],
    lower: np.ndarray,
    upper: np.ndarray,
    argument: np.ndarray,
) -> np.ndarray:
    # A little beyond both ends: where they meet, rounding must not hide the change of sign.
    bracket = (lower - 1e-6, upper + 1e-6)
    found = elementwise.find_root(f, bracket, args=(argument,), tolerances={"xatol": 1e-7})
    return np.asarray(found.x, dtype=np.float64)


def inside(p: np.ndarray) -> np.ndarray:
    """Return probabilities strictly between 0 and 1."""
    return np.clip(p, _EDGE, 1 - _EDGE)
