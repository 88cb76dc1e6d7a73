"""Recorded parents against parents drawn at random: how many are no nearer to their child."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import scipy.sparse as sp
from scipy.stats import binom

from bayes_lrmf.checks import whole_number
from bayes_lrmf.directed import StepScales
from bayes_lrmf.item_space import core_draws, item_roots, parents_of_evaluated
from bayes_lrmf.kinship import kept_apart
from bayes_lrmf.posterior import Posterior, VariationalState

__all__ = ["ParentRanks", "parent_ranks"]

_BLOCK = 500
_USUAL_SHARE = 0.02
_SURE = 0.01


@dataclass(frozen=True, eq=False)
class ParentRanks:
    """How recorded parents rank among random ones.

    Attributes
    ----------
    children : int array, shape (n_children,)
        Evaluated models with parents in the fit, by position in the table.
    share_nearer : array, shape (n_children,)
        Share of random parents that lie nearer to the child than those recorded. It would be
        uniform on 0..1 if the recorded ones were themselves drawn at random.
    """

    children: np.ndarray
    share_nearer: np.ndarray

    @property
    def beyond_half(self) -> np.ndarray:
        """Which children have recorded parents farther away than half of the random ones."""
        return np.asarray(self.share_nearer > 0.5)

    @property
    def share_random(self) -> float:
        """Share of children whose recorded parents are as if drawn at random.

        Twice the share beyond half, as of p-values: Storey (2002), A direct approach to false
        discovery rates, equation 6 at 1/2.
        """
        return min(1.0, 2 * float(self.beyond_half.mean()))

    @property
    def standard_error(self) -> float:
        """Standard error of twice a share of independent children."""
        share = float(self.beyond_half.mean())
        return 2 * float(np.sqrt(share * (1 - share) / len(self.children)))

    @property
    def too_many(self) -> bool:
        """Whether there are more beyond half than 2 % of random parents explain, at a 1 % level."""
        n_beyond = int(self.beyond_half.sum())
        return bool(binom.sf(n_beyond - 1, len(self.children), _USUAL_SHARE / 2) < _SURE)


def parent_ranks(
    posterior: Posterior, *, key: jax.Array, n_draws: int = 20, n_random: int = 100
) -> ParentRanks:
    """Compare the distances of children to recorded and to random parents.

    Distances are expected squares over the posterior and the items, in log-odds, after the mean
    step of the relation where `fit_vb` learned one; those of a merge are to the weighted mean of
    its parents. Random parents are as many evaluated models, none of them the child, a recorded
    parent or a descendant. What the fit has learned of the lengths of steps does not enter: wrong
    parents lengthen these, and would hide among them.

    Parameters
    ----------
    posterior : Posterior
        Of any prior with lineage.
    key : jax key
    n_draws : int
        Of the posterior.
    n_random : int
        Random parents of each child.

    Raises
    ------
    InputError
        For a point estimate, or a fit without lineage.
    """
    n_random, design = whole_number(n_random, name="n_random"), posterior.design
    children, weights = parents_of_evaluated(design.core, design.n_evaluated)
    draw_key, rest = jax.random.split(key)
    drawn = core_draws(posterior, key=draw_key, n_draws=whole_number(n_draws, name="n_draws"))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rest)).tolist())
    root = item_roots(drawn.cols)
    points = drawn.rows.mT @ root
    drift = np.zeros((len(children), root.shape[1]), np.float32)
    if isinstance(posterior.state, VariationalState) and design.covariates is not None:
        scales = StepScales.from_values(posterior.state.values)
        step, kind = design.directed.step[children], design.covariates.kind[children]
        drift = scales.drift[step, kind].astype(np.float32)
    barred = kept_apart(design.core, design.n_evaluated)
    share = np.empty(len(children))
    for start in range(0, len(children), _BLOCK):
        some = slice(start, start + _BLOCK)
        mine = weights[some]
        own = points[:, children[some]] - drift[some] @ root
        recorded = _mean_square(own - np.stack([mine @ draw for draw in points]))
        place = np.repeat(np.arange(mine.shape[0]), np.diff(mine.indptr))
        at = children[some][place]
        nearer, allowed = np.zeros((2, mine.shape[0]))
        for _ in range(n_random):
            other = rng.integers(0, design.n_evaluated, mine.nnz)
            lost = np.asarray(barred[at, other]).ravel() != 0
            kept = np.bincount(place, lost, mine.shape[0]) == 0
            drawn_weights = sp.csr_array((mine.data, other, mine.indptr), shape=mine.shape)
            square = _mean_square(own - np.stack([drawn_weights @ draw for draw in points]))
            nearer += kept & (square < recorded)
            allowed += kept
        share[some] = nearer / np.maximum(allowed, 1)
    return ParentRanks(children, share)


def _mean_square(difference: np.ndarray) -> np.ndarray:
    return np.asarray((difference**2).sum(-1).mean(0))
