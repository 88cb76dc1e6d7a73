"""Curvatures at a point: units in which a search, a guide or a sampler moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.special
from jax.flatten_util import ravel_pytree

from bayes_lrmf.cells import Cells
from bayes_lrmf.design import Design
from bayes_lrmf.program import components, noise_of_items
from bayes_lrmf.spec import Spec

__all__ = [
    "Units",
    "as_matrix",
    "curvature_scales",
    "diagonal_units",
    "evidence",
    "joint_units",
    "row_blocks",
    "total_trials",
]

_TYPICAL_SPREAD = 0.2  # of p (1 - p)
_BLOCK_CELLS = 2**22

Sites = dict[str, np.ndarray]


def evidence(design: Design, hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return what cells tell of log-odds, by evaluated model and by item, at p (1 - p) = 0.2."""
    by_model, by_item = total_trials(design, hyper)
    return _TYPICAL_SPREAD * by_model, _TYPICAL_SPREAD * by_item


def total_trials(design: Design, hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return effective trials by evaluated model and by item."""
    if design.responses.dense is not None:
        return design.responses.n_results_of_model, design.responses.n_results_of_item
    cells = design.responses.to_cells()
    trials = effective_trials(design, cells, hyper)
    by_model = np.bincount(cells.rows, trials, minlength=design.n_evaluated)
    by_item = np.bincount(cells.cols, trials, minlength=design.n_items)
    return by_model, by_item


def effective_trials(design: Design, cells: Cells, hyper: dict[str, Any]) -> np.ndarray:
    """Return trials of cells, fewer where counts are over-dispersed."""
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials.astype(float)
    if "concentration" in hyper:
        spread = np.asarray(hyper["concentration"])[design.benchmark_index][cells.cols]
        trials = trials * (1 + spread) / (trials + spread)
    if "overdispersion_sd" in hyper:
        sd = np.asarray(noise_of_items(design, jnp.asarray(hyper["overdispersion_sd"])))
        trials = trials / (1 + _TYPICAL_SPREAD * trials * sd[cells.cols] ** 2)
    return trials


def _prior_precisions(
    design: Design, spec: Spec, hyper: dict[str, Any]
) -> dict[str, np.ndarray | float]:
    """Return diagonals of the prior precision by site, those of nodes without what edges share."""
    if spec.penalty is not None:
        ridge = 2 * spec.penalty.ridge
        nodes = design.graph.degree * 2 * spec.penalty.models + ridge
        return {"factor": nodes, "loading": ridge}
    sd, kappa = float(hyper.get("factor_sd", 0.5)), float(hyper.get("kappa", 1.0))
    unit = (design.graph.degree + kappa) / (1 + kappa)
    n_of_group = np.bincount(design.item_groups)
    intercept = float(hyper.get("intercept_sd", 1.0)) ** -2
    return {
        "factor": unit / sd**2,
        "ability_unit": unit,
        "effect_unit": unit,
        "loading": 1.0,
        "loading_mean": n_of_group + 1.0,
        "intercept": intercept,
        "intercept_mean": n_of_group * intercept + 0.25,
    }


def curvature_scales(design: Design, spec: Spec, hyper: dict[str, Any], values: Sites) -> Sites:
    """Return rough posterior standard deviations of each parameter, from a diagonal curvature.

    The evidence of a cell is its number of trials times 0.2, the typical p (1 - p), divided by the
    over-dispersion of counts; the prior adds its own precision.
    """
    by_model, by_item = evidence(design, hyper)
    padded = np.zeros(design.n_core)
    padded[: design.n_evaluated] = by_model
    square_x = np.mean(values["loading"] ** 2) + 0.1
    square_m = max(float(np.mean(values["factor"] ** 2)), 0.05)
    known: dict[str, np.ndarray] = {
        "factor": padded * square_x,
        "loading": by_item * square_m,
        "intercept": by_item,
    }
    if "ability_unit" in values:
        known["ability_unit"] = padded * float(hyper["ability_sd"]) ** 2
    if "effect_unit" in values:
        per = padded / len(design.benchmarks)
        known["effect_unit"] = per * float(hyper["benchmark_sd"]) ** 2
    prior = _prior_precisions(design, spec, hyper)
    return {
        name: np.broadcast_to((known.get(name, 0.0) + prior[name]) ** -0.5, value.shape).copy()
        for name, value in values.items()
    }


def row_blocks(
    design: Design, hyper: dict[str, Any]
) -> Iterator[tuple[slice, Any, Any, np.ndarray, np.ndarray]]:
    """Yield the table by blocks of models, small enough to be worked on.

    Yields
    ------
    block : slice
        Of evaluated models.
    rows, cols : indices of cells in the block
        That broadcast to the shape of the values.
    centred, trials : arrays
        Successes less half the trials, and trials; of a dense table both are matrices, zero where
        an item was not run, else lists of cells. Over-dispersion lessens both.
    """
    r = design.responses
    if r.dense is not None:
        step = max(1, _BLOCK_CELLS // max(r.n_items, 1))
        cols = np.arange(r.n_items)[None]
        for start in range(0, r.n_models, step):
            block = slice(start, min(start + step, r.n_models))
            values = r.dense[block]
            seen = (values >= 0).astype(np.float32)
            rows = np.arange(block.stop - start)[:, None]
            yield block, rows, cols, (values - np.float32(0.5)) * seen, seen
        return
    cells = r.to_cells()
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials.astype(float)
    effective = effective_trials(design, cells, hyper)
    centred = (cells.successes - trials / 2) * (effective / trials)
    ends = np.searchsorted(cells.rows, np.arange(r.n_models), side="right")
    start = 0
    while start < r.n_models:
        first = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, first + _BLOCK_CELLS, side="right")))
        part = slice(first, int(ends[stop - 1]))
        rows = cells.rows[part] - start
        yield slice(start, stop), rows, cells.cols[part], centred[part], effective[part]
        start = stop


def as_matrix(values: np.ndarray, rows: Any, cols: Any, shape: tuple[int, int]) -> Any:
    """Return values of cells as what multiplies matrices."""
    return values if values.ndim == 2 else sp.csr_array((values, (rows, cols)), shape=shape)


def _curvatures(
    design: Design, hyper: dict[str, Any], values: Sites, of_model: np.ndarray, of_item: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of ``n p (1 - p) z z'`` by model over items, and by item over models.

    Parameters
    ----------
    of_model, of_item : arrays, shapes (n_evaluated, d) and (n_items, c)
        What multiplies the parameters of items, and of models.
    """
    ahead, across = (np.asarray(part, np.float32) for part in components(design, values))
    shape_m, shape_i = of_model.shape[1], of_item.shape[1]
    pairs_i = np.einsum("ia,ib->iab", of_item, of_item).reshape(-1, shape_i**2)
    pairs_m = np.einsum("ma,mb->mab", of_model, of_model).reshape(-1, shape_m**2)
    by_model = np.zeros((design.n_evaluated, shape_i**2))
    by_item = np.zeros((design.n_items, shape_m**2))
    for block, rows, cols, _, trials in row_blocks(design, hyper):
        part = ahead[:, block]
        if trials.ndim == 2:
            psi = part.T @ across
        else:
            psi = np.einsum("lc,lc->c", part[:, rows], across[:, cols])
        p = scipy.special.expit(psi)
        shape = (block.stop - block.start, design.n_items)
        weight = as_matrix(trials * p * (1 - p), rows, cols, shape)
        by_model[block] = weight @ pairs_i.astype(p.dtype)
        by_item += weight.T @ pairs_m[block].astype(p.dtype)
    return (
        by_model.reshape(-1, shape_i, shape_i),
        by_item.reshape(-1, shape_m, shape_m),
    )


@dataclass(frozen=True, eq=False)
class Units:
    """What turns a vector in which a search moves into sites of the program.

    Attributes
    ----------
    scale : array, shape (n_parameters,)
        Of sites in no group, in the order of `unravel`.
    roots : tuple of arrays, shapes (n_core, d, d) and (n_items, c, c)
        Matrices by model and by item; of a precision P an R with ``R' P R = I``.
    groups : tuple of tuples of str
        Sites whose parameters the matrices mix: factors and ability, loadings and intercept.
    unravel : callable
    """

    scale: jax.Array
    roots: tuple[jax.Array, ...]
    groups: tuple[tuple[str, ...], ...]
    unravel: Callable[[Any], dict[str, Any]]

    def sites(self, flat: Any) -> dict[str, Any]:
        """Return sites of the program from a vector in these units."""
        raw, out = self.unravel(flat), dict(self.unravel(flat * self.scale))
        for names, root in zip(self.groups, self.roots, strict=True):
            white = jnp.concatenate([jnp.atleast_2d(raw[name]) for name in names])
            out |= _split(names, jnp.einsum("nij,jn->in", root, white))
        return out

    def flat(self, values: Sites) -> np.ndarray:
        """Return the vector that `sites` turns into these values."""
        raw = dict(self.unravel(ravel_pytree(values)[0] / self.scale))
        for names, root in zip(self.groups, self.roots, strict=True):
            both = np.concatenate([np.atleast_2d(values[name]) for name in names])
            raw |= _split(names, np.linalg.solve(root, both.T[..., None])[..., 0].T)
        return np.asarray(ravel_pytree(raw)[0])


jax.tree_util.register_dataclass(Units, ["scale", "roots"], ["groups", "unravel"])


def diagonal_units(design: Design, spec: Spec, hyper: dict[str, Any], values: Sites) -> Units:
    """Return units of `curvature_scales` at a point.

    Parameters
    ----------
    design : Design
    spec : Spec
    hyper : mapping
        Fixed hyper-parameters.
    values : mapping
        All other sites, the point.
    """
    scales = curvature_scales(design, spec, hyper, values)
    flat, unravel = ravel_pytree(scales)
    groups = _groups(values)
    stacked = [np.concatenate([np.atleast_2d(scales[n]) for n in names]) for names in groups]
    roots = tuple(jnp.asarray(s.T[:, :, None] * np.eye(len(s))) for s in stacked)
    return Units(flat, roots, groups, unravel)


def joint_units(
    design: Design, spec: Spec, hyper: dict[str, Any], values: Sites, like: Units
) -> Units:
    """Return units of the joint curvature of each model's, and each item's, parameters at a point.

    That is the Fisher information of their cells at the log-odds of the point, and the diagonal of
    the prior precision: what Newton's method would use for one model, or one item, alone. Benchmark
    effects and prior means keep units of their own.

    Parameters
    ----------
    design, spec, hyper, values
        As of `diagonal_units`.
    like : Units
        Of the same design.
    """
    prior = _prior_precisions(design, spec, hyper)
    of_model, of_item = [values["factor"]], [values["loading"]]
    if "ability_unit" in values:
        of_item.append(np.full((1, design.n_items), float(hyper["ability_sd"])))
    if "intercept" in values:
        of_model.append(np.ones((1, design.n_core)))
    known = _curvatures(
        design,
        hyper,
        values | hyper,
        np.concatenate(of_model)[:, : design.n_evaluated].T,
        np.concatenate(of_item).T,
    )
    roots = []
    for names, told, n in zip(like.groups, known, (design.n_core, design.n_items), strict=True):
        precision = np.zeros((n, *told.shape[1:]))
        precision[: len(told)] = told
        at = np.arange(told.shape[1])
        rows = [np.broadcast_to(prior[name], n) for name in names]
        precision[:, at, at] += np.stack([rows[0]] * spec.rank + rows[1:], axis=1)
        # P = C C' and R = C^-T.
        roots.append(jnp.asarray(np.linalg.inv(np.linalg.cholesky(precision)).mT))
    scale = ravel_pytree(curvature_scales(design, spec, hyper, values))[0]
    return Units(scale, tuple(roots), like.groups, like.unravel)


def _groups(values: Sites) -> tuple[tuple[str, ...], ...]:
    both = ("factor", "ability_unit"), ("loading", "intercept")
    return tuple(tuple(name for name in names if name in values) for names in both)


def _split(names: tuple[str, ...], rows: Any) -> dict[str, Any]:
    """Return the rows of factors or loadings, and the one after them if it has a name."""
    if len(names) == 1:
        return {names[0]: rows}
    return {names[0]: rows[:-1], names[1]: rows[-1]}
