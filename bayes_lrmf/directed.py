"""The directed lineage prior: heavy-tailed steps from parents to children, features of roots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.block_elimination import BlockElimination, blocks_of, inverse_roots
from bayes_lrmf.covariates import Covariates
from bayes_lrmf.elimination import Elimination, eliminate, pairs_of_runs
from bayes_lrmf.lineage import RELATIONS, Lineage
from bayes_lrmf.scale_mixture import SCALE_GRID

__all__ = [
    "DRIFT_STEPS",
    "EFFECT_STEPS",
    "STEPS",
    "TAIL_LOG_SD",
    "DirectedGraph",
    "StepScales",
    "covariance_steps",
    "step_index",
]

STEPS = ("root", *RELATIONS)
"""Kinds of steps: of a model without recorded parents, then by relation to the parents."""

DRIFT_STEPS = 2.0
"""Steps that the prior of a drift or a coefficient is worth."""
EFFECT_STEPS = 10.0
"""Steps that the prior of an effect's variance is worth, by kind of step."""
TAIL_LOG_SD = 0.5
"""Standard deviation of the logarithm of tails around the pooled one."""


def covariance_steps(rank: int) -> float:
    """Return the steps that the prior of the factors' covariance is worth, by kind of step."""
    return 2.0 * (rank + 1)


def step_index(lineage: Lineage) -> np.ndarray:
    """Return the index into `STEPS` of each node, int32; several parents make a merge."""
    n_parents = np.bincount(lineage.child, minlength=len(lineage.nodes))
    step = np.zeros(len(lineage.nodes), np.int32)
    for at, relation in enumerate(RELATIONS, start=1):
        step[lineage.child[lineage.relation == relation]] = at
    step[n_parents > 1] = STEPS.index("merge")
    return step


class DirectedGraph:
    """Which node steps away from which, and the sparse precision this leads to.

    With ``e_j = t_j - sum_p w_jp t_p`` of precision P_j around c_j, the joint precision is
    ``(I - W)' P (I - W)``: a block at every node, edge and pair of parents.

    Parameters
    ----------
    lineage : Lineage
        Without cycles; the weights of a child's parents sum to one.
    max_degree : int, optional
        As `eliminate` takes it: for lineages whose merges fill the graph in, see
        `bayes_lrmf.reduced`.
    """

    def __init__(self, lineage: Lineage, *, max_degree: int | None = None) -> None:
        self.max_degree = max_degree
        self.n_nodes = len(lineage.nodes)
        self.child = lineage.child.astype(np.int64)
        self.parent = lineage.parent.astype(np.int64)
        self.weight = lineage.weight
        self.step = step_index(lineage)
        self._depth = lineage.depth()
        of_child = np.argsort(self.child, kind="stable")
        n_parents = np.bincount(self.child, minlength=self.n_nodes)
        first, second = pairs_of_runs(n_parents)
        self.first, self.second = of_child[first], of_child[second]

    @cached_property
    def order(self) -> Elimination:
        """The elimination order of the moral graph, in which the parents of a merge are joined."""
        rows = np.concatenate([self.child, self.parent[self.first]])
        cols = np.concatenate([self.parent, self.parent[self.second]])
        return eliminate(self.n_nodes, rows, cols, max_degree=self.max_degree)

    @cached_property
    def blocks(self) -> BlockElimination:
        """The elimination of the moral graph by blocks."""
        return blocks_of(self.order)

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """Edges by the generation of their child, so that parents are done before children."""
        of_edge = self._depth[self.child]
        order = np.argsort(of_edge, kind="stable")
        stops = np.bincount(of_edge, minlength=1).cumsum()[:-1]
        return np.split(order, stops)[1:]

    @cached_property
    def _shares(self) -> sp.csr_array:
        """The matrix W, from values of parents to their children."""
        at = (self.child, self.parent)
        return sp.csr_array((self.weight, at), shape=(self.n_nodes, self.n_nodes))

    @cached_property
    def _of_entries(self) -> sp.csr_array:
        """What multiplies the step precisions of children to blocks below the diagonal."""
        edge = self.order.entry_of(self.child, self.parent)
        pair = self.order.entry_of(self.parent[self.first], self.parent[self.second])
        share = np.concatenate([-self.weight, self.weight[self.first] * self.weight[self.second]])
        at = np.concatenate([edge, pair]), np.concatenate([self.child, self.child[self.first]])
        return sp.csr_array((share, at), shape=(self.order.n_entries, self.n_nodes))

    def precision(
        self, step_precision: np.ndarray, centre: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the joint precision and what it multiplies the mean to.

        Parameters
        ----------
        step_precision : array, shape (n_nodes, size, size)
        centre : array, shape (n_nodes, size)

        Returns
        -------
        diagonal, off_diagonal : arrays
            Blocks as `BlockElimination` wants them.
        linear : array, shape (n_nodes, size)
        """
        p, shares = step_precision, self._shares
        flat = p.reshape(self.n_nodes, -1)
        diagonal = p + (shares.power(2).T @ flat).reshape(p.shape)
        # Step precisions are symmetric, so the orientation of a block does not matter.
        off = (self._of_entries @ flat).reshape(-1, *p.shape[1:])
        pull = (p @ centre[..., None])[..., 0]
        return diagonal, off, pull - shares.T @ pull

    def log_determinant_and_gradient(self, step_precision: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the log-determinant of the joint precision, and its gradient.

        ``I - W`` is triangular with a diagonal of ones, so that the log-determinant is the sum of
        those of the steps and its gradient their covariances, whatever the lineage.

        Parameters
        ----------
        step_precision : array, shape (n_nodes, size, size)

        Returns
        -------
        log_determinant : float
        gradient : array, shape (n_nodes, size, size)

        Raises
        ------
        numpy.linalg.LinAlgError
            If a step precision is not positive definite.
        """
        root = inverse_roots(step_precision)
        value = -2 * np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum()
        return float(value), root @ root.mT

    def steps_of(self, values: np.ndarray) -> np.ndarray:
        """Return ``t_j - sum_p w_jp t_p`` for values of shape (n_nodes, ...)."""
        inherited = self._shares @ values.reshape(self.n_nodes, -1)
        return values - inherited.reshape(values.shape).astype(values.dtype)

    def pulls_of(self, steps: np.ndarray) -> np.ndarray:
        """Return ``(I - W)'`` times an array of shape (n_nodes, ...).

        Of steps drawn with covariance P it is a draw with the covariance ``(I - W)' P (I - W)``.
        """
        pulled = self._shares.T @ steps.reshape(self.n_nodes, -1)
        return steps - pulled.reshape(steps.shape).astype(steps.dtype)

    def values_of(self, steps: np.ndarray) -> np.ndarray:
        """Return the values that steps of shape (n_nodes, ...) lead to: `steps_of` undone."""
        out = steps.reshape(self.n_nodes, -1).copy()
        for child, shares in self._generations:
            out[child] += (shares @ out).astype(out.dtype)
        return out.reshape(steps.shape)

    @cached_property
    def _generations(self) -> list[tuple[np.ndarray, sp.csr_array]]:
        """Children of each generation, and the rows of W that are theirs."""
        found = []
        for edges in self.levels:
            child, at = np.unique(self.child[edges], return_inverse=True)
            shape = (len(child), self.n_nodes)
            found.append(
                (child, sp.csr_array((self.weight[edges], (at, self.parent[edges])), shape=shape))
            )
        return found

    def step_covariance(self, variance: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Return covariances of the steps, from the selected inverse of a joint precision.

        Returns
        -------
        array, shape (n_nodes, size, size)
        """
        n, shape = self.n_nodes, variance.shape
        both = (covariance + covariance.mT).reshape(len(covariance), shape[1] * shape[2])
        moved = self._shares.power(2) @ variance.reshape(n, -1) + self._of_entries.T @ both
        return variance + moved.reshape(shape)


@dataclass(frozen=True, eq=False)
class StepScales:
    """Hyper-parameters of the directed prior, for K factors and E effects.

    ``t_root ~ N(coefficient' features, S)`` and ``t_child ~ N(parents' mean + drift, S)`` with
    S block-diagonal: ``s factor_covariance`` for the factors and ``s_b effect_variance`` for each
    effect, every s an independent draw from `SCALE_GRID`. A child trained on one benchmark moves
    on that one only.

    Attributes
    ----------
    coefficient : array, shape (n_columns, K + E)
    drift : array, shape (n_steps, n_kinds, K + E)
        Zero for roots.
    factor_covariance : array, shape (n_steps, K, K)
    effect_variance : array, shape (n_steps, E)
    factor_shares, effect_shares : arrays, shape (n_steps, n_classes)
        Probabilities of the values of `SCALE_GRID`.
    factor_tail, effect_tail : arrays, shape (n_steps,)
        Degrees of freedom where the shares are those of a Student-t, else NaN.
    """

    coefficient: np.ndarray
    drift: np.ndarray
    factor_covariance: np.ndarray
    effect_variance: np.ndarray
    factor_shares: np.ndarray
    effect_shares: np.ndarray
    factor_tail: np.ndarray
    effect_tail: np.ndarray

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> StepScales:
        """Pick the attributes out of a mapping with names such as ``step_drift``."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.asarray(values[f"step_{name}"], float) for name in names})

    def to_values(self) -> dict[str, np.ndarray]:
        """Return the mapping that `from_values` reads."""
        return {f"step_{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def rank(self) -> int:
        """Number of factors."""
        return int(self.factor_covariance.shape[-1])

    def centre(self, step: np.ndarray, known: Covariates, at: np.ndarray) -> np.ndarray:
        """Return prior means of the steps of nodes, shape (n_nodes, K + E).

        Parameters
        ----------
        step : int array, shape (n_nodes,)
        known : Covariates
        at : int array, shape (n_nodes,)
            Positions of the nodes in `known`.
        """
        mean = self.drift[step, known.kind[at]]
        roots = step == 0
        mean[roots] = known.values[at[roots]] @ self.coefficient
        return mean

    def precision(
        self, step: np.ndarray, factor_weight: np.ndarray, effect_weight: np.ndarray
    ) -> np.ndarray:
        """Return step precisions given the lambdas, shape (n_nodes, K + E, K + E).

        Parameters
        ----------
        step : int array, shape (n_nodes,)
        factor_weight : array, shape (n_nodes,)
        effect_weight : array, shape (n_nodes, E)
        """
        k, size = self.rank, self.rank + self.effect_variance.shape[1]
        out = np.zeros((len(step), size, size))
        out[:, :k, :k] = np.linalg.inv(self.factor_covariance)[step] * factor_weight[:, None, None]
        at = np.arange(k, size)
        out[:, at, at] = effect_weight / self.effect_variance[step]
        return out

    def draw(self, step: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draw steps around zero, float32, shape (n_draws, K + E, n_nodes)."""
        k, n = self.rank, len(step)
        n_effects = self.effect_variance.shape[1]

        def scales(shares: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            border = shares.cumsum(1)
            border[:, -1] = 1.0
            drawn = [SCALE_GRID[np.searchsorted(border[r], rng.random(shape[:-1]))] for r in step]
            return np.stack(drawn, axis=-1) if drawn else np.empty(shape)

        root = np.linalg.cholesky(self.factor_covariance)[step]
        white = (root @ rng.standard_normal((n, k, n_draws))).transpose(2, 1, 0)
        white = white * np.sqrt(scales(self.factor_shares, (n_draws, 1, n)))
        out = np.empty((n_draws, k + n_effects, n), np.float32)
        out[:, :k] = white
        if n_effects:
            white = rng.standard_normal((n_draws, n_effects, n))
            white *= np.sqrt(scales(self.effect_shares, (n_draws, n_effects, n)))
            out[:, k:] = white * np.sqrt(self.effect_variance[step]).T
        return out
