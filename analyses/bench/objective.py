"""The objective that all point estimates share, by NumPy, and what the program adds to it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.inference.map import objective
from bayes_lrmf.spec import Spec


def summed_objective(factor: np.ndarray, loading: np.ndarray, design: Design, spec: Spec) -> float:
    """Return cross-entropy, lineage term and ridge in float64, straight from their formula.

    Parameters
    ----------
    factor : array, shape (rank, n_core)
    loading : array, shape (rank, n_items)
    design : Design
        Of a 0/1 table.
    spec : Spec
        With a penalty and no item graph.
    """
    assert spec.penalty is not None
    factor, loading = np.asarray(factor, float), np.asarray(loading, float)
    cells = design.responses.to_cells()
    total = 0.0
    for part in np.array_split(np.arange(len(cells.rows)), -(-len(cells.rows) // 1_000_000)):
        psi = (factor[:, cells.rows[part]] * loading[:, cells.cols[part]]).sum(0)
        total += float((np.logaddexp(0, psi) - cells.successes[part] * psi).sum())
    graph = design.graph
    step = factor[:, graph.rows] - factor[:, graph.cols]
    total += spec.penalty.models * float((graph.weights * step**2).sum())
    return total + spec.penalty.ridge * float((factor**2).sum() + (loading**2).sum())


def program_objective(values: dict[str, Any], design: Design, spec: Spec) -> float:
    """Return what `fit_map` minimises, in float64."""
    with jax.enable_x64(True):
        return float(objective(design, spec, {n: np.asarray(v, float) for n, v in values.items()}))


def constant_of(design: Design, spec: Spec) -> float:
    """Return by how much the program's objective exceeds the formula: norms of the priors."""
    rng = np.random.default_rng(0)
    values = {
        "factor": 0.1 * rng.standard_normal((spec.rank, design.n_core)),
        "loading": 0.5 * rng.standard_normal((spec.rank, design.n_items)),
    }
    return program_objective(values, design, spec) - summed_objective(
        values["factor"], values["loading"], design, spec
    )
