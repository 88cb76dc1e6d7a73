"""Sparse L D L' factors of matrices patterned like a graph, in rounds of independent nodes.

Lineage graphs are close to forests: eliminating independent nodes of low degree together leaves
a few dozen rounds of gathers and scatters, with next to no fill, however large the graph. The
pattern is found once on the host; the numbers run in NumPy or JAX, differentiably.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["Elimination", "Factor", "eliminate"]

Array = Any
"""A NumPy or JAX array."""


class Factor(NamedTuple):
    """Numbers of ``Q = L D L'`` on the pattern of an `Elimination`.

    Attributes
    ----------
    diagonal : array, shape (..., n_nodes)
        The diagonal of D.
    lower : array, shape (..., n_entries)
        The entries of the unit lower triangle L, column by column.
    """

    diagonal: Array
    lower: Array


class _Round(NamedTuple):
    nodes: np.ndarray
    start: int
    stop: int
    first: np.ndarray
    second: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, eq=False)
class Elimination:
    """An elimination order in rounds, and the pattern of the factor it leads to.

    Attributes
    ----------
    n_nodes : int
    owner, neighbour : int32 arrays, shape (n_entries,)
        Entry e of L lies in the column of node ``owner[e]``, on the row of ``neighbour[e]``,
        which is eliminated in a later round.
    rounds : tuple
        Nodes of each round, and the pairs of entries whose product updates a third entry.
    """

    n_nodes: int
    owner: np.ndarray
    neighbour: np.ndarray
    rounds: tuple[_Round, ...]

    @property
    def n_entries(self) -> int:
        """Number of entries below the diagonal of L, fill included."""
        return len(self.owner)

    def entry_of(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the entry that stands for each pair of nodes joined in the pattern."""
        keys = _pair_key(self.owner, self.neighbour, self.n_nodes)
        order = np.argsort(keys)
        wanted = _pair_key(rows, cols, self.n_nodes)
        at = np.searchsorted(keys, wanted, sorter=order)
        return np.asarray(order[at], dtype=np.int32)

    def joins(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return whether each pair of nodes is joined in the pattern."""
        if not self.n_entries:
            return np.zeros(len(rows), bool)
        keys = np.sort(_pair_key(self.owner, self.neighbour, self.n_nodes))
        wanted = _pair_key(rows, cols, self.n_nodes)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.asarray(keys[at] == wanted)

    def factor(self, diagonal: Array, off_diagonal: Array) -> Factor:
        """Factorise the matrix with this diagonal and these entries on the pattern.

        Parameters
        ----------
        diagonal : array, shape (..., n_nodes)
        off_diagonal : array, shape (..., n_entries)
            Zero where the pattern holds fill only.
        """
        d, a = diagonal, off_diagonal
        for r in self.rounds:
            if r.start == r.stop:
                continue
            column = a[..., r.start : r.stop]
            scaled = column / d[..., self.owner[r.start : r.stop]]
            d = _add(d, self.neighbour[r.start : r.stop], -scaled * column)
            if len(r.target):
                update = -a[..., r.first] * a[..., r.second] / d[..., self.owner[r.first]]
                a = _add(a, r.target, update)
        return Factor(d, a / d[..., self.owner])

    def solve_upper(self, factor: Factor, right: Array) -> Array:
        """Return x with ``D^(1/2) L' x = right``: white noise in, a draw with precision Q out."""
        x = right / factor.diagonal**0.5
        for r in reversed(self.rounds):
            if r.start == r.stop:
                continue
            later = x[..., self.neighbour[r.start : r.stop]]
            step = -factor.lower[..., r.start : r.stop] * later
            x = _add_runs(x, self.owner[r.start : r.stop], step)
        return x

    def multiply_upper(self, factor: Factor, x: Array) -> Array:
        """Return ``D^(1/2) L' x``, the inverse of `solve_upper`."""
        inner = _add(x, self.owner, factor.lower * x[..., self.neighbour])
        return factor.diagonal**0.5 * inner

    def selected_inverse(self, factor: Factor) -> tuple[Array, Array]:
        """Return the diagonal of Q^-1 and its entries on the pattern (Takahashi's recursions).

        Returns
        -------
        diagonal : array, shape (..., n_nodes)
        entries : array, shape (..., n_entries)
        """
        variance = 1.0 / factor.diagonal
        covariance = 0.0 * factor.lower
        low = factor.lower
        for r in reversed(self.rounds):
            if r.start == r.stop:
                continue
            here = slice(r.start, r.stop)
            column = -low[..., here] * variance[..., self.neighbour[here]]
            if len(r.target):
                across = covariance[..., r.target]
                column = _add(column, r.first - r.start, -low[..., r.second] * across)
                column = _add(column, r.second - r.start, -low[..., r.first] * across)
            covariance = _set(covariance, here, column)
            variance = _add_runs(variance, self.owner[here], -low[..., here] * column)
        return variance, covariance


def eliminate(n_nodes: int, rows: np.ndarray, cols: np.ndarray) -> Elimination:
    """Order the nodes of an undirected graph for elimination in independent rounds.

    Parameters
    ----------
    n_nodes : int
    rows, cols : int arrays, shape (n_edges,)
        Ends of the edges; self-loops are not allowed, repeated edges count once.
    """
    adjacent: list[set[int]] = [set() for _ in range(n_nodes)]
    for i, j in zip(rows.tolist(), cols.tolist(), strict=True):
        adjacent[i].add(j)
        adjacent[j].add(i)
    columns = list(_rounds(adjacent))
    owner = np.array([j for column in columns for j, nb in column for _ in nb], dtype=np.int32)
    neighbour = np.array([i for column in columns for _, nb in column for i in nb], np.int32)
    entry = {key: e for e, key in enumerate(_pair_key(owner, neighbour, max(n_nodes, 1)).tolist())}
    rounds, start = [], 0
    for column in columns:
        stop, triples = start, []
        for _, nb in column:
            for p in range(len(nb)):
                for q in range(p + 1, len(nb)):
                    low, high = sorted((nb[p], nb[q]))
                    triples.append((stop + p, stop + q, entry[low * n_nodes + high]))
            stop += len(nb)
        first, second, target = np.array(triples, np.int32).reshape(-1, 3).T
        nodes = np.array([j for j, _ in column], np.int32)
        rounds.append(_Round(nodes, start, stop, first, second, target))
        start = stop
    return Elimination(n_nodes, owner, neighbour, tuple(rounds))


def _rounds(adjacent: list[set[int]]) -> Iterator[list[tuple[int, list[int]]]]:
    active = set(range(len(adjacent)))
    while active:
        # Degree 2 is let through always: it halves a chain in each round at no growth in degree.
        limit = max(2, min(len(adjacent[j]) for j in active))
        blocked: set[int] = set()
        column: list[tuple[int, list[int]]] = []
        for j in sorted((j for j in active if len(adjacent[j]) <= limit), key=_by_degree(adjacent)):
            if j in blocked:
                continue
            blocked |= adjacent[j]
            column.append((j, sorted(adjacent[j])))
        for j, nb in column:
            active.discard(j)
            for i in nb:
                adjacent[i].discard(j)
            for p, i in enumerate(nb):
                for k in nb[p + 1 :]:
                    adjacent[i].add(k)
                    adjacent[k].add(i)
        yield column


def _by_degree(adjacent: list[set[int]]) -> Any:
    return lambda j: (len(adjacent[j]), j)


def _pair_key(rows: np.ndarray, cols: np.ndarray, n_nodes: int) -> np.ndarray:
    low, high = np.minimum(rows, cols).astype(np.int64), np.maximum(rows, cols)
    return low * n_nodes + high


def _add(x: Array, index: np.ndarray, value: Array) -> Array:
    if isinstance(x, np.ndarray):
        shape = np.broadcast_shapes(x.shape[:-1], value.shape[:-1])
        out = np.broadcast_to(x, (*shape, x.shape[-1])).copy()
        where: Any = (..., index)
        np.add.at(out, where, value)
        return out
    shape = jnp.broadcast_shapes(x.shape[:-1], value.shape[:-1])
    return jnp.broadcast_to(x, (*shape, x.shape[-1])).at[..., index].add(value)


def _add_runs(x: Array, index: np.ndarray, value: Array) -> Array:
    """Add where equal indices stand side by side; a NumPy array that is large enough is changed."""
    if not isinstance(x, np.ndarray):
        return _add(x, index, value)
    shape = np.broadcast_shapes(x.shape[:-1], value.shape[:-1])
    if x.shape[:-1] != shape:
        x = np.broadcast_to(x, (*shape, x.shape[-1])).copy()
    first = np.flatnonzero(np.diff(index, prepend=-1))
    x[..., index[first]] += np.add.reduceat(value, first, axis=-1)
    return x


def _set(x: Array, index: slice, value: Array) -> Array:
    if isinstance(x, np.ndarray):
        x[..., index] = value
        return x
    return x.at[..., index].set(value)
