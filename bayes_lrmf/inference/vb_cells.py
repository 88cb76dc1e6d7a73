"""Polya-Gamma sums over observed cells: what they tell of items, and of models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.sharding import Mesh

from bayes_lrmf.design import Design
from bayes_lrmf.devices import sharded, summed_over
from bayes_lrmf.inference.vb_local import LocalMoments
from bayes_lrmf.spec import Spec

__all__ = ["CellTable", "Curvature", "Evidence"]

_CHUNK_CELLS, _LANES, _WIDEST = 2**20, 16, 384
_DENSE_CELLS = 400_000_000
_DENSE_COUNT_CELLS = 6_000_000
_DENSE_FROM = 0.02
_SPARSE_BLOCK = 2**16
_LEAST_SQUARE = 1e-8
_NOISE_STEPS = 12
_RUN = 32
_BY_CHUNK = ("panel", "items", "item_means", "noise", "tables")
_NODES, _NODE_SHARES = np.polynomial.hermite_e.hermegauss(9)
_NODE_SHARES = _NODE_SHARES / _NODE_SHARES.sum()


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
    """

    def __init__(
        self, design: Design, spec: Spec, panel: np.ndarray, size: int, *, compiled: bool = True
    ) -> None:
        r = design.responses
        self.packing, self.panel, self.mesh = _Packing(size), panel, design.mesh
        self.shape = r.shape
        n_cells = r.n_models * r.n_items
        most = _DENSE_CELLS if r.is_binary else _DENSE_COUNT_CELLS
        most *= self._n_devices
        self.dense = compiled and n_cells <= most and r.density >= _DENSE_FROM
        self.dtype = np.float32 if r.is_binary and n_cells > 1_000_000 else np.float64
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
        # A chunk costs as much as a few items more: XLA starts two dozen loops for each.
        most = min(_CHUNK_CELLS // self.shape[0], _WIDEST)
        widths = np.arange(_LANES, max(most, _LANES) + 1, _LANES)
        n_each = -(-size[:, None] // widths)
        width = int(widths[np.argmin((n_each * (widths + _LANES)).sum(0))])
        slots, panel_of_chunk = [], []
        for p in range(len(size)):
            items = np.flatnonzero(self.panel == p)
            n_chunks = -(-len(items) // width)
            slots.append(np.full(n_chunks * width, -1))
            slots[-1][: len(items)] = items
            panel_of_chunk += [p] * n_chunks
        slot, n_devices = np.concatenate(slots).reshape(-1, width), self._n_devices
        empty = -len(slot) % n_devices
        self.slot = np.concatenate([slot, np.full((empty, width), -1)])
        self.panel_of_chunk = np.array(panel_of_chunk + [0] * empty, np.int32)
        at = np.empty(self.shape[1], np.int64)
        flat = self.slot.ravel()
        at[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
        self.at = at

    def _hold_binary(self, values: np.ndarray) -> None:
        self.n_cells_of_item = (values >= 0).sum(0)
        n_chunks, width = self.slot.shape
        table = np.full((n_chunks, len(values), width), -1, np.int8)
        for chunk, items in zip(table, self.slot, strict=True):
            known = items >= 0
            chunk[:, known] = values[:, items[known]]
        self.tables: tuple[jax.Array, ...] = (self._placed(table),)

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
        self, models: LocalMoments, items: LocalMoments, noise: np.ndarray | None
    ) -> dict[str, Any]:
        pack, t = self.packing, self.dtype
        flat, known = self.slot.ravel(), self.slot.ravel() >= 0
        packed = np.zeros((len(flat), len(pack.multiplicity)), t)
        mean = np.zeros((len(flat), pack.size), t)
        packed[known] = pack.pack(items.second)[flat[known]]
        mean[known] = items.mean[flat[known]]
        by_chunk = (*self.slot.shape, -1)
        spread = None
        if noise is not None:
            spread = np.zeros(self.slot.shape, t)
            spread.ravel()[known] = noise[flat[known]]
        return {
            "models": pack.pack(models.second).astype(t),
            "model_means": models.mean.astype(t),
            "items": packed.reshape(by_chunk),
            "item_means": mean.reshape(by_chunk),
            "multiplicity": pack.multiplicity.astype(t),
            "panel": self.panel_of_chunk,
            "noise": spread,
            "tables": self.tables,
        }

    def _passed(self, over: Any, *moments: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return what a pass over all chunks sums, and what it lists by chunk."""
        with jax.enable_x64(True):
            both = _run(self._inputs(*moments), over=over, mesh=self.mesh)
            summed, listed = ([np.asarray(part, float) for part in parts] for parts in both)
        return summed, listed

    def about_items(
        self,
        models: LocalMoments,
        items: LocalMoments,
        noise: np.ndarray | None = None,
    ) -> Evidence:
        """Return sums by item over models.

        Parameters
        ----------
        models : LocalMoments, shapes (n_panels, n_models, ...)
        items : LocalMoments, shapes (n_items, ...)
        noise : array, shape (n_items,), optional
            Variance of the over-dispersion of each item's cells.
        """
        if not self.dense:
            return self._sparse(models, items, noise, by_item=True)
        _, (square, linear, bound, spread) = self._passed(_item_pass, models, items, noise)
        f = square.shape[-1]
        return Evidence(
            self.packing.unpack(square.reshape(-1, f)[self.at]),
            linear.reshape(-1, self.packing.size)[self.at],
            float(bound.sum()),
            spread.ravel()[self.at] if noise is not None else None,
        )

    def about_models(
        self,
        models: LocalMoments,
        items: LocalMoments,
        noise: np.ndarray | None = None,
    ) -> Evidence:
        """Return sums by panel and model over the items of the panel; see `about_items`."""
        if not self.dense:
            return self._sparse(models, items, noise, by_item=False)
        (square, linear), _ = self._passed(_model_pass, models, items, noise)
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
        (of_models,), (of_items, spread) = self._passed(_curvature_pass, models, items, noise)
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
            part = _cell_terms(np, self.centred[b], self.trials[b], square, mean, spread)
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
            part = _curvature(np, self.centred[b], self.trials[b], square, mean, spread)
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


def _cell_terms(xp: Any, centred: Any, trials: Any, square: Any, mean: Any, noise: Any) -> Any:
    r"""Return weight, linear coefficient, bound and noise of cells.

    Jaakkola & Jordan's bound, which Polya-Gamma factors reach (Polson, Scott & Windle 2013;
    Durante & Rigon 2019). With k the successes less half the trials n, and omega the mean of
    PG(n, xi), ``log p >= k psi - omega (psi^2 - xi^2) / 2 + n (log sigmoid(xi) - xi / 2)``, tight
    at xi^2 = E psi^2. Normal noise of variance v on the log-odds, integrated out given omega,
    leaves a weight ``omega / (1 + v omega)`` and a coefficient ``k / (1 + v omega)``. Without
    noise the bound lacks the linear term, which is cheaper to sum elsewhere.
    """
    xi = xp.sqrt(xp.maximum(square, _LEAST_SQUARE))
    if noise is None:
        omega = trials * xp.tanh(xi / 2) / (2 * xi)
        bound = -trials * (xi / 2 + xp.log1p(xp.exp(-xi)))
        return omega, centred, bound, None
    for _ in range(8):
        omega = trials * xp.tanh(xi / 2) / (2 * xi)
        shrink = 1 / (1 + noise * omega)
        within = square - mean**2 + (mean + noise * centred) ** 2
        xi = xp.sqrt(xp.maximum(noise * shrink + shrink**2 * within, _LEAST_SQUARE))
    omega = trials * xp.tanh(xi / 2) / (2 * xi)
    shrink = 1 / (1 + noise * omega)
    bound = -trials * (xi / 2 + xp.log1p(xp.exp(-xi))) + omega * xi**2 / 2
    bound = bound + 0.5 * xp.log(shrink) + 0.5 * shrink * noise * centred**2
    bound = bound + shrink * (centred * mean - omega * square / 2)
    left = centred**2 - 2 * centred * omega * mean + omega**2 * square
    squares = noise * shrink + (noise * shrink) ** 2 * left
    seen = trials > 0
    return omega * shrink, centred * shrink, xp.where(seen, bound, 0.0), xp.where(seen, squares, 0)


def _curvature(xp: Any, centred: Any, trials: Any, square: Any, mean: Any, noise: Any) -> Any:
    r"""Return weight and noise of cells: the expected curvature of their log-likelihood.

    That is ``n E[p (1 - p)]``, psi being normal with the moments that models and items give it.
    Normal noise on the log-odds is put at its best Gaussian first; of a weight omega it leaves
    ``omega / (1 + v omega)``.
    """
    variance = xp.maximum(square - mean**2, _LEAST_SQUARE)
    if noise is None:
        return trials * _probability(xp, mean, variance)[1], 0.0

    def terms(centre: Any, spread: Any) -> tuple[Any, Any, Any]:
        half, bend = _probability(xp, centre, spread)
        omega = trials * bend
        return omega, 1 / (1 + noise * omega), centred - trials * half + omega * centre

    def step(_: int, state: tuple[Any, Any]) -> tuple[Any, Any]:
        centre, spread = state
        _, shrink, pull = terms(centre, spread)
        # Half steps: the mode of a count far from its prior is approached, not jumped over.
        return (
            0.5 * (centre + shrink * (mean + noise * pull)),
            0.5 * (spread + noise * shrink + shrink**2 * variance),
        )

    state = mean, variance + noise
    if xp is np:
        for i in range(_NOISE_STEPS):
            state = step(i, state)
    else:
        # Unrolled, it takes a quarter of a minute to compile.
        state = jax.lax.fori_loop(0, _NOISE_STEPS, step, state)
    omega, shrink, pull = terms(*state)
    left = pull**2 - 2 * pull * omega * mean + omega**2 * square
    squares = noise * shrink + (noise * shrink) ** 2 * left
    return omega * shrink, xp.where(trials > 0, squares, 0.0)


def _probability(xp: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
    """Return E p - 1/2 and E[p (1 - p)], psi being normal, by quadrature."""
    sd = xp.sqrt(variance)
    p, curvature = 0.0, 0.0
    for node, share in zip(_NODES.tolist(), _NODE_SHARES.tolist(), strict=True):
        half = xp.tanh((mean + sd * node) / 2) / 2
        p = p + share * half
        curvature = curvature + share * (0.25 - half**2)
    return p, curvature


def _chunk(x: Any, part: Any, *, with_mean: bool) -> Any:
    """Return features of the models of a chunk's panel, and what its cells are made of."""
    g, g_mean = x["models"][part["panel"]], x["model_means"][part["panel"]]
    h = (part["items"] * x["multiplicity"]).T
    square = g @ h
    dtype = square.dtype
    if len(part["tables"]) == 1:
        y = part["tables"][0]
        trials = (y >= 0).astype(dtype)
        centred = y.astype(dtype) * trials - trials / 2
    else:
        centred, trials = part["tables"]
    mean, noise = None, part["noise"]
    if with_mean or noise is not None:
        mean = g_mean @ part["item_means"].T
    if noise is not None:
        noise = noise[None]
    return g, g_mean, (jnp, centred, trials, square, mean, noise)


def _parts(x: dict[str, Any]) -> dict[str, Any]:
    return {n: x[n] for n in _BY_CHUNK}


def _item_pass(x: dict[str, Any]) -> Any:
    def step(carry: Any, part: Any) -> Any:
        g, g_mean, cells = _chunk(x, part, with_mean=False)
        weight, linear, bound, spread = _cell_terms(*cells)
        pulled = linear.T @ g_mean
        if spread is not None:
            total, noise = bound.sum(0), spread.sum(0)
        else:
            if len(part["tables"]) == 1:
                bound = _bound_of_single_trials(part["tables"][0] >= 0, cells[3])
            total = noise = bound.sum(0) + (pulled * part["item_means"]).sum(1)
        return carry, (weight.T @ g, pulled, total, noise)

    return (), jax.lax.scan(step, 0, _parts(x))[1]


def _bound_of_single_trials(seen: Any, square: Any) -> Any:
    """Return the bounds of `_cell_terms` at one trial without noise, summed over runs of models.

    ``xi / 2 + log(1 + exp(-xi)) = xi / 2 + log 2 - log(1 + tanh(xi / 2))``, whose logarithm is
    taken once for a product of many: it costs more than all else in a cell.
    """
    xi = jnp.sqrt(jnp.maximum(square, _LEAST_SQUARE))
    grown = jnp.where(seen, (1 + jnp.tanh(xi / 2)) / 2, 1.0)
    runs = (min(_RUN, seen.shape[0]), 1)
    product = jax.lax.reduce_window(
        grown, np.array(1, grown.dtype), jax.lax.mul, runs, runs, "SAME"
    )
    return jnp.log(product).sum(0)[None] - jnp.where(seen, xi / 2, 0.0).sum(0)[None]


def _model_pass(x: dict[str, Any]) -> Any:
    n_panels, n_models, n_features = x["models"].shape
    dtype = x["models"].dtype
    square = jnp.zeros((n_panels, n_models, n_features), dtype)
    pulled = jnp.zeros((n_panels, n_models, x["model_means"].shape[-1]), dtype)

    def step(carry: Any, part: Any) -> Any:
        square, pulled = carry
        _, _, cells = _chunk(x, part, with_mean=False)
        weight, linear, _, _ = _cell_terms(*cells)
        at = part["panel"]
        square = square.at[at].add(weight @ part["items"])
        return (square, pulled.at[at].add(linear @ part["item_means"])), None

    return jax.lax.scan(step, (square, pulled), _parts(x))[0], ()


def _curvature_pass(x: dict[str, Any]) -> Any:
    n_panels, n_models, n_features = x["models"].shape
    of_models = jnp.zeros((n_panels, n_models, n_features), x["models"].dtype)

    def step(square: Any, part: Any) -> Any:
        g, _, cells = _chunk(x, part, with_mean=True)
        weight, squares = _curvature(*cells)
        squares = (squares + jnp.zeros_like(weight)).sum(0)
        return square.at[part["panel"]].add(weight @ part["items"]), (weight.T @ g, squares)

    of_models, listed = jax.lax.scan(step, of_models, _parts(x))
    return (of_models,), listed


@partial(jax.jit, static_argnames=("over", "mesh"))
def _run(x: dict[str, Any], *, over: Any, mesh: Mesh | None) -> Any:
    """Return what a pass sums over chunks, and what it lists by chunk, on every device."""
    return summed_over(over, mesh, ({name: name in _BY_CHUNK for name in x},))(x)
