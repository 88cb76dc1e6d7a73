"""Point estimates: the mode of the posterior at fixed hyper-parameters, by L-BFGS."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import log_density
from threadpoolctl import threadpool_limits

from bayes_lrmf.checks import InputError, positive, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.checkpoint import Checkpoint, Saved, saved_by
from bayes_lrmf.inference.lbfgs import Found, minimise
from bayes_lrmf.inference.scales import Units, diagonal_units, joint_units
from bayes_lrmf.inference.start import initial_values, narrowed
from bayes_lrmf.kernels import ShardedTable
from bayes_lrmf.posterior import FitRecord, PointState, Posterior
from bayes_lrmf.program import fixed_hyperparameters, program
from bayes_lrmf.progress import Progress
from bayes_lrmf.sharing import shared
from bayes_lrmf.spec import Spec

__all__ = ["fit_map", "objective", "refuse_directed"]

# Smaller tables have few poor modes, and what compiles once more costs them most.
_WIDE_FROM = 100_000
_WIDE_ITERATIONS = 12
_JOINT_FROM = 10
_WIDE, _ROUGH, _JOINT = "map, wide", "map", "map, joint units"
_BEGUN, _BEFORE = "begun_", "before"


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
    tolerance: float = 1e-6,
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
        For the random projection of the start.
    progress : Progress, optional
    hyper : mapping, optional
        Hyper-parameters; by default their prior medians. They are not optimised: a joint mode over
        scales and what they scale does not exist.
    start : mapping, optional
        Values of all other sites to start at, such as those of an earlier fit.
    tolerance : float
        Stops when ten iterations lower the objective by less than this share of it each, on
        average.
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
    L-BFGS (Liu & Nocedal 1989, scipy's) with 20 pairs from a spectral start. With 100,000 results
    and more, 12 iterations go first with a quarter more factors than the spec has, which leave the
    basins of poor modes that a search with no factor to spare ends in; the leading ones of these
    are the start of the search proper, whose iterations alone are counted. Parameters are in units
    of a rough posterior standard deviation; after 10 iterations the search begins anew in units of
    the joint curvature of each model's and each item's parameters.
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
        constants = {k: jnp.asarray(v, dtype) for k, v in fixed.items()}
        # A table spread over processes is no constant of a program of one of them.
        table = design.table if isinstance(design.table, ShardedTable) else None

        def sites(flat: np.ndarray, units: Units) -> dict[str, np.ndarray]:
            with jax.enable_x64(True):
                return {k: np.asarray(v) for k, v in units.sites(jnp.asarray(flat)).items()}

        def posterior(found: Found, values: dict[str, np.ndarray], trace: list[float]) -> Posterior:
            record = FitRecord(
                method="map",
                converged=found.success,
                message=_message(found, len(trace)),
                trace=np.array(trace),
                seconds=saved.seconds,
            )
            return Posterior(design, spec, PointState(values | fixed), record)

        def step_of(spec: Spec) -> Any:
            def negative(flat: jax.Array, units: Units, table: Any) -> jax.Array:
                values = {k: v.astype(dtype) for k, v in units.sites(flat).items()}
                seen = design if table is None else design.holding(table)
                return objective(seen, spec, {**values, **constants}).astype(jnp.float64)

            return shared(jax.value_and_grad(negative))

        def search(
            stage: str, step: Any, units: Units, begin: dict[str, np.ndarray], limit: int
        ) -> Found:
            """Return where a stage ends; what it begins at is saved with it."""
            loaded = begun if begun is not None and stage == at else None

            def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
                value, gradient = step(flat, units, table)
                return float(value), np.asarray(gradient, float)

            def report(n: int, value: float) -> None:
                if stage == _WIDE:
                    progress.update(n, stage="start", objective=value)
                else:
                    progress.update(len(trace) + n, objective=value)

            def partial(found: Found) -> Posterior:
                values = sites(found.x, units)
                if stage == _WIDE:
                    return posterior(found, narrowed(values, spec, fixed), [])
                return posterior(found, values, trace + found.trace)

            return minimise(
                evaluate,
                units.flat(begin),
                tolerance=tolerance,
                max_iterations=limit,
                report=report,
                saved=saved,
                partial=partial,
                stage=stage,
                loaded=loaded,
                kept={_BEFORE: np.array(trace), **{f"{_BEGUN}{n}": v for n, v in begin.items()}},
            )

        trace: list[float] = []
        at, begun = _resumed(saved)
        if begun is not None:
            trace = begun[_BEFORE].tolist()
            begin = {n[len(_BEGUN) :]: v for n, v in begun.items() if n.startswith(_BEGUN)}
        elif start is not None:
            at, begin = _ROUGH, dict(start)
        else:
            wide = _wider(design, spec)
            at = _ROUGH if wide.rank == spec.rank else _WIDE
            begin = initial_values(design, wide, fixed, key=key)
        if at == _WIDE:
            wide = _wider(design, spec)
            units = diagonal_units(design, wide, fixed, begin)
            found = search(_WIDE, step_of(wide), units, begin, _WIDE_ITERATIONS)
            begin = narrowed(sites(found.x, units), spec, fixed)
        step = step_of(spec)
        units = diagonal_units(design, spec, fixed, begin)
        if at != _JOINT:
            found = search(_ROUGH, step, units, begin, min(_JOINT_FROM, max_iterations))
            begin, trace = sites(found.x, units), found.trace
            if found.success or len(trace) >= max_iterations:
                return posterior(found, begin, trace)
        units = joint_units(design, spec, fixed, begin, units)
        found = search(_JOINT, step, units, begin, max_iterations - len(trace))
        return posterior(found, sites(found.x, units), trace + found.trace)


def _wider(design: Design, spec: Spec) -> Spec:
    """Return the spec with factors to spare, or itself for a small table."""
    if design.responses.n_observed < _WIDE_FROM:
        return spec
    rank = spec.rank + max(1, spec.rank // 4)
    if rank > min(design.n_evaluated, design.n_items):
        return spec
    return dataclasses.replace(spec, rank=rank)


def _resumed(saved: Saved) -> tuple[str, dict[str, np.ndarray] | None]:
    """Return the stage that was left, and its arrays."""
    for stage in (_WIDE, _ROUGH, _JOINT):
        state = saved.load(stage)
        if state is not None:
            saved.resumed("iteration", len(state[1][_BEFORE]) + len(state[1]["trace"]))
            return stage, state[1]
    return _WIDE, None


def _message(found: Found, n: int) -> str:
    if found.success:
        return f"objective {found.value:.6g} after {n} iterations"
    return f"stopped after {n} iterations: {found.message}"
