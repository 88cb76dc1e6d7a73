"""Scales of the directed prior given what results tell of each model: the evidence maximised."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from bayes_lrmf.directed import DirectedGraph
from bayes_lrmf.inference.vb_steps import DirectedPrior, Moments
from bayes_lrmf.lineage import Lineage

__all__ = ["Evidence", "with_learned_steps"]

_MOST_ROUNDS = 200
_GAIN, _GAIN_BY_NODE = 0.02, 1e-4


class Evidence(NamedTuple):
    """A Gaussian likelihood of all nodes: ``exp(linear t - t precision t / 2)`` for each.

    Attributes
    ----------
    precision : array, shape (n_nodes, size, size)
    linear : array, shape (n_nodes, size)
    """

    precision: np.ndarray
    linear: np.ndarray


def with_learned_steps(prior: DirectedPrior, core: Lineage, told: Evidence) -> DirectedPrior:
    """Return the prior whose scales of steps from parents have the most evidence, and its weights.

    By expectation maximisation over the models that have kin, the variances of steps integrated out
    by expectation propagation, until a round gains next to nothing. Scales of roots, and their
    coefficients, stay.

    Parameters
    ----------
    prior : DirectedPrior
    core : Lineage
        Of its graph.
    told : Evidence
    """
    at = np.union1d(core.child, core.parent)
    if not len(at):
        return prior
    part = _of_nodes(prior, core, at)
    told = Evidence(told.precision[at], told.linear[at])
    moments, entropy = _posterior(part, told)
    before, enough = -np.inf, _GAIN + _GAIN_BY_NODE * len(at)
    for _ in range(_MOST_ROUNDS):
        part = _with_roots_of(part.updated(moments, learn=True), prior)
        # Of the scales before this round, as the update is.
        value = part.settled + entropy
        if abs(value - before) < enough:
            break
        before = value
        moments, entropy = _posterior(part, told)
    weights = prior.factor_weight.copy(), prior.effect_weight.copy()
    weights[0][at], weights[1][at] = part.factor_weight, part.effect_weight
    return dataclasses.replace(
        prior, scales=part.scales, factor_weight=weights[0], effect_weight=weights[1]
    )


def _of_nodes(prior: DirectedPrior, core: Lineage, at: np.ndarray) -> DirectedPrior:
    return dataclasses.replace(
        prior,
        graph=DirectedGraph(core.among(core.nodes[at])),
        known=prior.known.taken(at),
        factor_weight=prior.factor_weight[at],
        effect_weight=prior.effect_weight[at],
    )


def _posterior(prior: DirectedPrior, told: Evidence) -> tuple[Moments, float]:
    """Return the Gaussian of the nodes, and what it adds to the prior's part of the evidence."""
    diagonal, off, linear = prior.precision()
    blocks = prior.graph.blocks
    factor = blocks.factor(diagonal + told.precision, off)
    moments = Moments(blocks.solve(factor, linear + told.linear), *blocks.selected_inverse(factor))
    m = moments.mean
    square = moments.variance + m[:, :, None] * m[:, None, :]
    expected = (told.linear * m).sum() - 0.5 * (told.precision * square).sum()
    entropy = 0.5 * m.size * (1 + np.log(2 * np.pi)) - 0.5 * factor.log_determinant
    return moments, float(expected + entropy)


def _with_roots_of(prior: DirectedPrior, other: DirectedPrior) -> DirectedPrior:
    new, old = prior.scales, other.scales
    kept = {"coefficient": old.coefficient}
    names = ("factor_covariance", "effect_variance", "factor_shares", "effect_shares")
    for name in (*names, "factor_tail", "effect_tail"):
        kept[name] = getattr(new, name).copy()
        kept[name][0] = getattr(old, name)[0]
    return dataclasses.replace(prior, scales=dataclasses.replace(new, **kept))
