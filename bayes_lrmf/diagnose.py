"""A verdict on a fit that a person can act on, from identified quantities only."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd
from scipy.special import expit

from bayes_lrmf.draws import noise_sd_of
from bayes_lrmf.inheritance import inheritance
from bayes_lrmf.jumps import benchmark_steps, jumps, more_than_usual
from bayes_lrmf.posterior import Posterior, diagnose_draws
from bayes_lrmf.program import hyperparameters
from bayes_lrmf.random_parents import ParentRanks, parent_ranks

__all__ = ["Diagnosis", "diagnose", "trials_a_parameter"]

_N_DRAWS = 100
_FEWEST_TRIALS = 30.0
_MOST_CELLS = 50_000


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found.

    Attributes
    ----------
    good : bool
        Whether the fit may be used as it stands.
    lines : tuple of str
        Verdict first, then warnings, facts and advice.
    hyperparameters : DataFrame
        ``parameter, mean, sd, lower, upper`` (90 % equal-tailed); empty for a point estimate.
    inheritance : DataFrame
        What `inheritance` returns; empty for a point estimate, and without lineage.
    warnings : tuple of str
        Those of the lines that say what intervals may not account for.
    """

    good: bool
    lines: tuple[str, ...]
    hyperparameters: pd.DataFrame
    inheritance: pd.DataFrame
    warnings: tuple[str, ...] = ()


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
        gained = -np.diff(posterior.record.trace[-2:])
        told = f"the ELBO gained {gained[0]:.3g} in the last sweep; " if len(gained) else ""
        facts.append(f"{told}hyper-parameters are point estimates")
        advice = "run longer: --max-steps"
    else:
        facts.append("a point estimate: predictions carry no intervals")
        advice = "run longer: --max-steps"
    n_models, parents = design.n_evaluated, np.unique(design.core.child)
    facts.append(
        f"{np.sum(parents < n_models):,} of {n_models:,} models have a parent in the fit, which "
        f"keeps {design.n_core - n_models:,} unevaluated ancestors"
    )
    facts.append(_fit_of_observed(posterior))
    warnings = []
    if method == "vb":
        worth = trials_a_parameter(posterior)
        few = f"responses are worth {worth:.1f} coin flips a parameter"
        if worth < _FEWEST_TRIALS:
            warnings.append(
                f"{few}, fewer than {_FEWEST_TRIALS:.0f}: intervals of single cells are too "
                "narrow, on small tables those of scores too; take fewer factors, or nuts"
            )
        else:
            facts.append(few)
    if not posterior.is_point and np.any(parents < n_models):
        ranks = parent_ranks(posterior, key=jax.random.key(0))
        # Children of a Laplacian field may lie as far from their parents as from anyone.
        if ranks.too_many and posterior.spec.lineage == "directed":
            warnings.append(f"{_of_parents(ranks)}; lineage may be wrong: diagnose --lineage")
        else:
            facts.append(_of_parents(ranks))
        steps = benchmark_steps(posterior, key=jax.random.key(0), n_draws=_N_DRAWS)
        odd = jumps(steps)
        if len(odd):
            (warnings if more_than_usual(steps) else facts).append(
                f"{odd['model'].nunique():,} models leave their kin on one benchmark, of "
                f"{steps['model'].nunique():,} children compared: memorised, or measured "
                "otherwise? flag lists them"
            )
    verdict = f"GOOD: {method} converged" if good else f"NOT CONVERGED: {advice}"
    inherited = pd.DataFrame()
    if not posterior.is_point and np.any(parents < n_models):
        inherited = inheritance(posterior, key=jax.random.key(0), n_draws=_N_DRAWS, ci_prob=ci_prob)
    table = _hyperparameter_table(posterior, ci_prob)
    marked = tuple(f"WARNING: {line}" for line in warnings)
    return Diagnosis(good, (verdict, *marked, *facts), table, inherited, marked)


def _of_parents(ranks: ParentRanks) -> str:
    """Say how many recorded parents are no nearer to their children than random models."""
    n, n_far = len(ranks.children), int(ranks.beyond_half.sum())
    return (
        f"{n_far:,} of {n:,} children are farther from their recorded parents than from most "
        f"random models, {n / 2:,.0f} if parents were random: about {ranks.share_random:.0%} "
        f"(standard error {ranks.standard_error:.0%}) of recorded parents are as good as random"
    )


def trials_a_parameter(posterior: Posterior) -> float:
    """Return how many tosses of a fair coin all responses tell as much as, by parameter.

    Parameters are factors and effects of the evaluated models, loadings and intercepts of items.
    Closed-form vb takes models and items for independent, and its intervals are too narrow where
    neither is well known. The Fisher information of a cell about psi is ``n p (1 - p)``, that of a
    toss 1/4, less what over-dispersion takes of it. Of at most 50,000 cells, drawn at random.

    Parameters
    ----------
    posterior : Posterior
    """
    design, spec = posterior.design, posterior.spec
    draws = posterior.draws(5, key=jax.random.key(0))
    cells = design.responses.to_cells()
    some = np.random.default_rng(0).permutation(len(cells.rows))[:_MOST_CELLS]
    rows, cols = cells.rows[some], cells.cols[some]
    p = expit(posterior.psi(draws, rows, cols).astype(float))
    n = np.ones(len(some)) if cells.trials is None else cells.trials[some].astype(float)
    told = n * p * (1 - p)
    noise_sd = noise_sd_of(posterior, draws)
    if noise_sd is not None:
        told /= 1 + noise_sd[:, cols] ** 2 * told
    if "concentration" in draws:
        spread = np.asarray(draws["concentration"], float)[:, design.benchmark_index[cols]]
        told /= 1 + (n - 1) / (1 + spread)
    n_effects = len(design.effect_benchmarks) if spec.benchmark_effects else 0
    n_fields = spec.rank + int(spec.ability) + n_effects
    n_parameters = design.n_evaluated * n_fields + design.n_items * (spec.rank + 1)
    return float(4 * told.mean() * len(cells.rows) / n_parameters)


def _fit_of_observed(posterior: Posterior) -> str:
    """Say how far fitted probabilities lie from what was observed, by benchmark totals."""
    design = posterior.design
    draws = posterior.draws(20, key=jax.random.key(0))
    cells = design.responses.to_cells()
    some = np.random.default_rng(0).permutation(len(cells.rows))[:_MOST_CELLS]
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
