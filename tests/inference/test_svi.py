"""SVI against NUTS on a small problem, and its own promises."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.inference.svi import fit_svi
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


@pytest.fixture(scope="module")
def small():
    spec = dataclasses.replace(read_spec("laplacian"), rank=1)
    data = simulate(spec, key=jax.random.key(1), n_models=30, n_items=24, trials=20, n_benchmarks=2)
    return spec, data, make_design(data.responses, spec, lineage=data.lineage)


@pytest.mark.slow
def test_elbo_rises_and_hyperparameters_are_positive(small):
    spec, _, design = small
    fitted = fit_svi(design, spec, key=jax.random.key(0), max_steps=600)
    trace = fitted.record.trace
    assert trace[-50:].mean() < trace[:20].mean()
    assert np.isfinite(trace).all()
    draws = fitted.draws(50, key=jax.random.key(1))
    for name in ("kappa", "factor_sd", "benchmark_sd", "intercept_sd", "concentration"):
        assert (draws[name] > 0).all()
    assert draws["factor"].shape == (50, 1, design.n_core)


def test_a_penalty_is_refused(pair, key):
    with pytest.raises(InputError, match="point estimate"):
        fit_svi(pair, read_spec("paper"), key=key)
