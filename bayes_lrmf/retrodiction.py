"""Fitted probabilities against the responses they were fitted to."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
from scipy.special import expit

from bayes_lrmf.checks import probability, whole_number
from bayes_lrmf.draws import noise_sd_of
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.posterior import Posterior

__all__ = ["calibration"]

_MOST_CELLS = 100_000


def calibration(
    posterior: Posterior,
    *,
    key: jax.Array,
    ci_prob: float = 0.9,
    n_bins: int = 20,
    n_draws: int = 60,
) -> pd.DataFrame:
    """Compare predicted probabilities of observed responses with the observed shares, in bins.

    The fit has seen these responses: agreement here is needed, but says nothing about responses
    that it has not seen. At most 100,000 observed cells, drawn at random, are used.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    ci_prob : float
        Of the predictive interval of the share in a bin if the fit were right.
    n_bins : int
        Of equal width on 0..1; empty ones are left out.
    n_draws : int

    Returns
    -------
    DataFrame
        ``predicted, observed, lower, upper, n_trials``: the mean predicted probability, the share
        of successes, its predictive interval (empty for a point estimate, which has none of its
        parameters), and the trials in the bin.
    """
    ci_prob = probability(ci_prob, name="ci_prob")
    n_bins, design = whole_number(n_bins, name="n_bins"), posterior.design
    draw_key, rest = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rest)).tolist())
    values = posterior.draws(whole_number(n_draws, name="n_draws"), key=draw_key)
    cells = design.responses.to_cells()
    some = rng.permutation(len(cells.rows))[:_MOST_CELLS]
    rows, cols = cells.rows[some], cells.cols[some]
    n = np.ones(len(some)) if cells.trials is None else cells.trials[some].astype(float)
    y = cells.successes[some].astype(float)
    psi = posterior.psi(values, rows, cols).astype(float)
    noise_sd = noise_sd_of(posterior, values)
    if noise_sd is not None:
        psi += noise_sd[:, cols] * rng.standard_normal(psi.shape)
    p = expit(psi)
    at = np.minimum((p.mean(0) * n_bins).astype(int), n_bins - 1)
    trials = np.bincount(at, n, n_bins)
    filled = np.flatnonzero(trials)
    table = pd.DataFrame(
        {
            "predicted": (np.bincount(at, n * p.mean(0), n_bins) / np.maximum(trials, 1))[filled],
            "observed": (np.bincount(at, y, n_bins) / np.maximum(trials, 1))[filled],
            "lower": np.nan,
            "upper": np.nan,
            "n_trials": trials[filled].astype(np.int64),
        }
    )
    if posterior.is_point:
        return table
    if "concentration" in values:
        spread = np.asarray(values["concentration"], float)[:, design.benchmark_index[cols]]
        p = rng.beta(np.maximum(p * spread, 1e-6), np.maximum((1 - p) * spread, 1e-6))
    # Responses of fractions are trials of one cell each: rounding keeps their number whole.
    anew = rng.binomial(np.rint(n).astype(np.int64), p)
    share = np.stack([np.bincount(at, draw, n_bins) for draw in anew])[:, filled] / trials[filled]
    table["lower"], table["upper"] = equal_tailed(share, ci_prob)
    return table
