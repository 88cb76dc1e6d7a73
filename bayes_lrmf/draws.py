"""From draws of a posterior to rows and columns of psi for every model, the periphery included."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.design import Design
from bayes_lrmf.directed import StepScales, step_index
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.program import components
from bayes_lrmf.spec import Spec

__all__ = ["concentration_of", "field_parameters", "noise_sd_of", "rows_and_columns"]


def rows_and_columns(
    posterior: Posterior,
    values: Mapping[str, np.ndarray],
    *,
    rng: np.random.Generator,
    chosen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns whose products are psi of models, draw by draw.

    Parameters
    ----------
    posterior : Posterior
    values : mapping
        Draws of its sites, from ``posterior.draws``.
    rng : numpy Generator
        For the part of unevaluated descendants that their parents leave open; a point estimate
        puts them at their mean.
    chosen : int array, optional
        Positions of models in ``posterior.design.models``; all of them by default.

    Returns
    -------
    rows : float32 array, shape (n_draws, n_components, n_chosen)
    cols : float32 array, shape (n_draws, n_components, n_items)
    """
    if chosen is not None:
        near, at = _with_ancestors(posterior.design, chosen)
        rows, cols = rows_and_columns(dataclasses.replace(posterior, design=near), values, rng=rng)
        return rows[:, :, at], cols
    design, spec = posterior.design, posterior.spec
    # States keep draws last: products of matrices in that order take many times as long.
    core, cols = (
        np.ascontiguousarray(part, dtype=np.float32) for part in components(design, values)
    )
    n_draws = len(core)
    n_models, n_core = len(design.models), design.n_core
    rows = np.empty((*core.shape[:2], n_models), np.float32)
    rows[:, :, :n_core] = core
    rows[:, :, n_core:] = 1.0
    n_fields = core.shape[1] - ("intercept" in values)
    if spec.lineage == "directed":
        _step_down(posterior, values, rows[:, :n_fields], rng)
        return rows, cols
    sd, kappa, scale = field_parameters(design, spec, values, n_fields)
    noise: Any = 0.0
    for nodes, edges in _levels(design):
        child, parent, strength = (part[edges] for part in design.parents())
        at = np.full(n_models, -1)
        at[nodes] = np.arange(len(nodes))
        total = np.bincount(at[child], strength, minlength=len(nodes))
        pull = np.zeros((n_draws, n_fields, len(nodes)), np.float32)
        weighted = rows[:, :n_fields, parent] * strength.astype(np.float32)
        where: Any = (..., at[child])
        np.add.at(pull, where, weighted)
        closeness = total + kappa[:, None]
        if not posterior.is_point:
            noise = rng.standard_normal(pull.shape, dtype=np.float32)
        spread = sd[:, :, None] / np.sqrt(scale[:, None] * closeness)[:, None, :]
        rows[:, :n_fields, nodes] = pull / closeness[:, None, :] + spread * noise
    return rows, cols


def noise_sd_of(posterior: Posterior, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the sd of log-odds of cells around psi, (n_draws, n_items); None if there is none."""
    if "overdispersion_sd" not in values:
        return None
    design = posterior.design
    sd = np.asarray(values["overdispersion_sd"], np.float32)[:, design.benchmark_index]
    return np.where(design.items["trials"].to_numpy() > 1, sd, np.float32(0))


def concentration_of(posterior: Posterior, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the concentration of Beta-Binomial cells, (n_draws, n_items); None if there is none.

    Infinite for items of a single trial, which have no over-dispersion.
    """
    if "concentration" not in values:
        return None
    design = posterior.design
    found = np.asarray(values["concentration"], np.float32)[:, design.benchmark_index]
    return np.where(design.items["trials"].to_numpy() > 1, found, np.float32(np.inf))


def _with_ancestors(design: Design, chosen: np.ndarray) -> tuple[Design, np.ndarray]:
    """Return the design without the periphery that `chosen` do not descend from, and their places.

    Tens of thousands of descendants may hang on a table of thousands.
    """
    p = design.periphery
    keep = np.zeros(len(p.nodes), bool)
    keep[chosen] = True
    for step in reversed(_levels(design)):
        edges = step[1]
        keep[p.parent[edges][keep[p.child[edges]]]] = True
    keep[: design.n_core] = True
    place = np.cumsum(keep) - 1
    edges = keep[p.child]
    child, parent = place[p.child[edges]], place[p.parent[edges]]
    near = Lineage(
        p.nodes[keep],
        child.astype(np.int32),
        parent.astype(np.int32),
        p.relation[edges],
        p.weight[edges],
    )
    known = None if design.covariates is None else design.covariates.taken(keep)
    return dataclasses.replace(design, periphery=near, covariates=known), place[chosen]


def _step_down(
    posterior: Posterior,
    values: Mapping[str, np.ndarray],
    fields: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Fill in the periphery, parents before children, by steps of the directed prior.

    A sampler gives every draw scales of its own, `fit_vb` the same to all.
    """
    design, known = posterior.design, posterior.design.covariates
    assert known is not None
    if "step_drift" in values:
        parts = [{n: v[d] for n, v in values.items()} for d in range(len(fields))]
        of_draws = [(slice(d, d + 1), StepScales.from_values(v)) for d, v in enumerate(parts)]
    else:
        of_draws = [(slice(None), StepScales.from_values(posterior.state.values))]
    step, periphery = step_index(design.periphery), design.periphery
    for nodes, edges in _levels(design):
        child, parent = periphery.child[edges], periphery.parent[edges]
        at = np.full(len(step), -1)
        at[nodes] = np.arange(len(nodes))
        pull = sp.csr_array(
            (periphery.weight[edges], (at[child], parent)), shape=(len(nodes), fields.shape[2])
        )
        for draw in fields:
            draw[:, nodes] = (pull @ draw.T).T
        for at_draws, scales in of_draws:
            some = fields[at_draws]
            some[:, :, nodes] += scales.centre(step[nodes], known, nodes).T
            if not posterior.is_point:
                some[:, :, nodes] += scales.draw(step[nodes], len(some), rng)


def field_parameters(
    design: Design, spec: Spec, values: Mapping[str, np.ndarray], n_fields: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sd (n_draws, n_fields), kappa and scale (n_draws,) of the Laplacian conditional."""
    n_draws = len(values["factor"])
    if spec.penalty is not None:
        strength = spec.penalty.models
        if strength == 0 or not len(design.graph.rows):
            sd = (2 * spec.penalty.ridge) ** -0.5
            return np.full((n_draws, n_fields), sd), np.ones(n_draws), np.ones(n_draws)
        kappa = np.full(n_draws, spec.penalty.ridge / strength)
        return np.full((n_draws, n_fields), (2 * strength) ** -0.5), kappa, np.ones(n_draws)
    by_row = [np.repeat(np.asarray(values["factor_sd"])[:, None], spec.rank, axis=1)]
    if "ability_unit" in values:
        by_row.append(np.asarray(values["ability_sd"])[:, None])
    if "effect_unit" in values:
        n_effects = values["effect_unit"].shape[1]
        by_row.append(np.repeat(np.asarray(values["benchmark_sd"])[:, None], n_effects, axis=1))
    sd = np.concatenate(by_row, axis=1)
    if "kappa" not in values:
        return sd, np.ones(n_draws), np.ones(n_draws)
    kappa = np.asarray(values["kappa"], float)
    log_scale = design.graph.log_determinant_and_scale(kappa)[1]
    return sd, kappa, np.exp(np.asarray(log_scale, float))


def _levels(design: Design) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group the periphery by its distance from the core: nodes of a level, and their edges."""
    child, parent, _ = design.parents()
    level = np.zeros(len(design.models), np.int64)
    by_child: dict[int, list[int]] = {}
    for c, p in zip(child.tolist(), parent.tolist(), strict=True):
        by_child.setdefault(c, []).append(p)
    level[design.n_core :] = 1
    for c in sorted(by_child):
        level[c] = 1 + max(level[p] for p in by_child[c])
    deepest = int(level.max(initial=0))
    return [
        (np.flatnonzero(level == step), np.flatnonzero(level[child] == step))
        for step in range(1, deepest + 1)
    ]
