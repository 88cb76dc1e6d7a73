"""Small simulated problems that fits share."""

from __future__ import annotations

import dataclasses
import functools

import jax
import pandas as pd
import pytest

from bayes_lrmf.design import make_design
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


@pytest.fixture
def pair():
    """Return a design of two models on an item, which is enough to be refused."""
    table = {"model": ["a", "b"], "benchmark": "x", "item": "1", "response": [0, 1]}
    return make_design(responses_from_frame(pd.DataFrame(table)), read_spec("mf"))


@pytest.fixture
def problem():
    """Return a function that simulates counts: spec, simulated data and design."""
    return _simulated


@functools.cache
def _simulated(rank, seed, n_models=20, n_items=8, trials=40):
    spec = dataclasses.replace(read_spec("laplacian"), rank=rank, likelihood="binomial")
    data = simulate(
        spec, key=jax.random.key(seed), n_models=n_models, n_items=n_items, trials=trials,
        n_benchmarks=2, density=0.9, cold_share=0.0,
    )  # fmt: skip
    return spec, data, make_design(data.responses, spec, lineage=data.lineage)
