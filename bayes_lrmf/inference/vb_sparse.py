"""Polya-Gamma sums over the observed cells of a sparse table, cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.inference.vb_local import (
    Curvature,
    ItemMoments,
    ItemSums,
    ModelMoments,
    ModelSquares,
    ModelSums,
)
from bayes_lrmf.inference.vb_passes import cell_curvature, cell_terms
from bayes_lrmf.threads import by_rows
from bayes_lrmf.vech import multiplicity

__all__ = ["SparseCells"]

# So few that features of their models and items stay in the cache.
_BLOCK = 4096


class _Terms(NamedTuple):
    """Of each cell: weight, linear coefficient, bound, and square of the over-dispersion."""

    weight: np.ndarray
    linear: np.ndarray
    bound: np.ndarray
    square: np.ndarray


def _bounded(*cells: Any) -> _Terms:
    """Return terms of the bound, given what `cell_terms` takes."""
    weight, linear, bound, square = cell_terms(np, *cells)
    mean, noise = cells[-2:]
    if noise is None:
        bound, square = bound + linear * mean, np.zeros_like(bound)
    return _Terms(weight, linear, bound, square)


def _curved(*cells: Any) -> _Terms:
    """Return weights of the expected curvature, given what `cell_curvature` takes."""
    weight, square = cell_curvature(np, *cells)
    nothing = np.zeros_like(weight)
    return _Terms(weight, nothing, nothing, square + nothing)


class SparseCells:
    """Observed cells, by model and then by item.

    Parameters
    ----------
    rows, cols : int arrays, shape (n_cells,)
    centred, trials : arrays, shape (n_cells,)
        Successes less half the trials, and these.
    panel : int array, shape (n_items,)
    shape : tuple of int
        Models and items.
    dtype : dtype
        Of the arithmetic of cells.
    """

    def __init__(
        self,
        rows: np.ndarray,
        cols: np.ndarray,
        centred: np.ndarray,
        trials: np.ndarray,
        panel: np.ndarray,
        shape: tuple[int, int],
        dtype: Any,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        order = np.lexsort((cols, rows))
        self.rows, self.cols = rows[order].astype(np.int32), cols[order].astype(np.int32)
        self.centred, self.trials = centred[order].astype(dtype), trials[order].astype(dtype)
        self._starts = _starts(self.rows, shape[0])
        self.effect = panel[self.cols].astype(np.int64) * shape[0] + self.rows
        self._order = np.argsort(self.effect, kind="stable")
        self._effect_cols = self.cols[self._order]

    def _by_cell(
        self,
        terms: Callable[..., _Terms],
        models: ModelMoments,
        items: ItemMoments,
        noise: np.ndarray | None,
    ) -> _Terms:
        """Return terms of cells, given what psi and its square are expected to be."""
        t, size, n_shared = self.dtype, items.mean.shape[1], models.second.shape[1]
        weighted = (items.second * multiplicity(size)).astype(t)
        shared, of_effects = np.split(weighted, [n_shared], axis=1)
        item_mean = items.mean[:, :-1].astype(t)
        model_second, model_mean = models.second.astype(t), models.mean.astype(t)
        effect_second = models.effect_second.reshape(-1, size).astype(t)
        effect_mean = models.effect_mean.ravel().astype(t)
        spread = None if noise is None else noise.astype(t)

        def of_block(
            rows: np.ndarray,
            cols: np.ndarray,
            effect: np.ndarray,
            centred: np.ndarray,
            trials: np.ndarray,
        ) -> _Terms:
            square = np.einsum("cf,cf->c", model_second[rows], shared[cols])
            square += np.einsum("cf,cf->c", effect_second[effect], of_effects[cols])
            mean = np.einsum("cl,cl->c", model_mean[rows], item_mean[cols]) + effect_mean[effect]
            of_cells = None if spread is None else spread[cols]
            return terms(centred, trials, square, mean, of_cells)

        return by_rows(
            of_block, self.rows, self.cols, self.effect, self.centred, self.trials, rows=_BLOCK
        )

    def about_items(
        self, models: ModelMoments, items: ItemMoments, noise: np.ndarray | None
    ) -> ItemSums:
        """Return sums by item over models."""
        found = self._by_cell(_bounded, models, items, noise)
        effect_mean = models.effect_mean.ravel().astype(self.dtype)
        linear = self._matrix(found.linear).T @ models.mean.astype(self.dtype)
        return ItemSums(
            self._squares_of_items(found.weight, models),
            np.column_stack(
                [linear, self._by_effect(found.linear, len(effect_mean)).T @ effect_mean]
            ).astype(float),
            float(found.bound.sum(dtype=float)),
            None if noise is None else self._by_item(found.square),
        )

    def about_models(
        self, models: ModelMoments, items: ItemMoments, noise: np.ndarray | None
    ) -> ModelSums:
        """Return sums by model over items, those of effects by panel."""
        found = self._by_cell(_bounded, models, items, noise)
        shape = models.effect_mean.shape
        effect_linear = np.bincount(self.effect, found.linear, minlength=shape[0] * shape[1])
        linear = self._matrix(found.linear) @ items.mean[:, :-1].astype(self.dtype)
        return ModelSums(
            self._squares_of_models(found.weight, models, items),
            np.asarray(linear, float),
            effect_linear.reshape(shape),
        )

    def curvature(
        self, models: ModelMoments, items: ItemMoments, noise: np.ndarray | None
    ) -> Curvature:
        """Return sums with weights of the log-likelihood itself."""
        found = self._by_cell(_curved, models, items, noise)
        return Curvature(
            self._squares_of_items(found.weight, models),
            self._squares_of_models(found.weight, models, items),
            None if noise is None else self._by_item(found.square),
        )

    def _by_item(self, cells: np.ndarray) -> np.ndarray:
        return np.bincount(self.cols, cells, minlength=self.shape[1])

    def _matrix(self, cells: np.ndarray) -> sp.csr_array:
        return sp.csr_array((cells, self.cols, self._starts), shape=self.shape)

    def _by_effect(self, cells: np.ndarray, n_effects: int) -> sp.csr_array:
        """Return cells with a row for each effect of each model, panels first."""
        starts, shape = _starts(self.effect, n_effects), (n_effects, self.shape[1])
        return sp.csr_array((cells[self._order], self._effect_cols, starts), shape)

    def _squares_of_items(self, weight: np.ndarray, models: ModelMoments) -> np.ndarray:
        size = models.effect_second.shape[-1]
        effect = models.effect_second.reshape(-1, size).astype(self.dtype)
        shared = self._matrix(weight).T @ models.second.astype(self.dtype)
        return np.concatenate(
            [shared, self._by_effect(weight, len(effect)).T @ effect], axis=1
        ).astype(float)

    def _squares_of_models(
        self, weight: np.ndarray, models: ModelMoments, items: ItemMoments
    ) -> ModelSquares:
        size = items.mean.shape[1]
        shared, effect = np.split(items.second.astype(self.dtype), [size * (size - 1) // 2], axis=1)
        by_effect = self._by_effect(weight, models.effect_mean.size) @ effect
        return ModelSquares(
            np.asarray(self._matrix(weight) @ shared, float),
            np.asarray(by_effect, float).reshape(models.effect_second.shape),
        )


def _starts(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Return where each row begins among cells by row, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
