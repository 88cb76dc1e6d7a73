"""What a model that does not exist yet would score, and whether it would beat its parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, one_of, positive, probability
from bayes_lrmf.coldstart import add
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.lineage import RELATIONS, lineage_from_frame
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import score_draws

__all__ = ["Outlook", "predict_child", "predict_merge"]


@dataclass(frozen=True, eq=False)
class Outlook:
    """Predicted scores of a model that does not exist yet, beside those of its parents.

    Attributes
    ----------
    scores : DataFrame
        ``benchmark, mean, sd, lower, upper``, on 0..1, the mean over benchmarks last; sd and
        interval are empty for a point estimate.
    beats : DataFrame
        ``benchmark``, then a column for each parent and ``best parent``: probabilities of a higher
        score, ties counting half; empty for a point estimate. The best parent is that of each
        draw. Results of parents that exist count as they are.
    """

    scores: pd.DataFrame
    beats: pd.DataFrame

    def __str__(self) -> str:
        table = self.scores.merge(self.beats, on="benchmark")
        return str(table.round(3).to_string(index=False))


def predict_child(
    posterior: Posterior,
    parent: str,
    *,
    key: jax.Array,
    relation: str = "finetune",
    ci_prob: float = 0.9,
    n_draws: int = 1000,
) -> Outlook:
    """Predict the child of a model.

    Parameters
    ----------
    posterior : Posterior
    parent : str
    key : jax key
    relation : {"finetune", "merge", "adapter", "quantized", "ancestor"}
    ci_prob : float
    n_draws : int

    Raises
    ------
    InputError
        For an unknown model or relation, naming the nearest.
    """
    one_of(relation, RELATIONS, name="relation")
    return _outlook(posterior, {parent: 1.0}, relation, key, ci_prob, n_draws)


def predict_merge(
    posterior: Posterior,
    parents: Mapping[str, float],
    *,
    key: jax.Array,
    ci_prob: float = 0.9,
    n_draws: int = 1000,
) -> Outlook:
    """Predict the merge of models.

    Parameters
    ----------
    posterior : Posterior
    parents : mapping
        Weights by model, positive; they are scaled to sum to one.
    key : jax key
    ci_prob : float
    n_draws : int

    Raises
    ------
    InputError
        For an unknown model, naming the nearest, or weights that are not positive.
    """
    if not parents:
        raise InputError("no parents to merge", fix="give a mapping of models to weights")
    return _outlook(posterior, parents, "merge", key, ci_prob, n_draws)


def _outlook(
    posterior: Posterior,
    parents: Mapping[str, float],
    relation: str,
    key: jax.Array,
    ci_prob: float,
    n_draws: int,
) -> Outlook:
    ci_prob = probability(ci_prob, name="ci_prob")
    known = posterior.design.periphery.index
    posterior.design.places(parents)
    for model, weight in parents.items():
        positive(weight, name=f"weight of {model}")
    name = "a new model"
    while name in known:
        name += "'"
    edges = pd.DataFrame({"child": name, "parent": list(parents), "relation": relation})
    edges["weight"] = list(parents.values())
    grown = add(posterior, lineage=lineage_from_frame(edges), whole=False)
    drawn = score_draws(grown, key=key, models=[name, *parents], n_draws=n_draws)
    scores, benchmarks = drawn.with_average()
    own, others = scores[:, 0].astype(float), scores[:, 1:].astype(float)
    lower, upper = equal_tailed(own, ci_prob)
    table = pd.DataFrame(
        {
            "benchmark": benchmarks,
            "mean": own.mean(0),
            "sd": own.std(0, ddof=1) if len(own) > 1 else np.nan,
            "lower": lower,
            "upper": upper,
        }
    )
    rivals = np.concatenate([others, others.max(1, keepdims=True)], axis=1)
    wins = (own[:, None] > rivals).mean(0) + 0.5 * (own[:, None] == rivals).mean(0)
    beats = pd.DataFrame(wins.T, columns=[*parents, "best parent"])
    if posterior.is_point:
        table[["sd", "lower", "upper"]] = np.nan
        beats[:] = np.nan
    beats.insert(0, "benchmark", benchmarks)
    return Outlook(table, beats)
