"""Which method a table goes to where none is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.inference import best_method
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.spec import read_spec


def table(n_models, n_items, trials):
    """A full table, all of it right in half of the trials."""
    columns = {f"b{i}:q": np.full(n_models, 0.5 if trials > 1 else 1.0) for i in range(n_items)}
    models = [f"m{u}" for u in range(n_models)]
    found = responses_from_frame(pd.DataFrame({"model": models, **columns}))
    return dataclasses.replace(found, items=found.items.assign(trials=trials))


@pytest.mark.parametrize(
    ("size", "spec", "method"),
    [
        ((40, 25, 40), None, "nuts"),
        ((40, 25, 40), "laplacian", "nuts"),
        ((40, 25, 40), "lrmf", "vb"),
        ((40, 25, 40), "paper", "map"),
        ((40, 25, 1), None, "vb"),
        ((40, 25, 1), "laplacian", "svi"),
        ((1200, 6, 40), None, "vb"),
        ((900, 40, 40), None, "vb"),
    ],
)
def test_counts_go_to_nuts_where_models_and_cells_are_few(size, spec, method):
    assert best_method(table(*size), None if spec is None else read_spec(spec)) == method
