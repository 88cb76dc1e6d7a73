"""Sparse L D L' factors of matrices patterned like a graph, in rounds of independent nodes.

Lineage graphs are close to forests: eliminating independent nodes of low degree together leaves
a few dozen rounds of gathers and scatters, with next to no fill, however large the graph. The
pattern is found once on the host; the numbers run in NumPy or JAX, differentiably.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["Elimination", "Factor", "eliminate", "pairs_of_runs", "ranges"]

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


class _Sum(NamedTuple):
    """Sums of values that share an index: sorted into runs, then added run by run."""

    target: np.ndarray
    order: np.ndarray | None
    start: np.ndarray
    distinct: np.ndarray


def _summing(index: np.ndarray) -> _Sum:
    order = None
    if len(index) and (np.diff(index) < 0).any():
        order = np.argsort(index, kind="stable")
    runs = index if order is None else index[order]
    start = np.flatnonzero(np.diff(runs, prepend=-1))
    return _Sum(index, order, start, runs[start])


class _Round(NamedTuple):
    nodes: np.ndarray
    start: int
    stop: int
    first: np.ndarray
    second: np.ndarray
    target: np.ndarray
    to_neighbour: _Sum
    to_first: _Sum
    to_second: _Sum
    to_target: _Sum


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
    kept : int array, shape (n_kept,)
        Nodes that are left, if elimination ended early. Entries between them come last, each in
        the column of the lower number.
    """

    n_nodes: int
    owner: np.ndarray
    neighbour: np.ndarray
    rounds: tuple[_Round, ...]
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def n_entries(self) -> int:
        """Number of entries below the diagonal of L, fill included."""
        return len(self.owner)

    @cached_property
    def _sorted_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted keys of the entries, and the entry of each."""
        keys = _pair_key(self.owner, self.neighbour, self.n_nodes)
        order = np.argsort(keys).astype(np.int32)
        return keys[order], order

    def entry_of(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the entry that stands for each pair of nodes joined in the pattern."""
        keys, order = self._sorted_keys
        return order[np.searchsorted(keys, _pair_key(rows, cols, self.n_nodes))]

    def joins(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return whether each pair of nodes is joined in the pattern."""
        if not self.n_entries:
            return np.zeros(len(rows), bool)
        keys, _ = self._sorted_keys
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
        d, a = self.reduce(diagonal, off_diagonal)
        return Factor(d, a / d[..., self.owner])

    def reduce(self, diagonal: Array, off_diagonal: Array) -> tuple[Array, Array]:
        """Return D and ``L D``, on nodes that are kept the Schur complement, of the same matrix.

        Returns
        -------
        diagonal : array, shape (..., n_nodes)
        off_diagonal : array, shape (..., n_entries)
        """
        shape = np.broadcast_shapes(np.shape(diagonal)[:-1], np.shape(off_diagonal)[:-1])
        d, a = _own(diagonal, shape), _own(off_diagonal, shape)
        for r in self.rounds:
            if r.start == r.stop:
                continue
            column = a[..., r.start : r.stop]
            scaled = column / d[..., self.owner[r.start : r.stop]]
            d = _add(d, r.to_neighbour, -scaled * column)
            if len(r.target):
                at = r.first - r.start, r.second - r.start
                a = _add(a, r.to_target, -scaled[..., at[0]] * column[..., at[1]])
        return d, a

    def solve(self, factor: Factor, right: Array) -> Array:
        """Return ``Q^-1 right``, shape (..., n_nodes)."""
        return self.backward(factor.lower, self.forward(factor.lower, right) / factor.diagonal)

    def forward(self, lower: Array, right: Array) -> Array:
        """Return ``L^-1 right``, shape (..., n_nodes)."""
        x = _own(right, np.broadcast_shapes(right.shape[:-1], lower.shape[:-1]))
        for r in self.rounds:
            if r.start == r.stop:
                continue
            here = slice(r.start, r.stop)
            x = _add(x, r.to_neighbour, -lower[..., here] * x[..., self.owner[here]])
        return x

    def backward(self, lower: Array, right: Array) -> Array:
        """Return ``L'^-1 right``, shape (..., n_nodes)."""
        x = _own(right, np.broadcast_shapes(right.shape[:-1], lower.shape[:-1]))
        for r in reversed(self.rounds):
            if r.start == r.stop:
                continue
            here = slice(r.start, r.stop)
            step = -lower[..., here] * x[..., self.neighbour[here]]
            x = _add_runs(x, self.owner[here], step)
        return x

    def solve_upper(self, factor: Factor, right: Array) -> Array:
        """Return x with ``D^(1/2) L' x = right``: white noise in, a draw with precision Q out."""
        return self.backward(factor.lower, right / factor.diagonal**0.5)

    def multiply_upper(self, factor: Factor, x: Array) -> Array:
        """Return ``D^(1/2) L' x``, the inverse of `solve_upper`."""
        step = factor.lower * x[..., self.neighbour]
        inner = _add_runs(_own(x, step.shape[:-1]), self.owner, step)
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
                column = _add(column, r.to_first, -low[..., r.second] * across)
                column = _add(column, r.to_second, -low[..., r.first] * across)
            covariance = _set(covariance, here, column)
            variance = _add_runs(variance, self.owner[here], -low[..., here] * column)
        return variance, covariance


def eliminate(
    n_nodes: int, rows: np.ndarray, cols: np.ndarray, *, max_degree: int | None = None
) -> Elimination:
    """Order the nodes of an undirected graph for elimination in independent rounds.

    A round takes, by degree and then by number, the nodes of the least degree (of degree 2 and
    less at any rate) that are joined to none taken before: minimum degree by independent sets.

    Parameters
    ----------
    n_nodes : int
    rows, cols : int arrays, shape (n_edges,)
        Ends of the edges; self-loops are not allowed, repeated edges count once.
    max_degree : int, optional
        End when every node left is joined to more others than this, and keep them. By default
        all nodes are eliminated.

    References
    ----------
    Liu (1985), Modification of the minimum-degree algorithm by multiple elimination.
    """
    columns, kept, (low, high) = _columns(n_nodes, rows, cols, max_degree)
    none = np.empty(0, np.int32)
    owner = np.concatenate([none, *(np.repeat(nodes, degree) for nodes, degree, _ in columns), low])
    neighbour = np.concatenate([none, *(joined for _, _, joined in columns), high])
    whole = Elimination(
        n_nodes, owner.astype(np.int32), neighbour.astype(np.int32), (), kept.astype(np.int32)
    )
    rounds, start = [], 0
    for nodes, degree, joined in columns:
        stop = start + len(joined)
        p, q = pairs_of_runs(degree)
        target = whole.entry_of(joined[p], joined[q]) if len(p) else none
        rounds.append(
            _Round(
                nodes=nodes.astype(np.int32),
                start=start,
                stop=stop,
                first=(start + p).astype(np.int32),
                second=(start + q).astype(np.int32),
                target=target,
                to_neighbour=_summing(whole.neighbour[start:stop]),
                to_first=_summing(p),
                to_second=_summing(q),
                to_target=_summing(target),
            )
        )
        start = stop
    return replace(whole, rounds=tuple(rounds))


_Column = tuple[np.ndarray, np.ndarray, np.ndarray]


def _columns(
    n_nodes: int, rows: np.ndarray, cols: np.ndarray, max_degree: int | None
) -> tuple[list[_Column], np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return for each round its nodes, their degrees, and what they are joined to, in turn.

    Then the nodes that are left, and the pairs of them that are joined.

    What is left of the graph is kept as the sorted numbers ``row * n + col`` of its entries, rows
    and columns counted among the nodes left, so that the rounds together cost what the first does
    while each takes a share of the nodes.
    """
    ends = np.concatenate([rows, cols]).astype(np.int64), np.concatenate([cols, rows])
    nodes, entries = np.arange(n_nodes), _distinct(ends[0] * n_nodes + ends[1])
    columns: list[_Column] = []
    while n := len(nodes):
        row, col = np.divmod(entries, n)
        degree = np.bincount(row, minlength=n)
        if max_degree is not None and degree.min() > max_degree:
            once = row < col
            return columns, nodes, (nodes[row[once]], nodes[col[once]])
        # Degree 2 is let through always: it halves a chain in each round at no growth in degree.
        taken = _independent(degree, row, col, degree <= max(2, int(degree.min())))
        of_taken = degree[taken]
        joined = col[ranges((degree.cumsum() - degree)[taken], of_taken)]
        columns.append((nodes[taken], of_taken, nodes[joined]))
        gone = np.zeros(n, bool)
        gone[taken] = True
        position, left = (~gone).cumsum() - 1, n - len(taken)
        keep = ~(gone[row] | gone[col])
        entries = position[row[keep]] * left + position[col[keep]]
        p, q = pairs_of_runs(of_taken)
        a, b = position[joined[p]], position[joined[q]]
        entries = _union(entries, np.concatenate([a * left + b, b * left + a]))
        nodes = nodes[~gone]
    return columns, nodes, (nodes, nodes)


_N_SWEEPS = 12


def _independent(
    degree: np.ndarray, row: np.ndarray, col: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return wanted nodes of which no two are joined: each in turn, if none before is its kin.

    In each sweep all nodes are taken that come before every wanted one they are joined to. Few
    sweeps do, but on a chain numbered along its length: what they leave is done node by node.
    """
    n = len(degree)
    rank = np.empty(n, np.int64)
    rank[np.lexsort((np.arange(n), degree))] = np.arange(n)
    free, taken = wanted.copy(), np.zeros(n, bool)
    keep = free[row] & free[col]
    row, col = row[keep], col[keep]
    for _ in range(_N_SWEEPS):
        if not len(row):
            break
        start = np.flatnonzero(np.diff(row, prepend=-1))
        first = np.full(n, n)
        first[row[start]] = np.minimum.reduceat(rank[col], start)
        now = free & (rank < first)
        taken |= now
        free[now] = False
        free[col[now[row]]] = False
        keep = free[row] & free[col]
        row, col = row[keep], col[keep]
    if len(row):
        start = np.searchsorted(row, np.arange(n + 1)).tolist()
        joined, is_free = col.tolist(), free.tolist()
        left = np.unique(row)
        for i in left[np.argsort(rank[left])].tolist():
            if is_free[i]:
                for j in joined[start[i] : start[i + 1]]:
                    is_free[j] = False
        free = np.array(is_free)
    found = np.flatnonzero(taken | free)
    return found[np.argsort(rank[found])]


def pairs_of_runs(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of places within each of some runs that stand one after the other."""
    place = np.arange(length.sum())
    after = np.repeat(length.cumsum(), length) - place - 1
    return np.repeat(place, after), ranges(place + 1, after)


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the integers of half-open ranges, one range after the other."""
    before = np.repeat(length.cumsum() - length, length)
    return np.arange(length.sum()) - before + np.repeat(start, length)


def _distinct(x: np.ndarray) -> np.ndarray:
    """Return sorted distinct numbers, none below zero; `numpy.unique` hashes, which is slower."""
    x = np.sort(x)
    return x[np.diff(x, prepend=-1) > 0]


def _union(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the sorted union of sorted distinct numbers with a few others."""
    new = _distinct(new)
    at = np.searchsorted(old, new)
    if len(old):
        fresh = old[np.minimum(at, len(old) - 1)] != new
        at, new = at[fresh], new[fresh]
    return np.insert(old, at, new)


def _pair_key(rows: np.ndarray, cols: np.ndarray, n_nodes: int) -> np.ndarray:
    low, high = np.minimum(rows, cols).astype(np.int64), np.maximum(rows, cols)
    return low * n_nodes + high


def _own(x: Array, shape: tuple[int, ...]) -> Array:
    """Return `x` with leading axes `shape`; an array of NumPy's is a copy, to be changed."""
    if isinstance(x, np.ndarray):
        return np.broadcast_to(x, (*shape, x.shape[-1])).copy()
    return jnp.broadcast_to(x, (*shape, x.shape[-1]))


def _add(x: Array, to: _Sum, value: Array) -> Array:
    """Add values to where they belong; an array of NumPy's is changed."""
    if not isinstance(x, np.ndarray):
        return x.at[..., to.target].add(value)
    runs = value if to.order is None else value[..., to.order]
    x[..., to.distinct] += np.add.reduceat(runs, to.start, axis=-1)
    return x


def _add_runs(x: Array, index: np.ndarray, value: Array) -> Array:
    """Add where equal indices stand side by side; a NumPy array that is large enough is changed."""
    shape = np.broadcast_shapes(x.shape[:-1], value.shape[:-1])
    if not isinstance(x, np.ndarray):
        return jnp.broadcast_to(x, (*shape, x.shape[-1])).at[..., index].add(value)
    if x.shape[:-1] != shape:
        x = np.broadcast_to(x, (*shape, x.shape[-1])).copy()
    if len(index):
        first = np.flatnonzero(np.diff(index, prepend=-1))
        x[..., index[first]] += np.add.reduceat(value, first, axis=-1)
    return x


def _set(x: Array, index: slice, value: Array) -> Array:
    if isinstance(x, np.ndarray):
        x[..., index] = value
        return x
    return x.at[..., index].set(value)
