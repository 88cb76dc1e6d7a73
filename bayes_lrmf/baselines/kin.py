"""What kin answered: the weighted mean over models a few steps away in the lineage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.baselines.items import fractions, item_rates
from bayes_lrmf.baselines.levels import at_own_level
from bayes_lrmf.checks import InputError, positive, whole_number
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.responses import Responses

__all__ = ["kin_weights", "lineage_mean"]

_BLOCK = 512  # models whose kin are looked for at once


def lineage_mean(
    train: Responses,
    models: Sequence[str],
    lineage: Lineage,
    *,
    distance: int = 2,
    decay: float = 0.35,
    pull: float = 0.3,
    level_pull: float = 1.0,
    pseudo_trials: float = 1.0,
) -> np.ndarray:
    """Predict the mean response of kin, drawn to the item's rate.

    ``(pull r_i + sum_v w_uv y_vi) / (pull + sum_v w_uv)`` over the kin v that ran item i, with
    ``w_uv = decay ** steps`` (see `kin_weights`), y a fraction of successes and r from
    `item_rates`. A model's own responses move its level only: a shift of the log-odds, overall
    and by benchmark (see `at_own_level`). Without kin that leaves the item's rate at own level.

    Parameters
    ----------
    train : Responses
    models : sequence of str
        Those of `train` and others.
    lineage : Lineage
    distance : int
        Most steps to kin: 1 is parents and children, 2 adds siblings and grandparents.
    decay : float
        Weight lost with a step, above 0 and at most 1.
    pull : float
        Weight of the item's rate, in responses.
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
        For numbers out of range.
    """
    pull = positive(pull, name="pull")
    level_pull = positive(level_pull, name="level_pull")
    weights = kin_weights(train, models, lineage, distance=distance, decay=decay)
    rates = item_rates(train, pseudo_trials=pseudo_trials)
    of_kin = np.unique(weights.indices)
    y, run = fractions(train, train.models[of_kin])
    weights = weights[:, of_kin]
    p = (pull * rates + weights @ y) / (pull + weights @ run)
    return at_own_level(p, *fractions(train, models), train.benchmark_index, level_pull)


def kin_weights(
    train: Responses, models: Sequence[str], lineage: Lineage, *, distance: int, decay: float
) -> sp.csr_array:
    """Return ``decay ** steps`` from each model to its kin in `train`.

    Steps go to parents and children, also through models without responses, on the shortest way
    within the core of the lineage (see `Lineage.core`): an unevaluated child joins nobody. A model
    is no kin of itself.

    Returns
    -------
    sparse array, shape (n_models, n_train)
    """
    distance = whole_number(distance, name="distance")
    if not 0 < decay <= 1:
        raise InputError(f"decay is {decay!r}", fix="give a number above 0 and at most 1")
    names = list(dict.fromkeys([*train.models, *models]))
    adjacency = (lineage.core(names).adjacency() > 0).astype(np.float32)
    at = {name: i for i, name in enumerate(names)}
    start = np.array([at[m] for m in models], dtype=np.int64)
    everyone = sp.eye_array(adjacency.shape[0], dtype=np.float32, format="csr")
    blocks = [sp.csr_array((0, train.n_models), dtype=np.float32)]
    for first in range(0, len(start), _BLOCK):
        frontier = everyone[start[first : first + _BLOCK]]
        reached, weights = frontier, sp.csr_array(frontier.shape, dtype=np.float32)
        for steps in range(1, distance + 1):
            touched = ((frontier @ adjacency) > 0).astype(np.float32)
            frontier = touched - touched.multiply(reached)
            frontier.eliminate_zeros()
            reached = reached + frontier
            weights = weights + decay**steps * frontier
        blocks.append(weights[:, : train.n_models])
    return sp.csr_array(sp.vstack(blocks, format="csr"))
