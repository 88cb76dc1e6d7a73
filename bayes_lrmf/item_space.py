"""Distances between models by their log-odds over the items, draw by draw."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import scipy.sparse as sp

from bayes_lrmf.checks import InputError
from bayes_lrmf.draws import noise_sd_of, rows_and_columns
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior

__all__ = [
    "CoreDraws",
    "core_draws",
    "item_moments",
    "item_roots",
    "mean_lengths",
    "parents_of_evaluated",
    "steps_of",
]


@dataclass(frozen=True, eq=False)
class CoreDraws:
    """Joint draws of what makes psi of core models: ``rows' cols + intercept``.

    Attributes
    ----------
    rows : float32 array, shape (n_draws, n_fields, n_core)
    cols : float32 array, shape (n_draws, n_fields, n_items)
    intercept : float32 array, shape (n_draws, n_items)
    noise_sd : array, shape (n_draws, n_items), or None
        Of the log-odds of cells around psi.
    """

    rows: np.ndarray
    cols: np.ndarray
    intercept: np.ndarray
    noise_sd: np.ndarray | None


def core_draws(posterior: Posterior, *, key: jax.Array, n_draws: int) -> CoreDraws:
    """Return joint draws of core models and items.

    Raises
    ------
    InputError
        For a point estimate.
    """
    if posterior.is_point:
        raise InputError("a point estimate has no draws", fix="fit with method vb, svi or nuts")
    values = posterior.draws(n_draws, key=key)
    core = np.arange(posterior.design.n_core)
    # No noise is drawn: core models are parameters.
    rows, cols = rows_and_columns(posterior, values, rng=np.random.default_rng(0), chosen=core)
    n_fields = rows.shape[1] - ("intercept" in values)
    intercept = cols[:, n_fields:].sum(1)
    noise_sd = noise_sd_of(posterior, values)
    return CoreDraws(rows[:, :n_fields], cols[:, :n_fields], intercept, noise_sd)


def item_moments(cols: np.ndarray) -> np.ndarray:
    """Return second moments G of items, so that ``r' G r`` is the mean square of psi over them.

    Raw factors are known up to rotation and scale; such a mean square does not depend on these.

    Parameters
    ----------
    cols : array, shape (n_draws, n_fields, n_items)

    Returns
    -------
    array, shape (n_draws, n_fields, n_fields)
    """
    wide = cols.astype(float)
    return np.asarray(wide @ wide.mT / cols.shape[2])


def item_roots(cols: np.ndarray) -> np.ndarray:
    """Return R with ``R R' = G``: the Euclidean length of ``R' r`` is in log-odds.

    Returns
    -------
    float32 array, shape (n_draws, n_fields, n_fields)
    """
    value, axes = np.linalg.eigh(item_moments(cols))
    return (axes * np.sqrt(np.maximum(value, 0.0))[:, None, :]).astype(np.float32)


def parents_of_evaluated(core: Lineage, n_evaluated: int) -> tuple[np.ndarray, sp.csr_array]:
    """Return the evaluated models with parents in the fit, and the weights of these.

    Returns
    -------
    children : int array, shape (n_children,)
    weights : sparse float32 array, shape (n_children, n_core)

    Raises
    ------
    InputError
        If there is no such model.
    """
    mine = core.child < n_evaluated
    children, place = np.unique(core.child[mine], return_inverse=True)
    if not len(children):
        raise InputError("no evaluated model has a parent in the fit", fix="fit with --lineage")
    entries = core.weight[mine].astype(np.float32), (place, core.parent[mine])
    return children.astype(np.int64), sp.csr_array(entries, shape=(len(children), len(core.nodes)))


def steps_of(rows: np.ndarray, children: np.ndarray, weights: sp.csr_array) -> np.ndarray:
    """Return rows of children less the weighted mean of their parents'.

    Parameters
    ----------
    rows : array, shape (n_draws, n_fields, n_core)
    children, weights
        From `parents_of_evaluated`.

    Returns
    -------
    float32 array, shape (n_draws, n_children, n_fields)
    """
    return np.stack([draw.T[children] - weights @ draw.T for draw in rows])


def mean_lengths(steps: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return root mean squares over items of the posterior means of differences in psi.

    Parameters
    ----------
    steps : array, shape (n_draws, n, n_fields)
        Differences of rows.
    cols : array, shape (n_draws, n_fields, n_items)

    Returns
    -------
    array, shape (n,)
    """
    n_draws, n, n_fields = steps.shape
    mean = (
        steps.transpose(1, 0, 2).reshape(n, n_draws * n_fields)
        @ cols.reshape(-1, cols.shape[2])
        / n_draws
    )
    return np.asarray(np.sqrt((mean.astype(float) ** 2).mean(1)))
