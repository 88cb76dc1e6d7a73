"""Polya-Gamma sums over observed cells: what they tell of items, and of models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.devices import sharded
from bayes_lrmf.inference.vb_local import (
    Curvature,
    ItemMoments,
    ItemSums,
    ModelMoments,
    ModelSquares,
    ModelSums,
)
from bayes_lrmf.inference.vb_passes import (
    curvature_pass,
    item_pass,
    model_pass,
    run_pass,
)
from bayes_lrmf.inference.vb_sparse import SparseCells
from bayes_lrmf.spec import Spec
from bayes_lrmf.vech import multiplicity

__all__ = ["CellTable"]

_CHUNK_CELLS, _LANES, _WIDEST = 2**20, 16, 384
_DENSE_CELLS = 400_000_000
_DENSE_COUNT_CELLS = 6_000_000
_DENSE_FROM = 0.04


class CellTable:
    """The observed cells of a design, arranged for sums over them.

    Dense tables are cut into chunks of items of one panel, so that one compiled loop serves all
    and nothing larger than a chunk is held; sparse ones go by blocks of cells.

    Parameters
    ----------
    design, spec : Design, Spec
        A "bernoulli" spec counts every cell once, as a fraction.
    panel : int array, shape (n_items,)
    size : int
        Length L of the local vectors.
    compiled : bool
        False for few cells, which take less time than compiling a loop for them.
    n_batches : int
        With more than one, items of every panel are dealt out into as many parts at random, and a
        dense 0/1 table is held part by part, while sums over it are made.
    """

    def __init__(
        self,
        design: Design,
        spec: Spec,
        panel: np.ndarray,
        size: int,
        *,
        compiled: bool = True,
        n_batches: int = 1,
    ) -> None:
        r = design.responses
        self.size, self.panel, self.mesh = size, panel, design.mesh
        self.shape, self.n_batches = r.shape, n_batches
        self.dtype = np.float32 if r.is_binary and r.n_models * r.n_items > 10**6 else np.float64
        if n_batches > 1:
            assert r.dense is not None
            assert self.mesh is None
            self.dense = True
            self._cut_into_chunks()
            self._values, self.n_cells_of_item = r.dense, r.n_results_of_item
            return
        n_cells = r.n_models * r.n_items
        most = _DENSE_CELLS if r.is_binary else _DENSE_COUNT_CELLS
        most *= self._n_devices
        self.dense = compiled and n_cells <= most and r.density >= _DENSE_FROM
        if self.dense:
            self._cut_into_chunks()
            if r.dense is not None:
                self._hold_binary(r.dense)
                return
        cells = r.to_cells()
        trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials.astype(float)
        successes = cells.successes.astype(float)
        if spec.likelihood == "bernoulli":
            successes, trials = successes / trials, np.ones(len(trials))
        self.n_cells_of_item = np.bincount(cells.cols, minlength=r.n_items)
        if self.dense:
            self._hold_counts(cells.rows, cells.cols, successes - trials / 2, trials)
        else:
            self.sparse = SparseCells(
                cells.rows, cells.cols, successes - trials / 2, trials, panel, r.shape, self.dtype
            )

    def _cut_into_chunks(self) -> None:
        size = np.bincount(self.panel)
        most = -(-size[:, None] // self.n_batches)
        # A chunk costs as much as a few items more: XLA starts two dozen loops for each.
        widest = min(_CHUNK_CELLS // self.shape[0], _WIDEST)
        widths = np.arange(_LANES, max(widest, _LANES) + 1, _LANES)
        n_each = -(-most // widths)
        best = int(np.argmin((n_each * (widths + _LANES)).sum(0)))
        width, n_each = int(widths[best]), n_each[:, best]
        slots = np.full((self.n_batches, int(n_each.sum()) * width), -1)
        begin = np.concatenate([[0], np.cumsum(n_each * width)])
        rng = np.random.default_rng(0)
        for p in range(len(size)):
            items = np.flatnonzero(self.panel == p)
            if self.n_batches > 1:
                items = rng.permutation(items)
            for batch in range(self.n_batches):
                part = items[batch :: self.n_batches]
                slots[batch, begin[p] : begin[p] + len(part)] = part
        slot, n_devices = slots.reshape(-1, width), self._n_devices
        empty = -len(slot) % n_devices
        self.slot = np.concatenate([slot, np.full((empty, width), -1)])
        panel_of_chunk = np.tile(np.repeat(np.arange(len(size)), n_each), self.n_batches)
        self.panel_of_chunk = np.append(panel_of_chunk, [0] * empty).astype(np.int32)
        at = np.empty(self.shape[1], np.int64)
        flat = self.slot.ravel()
        at[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
        self.at = at

    def _chunks(self, batch: int | None) -> slice:
        if batch is None:
            return slice(None)
        each = len(self.slot) // self.n_batches
        return slice(batch * each, (batch + 1) * each)

    def members(self, batch: int) -> np.ndarray:
        """Return the items of a batch, in the order of `about_items`."""
        flat = self.slot[self._chunks(batch)].ravel()
        return flat[flat >= 0]

    def share(self, batch: int) -> float:
        """Return which part of the items a batch has."""
        return len(self.members(batch)) / self.shape[1]

    def _hold_binary(self, values: np.ndarray) -> None:
        self.n_cells_of_item = (values >= 0).sum(0)
        self.tables: tuple[jax.Array, ...] = (self._placed(self._cut(values, slice(None))),)

    def _cut(self, values: np.ndarray, chunks: slice) -> np.ndarray:
        """Return a dense 0/1 table by chunks, shape (n_chunks, n_models, width)."""
        slots = self.slot[chunks]
        table = np.full((len(slots), len(values), slots.shape[1]), -1, np.int8)
        for chunk, items in zip(table, slots, strict=True):
            known = items >= 0
            chunk[:, known] = values[:, items[known]]
        return table

    def _hold_counts(
        self, rows: np.ndarray, cols: np.ndarray, centred: np.ndarray, trials: np.ndarray
    ) -> None:
        n_chunks, width = self.slot.shape
        chunk, place = np.divmod(self.at[cols], width)
        both = np.zeros((2, n_chunks, self.shape[0], width), self.dtype)
        both[0, chunk, rows, place], both[1, chunk, rows, place] = centred, trials
        self.tables = (self._placed(both[0]), self._placed(both[1]))

    @property
    def _n_devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    def _placed(self, table: np.ndarray) -> jax.Array:
        with jax.enable_x64(True):
            return jnp.asarray(table) if self.mesh is None else sharded(table, self.mesh)

    def _inputs(
        self,
        models: ModelMoments,
        items: ItemMoments,
        noise: np.ndarray | None,
        *,
        batch: int | None,
    ) -> dict[str, Any]:
        t, chunks = self.dtype, self._chunks(batch)
        slot = self.slot[chunks]
        flat, known = slot.ravel(), slot.ravel() >= 0
        second = np.zeros((len(flat), items.second.shape[-1]), t)
        mean = np.zeros((len(flat), self.size), t)
        second[known] = items.second[flat[known]]
        mean[known] = items.mean[flat[known]]
        by_chunk = (*slot.shape, -1)
        spread = None
        if noise is not None:
            spread = np.zeros(slot.shape, t)
            spread.ravel()[known] = noise[flat[known]]
        return {
            "models": models.second.astype(t),
            "effects": models.effect_second.astype(t),
            "model_means": models.mean.astype(t),
            "effect_means": models.effect_mean.astype(t),
            "items": second.reshape(by_chunk),
            "item_means": mean.reshape(by_chunk),
            "multiplicity": multiplicity(self.size).astype(t),
            "panel": self.panel_of_chunk[chunks],
            "noise": spread,
            "tables": self.tables if batch is None else (self._cut(self._values, chunks),),
        }

    def _passed(
        self, over: Any, *moments: Any, batch: int | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return what a pass over the chunks sums, and what it lists by chunk."""
        if batch is None and self.n_batches > 1:
            parts = [self._passed(over, *moments, batch=b) for b in range(self.n_batches)]
            summed = [np.sum(same, axis=0) for same in zip(*(p[0] for p in parts), strict=True)]
            listed = [np.concatenate(same) for same in zip(*(p[1] for p in parts), strict=True)]
            return summed, listed
        with jax.enable_x64(True):
            inputs = self._inputs(*moments, batch=batch)
            both = run_pass(inputs, over=over, mesh=self.mesh)
            summed, listed = ([np.asarray(part, float) for part in parts] for parts in both)
        return summed, listed

    def _places(self, batch: int | None) -> np.ndarray:
        """Return where in what a pass lists the items stand."""
        if batch is None:
            return self.at
        return np.flatnonzero(self.slot[self._chunks(batch)].ravel() >= 0)

    def about_items(
        self,
        models: ModelMoments,
        items: ItemMoments,
        noise: np.ndarray | None = None,
        batch: int | None = None,
    ) -> ItemSums:
        """Return sums by item over models.

        Parameters
        ----------
        models : ModelMoments
        items : ItemMoments
        noise : array, shape (n_items,), optional
            Variance of the over-dispersion of each item's cells.
        batch : int, optional
            Of items to sum for, in the order of `members`; by default all in their own order.
        """
        if not self.dense:
            return self.sparse.about_items(models, items, noise)
        _, listed = self._passed(item_pass, models, items, noise, batch=batch)
        square, linear, bound, spread = listed
        f, at = square.shape[-1], self._places(batch)
        return ItemSums(
            square.reshape(-1, f)[at],
            linear.reshape(-1, self.size)[at],
            float(bound.sum()),
            spread.ravel()[at] if noise is not None else None,
        )

    def about_models(
        self,
        models: ModelMoments,
        items: ItemMoments,
        noise: np.ndarray | None = None,
        batch: int | None = None,
    ) -> ModelSums:
        """Return sums by model over items, those of effects by panel; see `about_items`."""
        if not self.dense:
            return self.sparse.about_models(models, items, noise)
        found, _ = self._passed(model_pass, models, items, noise, batch=batch)
        return ModelSums(ModelSquares(*found[:2]), *found[2:])

    def curvature(
        self, models: ModelMoments, items: ItemMoments, noise: np.ndarray | None = None
    ) -> Curvature:
        """Return sums by item and by model with weights of the log-likelihood itself.

        The bound, from which `about_items` and `about_models` take them, has larger weights and
        less noise.
        """
        if not self.dense:
            return self.sparse.curvature(models, items, noise)
        of_models, (of_items, spread) = self._passed(curvature_pass, models, items, noise)
        return Curvature(
            of_items.reshape(-1, of_items.shape[-1])[self.at],
            ModelSquares(*of_models),
            spread.ravel()[self.at] if noise is not None else None,
        )
