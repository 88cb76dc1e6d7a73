"""A verdict on a fit that a person can act on, from identified quantities only."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.inheritance import inheritance
from bayes_lrmf.posterior import Posterior, diagnose_draws
from bayes_lrmf.program import hyperparameters

__all__ = ["Diagnosis", "diagnose"]

_N_DRAWS = 100


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found.

    Attributes
    ----------
    good : bool
        Whether the fit may be used as it stands.
    lines : tuple of str
        Verdict first, then facts and advice.
    hyperparameters : DataFrame
        ``parameter, mean, sd, lower, upper`` (90 % equal-tailed); empty for a point estimate.
    inheritance : DataFrame
        What `inheritance` returns; empty for a point estimate, and without lineage.
    """

    good: bool
    lines: tuple[str, ...]
    hyperparameters: pd.DataFrame
    inheritance: pd.DataFrame


def diagnose(posterior: Posterior, *, ci_prob: float = 0.9) -> Diagnosis:
    """Judge a fit by psi, hyper-parameters and scores, which rotation leaves alone.

    Parameters
    ----------
    posterior : Posterior
    ci_prob : float
        Of the intervals of hyper-parameters and of inherited shares.
    """
    good, facts = posterior.record.converged, [posterior.record.message]
    method, design = posterior.record.method, posterior.design
    advice = ""
    if method == "nuts":
        good, message = diagnose_draws(posterior)
        facts = [message]
        stats = posterior.record.sample_stats
        deep = float(np.mean(stats["n_steps"] == stats["n_steps"].max()))
        facts.append(
            f"{stats['n_steps'].mean():.0f} leapfrog steps a draw, acceptance "
            f"{stats['acceptance_rate'].mean():.2f}, {deep:.0%} of draws at the deepest tree"
        )
        advice = "sample longer: --num-samples, --num-warmup"
    elif method == "svi":
        gain = posterior.record.trace
        facts.append(
            f"the ELBO gained {np.mean(gain[-200:-100]) - np.mean(gain[-100:]):.3g} over the last "
            "100 steps; a Gaussian without correlation between columns: intervals tend to be narrow"
        )
        advice = "run longer: --max-steps"
    elif method == "vb":
        facts.append(
            f"the ELBO gained {-np.diff(posterior.record.trace[-2:]).sum():.3g} in the last sweep; "
            "hyper-parameters are point estimates"
        )
        advice = "run longer: --max-steps"
    else:
        facts.append("a point estimate: predictions carry no intervals")
        advice = "run longer: --max-steps"
    n_models, parents = design.n_evaluated, np.unique(design.core.child)
    facts.append(
        f"{np.sum(parents < n_models):,} of {n_models:,} models have a parent in the fit, which "
        f"keeps {design.n_core - n_models:,} unevaluated ancestors that join models"
    )
    facts.append(_fit_of_observed(posterior))
    verdict = f"GOOD: {method} converged" if good else f"NOT CONVERGED: {advice}"
    inherited = pd.DataFrame()
    if not posterior.is_point and np.any(parents < n_models):
        inherited = inheritance(posterior, key=jax.random.key(0), n_draws=_N_DRAWS, ci_prob=ci_prob)
    table = _hyperparameter_table(posterior, ci_prob)
    return Diagnosis(good, (verdict, *facts), table, inherited)


def _fit_of_observed(posterior: Posterior) -> str:
    """Say how far fitted probabilities lie from what was observed, by benchmark totals."""
    design = posterior.design
    draws = posterior.draws(20, key=jax.random.key(0))
    cells = design.responses.to_cells()
    some = np.random.default_rng(0).permutation(len(cells.rows))[:50_000]
    psi = posterior.psi(draws, cells.rows[some], cells.cols[some]).astype(float)
    p = (1 / (1 + np.exp(-psi))).mean(0)
    n = np.ones(len(some)) if cells.trials is None else cells.trials[some].astype(float)
    y = cells.successes[some] / n
    p = np.clip(p, 1e-7, 1 - 1e-7)
    loss = -np.average(y * np.log(p) + (1 - y) * np.log1p(-p), weights=n)
    mean_y, mean_p = np.average(y, weights=n), np.average(p, weights=n)
    return (
        f"on observed responses: log loss {loss:.4f}, mean response {mean_y:.4f}, "
        f"mean prediction {mean_p:.4f}"
    )


def _hyperparameter_table(posterior: Posterior, ci_prob: float) -> pd.DataFrame:
    columns = ["parameter", "mean", "sd", "lower", "upper"]
    if posterior.is_point:
        return pd.DataFrame(columns=columns)
    draws = posterior.draws(1000, key=jax.random.key(0))
    tail = (1 - ci_prob) / 2
    rows = []
    for name in hyperparameters(posterior.design, posterior.spec):
        values = np.asarray(draws[name], float).reshape(len(draws[name]), -1)
        fixed = np.ptp(values, axis=0) == 0
        labels = [name]
        if values.shape[1] > 1:
            labels = [f"{name}[{b}]" for b in posterior.design.benchmarks]
        # A point estimate is no certainty.
        spread = [values.std(0, ddof=1), *np.quantile(values, [tail, 1 - tail], axis=0)]
        shown = [np.where(fixed, np.nan, part) for part in spread]
        rows += list(zip(labels, values.mean(0), *shown, strict=True))
    return pd.DataFrame(rows, columns=columns)
