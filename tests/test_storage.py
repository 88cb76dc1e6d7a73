"""Files of posteriors made by hand, with no fit: what is written is what is read."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bayes_lrmf.design import make_design
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.posterior import FitRecord, PointState, Posterior
from bayes_lrmf.predict import predict_items
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.spec import Penalty, read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

MODELS = [f"m{j}" for j in range(12)]


@pytest.mark.parametrize("trials", [1, 5])
def test_a_penalised_fit_of_sparse_cells_keeps_its_items_and_their_graph(trials, rng, tmp_path):
    cells = pd.DataFrame(
        [(model, "x", f"i{item}") for model in MODELS for item in rng.permutation(30)[:3]],
        columns=["model", "benchmark", "item"],
    )
    cells["successes"] = rng.integers(0, trials + 1, len(cells))
    cells["trials"] = trials
    responses = responses_from_frame(cells)
    n = responses.n_items
    half = sp.coo_array(([0.5, 2.0], ([0, 1], [3, 4])), shape=(n, n))
    lineage = lineage_from_frame(
        pd.DataFrame({"child": MODELS[1:4], "parent": MODELS[:3], "relation": "finetune"})
    )
    spec = dataclasses.replace(read_spec("paper"), rank=2, penalty=Penalty(0.5, 0.4, 0.3))
    design = make_design(
        responses, spec, lineage=lineage, item_adjacency=sp.csr_array(half + half.T)
    )
    assert design.responses.dense is None
    values = {
        "factor": rng.normal(size=(2, design.n_core)).astype(np.float32),
        "loading": rng.normal(size=(2, n)).astype(np.float32),
    }
    record = FitRecord("map", True, "by hand", np.array([3.0, 1.0]))
    written = Posterior(design, spec, PointState(values), record, 7)
    write_posterior(written, tmp_path / "fit.nc")
    read = read_posterior(tmp_path / "fit.nc")
    assert read.spec == spec
    assert (read.seed, read.record.message) == (7, "by hand")
    for name in ("rows", "cols", "weights"):
        for graph in ("graph", "item_graph"):
            np.testing.assert_array_equal(
                getattr(getattr(read.design, graph), name), getattr(getattr(design, graph), name)
            )
    pd.testing.assert_frame_equal(read.design.responses.to_frame(), responses.to_frame())
    rows, cols = map(jnp.asarray, (values["factor"][:, : design.n_evaluated], values["loading"]))
    likelihood = [float(d.table.log_likelihood(rows, cols, None)) for d in (design, read.design)]
    assert likelihood[0] == likelihood[1]
    key = jax.random.key(0)
    pd.testing.assert_frame_equal(*(predict_items(fit, key=key) for fit in (written, read)))
