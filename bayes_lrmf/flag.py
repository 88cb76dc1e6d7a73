"""Which predictions not to trust or act on yet, and why, in words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bayes_lrmf.checks import InputError, positive, probability, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.jumps import benchmark_steps, jumps, pulled
from bayes_lrmf.lineage_quality import recorded_parents
from bayes_lrmf.posterior import Posterior, VariationalState
from bayes_lrmf.predict import ScoreDraws, score_draws
from bayes_lrmf.responses import AVERAGE

__all__ = ["RULES", "flag"]

RULES = ("threshold", "rank", "width", "no kin", "unlike kin", "jump")
_ROUNDING = 1e-9
_COLUMNS = ["model", "benchmark", "mean", "lower", "upper", "rule", "value", "reason"]


def flag(
    posterior: Posterior,
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    max_width: float | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    ci_prob: float = 0.9,
    n_draws: int = 400,
) -> pd.DataFrame:
    """List predictions that should not be relied on, the least certain of each rule first.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    models : sequence of str, optional
        All by default.
    max_width : float, optional
        Flag scores whose interval is wider.
    threshold : float, optional
        Flag scores of which it is not decided, with probability `ci_prob`, on which side of it
        they lie.
    top_k : int, optional
        Flag models of which it is not decided, with probability `ci_prob`, whether their mean over
        benchmarks is among the `top_k` best of `models`.
    ci_prob : float
    n_draws : int

    Returns
    -------
    DataFrame
        ``model, benchmark, mean, lower, upper, rule, value, reason``. Three rules always apply.
        ``no kin``: a model without results and without evaluated relatives is predicted from models
        at large. ``unlike kin``: its results contradict its recorded parents
        (`lineage_quality.recorded_parents`), so that kin say little about it; of fits of the
        directed prior by vb. ``jump``: the model leaves its kin on this benchmark alone
        (`jumps.jumps`), or has no results on it and leans on a parent or child that does
        (`jumps.pulled`). `value` is the width, the probability of the uncertain event, the number
        of evaluated relatives, the tail probability of the step, or the robust z of the jump.

    Raises
    ------
    InputError
        For a point estimate, an unknown model, or numbers out of range.
    """
    if posterior.is_point:
        raise InputError("a point estimate knows no uncertainty", fix="fit with vb, svi or nuts")
    ci_prob = probability(ci_prob, name="ci_prob")
    drawn = score_draws(posterior, key=key, models=models, n_draws=n_draws)
    n_kin = _evaluated_relatives(posterior.design)
    at = [posterior.design.periphery.index[m] for m in drawn.models]
    table = _scores(drawn, ci_prob).assign(n_kin=np.repeat(n_kin[at], len(drawn.benchmarks)))
    found = []
    if threshold is not None:
        found.append(_undecided(table, drawn, probability(threshold, name="threshold"), ci_prob))
    if top_k is not None:
        k = whole_number(top_k, name="top_k")
        if k >= len(drawn.models):
            raise InputError(f"top_k is {k}, of {len(drawn.models)} models", fix="give fewer")
        found.append(_unranked(drawn, k, ci_prob))
    if max_width is not None:
        found.append(_wide(table, positive(max_width, name="max_width"), ci_prob))
    found += [
        _without_kin(table),
        _unlike_kin(posterior, table, key),
        _jumping(posterior, table, key),
    ]
    return pd.concat(found, ignore_index=True)[_COLUMNS]


def _scores(drawn: ScoreDraws, ci_prob: float) -> pd.DataFrame:
    scores = drawn.scores
    lower, upper = drawn.intervals(ci_prob)
    n_models, n_benchmarks = scores.shape[1:]
    return pd.DataFrame(
        {
            "model": np.repeat(drawn.models, n_benchmarks),
            "benchmark": np.tile(drawn.benchmarks, n_models),
            "mean": drawn.mean().ravel(),
            "lower": lower.ravel(),
            "upper": upper.ravel(),
            "n_items": drawn.n_items.ravel(),
            "n_observed": drawn.n_observed.ravel(),
        }
    )


def _evaluated_relatives(design: Design) -> np.ndarray:
    """Return the number of other evaluated models in the family of each model."""
    n = len(design.models)
    ends = [
        np.concatenate([getattr(t, side) for t in (design.core, design.periphery)])
        for side in ("child", "parent")
    ]
    joined = coo_array((np.ones(len(ends[0])), tuple(ends)), shape=(n, n))
    label = connected_components(joined, directed=False)[1]
    evaluated = np.arange(n) < design.n_evaluated
    return np.asarray(np.bincount(label, evaluated)[label] - evaluated, dtype=np.int64)


def _what_is_known(row: Mapping[Hashable, Any]) -> str:
    run = f"{row['n_observed']} of {row['n_items']} run" if row["n_observed"] else "none run"
    kin = {0: "no evaluated relative", 1: "one evaluated relative"}
    known = kin.get(row["n_kin"], f"{row['n_kin']} evaluated relatives")
    return f"{run}, {known}"


def _wide(table: pd.DataFrame, limit: float, ci_prob: float) -> pd.DataFrame:
    width = table["upper"] - table["lower"]
    wide = table.assign(rule="width", value=width)[width > limit + _ROUNDING]
    wide = wide.sort_values("value", ascending=False, kind="stable")
    reason = [
        f"the {ci_prob:.0%} interval is {row['value']:.2f} wide, more than {limit:g}: "
        f"{_what_is_known(row)}"
        for row in wide.to_dict("records")
    ]
    return wide.assign(reason=reason)


def _undecided(
    table: pd.DataFrame, drawn: ScoreDraws, threshold: float, ci_prob: float
) -> pd.DataFrame:
    above = (drawn.scores > threshold).mean(0).ravel()
    open_ = np.minimum(above, 1 - above) > 1 - ci_prob + _ROUNDING
    some = table.assign(rule="threshold", value=above)[open_]
    order = (some["value"] - 0.5).abs().sort_values(kind="stable").index
    some = some.loc[order]
    reason = [
        f"the score is above {threshold:g} with probability {row['value']:.2f}: undecided; "
        f"{_what_is_known(row)}"
        for row in some.to_dict("records")
    ]
    return some.assign(reason=reason)


def _unranked(drawn: ScoreDraws, k: int, ci_prob: float) -> pd.DataFrame:
    average = drawn.scores.mean(-1)
    rank = (-average).argsort(1, kind="stable").argsort(1, kind="stable")
    inside = (rank < k).mean(0)
    lower, upper = equal_tailed(average, ci_prob)
    table = pd.DataFrame(
        {
            "model": drawn.models,
            "benchmark": AVERAGE,
            "mean": average.mean(0, dtype=float),
            "lower": lower,
            "upper": upper,
            "rule": "rank",
            "value": inside,
        }
    )
    some = table[np.minimum(inside, 1 - inside) > 1 - ci_prob + _ROUNDING]
    some = some.loc[(some["value"] - 0.5).abs().sort_values(kind="stable").index]
    reason = [
        f"among the {k} best of {len(drawn.models)} with probability {p:.2f}: undecided"
        for p in some["value"]
    ]
    return some.assign(reason=reason)


def _without_kin(table: pd.DataFrame) -> pd.DataFrame:
    n_results = table.groupby("model")["n_observed"].transform("sum")
    some = table.assign(rule="no kin", value=0.0)[(table["n_kin"] == 0) & (n_results == 0)]
    return some.assign(
        reason="no results and no evaluated relative: predicted from models at large"
    )


def _unlike_kin(posterior: Posterior, table: pd.DataFrame, key: jax.Array) -> pd.DataFrame:
    directed = posterior.spec.lineage == "directed" and len(posterior.design.core.child)
    if not directed or not isinstance(posterior.state, VariationalState):
        return table.iloc[:0]
    far = recorded_parents(posterior, key=key)
    far = far[far["doubtful"]].set_index("model")
    some = table[table["model"].isin(far.index)].assign(rule="unlike kin")
    some["value"] = some["model"].map(far["tail_probability"]).astype(float)
    some["reason"] = some["model"].map("its results contradict its kin: " + far["reason"])
    return some.sort_values("value", kind="stable")


def _jumping(posterior: Posterior, table: pd.DataFrame, key: jax.Array) -> pd.DataFrame:
    design = posterior.design
    if not np.any(design.core.child < design.n_evaluated):
        return table.iloc[:0]
    own = jumps(benchmark_steps(posterior, key=key))
    found = [part for part in (own, pulled(posterior, own)) if len(part)]
    if not found:
        return table.iloc[:0]
    return (
        pd.concat(found)
        .rename(columns={"z": "value"})
        .assign(rule="jump")
        .merge(table, on=["model", "benchmark"])
    )
