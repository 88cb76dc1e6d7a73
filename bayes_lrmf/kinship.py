"""Models as points in log-odds: how far from their recorded parents, and who is closest to whom."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import scipy.sparse as sp

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.directed import StepScales
from bayes_lrmf.item_space import (
    CoreDraws,
    core_draws,
    item_roots,
    parents_of_evaluated,
    steps_of,
)
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior

__all__ = ["Kin", "kept_apart"]

_STEPS_PER_DRAW = 200
_SEARCH_DRAWS = 32
_N_CANDIDATES = 5
_BLOCK = 1000


@dataclass(frozen=True, eq=False)
class Kin:
    """Draws of models, their recorded parents, and the closest other models.

    Attributes
    ----------
    posterior : Posterior
    drawn : CoreDraws
    root : array, shape (n_draws, n_fields, n_fields)
    points : array, shape (n_draws, n_evaluated, n_fields)
        Distances between them are in log-odds.
    children : int array, shape (n_children,)
    step : int array, shape (n_children,)
        Index into `STEPS`.
    steps : array, shape (n_draws, n_children, n_fields)
        Of children from their parents, in factors and effects.
    moved : array, shape (n_draws, n_children)
        Distances of children to their parents.
    candidates : int array, shape (n_evaluated, n_candidates)
        The closest other models that are no recorded parents or descendants, closest first.
    near : array, shape (n_draws, n_evaluated)
        Distances to the first; infinite where there is none.
    rng : numpy Generator
    """

    posterior: Posterior
    drawn: CoreDraws
    root: np.ndarray
    points: np.ndarray
    children: np.ndarray
    step: np.ndarray
    steps: np.ndarray
    moved: np.ndarray
    candidates: np.ndarray
    near: np.ndarray
    rng: np.random.Generator

    @classmethod
    def of(cls, posterior: Posterior, *, key: jax.Array, n_draws: int) -> Kin:
        """Draw from a posterior of the directed prior, and search."""
        n_draws = whole_number(n_draws, name="n_draws", minimum=2)
        design = posterior.design
        children, weights = parents_of_evaluated(design.core, design.n_evaluated)
        draw_key, rest = jax.random.split(key)
        drawn = core_draws(posterior, key=draw_key, n_draws=n_draws)
        if "step_drift" not in posterior.state.values:
            raise InputError(
                f"spec {posterior.spec.name} learns no distribution of steps to judge parents by",
                fix="fit spec lrmf or directed with method vb",
            )
        root = item_roots(drawn.cols)
        points = drawn.rows[:, :, : design.n_evaluated].mT @ root
        steps = steps_of(drawn.rows, children, weights)
        moved = np.linalg.norm(steps @ root, axis=-1)
        candidates = _nearest(points, kept_apart(design.core, design.n_evaluated))
        first = candidates[:, 0]
        near = np.linalg.norm(points - points[:, first], axis=-1)
        near[:, first == np.arange(len(first))] = np.inf
        return cls(
            posterior,
            drawn,
            root,
            points,
            children,
            design.directed.step[children],
            steps,
            moved,
            candidates,
            near,
            np.random.default_rng(np.asarray(jax.random.key_data(rest)).tolist()),
        )

    @property
    def names(self) -> np.ndarray:
        """Names of core models."""
        return self.posterior.design.core.nodes

    def tail_probabilities(self) -> np.ndarray:
        """Return probabilities of steps as long as those of children, shape (n_children,)."""
        scales = StepScales.from_values(self.posterior.state.values)
        known = self.posterior.design.covariates
        assert known is not None
        kind, n_draws = known.kind[self.children], len(self.root)
        n_steps = n_draws * _STEPS_PER_DRAW
        out = np.empty(len(self.children))
        for r, k in np.unique(np.stack([self.step, kind], axis=1), axis=0):
            mine = (self.step == r) & (kind == k)
            drawn = scales.draw(np.array([r]), n_steps, self.rng)[:, :, 0] + scales.drift[r, k]
            length = np.linalg.norm(drawn.reshape(n_draws, _STEPS_PER_DRAW, -1) @ self.root, axis=2)
            longer = n_steps - np.searchsorted(np.sort(length, axis=None), self.moved[:, mine])
            out[mine] = ((longer + 1) / (n_steps + 1)).mean(0)
        return out

    def with_known_parents(self) -> np.ndarray:
        """Return which children have evaluated parents only, no ancestors; all if none has."""
        core, n_evaluated = self.posterior.design.core, self.posterior.design.n_evaluated
        far = (core.parent >= n_evaluated) | (core.relation == "ancestor")
        known = np.bincount(core.child, far, len(core.nodes))[self.children] == 0
        return known if known.any() else ~known


def kept_apart(core: Lineage, n_evaluated: int) -> sp.csr_array:
    """Return which models are no candidates: themselves, recorded parents, all descendants."""
    n = len(core.nodes)
    own = sp.csr_array((np.ones(len(core.child)), (core.child, core.parent)), shape=(n, n))
    reach = longer = own
    while longer.nnz:
        longer = own @ longer
        reach = reach + longer
    out = sp.eye_array(n, format="csr") + own + reach.T.tocsr()
    return out[:n_evaluated][:, :n_evaluated].tocsr()


def _nearest(points: np.ndarray, apart: sp.csr_array) -> np.ndarray:
    """Return the models of least expected squared distance to each, closest first.

    Returns
    -------
    int array, shape (n_evaluated, n_candidates)
        The model itself in place of those kept apart.
    """
    n = points.shape[1]
    some = np.linspace(0, len(points) - 1, min(len(points), _SEARCH_DRAWS)).round().astype(int)
    centred = points[some] - points[some].mean(1, keepdims=True)
    # Draws side by side: the squared distance of the whole is the sum over draws.
    wide = centred.transpose(1, 0, 2).reshape(n, -1)
    square, n_near = (wide**2).sum(1), min(n, _N_CANDIDATES)
    out = np.empty((n, n_near), np.int64)
    for start in range(0, n, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, n))
        distance = square - 2 * wide[block] @ wide.T
        distance[apart[block].nonzero()] = np.inf
        near = np.argpartition(distance, n_near - 1, axis=1)[:, :n_near]
        value = np.take_along_axis(distance, near, axis=1)
        order = value.argsort(1)
        near = np.take_along_axis(near, order, axis=1)
        kept = np.isfinite(np.take_along_axis(value, order, axis=1))
        out[block] = np.where(kept, near, block[:, None])
    return out
