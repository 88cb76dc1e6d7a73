"""How factors and effects of a model enter psi of the items of a panel, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.spec import Spec

__all__ = ["LocalMoments", "local_maps", "local_moments", "onto_models", "pull_of_models"]


class LocalMoments(NamedTuple):
    """First and second moments of vectors whose products with each other are psi.

    Attributes
    ----------
    mean : array, shape (..., n, L)
    second : array, shape (..., n, L, L)
    """

    mean: np.ndarray
    second: np.ndarray


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


def local_moments(
    maps: np.ndarray, mean: np.ndarray, variance: np.ndarray, rank: int
) -> LocalMoments:
    """Return moments of (m, c, 1) by panel.

    Parameters
    ----------
    maps : array, shape (n_panels, E)
    mean, variance : arrays, shapes (n, K + E) and (n, K + E, K + E)
        Of the factors and effects of models.
    rank : int
    """
    k, (n, _) = rank, mean.shape
    n_panels = len(maps)
    local = np.ones((n_panels, n, k + 2))
    second = np.zeros((n_panels, n, k + 2, k + 2))
    for p, effect in enumerate(maps):
        local[p, :, :k] = mean[:, :k]
        local[p, :, k] = mean[:, k:] @ effect
        across = variance[:, :k, k:] @ effect
        second[p, :, :k, :k] = variance[:, :k, :k]
        second[p, :, :k, k] = second[p, :, k, :k] = across
        second[p, :, k, k] = (variance[:, k:, k:] @ effect) @ effect
    second += local[..., :, None] * local[..., None, :]
    return LocalMoments(local, second)


def onto_models(maps: np.ndarray, square: np.ndarray, rank: int) -> np.ndarray:
    """Return the precision of factors and effects that `Evidence.square` by panel adds up to.

    Returns
    -------
    array, shape (n, K + E, K + E)
    """
    k, size = rank, rank + maps.shape[1]
    out = np.zeros((square.shape[1], size, size))
    for of_panel, effect in zip(square, maps, strict=True):
        out[:, :k, :k] += of_panel[:, :k, :k]
        hit = np.flatnonzero(effect)
        for e in hit:
            out[:, :k, k + e] += of_panel[:, :k, k]
            out[:, k + e, :k] += of_panel[:, :k, k]
            out[:, k + e, k + hit] += of_panel[:, [k], k]
    return out


def pull_of_models(maps: np.ndarray, evidence: Any, rank: int) -> np.ndarray:
    """Return what an `Evidence` by panel adds to the linear term, shape (n, K + E)."""
    k = rank
    pulls = evidence.linear - evidence.square[..., k + 1]
    out = np.zeros((pulls.shape[1], k + maps.shape[1]))
    for pull, effect in zip(pulls, maps, strict=True):
        out[:, :k] += pull[:, :k]
        out[:, k + np.flatnonzero(effect)] += pull[:, [k]]
    return out
