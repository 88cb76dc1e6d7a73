"""How far pairs of models gave the same responses, and how far their abilities explain it."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from bayes_lrmf.item_space import CoreDraws
from bayes_lrmf.responses import Responses

__all__ = ["agreement", "expected_agreement"]

_N_DRAWS = 8
_BLOCK = 1000


def agreement(
    responses: Responses, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return on how many items pairs of models were both run, and how far they agree there.

    Parameters
    ----------
    responses : Responses
    left, right : int arrays, shape (n_pairs,)
        Rows of the table.

    Returns
    -------
    n_shared : int array, shape (n_pairs,)
    agreement : array, shape (n_pairs,)
        One less the mean absolute difference of the shares correct; NaN without a shared item.
    """
    rows, at = np.unique(np.stack([left, right]), return_inverse=True)
    successes, trials = responses.matrices(responses.models[rows])
    share = successes / np.maximum(trials, 1)
    n_shared, apart = np.empty(len(left), np.int64), np.empty(len(left))
    for block in _blocks(len(left)):
        a, b = at[:, block]
        both = (trials[a] > 0) & (trials[b] > 0)
        n_shared[block] = both.sum(1)
        apart[block] = (np.abs(share[a] - share[b]) * both).sum(1)
    return n_shared, np.where(n_shared > 0, 1 - apart / np.maximum(n_shared, 1), np.nan)


def expected_agreement(
    responses: Responses,
    drawn: CoreDraws,
    left: np.ndarray,
    right: np.ndarray,
    *,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the agreement of pairs whose responses are independent given psi, and its spread.

    Moments over up to 8 draws of the posterior, exact for single trials and of one run each for
    counts.

    Returns
    -------
    expected : array, shape (n_pairs,)
        NaN without a shared item.
    error : array, shape (n_pairs,)
        Standard deviation of differences over items, divided by the square root of their number.
    """
    rows, at = np.unique(np.stack([left, right]), return_inverse=True)
    trials = responses.matrices(responses.models[rows])[1].astype(np.int64)
    single = bool(trials.max(initial=1) == 1)
    n = np.maximum(trials, 1)
    some = np.linspace(0, len(drawn.rows) - 1, min(len(drawn.rows), _N_DRAWS)).round().astype(int)
    apart, square, n_shared = np.zeros((3, len(left)))
    for s in some:
        psi = drawn.rows[s, :, rows] @ drawn.cols[s] + drawn.intercept[s]
        if drawn.noise_sd is not None:
            psi += drawn.noise_sd[s] * rng.standard_normal(psi.shape)
        share = expit(psi) if single else rng.binomial(n, expit(psi)) / n
        for block in _blocks(len(left)):
            a, b = at[:, block]
            both = (trials[a] > 0) & (trials[b] > 0)
            x, y = share[a], share[b]
            off = x + y - 2 * x * y if single else np.abs(x - y)
            apart[block] += (off * both).sum(1) / len(some)
            # The difference of single trials is 0 or 1, its own square.
            square[block] += ((off if single else off**2) * both).sum(1) / len(some)
            n_shared[block] = both.sum(1)
    n_items = np.where(n_shared > 0, n_shared, np.nan)
    mean = apart / n_items
    return 1 - mean, np.sqrt(np.maximum(square / n_items - mean**2, 0.0) / n_items)


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
