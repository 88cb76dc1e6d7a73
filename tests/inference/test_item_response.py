"""One factor without lineage is the two-parameter item response model: against girth."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from girth import twopl_mml
from scipy.special import expit

from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_svi, fit_vb
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.spec import read_spec

N_MODELS, N_ITEMS = 800, 30
GRID = np.linspace(-2.5, 2.5, 41)


@pytest.fixture(scope="module")
def results():
    rng = np.random.default_rng(0)
    slope, difficulty = rng.lognormal(0, 0.35, N_ITEMS), rng.normal(size=N_ITEMS)
    ability = rng.normal(size=(N_MODELS, 1))
    return (rng.random((N_MODELS, N_ITEMS)) < expit(slope * (ability - difficulty))).astype(int)


def curves(posterior):
    """Return probabilities of items at abilities in units of their sd around their mean."""
    v = posterior.draws(200, key=jax.random.key(1))
    loading, level = v["loading"][:, 0].mean(0), v["intercept"].mean(0)
    factor = v["factor"][:, 0]
    centre, sd = factor.mean(), factor.std()
    at = centre + np.sign(loading.mean()) * sd * GRID
    found = expit(loading[:, None] * at + level[:, None])
    order = [int(item[1:]) for item in posterior.design.items["item"]]
    out = np.empty_like(found)
    out[order] = found
    return out


@pytest.mark.ledger
@pytest.mark.parametrize(
    ("fit", "tolerance"), [(fit_vb, 0.02), pytest.param(fit_svi, 0.01, marks=pytest.mark.slow)]
)
def test_item_curves_are_those_of_marginal_likelihood(results, fit, tolerance, claim):
    row, column = (axis.ravel() for axis in np.indices(results.shape))
    frame = pd.DataFrame(
        {
            "model": [f"m{u}" for u in row],
            "benchmark": "b",
            "item": [f"q{i}" for i in column],
            "response": results.ravel(),
        }
    )
    spec = dataclasses.replace(read_spec("irt"), likelihood="binomial")
    design = make_design(responses_from_frame(frame), spec)
    ours = curves(fit(design, spec, key=jax.random.key(0)))
    found = twopl_mml(results.T)
    theirs = expit(found["Discrimination"][:, None] * (GRID - found["Difficulty"][:, None]))
    weight = np.exp(-(GRID**2) / 2)
    gap = np.sqrt(((ours - theirs) ** 2 @ weight / weight.sum()).mean())
    claim(
        f"{fit.__name__[4:]}, spec irt: RMS gap of item curves",
        "girth, two parameters by marginal likelihood, 800 x 30",
        gap,
        tolerance,
    )
