"""How factors and effects of a model enter psi of the items of a panel, and back.

psi is the product of (m, 1, c) and (x, b, 1): factors and loadings, intercept, and the effects that
a model has on a panel of items. Of a model only c depends on the panel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.spec import Spec
from bayes_lrmf.vech import unvech, vech

__all__ = [
    "Curvature",
    "ItemMoments",
    "ItemSums",
    "ModelMoments",
    "ModelSquares",
    "ModelSums",
    "local_maps",
    "model_moments",
    "onto_models",
    "pull_of_models",
]


class ItemMoments(NamedTuple):
    """First and second moments of (x, b, 1).

    Attributes
    ----------
    mean : array, shape (n_items, L), L = K + 2
    second : array, shape (n_items, L (L + 1) / 2)
        Distinct entries (`vech`).
    """

    mean: np.ndarray
    second: np.ndarray


class ModelMoments(NamedTuple):
    """First and second moments of (m, 1, c), the latter by panel.

    Attributes
    ----------
    mean : array, shape (n, L - 1)
        Of (m, 1).
    second : array, shape (n, L (L - 1) / 2)
        Of (m, 1), distinct entries.
    effect_mean : array, shape (n_panels, n)
        Of c.
    effect_second : array, shape (n_panels, n, L)
        Of c with (m, 1, c): the last column of the second moments, as `vech` has it.
    """

    mean: np.ndarray
    second: np.ndarray
    effect_mean: np.ndarray
    effect_second: np.ndarray


class ItemSums(NamedTuple):
    """Sums by item over the cells of all models.

    Attributes
    ----------
    square : array, shape (n_items, L (L + 1) / 2)
        Of weight times second moment of (m, 1, c), distinct entries.
    linear : array, shape (n_items, L)
        Of the linear coefficient times (m, 1, c).
    bound : float
        What all cells contribute to the ELBO, at the best Polya-Gamma factors.
    noise : array, shape (n_items,), or None
        Expected sums of squares of the over-dispersion of each item's cells.
    """

    square: np.ndarray
    linear: np.ndarray
    bound: float
    noise: np.ndarray | None


class ModelSquares(NamedTuple):
    """Sums by model over cells of weights times second moments.

    Attributes
    ----------
    shared : array, shape (n, L (L - 1) / 2)
        Of (x, b), over all items; distinct entries.
    effect : array, shape (n_panels, n, L)
        Of (x, b, 1), over the items of each panel.
    """

    shared: np.ndarray
    effect: np.ndarray


class ModelSums(NamedTuple):
    """Sums by model over cells.

    Attributes
    ----------
    square : ModelSquares
    linear : array, shape (n, L - 1)
        Of the linear coefficient times (x, b), over all items.
    effect_linear : array, shape (n_panels, n)
        Of the linear coefficient, over the items of each panel.
    """

    square: ModelSquares
    linear: np.ndarray
    effect_linear: np.ndarray


class Curvature(NamedTuple):
    """Expected curvatures of the log-likelihood.

    Attributes
    ----------
    of_items : array, shape (n_items, L (L + 1) / 2)
        As `ItemSums.square`.
    of_models : ModelSquares
    noise : array, shape (n_items,), or None
        As in `ItemSums`.
    """

    of_items: np.ndarray
    of_models: ModelSquares
    noise: np.ndarray | None


def local_maps(design: Design, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Return how the effects of a model enter psi of the items of each panel.

    A panel is the items that share a benchmark effect; items without one share another panel.

    Returns
    -------
    maps : array, shape (n_panels, n_effects)
        Over ability, if any, and benchmark effects.
    panel : int array, shape (n_items,)
    """
    effects = design.effect_benchmarks if spec.benchmark_effects else np.empty(0, int)
    hit = design.benchmark_index[:, None] == effects
    panel = np.where(hit.any(1), hit.argmax(1) if len(effects) else 0, len(effects))
    used, panel = np.unique(panel, return_inverse=True)
    maps = np.eye(len(effects) + 1, len(effects))[used]
    if spec.ability:
        maps = np.concatenate([np.ones((len(used), 1)), maps], axis=1)
    return maps, panel


def model_moments(
    maps: np.ndarray, mean: np.ndarray, variance: np.ndarray, rank: int
) -> ModelMoments:
    """Return moments of (m, 1, c).

    Parameters
    ----------
    maps : array, shape (n_panels, E)
    mean, variance : arrays, shapes (n, K + E) and (n, K + E, K + E)
        Of the factors and effects of models.
    rank : int
    """
    k, (n, _) = rank, mean.shape
    factor = mean[:, :k]
    with_one = np.concatenate([factor, np.ones((n, 1))], axis=1)
    col, row = np.tril_indices(k + 1)
    second = np.take(with_one, row, axis=1) * np.take(with_one, col, axis=1)
    second[:, : k * (k + 1) // 2] += vech(variance[:, :k, :k])
    effect = maps @ mean[:, k:].T
    effect_second = np.empty((len(maps), n, k + 2))
    for p, of_panel in enumerate(maps):
        hit = np.flatnonzero(of_panel)
        along = variance[:, :, k + hit] @ of_panel[hit]
        effect_second[p, :, :k] = along[:, :k]
        effect_second[p, :, :k] += factor * effect[p, :, None]
        effect_second[p, :, k] = effect[p]
        effect_second[p, :, k + 1] = along[:, k + hit] @ of_panel[hit] + effect[p] ** 2
    return ModelMoments(with_one, second, effect, effect_second)


def onto_models(maps: np.ndarray, square: ModelSquares) -> np.ndarray:
    """Return the precision of factors and effects that sums over cells add up to.

    Returns
    -------
    array, shape (n, K + E, K + E)
    """
    shared = unvech(square.shared)
    n, k = len(shared), shared.shape[1] - 1
    out = np.zeros((n, k + maps.shape[1], k + maps.shape[1]))
    out[:, :k, :k] = shared[:, :k, :k]
    for weight, effect in zip(square.effect, maps, strict=True):
        hit = np.flatnonzero(effect)
        for e in hit:
            out[:, :k, k + e] += effect[e] * weight[:, :k]
            out[:, k + e, k + hit] += effect[e] * effect[hit] * weight[:, [k + 1]]
    out[:, k:, :k] = out[:, :k, k:].mT
    return out


def pull_of_models(maps: np.ndarray, sums: ModelSums) -> np.ndarray:
    """Return what sums over cells add to the linear term, shape (n, K + E)."""
    k = sums.linear.shape[1] - 1
    # Of (m, 1) with one, which intercepts are multiplied by: the last column but the corner.
    with_intercept = sums.square.shared[:, k * (k + 1) // 2 :][:, :k]
    effects = (sums.effect_linear - sums.square.effect[..., k]).T @ maps
    return np.concatenate([sums.linear[:, :k] - with_intercept, effects], axis=1)
