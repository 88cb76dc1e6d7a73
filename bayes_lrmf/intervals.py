"""Equal-tailed intervals from draws, of whole counts too."""

from __future__ import annotations

import numpy as np

__all__ = ["equal_tailed"]

_BLOCK = 4096


def equal_tailed(draws: np.ndarray, ci_prob: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of intervals that hold a share `ci_prob` of further draws.

    Scores and ranks take few values, and a closed interval between quantiles holds both its ends
    whole, more than it states. So a value belongs to an interval if half its own probability and
    that of all beyond it come to a tail (mid-P; Lancaster, 1961, Journal of the American
    Statistical Association 56, 223-234). Ends are values drawn: without ties, the quantiles of n
    draws at i / (n + 1).

    Parameters
    ----------
    draws : array, shape (n_draws, ...)
    ci_prob : float

    Returns
    -------
    lower, upper : float64 arrays, shape (...)
    """
    n = len(draws)
    # Of n draws i / (n + 1) of what is drawn next lie below the i-th.
    least = (1 - ci_prob) / 2 * (n + 1) - 1
    at = min(max(int(np.ceil(least)) - 1, 0), n - 1)
    flat = draws.reshape(n, -1)
    ends = np.empty((2, flat.shape[1]))
    for start in range(0, flat.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        ordered = np.sort(flat[:, block].T, axis=1)
        ends[0, block] = _end(ordered, at, least)
        ends[1, block] = -_end(-ordered[:, ::-1], at, least)
    # Two neighbours, each too probable to be left out for the other, belong to it both.
    lower, upper = np.sort(ends, axis=0).reshape(2, *draws.shape[1:])
    return lower, upper


def _end(ordered: np.ndarray, at: int, least: float) -> np.ndarray:
    """Return the least value that half its own draws and all below come to `least` of."""
    value = ordered[:, at]
    below = (ordered < value[:, None]).sum(1)
    upto = (ordered <= value[:, None]).sum(1)
    following = np.minimum(upto, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    return np.where(below + upto >= 2 * least, value, ordered[rows, following])
