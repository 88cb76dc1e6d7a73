"""How much of the ability of models is inherited from their parents, by relation."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import probability, whole_number
from bayes_lrmf.directed import STEPS, step_index
from bayes_lrmf.item_space import core_draws, item_moments, parents_of_evaluated, steps_of
from bayes_lrmf.posterior import Posterior

__all__ = ["ALL", "inheritance"]

ALL = "all"
"""Name of the line about children of every relation."""


def inheritance(
    posterior: Posterior,
    *,
    key: jax.Array,
    n_draws: int = 200,
    ci_prob: float = 0.9,
    by_benchmark: bool = False,
) -> pd.DataFrame:
    r"""Return the share of the variance of log-odds that children have from their parents.

    For the C evaluated children of a relation, the M evaluated models of the table and I items,

    .. math:: 1 - \frac{\frac1{CI} \sum_{c,i} (\psi_{ci} - \sum_p w_{cp} \psi_{pi})^2}
              {\frac1{(M-1)I} \sum_{u,i} (\psi_{ui} - \bar\psi_{\cdot i})^2},

    once for every joint draw of the posterior. It is 1 for exact copies and 0 where children lie
    as far from their parents as a model from the average of all; it may be negative. The mean step
    of a relation, its drift, is kept: what all fine-tunes gain is not inherited.

    Parameters
    ----------
    posterior : Posterior
        Of any method but map. Unevaluated parents enter as they were inferred.
    key : jax key
    n_draws : int
    ci_prob : float
        Of the credible intervals. They are about the children of the table, not about others yet
        to come. Those of method vb, which sets hyper-parameters to points and takes items and
        models for independent, are too narrow on small tables.
    by_benchmark : bool
        Whether to repeat the table for the items of each benchmark.

    Returns
    -------
    DataFrame
        ``[benchmark,] relation, n_children, inherited, lower, upper, median_child``: posterior
        mean, equal-tailed interval, and the posterior mean of the median over children of
        ``1 - |step|^2 / variance``. A child of several parents is a merge; the last line of each
        table is about all children.

    Raises
    ------
    InputError
        For a point estimate, or a fit without lineage.
    """
    tail = (1 - probability(ci_prob, name="ci_prob")) / 2
    n_draws = whole_number(n_draws, name="n_draws", minimum=2)
    design = posterior.design
    children, weights = parents_of_evaluated(design.core, design.n_evaluated)
    relation = np.array(STEPS)[step_index(design.core)[children]]
    drawn = core_draws(posterior, key=key, n_draws=n_draws)
    steps = steps_of(drawn.rows, children, weights)
    spread = np.stack([np.cov(draw) for draw in drawn.rows[:, :, : design.n_evaluated]])
    spread = spread.reshape(len(spread), *drawn.rows.shape[1:2] * 2)
    groups = {name: relation == name for name in STEPS if (relation == name).any()}
    groups[ALL] = np.ones(len(children), bool)
    parts = {"": np.ones(design.n_items, bool)}
    if by_benchmark:
        parts = {b: design.benchmark_index == k for k, b in enumerate(design.benchmarks)}
    lines = []
    for benchmark, items in parts.items():
        moments = item_moments(drawn.cols[:, :, items])
        square = np.maximum((steps @ moments * steps).sum(-1), 0.0)
        variance = (moments * spread).sum((1, 2))
        kept = 1 - square / variance[:, None]
        for name, mine in groups.items():
            share = kept[:, mine].mean(1)
            lower, upper = np.quantile(share, [tail, 1 - tail])
            median = np.median(kept[:, mine], axis=1).mean()
            lines.append((benchmark, name, mine.sum(), share.mean(), lower, upper, median))
    columns = ["benchmark", "relation", "n_children", "inherited", "lower", "upper"]
    columns += ["median_child"]
    table = pd.DataFrame(lines, columns=columns)
    return table if by_benchmark else table.drop(columns="benchmark")
