"""Polya-Gamma sums over observed cells: what they tell of items, and of models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from bayes_lrmf.design import Design
from bayes_lrmf.devices import sharded
from bayes_lrmf.inference.vb_local import LocalMoments
from bayes_lrmf.inference.vb_passes import (
    cell_curvature,
    cell_terms,
    curvature_pass,
    item_pass,
    model_pass,
    run_pass,
)
from bayes_lrmf.spec import Spec

__all__ = ["CellTable", "Curvature", "Evidence"]

_CHUNK_CELLS, _LANES, _WIDEST = 2**20, 16, 384
_DENSE_CELLS = 400_000_000
_DENSE_COUNT_CELLS = 6_000_000
_DENSE_FROM = 0.02
_SPARSE_BLOCK = 2**16


class Evidence(NamedTuple):
    """Sums over cells, by item or by model.

    Attributes
    ----------
    square : array, shape (..., n, L, L)
        Sums of weight times second moment of the other side.
    linear : array, shape (..., n, L)
        Sums of the linear coefficient times its mean.
    bound : float
        What all cells contribute to the ELBO, at the best Polya-Gamma factors; by item alone, else
        NaN.
    noise : array, shape (n_items,), or None
        Expected sums of squares of the over-dispersion of each item's cells.
    """

    square: np.ndarray
    linear: np.ndarray
    bound: float
    noise: np.ndarray | None


class Curvature(NamedTuple):
    """Expected curvatures of the log-likelihood.

    Attributes
    ----------
    of_items : array, shape (n_items, L, L)
    of_models : array, shape (n_panels, n_models, L, L)
    noise : array, shape (n_items,), or None
        As in `Evidence`.
    """

    of_items: np.ndarray
    of_models: np.ndarray
    noise: np.ndarray | None


@dataclass(frozen=True)
class _Packing:
    """Unique entries of symmetric matrices of this size."""

    size: int

    @cached_property
    def index(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(self.size)

    def pack(self, matrices: np.ndarray) -> np.ndarray:
        first, second = self.index
        return matrices[..., first, second]

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        first, second = self.index
        out = np.empty((*packed.shape[:-1], self.size, self.size))
        out[..., first, second] = packed
        out[..., second, first] = packed
        return out

    @property
    def multiplicity(self) -> np.ndarray:
        first, second = self.index
        return np.where(first == second, 1.0, 2.0)


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
        self.packing, self.panel, self.mesh = _Packing(size), panel, design.mesh
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
            self.rows, self.cols = cells.rows, cells.cols
            self.centred, self.trials = successes - trials / 2, trials

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

    def share(self, batch: int) -> np.ndarray:
        """Return which part of its items a batch has of each panel, shape (n_panels,)."""
        of_batch = np.bincount(self.panel[self.members(batch)], minlength=self.panel.max() + 1)
        return of_batch / np.bincount(self.panel)

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
        models: LocalMoments,
        items: LocalMoments,
        noise: np.ndarray | None,
        *,
        batch: int | None,
    ) -> dict[str, Any]:
        pack, t, chunks = self.packing, self.dtype, self._chunks(batch)
        slot = self.slot[chunks]
        flat, known = slot.ravel(), slot.ravel() >= 0
        packed = np.zeros((len(flat), len(pack.multiplicity)), t)
        mean = np.zeros((len(flat), pack.size), t)
        packed[known] = pack.pack(items.second)[flat[known]]
        mean[known] = items.mean[flat[known]]
        by_chunk = (*slot.shape, -1)
        spread = None
        if noise is not None:
            spread = np.zeros(slot.shape, t)
            spread.ravel()[known] = noise[flat[known]]
        return {
            "models": pack.pack(models.second).astype(t),
            "model_means": models.mean.astype(t),
            "items": packed.reshape(by_chunk),
            "item_means": mean.reshape(by_chunk),
            "multiplicity": pack.multiplicity.astype(t),
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
        models: LocalMoments,
        items: LocalMoments,
        noise: np.ndarray | None = None,
        batch: int | None = None,
    ) -> Evidence:
        """Return sums by item over models.

        Parameters
        ----------
        models : LocalMoments, shapes (n_panels, n_models, ...)
        items : LocalMoments, shapes (n_items, ...)
        noise : array, shape (n_items,), optional
            Variance of the over-dispersion of each item's cells.
        batch : int, optional
            Of items to sum for, in the order of `members`; by default all in their own order.
        """
        if not self.dense:
            return self._sparse(models, items, noise, by_item=True)
        _, listed = self._passed(item_pass, models, items, noise, batch=batch)
        square, linear, bound, spread = listed
        f, at = square.shape[-1], self._places(batch)
        return Evidence(
            self.packing.unpack(square.reshape(-1, f)[at]),
            linear.reshape(-1, self.packing.size)[at],
            float(bound.sum()),
            spread.ravel()[at] if noise is not None else None,
        )

    def about_models(
        self,
        models: LocalMoments,
        items: LocalMoments,
        noise: np.ndarray | None = None,
        batch: int | None = None,
    ) -> Evidence:
        """Return sums by panel and model over the items of the panel; see `about_items`."""
        if not self.dense:
            return self._sparse(models, items, noise, by_item=False)
        (square, linear), _ = self._passed(model_pass, models, items, noise, batch=batch)
        return Evidence(self.packing.unpack(square), linear, np.nan, None)

    def curvature(
        self, models: LocalMoments, items: LocalMoments, noise: np.ndarray | None = None
    ) -> Curvature:
        """Return sums by item and by model with weights of the log-likelihood itself.

        The bound, from which `about_items` and `about_models` take them, has larger weights and
        less noise.
        """
        if not self.dense:
            return self._sparse_curvature(models, items, noise)
        (of_models,), (of_items, spread) = self._passed(curvature_pass, models, items, noise)
        return Curvature(
            self.packing.unpack(of_items.reshape(-1, of_items.shape[-1])[self.at]),
            self.packing.unpack(of_models),
            spread.ravel()[self.at] if noise is not None else None,
        )

    def _by_panel(self) -> np.ndarray:
        """Return the row of each cell among models of panels, panels first."""
        return self.panel[self.cols].astype(np.int64) * self.shape[0] + self.rows

    def _sparse_blocks(
        self, models: LocalMoments, items: LocalMoments, noise: np.ndarray | None
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yield slices of cells with E psi^2, E psi and the noise of each."""
        by_panel, size = self._by_panel(), self.packing.size
        g = self.packing.pack(models.second).reshape(-1, len(self.packing.multiplicity))
        h = self.packing.pack(items.second) * self.packing.multiplicity
        g_mean = models.mean.reshape(-1, size)
        for start in range(0, len(self.rows), _SPARSE_BLOCK):
            b = slice(start, start + _SPARSE_BLOCK)
            square = np.einsum("cf,cf->c", g[by_panel[b]], h[self.cols[b]])
            mean = np.einsum("cl,cl->c", g_mean[by_panel[b]], items.mean[self.cols[b]])
            yield b, square, mean, None if noise is None else noise[self.cols[b]]

    def _sparse(
        self, models: LocalMoments, items: LocalMoments, noise: Any, *, by_item: bool
    ) -> Evidence:
        weight, linear = np.empty(len(self.rows)), np.empty(len(self.rows))
        squares = np.empty(len(self.rows))
        bound = 0.0
        for b, square, mean, spread in self._sparse_blocks(models, items, noise):
            part = cell_terms(np, self.centred[b], self.trials[b], square, mean, spread)
            weight[b], linear[b] = part[0], part[1]
            bound += float(part[2].sum())
            if spread is None:
                bound += float((part[1] * mean).sum())
            else:
                squares[b] = part[3]
        n_panels, n_models, size = models.mean.shape
        k = self._matrix(linear, n_panels * n_models)
        square = self._sparse_squares(weight, models, items, by_item=by_item)
        if by_item:
            pulled = np.asarray(k.T @ models.mean.reshape(-1, size))
            total = None
            if noise is not None:
                total = np.bincount(self.cols, squares, minlength=self.shape[1])
            return Evidence(square, pulled, bound, total)
        pulled = (k @ items.mean).reshape(n_panels, n_models, size)
        return Evidence(square, pulled, np.nan, None)

    def _sparse_curvature(
        self, models: LocalMoments, items: LocalMoments, noise: np.ndarray | None
    ) -> Curvature:
        weight, squares = np.empty(len(self.rows)), np.empty(len(self.rows))
        for b, square, mean, spread in self._sparse_blocks(models, items, noise):
            part = cell_curvature(np, self.centred[b], self.trials[b], square, mean, spread)
            weight[b], squares[b] = part
        total = None
        if noise is not None:
            total = np.bincount(self.cols, squares, minlength=self.shape[1])
        of_items, of_models = (
            self._sparse_squares(weight, models, items, by_item=by_item)
            for by_item in (True, False)
        )
        return Curvature(of_items, of_models, total)

    def _matrix(self, cells: np.ndarray, n_rows: int) -> sp.csr_array:
        return sp.csr_array((cells, (self._by_panel(), self.cols)), shape=(n_rows, self.shape[1]))

    def _sparse_squares(
        self, weight: np.ndarray, models: LocalMoments, items: LocalMoments, *, by_item: bool
    ) -> np.ndarray:
        n_panels, n_models = models.mean.shape[:2]
        w = self._matrix(weight, n_panels * n_models)
        if by_item:
            g = self.packing.pack(models.second).reshape(n_panels * n_models, -1)
            return self.packing.unpack(w.T @ g)
        square = (w @ self.packing.pack(items.second)).reshape(n_panels, n_models, -1)
        return self.packing.unpack(square)
