"""Point estimates: the mode of the posterior at fixed hyper-parameters, by L-BFGS."""

from __future__ import annotations

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
from bayes_lrmf.inference.start import initial_values
from bayes_lrmf.kernels import ShardedTable
from bayes_lrmf.posterior import FitRecord, PointState, Posterior
from bayes_lrmf.program import fixed_hyperparameters, program
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec

__all__ = ["fit_map", "objective", "refuse_directed"]

_JOINT_FROM = 40
_ROUGH, _JOINT = "map", "map, joint units"


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
        For the random projection of the start.
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
    L-BFGS (Liu & Nocedal 1989, scipy's) with 20 pairs from a spectral start. Parameters are in
    units of a rough posterior standard deviation; after 40 iterations the search begins anew in
    units of the joint curvature of each model's and each item's parameters, which halves what is
    left of it.
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
        begin = initial_values(design, spec, fixed, key=key) if start is None else dict(start)
        # A table spread over processes is no constant of a program of one of them.
        table = design.table if isinstance(design.table, ShardedTable) else None

        def negative(flat: jax.Array, units: Units, table: Any) -> jax.Array:
            values = {k: v.astype(dtype) for k, v in units.sites(flat).items()}
            seen = design if table is None else design.holding(table)
            return objective(seen, spec, {**values, **constants}).astype(jnp.float64)

        step = jax.jit(jax.value_and_grad(negative))

        def sites(flat: np.ndarray, units: Units) -> dict[str, np.ndarray]:
            with jax.enable_x64(True):
                return {k: np.asarray(v) for k, v in units.sites(jnp.asarray(flat)).items()}

        def search(first: np.ndarray, units: Units, before: list[float], **stage: Any) -> Found:
            def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
                value, gradient = step(flat, units, table)
                return float(value), np.asarray(gradient, float)

            return minimise(
                evaluate,
                first,
                tolerance=tolerance,
                report=lambda n, value: progress.update(len(before) + n, objective=value),
                saved=saved,
                partial=lambda found: posterior(found, units, before),
                **stage,
            )

        def posterior(found: Found, units: Units, before: list[float]) -> Posterior:
            trace = before + found.trace
            record = FitRecord(
                method="map",
                converged=found.success,
                message=_message(found, len(trace)),
                trace=np.array(trace),
                seconds=saved.seconds,
            )
            return Posterior(design, spec, PointState(sites(found.x, units) | fixed), record)

        def resumed(stage: str) -> dict[str, np.ndarray] | None:
            state = saved.load(stage)
            if state is None:
                return None
            saved.resumed("iteration", len(state[1].get("before", ())) + len(state[1]["trace"]))
            return state[1]

        units = diagonal_units(design, spec, fixed, begin)
        joint = resumed(_JOINT)
        if joint is None:
            n = min(_JOINT_FROM, max_iterations)
            rough = {"stage": _ROUGH, "loaded": resumed(_ROUGH), "max_iterations": n}
            found = search(units.flat(begin), units, [], **rough)
            if found.success or n == max_iterations:
                return posterior(found, units, [])
            kept = {"origin": found.x.copy(), "before": np.array(found.trace)}
        else:
            kept = {name: joint[name] for name in ("origin", "before")}
        begin = sites(kept["origin"], units)
        units = joint_units(design, spec, fixed, begin, units)
        before = kept["before"].tolist()
        found = search(
            units.flat(begin),
            units,
            before,
            stage=_JOINT,
            loaded=joint,
            max_iterations=max_iterations - len(before),
            kept=kept,
        )
        return posterior(found, units, before)


def _message(found: Found, n: int) -> str:
    if found.success:
        return f"objective {found.value:.6g} after {n} iterations"
    return f"stopped after {n} iterations: {found.message}"
