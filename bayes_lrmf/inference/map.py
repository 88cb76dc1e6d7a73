"""Point estimates: the mode of the posterior at fixed hyper-parameters, by L-BFGS."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import log_density
from threadpoolctl import threadpool_limits

from bayes_lrmf.checks import InputError, positive, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.checkpoint import Checkpoint, Saved, saved_by
from bayes_lrmf.inference.lbfgs import Found, minimise
from bayes_lrmf.kernels import ShardedTable
from bayes_lrmf.posterior import FitRecord, PointState, Posterior
from bayes_lrmf.program import (
    fixed_hyperparameters,
    hyperparameters,
    noise_of_items,
    program,
)
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec

__all__ = ["curvature_scales", "fit_map", "initial_values", "objective", "refuse_directed"]


def refuse_directed(method: str, spec: Spec) -> None:
    """Refuse a directed prior, for which `method` has no mode and no guide.

    Raises
    ------
    InputError
    """
    if spec.lineage == "directed":
        raise InputError(
            f"method {method} cannot fit the directed prior of spec {spec.name}",
            fix="use method vb or nuts",
        )


def objective(design: Design, spec: Spec, values: dict[str, Any]) -> jax.Array:
    """Return the negative log joint density of all sites of the program, up to coefficients.

    Parameters
    ----------
    values : mapping
        Every site of the program, hyper-parameters included.
    """
    return -log_density(program, (design, spec), {}, values)[0]


def _shapes(design: Design, spec: Spec) -> dict[str, tuple[int, ...]]:
    k, n, i, b = spec.rank, design.n_core, design.n_items, design.n_groups
    shapes: dict[str, tuple[int, ...]] = {"factor": (k, n), "loading": (k, i)}
    if spec.penalty is not None:
        return shapes
    used = hyperparameters(design, spec)
    if spec.loading_mean:
        shapes["loading_mean"] = (k, b)
    if spec.ability:
        shapes["ability_unit"] = (n,)
    if "benchmark_sd" in used:
        shapes["effect_unit"] = (len(design.effect_benchmarks), n)
    if spec.intercept:
        shapes |= {"intercept": (i,), "intercept_mean": (b,)}
    return shapes


def initial_values(
    design: Design, spec: Spec, hyper: dict[str, Any], *, key: jax.Array
) -> dict[str, np.ndarray]:
    """Return a start: item intercepts at the logit of the item mean, the rest small and random."""
    seed = int(np.asarray(jax.random.key_data(key)).ravel()[-1])
    rng = np.random.default_rng(seed)
    shapes = _shapes(design, spec)
    values = {name: 0.1 * rng.standard_normal(shape) for name, shape in shapes.items()}
    values["loading"] = 0.5 * rng.standard_normal(shapes["loading"])
    if "intercept" in values:
        right, run = _item_totals(design)
        share = (right + 1) / (run + 2)
        values["intercept"] = np.log(share / (1 - share))
        total = np.bincount(design.item_groups, values["intercept"])
        values["intercept_mean"] = total / np.bincount(design.item_groups)
    return values


def _item_totals(design: Design) -> tuple[np.ndarray, np.ndarray]:
    values = design.responses.dense
    if values is not None:
        return (values > 0).sum(0), (values >= 0).sum(0)
    cells = design.responses.to_cells()
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials
    right = np.bincount(cells.cols, cells.successes, minlength=design.n_items)
    return right, np.bincount(cells.cols, trials, minlength=design.n_items)


def curvature_scales(
    design: Design, spec: Spec, hyper: dict[str, Any], values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return rough posterior standard deviations of each parameter, from a diagonal curvature.

    The evidence of a cell is its number of trials times 0.2, the typical p (1 - p), divided by the
    over-dispersion of counts; the prior adds its own precision.
    """
    by_model, by_item = evidence(design, hyper)
    sd = float(hyper.get("factor_sd", 0.5))
    if spec.penalty is not None:
        degree_m = design.graph.degree * 2 * spec.penalty.models
        prior_m, prior_x = degree_m + 2 * spec.penalty.ridge, 2 * spec.penalty.ridge
    else:
        kappa = float(hyper.get("kappa", 1.0))
        prior_m = (design.graph.degree + kappa) / ((1 + kappa) * sd**2)
        prior_x = 1.0
    padded = np.zeros(design.n_core)
    padded[: design.n_evaluated] = by_model
    square_x = np.mean(values["loading"] ** 2) + 0.1
    square_m = max(float(np.mean(values["factor"] ** 2)), 0.05)
    shapes = {name: value.shape for name, value in values.items()}
    n_of_group = np.bincount(design.item_groups)
    scales = {
        "factor": (padded * square_x + prior_m) ** -0.5,
        "loading": (by_item * square_m + prior_x) ** -0.5,
        "loading_mean": (n_of_group + 1.0) ** -0.5,
    }
    if spec.intercept:
        intercept_sd = float(hyper.get("intercept_sd", 1.0))
        scales["intercept"] = (by_item + intercept_sd**-2) ** -0.5
        scales["intercept_mean"] = (n_of_group / intercept_sd**2 + 0.25) ** -0.5
    unit = prior_m * sd**2
    if "ability_unit" in shapes:
        scales["ability_unit"] = (padded * float(hyper["ability_sd"]) ** 2 + unit) ** -0.5
    if "effect_unit" in shapes:
        per = padded / len(design.benchmarks) * float(hyper["benchmark_sd"]) ** 2
        scales["effect_unit"] = (per + unit) ** -0.5
    return {name: np.broadcast_to(scales[name], shape).copy() for name, shape in shapes.items()}


def evidence(design: Design, hyper: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    values = design.responses.dense
    if values is not None:
        return 0.2 * (values >= 0).sum(1), 0.2 * (values >= 0).sum(0)
    cells = design.responses.to_cells()
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials.astype(float)
    if "concentration" in hyper:
        spread = np.asarray(hyper["concentration"])[design.benchmark_index][cells.cols]
        trials = trials * (1 + spread) / (trials + spread)
    if "overdispersion_sd" in hyper:
        sd = np.asarray(noise_of_items(design, jnp.asarray(hyper["overdispersion_sd"])))
        trials = trials / (1 + 0.2 * trials * sd[cells.cols] ** 2)
    by_model = np.bincount(cells.rows, trials, minlength=design.n_evaluated)
    by_item = np.bincount(cells.cols, trials, minlength=design.n_items)
    return 0.2 * by_model, 0.2 * by_item


# Threads of BLAS spin over short vectors: they double the time of a processor, and save none.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_map(
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    progress: Progress | None = None,
    hyper: dict[str, Any] | None = None,
    start: dict[str, np.ndarray] | None = None,
    tolerance: float = 5e-7,
    max_iterations: int = 1000,
    precision: str | None = None,
    checkpoint: Checkpoint | Saved | None = None,
) -> Posterior:
    """Find the mode of all factors, loadings and biases at fixed hyper-parameters.

    Parameters
    ----------
    design : Design
    spec : Spec
        With a penalty, what is minimised equals the objective of arXiv:2504.19811 but for a
        constant: cross-entropy summed over observed cells, plus ``lambda_M tr(M' L_M M) +
        lambda_X tr(X' L_X X) + lambda_2 (|M|^2 + |X|^2)``.
    key : jax key
        For the random start.
    progress : Progress, optional
    hyper : mapping, optional
        Hyper-parameters; by default their prior medians. They are not optimised: a joint mode over
        scales and what they scale does not exist.
    start : mapping, optional
        Values of all other sites to start at, such as those of an earlier fit.
    tolerance : float
        Stops when an iteration lowers the objective by less than this share of it.
    max_iterations : int
    precision : {"float32", "float64"}, optional
        Of the arithmetic; sums and the optimiser are float64 always. By default the design's.
    checkpoint : Checkpoint, optional
        Where to save the search now and then, and to go on from.

    Returns
    -------
    Posterior
        With one point. `record.converged` is False when `max_iterations` ended the search.

    Raises
    ------
    InputError
        For a directed prior, or a checkpoint of another fit.
    Interrupted
        After Ctrl-C, with the point so far.

    Notes
    -----
    L-BFGS (Liu & Nocedal 1989, scipy's) with 20 pairs, on parameters in units of a rough posterior
    standard deviation.
    """
    refuse_directed("map", spec)
    tolerance = positive(tolerance, name="tolerance")
    max_iterations = whole_number(max_iterations, name="max_iterations")
    progress = progress or Progress("map", enabled=False)
    saved = saved_by(
        checkpoint,
        "map",
        design,
        spec,
        key=key,
        progress=progress,
        options={
            "hyper": hyper,
            "start": start,
            "tolerance": tolerance,
            "max_iterations": max_iterations,
            "precision": precision,
        },
    )
    with jax.enable_x64(True):
        dtype = jnp.dtype(precision or design.precision)
        fixed = fixed_hyperparameters(design, spec) | (hyper or {})
        begin = initial_values(design, spec, fixed, key=key) if start is None else dict(start)
        scales = curvature_scales(design, spec, fixed, begin)
        flat_scale, unravel = ravel_pytree(scales)
        constants = {k: jnp.asarray(v, dtype) for k, v in fixed.items()}

        # A table spread over processes is no constant of a program of one of them.
        table = design.table if isinstance(design.table, ShardedTable) else None

        def negative(flat: jax.Array, table: Any) -> jax.Array:
            values = {k: v.astype(dtype) for k, v in unravel(flat * flat_scale).items()}
            seen = design if table is None else design.holding(table)
            return objective(seen, spec, {**values, **constants}).astype(jnp.float64)

        step = jax.jit(jax.value_and_grad(negative))

        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = step(flat, table)
            return float(value), np.asarray(gradient, float)

        def posterior(found: Found) -> Posterior:
            with jax.enable_x64(True):
                flat = unravel(found.x * np.asarray(flat_scale))
            values = {k: np.asarray(v) for k, v in (flat | fixed).items()}
            record = FitRecord(
                method="map",
                converged=found.success,
                message=_message(found),
                trace=np.array(found.trace),
                seconds=saved.seconds,
            )
            return Posterior(design, spec, PointState(values), record)

        found = minimise(
            evaluate,
            np.asarray(ravel_pytree(begin)[0] / flat_scale),
            tolerance=tolerance,
            max_iterations=max_iterations,
            report=lambda n, value: progress.update(n, objective=value),
            saved=saved,
            partial=posterior,
        )
        return posterior(found)


def _message(found: Found) -> str:
    n = len(found.trace)
    if found.success:
        return f"objective {found.value:.6g} after {n} iterations"
    return f"stopped after {n} iterations: {found.message}"
