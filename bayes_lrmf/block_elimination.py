"""Block L D L' factors of matrices patterned like a graph: a small dense block for each node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.elimination import Elimination, eliminate, ranges
from bayes_lrmf.threads import by_rows

__all__ = ["BlockElimination", "BlockFactor", "block_elimination", "blocks_of", "inverse_roots"]

_ROWS = 512


class BlockFactor(NamedTuple):
    """Numbers of ``Q = L D L'``, by blocks.

    Attributes
    ----------
    root : array, shape (n_nodes, size, size)
        Upper triangular R with ``R R' = D^-1``: white noise in, a draw of the node given the later
        ones out.
    lower : array, shape (n_entries, size, size)
        Block of entry e of L: rows of its neighbour, columns of its owner.
    """

    root: np.ndarray
    lower: np.ndarray

    @property
    def log_determinant(self) -> float:
        """Of Q."""
        return float(-2 * np.log(np.diagonal(self.root, axis1=-2, axis2=-1)).sum())


class _Step(NamedTuple):
    """One round: entries of its columns, and the pairs of entries that update a third.

    Entries of pairs, `row` and `col`, are counted from the first of the round.
    """

    nodes: np.ndarray
    start: int
    stop: int
    to_neighbour: sp.csr_array
    neighbours: np.ndarray
    to_owner: sp.csr_array
    owners: np.ndarray
    row: np.ndarray
    col: np.ndarray
    to_row: sp.csr_array
    rows: np.ndarray
    to_col: sp.csr_array
    cols: np.ndarray
    target: np.ndarray
    to_target: sp.csr_array
    targets: np.ndarray


def _summing(index: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
    """Return a 0/1 matrix that sums by `index`, and the distinct indices its rows stand for."""
    distinct, at = np.unique(index, return_inverse=True)
    shape = (len(distinct), len(index))
    ones = np.ones(len(index))
    return sp.csr_array((ones, (at, np.arange(len(index)))), shape=shape), distinct


def _sum(matrix: sp.csr_array, blocks: np.ndarray) -> np.ndarray:
    flat = matrix @ blocks.reshape(len(blocks), -1)
    return np.asarray(flat).reshape(matrix.shape[0], *blocks.shape[1:])


@dataclass(frozen=True, eq=False)
class BlockElimination:
    """Block factors in the order, and on the pattern, of an `Elimination`.

    Blocks of a symmetric matrix are given as ``diagonal`` (n_nodes, size, size) and
    ``off_diagonal`` (n_entries, size, size), the latter with the rows of the entry's neighbour and
    the columns of its owner; zero where the pattern holds fill only.
    """

    order: Elimination
    steps: tuple[_Step, ...]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.order.n_nodes

    @property
    def n_entries(self) -> int:
        """Number of blocks below the diagonal of L, fill included."""
        return self.order.n_entries

    def located(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the entry of each pair of nodes, and whether its block is transposed there.

        A block with the rows of ``rows[k]`` stands as it is where ``cols[k]`` owns the entry.
        """
        entry = self.order.entry_of(rows, cols)
        return entry, self.order.owner[entry] == rows

    def multiply(self, diagonal: np.ndarray, off_diagonal: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return ``Q x`` from the blocks of Q; `x` has shape (n_nodes, size)."""
        owner, neighbour = self.order.owner, self.order.neighbour
        y = (diagonal @ x[..., None])[..., 0]
        np.add.at(y, neighbour, (off_diagonal @ x[owner, :, None])[..., 0])
        np.add.at(y, owner, (off_diagonal.mT @ x[neighbour, :, None])[..., 0])
        return y

    def factor(self, diagonal: np.ndarray, off_diagonal: np.ndarray) -> BlockFactor:
        """Factorise a positive definite matrix.

        Raises
        ------
        numpy.linalg.LinAlgError
            If it is not positive definite.
        """
        d, a = diagonal.copy(), off_diagonal.copy()
        root, lower = np.empty_like(d), np.empty_like(a)
        for s in self.steps:
            root[s.nodes] = by_rows(inverse_roots, d[s.nodes], rows=_ROWS)
            if s.start == s.stop:
                continue
            here = slice(s.start, s.stop)
            half = a[here] @ root[self.order.owner[here]]
            lower[here] = half @ root[self.order.owner[here]].mT
            d[s.neighbours] -= _sum(s.to_neighbour, half @ half.mT)
            if len(s.target):
                update = half[s.row] @ half[s.col].mT
                a[s.targets] -= _sum(s.to_target, update)
        return BlockFactor(root, lower)

    def precision(self, factor: BlockFactor) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix that a factor is of, as `factor` takes it."""
        upper = np.linalg.inv(factor.root)
        diagonal, off = upper.mT @ upper, np.zeros_like(factor.lower)
        pivots = diagonal.copy()
        for s in self.steps:
            if s.start == s.stop:
                continue
            here = slice(s.start, s.stop)
            low = factor.lower[here]
            column = low @ pivots[self.order.owner[here]]
            off[here] += column
            diagonal[s.neighbours] += _sum(s.to_neighbour, column @ low.mT)
            if len(s.target):
                update = column[s.row] @ low[s.col].mT
                off[s.targets] += _sum(s.to_target, update)
        return diagonal, off

    def solve(self, factor: BlockFactor, right: np.ndarray) -> np.ndarray:
        """Return ``Q^-1 right``; `right` has shape (n_nodes, size) or (n_nodes, size, n)."""
        x = right.reshape(*right.shape[:2], -1).copy()
        for s in self.steps:
            if s.start == s.stop:
                continue
            here = slice(s.start, s.stop)
            update = factor.lower[here] @ x[self.order.owner[here]]
            x[s.neighbours] -= _sum(s.to_neighbour, update)
        x = factor.root @ (factor.root.mT @ x)
        return self._back(factor, x).reshape(right.shape)

    def color(self, factor: BlockFactor, noise: np.ndarray) -> np.ndarray:
        """Turn white noise of shape (n_nodes, size, ...) into draws with precision Q."""
        flat = noise.reshape(*noise.shape[:2], -1)
        return self._back(factor, factor.root @ flat).reshape(noise.shape)

    def _back(self, factor: BlockFactor, x: np.ndarray) -> np.ndarray:
        for s in reversed(self.steps):
            if s.start == s.stop:
                continue
            here = slice(s.start, s.stop)
            update = factor.lower[here].mT @ x[self.order.neighbour[here]]
            x[s.owners] -= _sum(s.to_owner, update).astype(x.dtype)
        return x

    def selected_inverse(self, factor: BlockFactor) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks of Q^-1 on the diagonal and on the pattern (Takahashi's recursions).

        Returns
        -------
        diagonal : array, shape (n_nodes, size, size)
        entries : array, shape (n_entries, size, size)
            Oriented like `off_diagonal`.
        """
        variance = factor.root @ factor.root.mT
        covariance = np.zeros_like(factor.lower)
        for s in reversed(self.steps):
            if s.start == s.stop:
                continue
            here = slice(s.start, s.stop)
            low = factor.lower[here]
            column = -(variance[self.order.neighbour[here]] @ low)
            if len(s.target):
                across = covariance[s.target]
                column[s.rows] -= _sum(s.to_row, across @ low[s.col])
                column[s.cols] -= _sum(s.to_col, across.mT @ low[s.row])
            covariance[here] = column
            variance[s.owners] -= _sum(s.to_owner, low.mT @ column)
        return variance, covariance

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the round of each node, its first entry, and the number of its entries."""
        when, first = np.zeros((2, self.n_nodes), np.int64)
        for number, r in enumerate(self.order.rounds):
            when[r.nodes] = number
        count = np.bincount(self.order.owner, minlength=self.n_nodes)
        distinct, at = np.unique(self.order.owner, return_index=True)
        first[distinct] = at
        return when, first, count

    def joint_covariance(self, factor: BlockFactor, nodes: np.ndarray) -> np.ndarray:
        """Return the blocks of Q^-1 between all pairs of some nodes.

        From the last node that is eliminated to the first, each one's covariances with those after
        it are those of the nodes that it is joined to, weighed by its column of L. Only the nodes
        that are reached from those asked for take part, few more in a graph close to a forest.

        Parameters
        ----------
        factor : BlockFactor
        nodes : int array, shape (n,)
            Distinct.

        Returns
        -------
        array, shape (n, size, n, size)
        """
        when, first, count = self._columns
        size = factor.root.shape[-1]
        reached = frontier = np.unique(nodes)
        while len(frontier):
            later = self.order.neighbour[ranges(first[frontier], count[frontier])]
            frontier = np.setdiff1d(later, reached)
            reached = np.concatenate([reached, frontier])
        reached = reached[np.argsort(-when[reached], kind="stable")]
        place = np.zeros(self.n_nodes, np.int64)
        place[reached] = np.arange(len(reached))
        out = np.zeros((len(reached), size, len(reached) * size))
        stops = np.flatnonzero(np.diff(when[reached], append=-1)) + 1
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            here = reached[start:stop]
            joined = here[count[here] > 0]
            if len(joined):
                entries = ranges(first[joined], count[joined])
                across = factor.lower[entries].mT
                runs = count[joined].cumsum() - count[joined]
                rows = place[self.order.neighbour[entries]]
                done, new = slice(0, start * size), slice(start * size, stop * size)
                out[place[joined], :, done] = -_sum_runs(across @ out[rows, :, done], runs)
                turned = out[start:stop, :, done].reshape(-1, start * size).T
                out[:start, :, new] = turned.reshape(start, size, -1)
                out[place[joined], :, new] = -_sum_runs(across @ out[rows, :, new], runs)
            at = np.arange(start, stop)
            blocks = out.reshape(len(reached), size, len(reached), size)
            blocks[at, :, at] += factor.root[here] @ factor.root[here].mT
        asked = place[nodes]
        blocks = out.reshape(len(reached), size, len(reached), size)
        return blocks[asked][:, :, asked]


def _sum_runs(x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return sums over runs of the first axis, none of them empty."""
    return x if len(start) == len(x) else np.add.reduceat(x, start)


def inverse_roots(blocks: np.ndarray) -> np.ndarray:
    """Return upper triangular R with ``R R'`` the inverse of each block."""
    lower = np.linalg.cholesky(blocks)
    eye = np.broadcast_to(np.eye(blocks.shape[-1]), blocks.shape)
    return np.linalg.solve(lower, eye).mT


def block_elimination(n_nodes: int, rows: np.ndarray, cols: np.ndarray) -> BlockElimination:
    """Order the nodes of an undirected graph for elimination by blocks.

    Parameters
    ----------
    n_nodes : int
    rows, cols : int arrays, shape (n_edges,)
        Ends of the edges, as for `eliminate`.
    """
    return blocks_of(eliminate(n_nodes, rows, cols))


def blocks_of(order: Elimination) -> BlockElimination:
    """Return the elimination by blocks in an order that keeps no node.

    Parameters
    ----------
    order : Elimination

    Raises
    ------
    ValueError
        If nodes are kept.
    """
    if len(order.kept):
        raise ValueError(f"{len(order.kept):,} nodes are kept: eliminate without max_degree")
    steps = []
    for r in order.rounds:
        here = slice(r.start, r.stop)
        to_neighbour, neighbours = _summing(order.neighbour[here])
        to_owner, owners = _summing(order.owner[here])
        # The block of the target has the rows of its neighbour.
        swap = order.neighbour[r.first] != order.neighbour[r.target]
        row = np.where(swap, r.second, r.first) - r.start
        col = np.where(swap, r.first, r.second) - r.start
        to_target, targets = _summing(r.target)
        to_row, rows = _summing(row)
        to_col, cols = _summing(col)
        steps.append(
            _Step(
                nodes=r.nodes,
                start=r.start,
                stop=r.stop,
                to_neighbour=to_neighbour,
                neighbours=neighbours,
                to_owner=to_owner,
                owners=owners,
                row=row,
                col=col,
                to_row=to_row,
                rows=rows,
                to_col=to_col,
                cols=cols,
                target=r.target,
                to_target=to_target,
                targets=targets,
            )
        )
    return BlockElimination(order, tuple(steps))
