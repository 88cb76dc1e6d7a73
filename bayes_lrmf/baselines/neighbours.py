"""What the models answered that agree most with a model on the items both ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.baselines.items import fractions, item_rates
from bayes_lrmf.baselines.levels import inside
from bayes_lrmf.checks import positive, whole_number
from bayes_lrmf.responses import Responses

__all__ = ["nearest_models"]

_BLOCK = 512  # models whose neighbours are looked for at once


def nearest_models(
    train: Responses,
    models: Sequence[str],
    *,
    n_neighbours: int = 50,
    shrinkage: float = 10.0,
    sharpness: float = 2.0,
    pull: float = 0.3,
    pseudo_trials: float = 1.0,
) -> np.ndarray:
    """Predict the mean response of the nearest models, drawn to the item's rate.

    With residuals ``z_ui = y_ui - r_i`` from the item's rate, two models agree by
    ``2 sum_i z_ui z_vi / (sum_i z_ui^2 + z_vi^2 + 2 shrinkage s)`` over the items i that both ran:
    1 minus their squared distance in units of their squared lengths, drawn to 0 as if they had
    run `shrinkage` more items, on which they have residuals of the usual mean square s but
    nothing in common. The prediction is ``(pull r_i + sum_v w_uv y_vi) / (pull + sum_v w_uv)`` over
    those of the nearest models v that ran item i, with ``w_uv = max(agreement, 0) ** sharpness``.
    A model without responses has no neighbours and gets the items' rates.

    Parameters
    ----------
    train : Responses
    models : sequence of str
        Those of `train` and others.
    n_neighbours : int
        Nearest models that count, those that did not run an item included.
    shrinkage : float
        In items.
    sharpness : float
        Power of the agreement in a weight.
    pull : float
        Weight of the item's rate, in responses.
    pseudo_trials : float
        As for `item_rates`.

    Returns
    -------
    ndarray, shape (n_models, n_items)
        Probabilities of success.

    Raises
    ------
    InputError
        For numbers out of range.
    """
    n_neighbours = whole_number(n_neighbours, name="n_neighbours")
    shrinkage = positive(shrinkage, name="shrinkage")
    sharpness = positive(sharpness, name="sharpness")
    pull = positive(pull, name="pull")
    rates = item_rates(train, pseudo_trials=pseudo_trials)
    out = np.tile(rates, (len(models), 1))
    at = {name: i for i, name in enumerate(train.models)}
    row_of = np.array([at.get(name, -1) for name in models], dtype=np.int64)
    y, run = fractions(train, train.models)
    z = (y - rates.astype(np.float32)) * run
    # Squares meet whether the other ran the item, once in each direction.
    left, right = np.hstack([z**2, run]), np.hstack([run, z**2])
    prior = 2 * shrinkage * float((z**2).sum(dtype=np.float64) / max(run.sum(), 1))
    known = np.flatnonzero(row_of >= 0)
    for block in np.split(known, range(_BLOCK, len(known), _BLOCK)):
        rows = row_of[block]
        agreement = 2 * (z[rows] @ z.T) / (left[rows] @ right.T + np.float32(prior))
        agreement[np.arange(len(rows)), rows] = 0
        weights = _largest(agreement, n_neighbours, sharpness)
        out[block] = (pull * rates + weights @ y) / (pull + weights @ run)
    return inside(out)


def _largest(agreement: np.ndarray, k: int, sharpness: float) -> sp.csr_array:
    n_rows, n_others = agreement.shape
    k = min(k, n_others)
    nearest = np.argpartition(agreement, n_others - k, axis=1)[:, n_others - k :]
    weight = np.maximum(np.take_along_axis(agreement, nearest, axis=1), 0) ** sharpness
    bounds = np.arange(0, n_rows * k + 1, k)
    return sp.csr_array((weight.ravel(), nearest.ravel(), bounds), shape=agreement.shape)
