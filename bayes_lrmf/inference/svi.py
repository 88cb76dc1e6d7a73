"""Stochastic variational inference with NumPyro: Gaussian along the lineage, from the mode."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import ClippedAdam

from bayes_lrmf.checks import InputError, positive, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.gaussian import GraphGaussian
from bayes_lrmf.inference.map import curvature_scales, fit_map, refuse_directed
from bayes_lrmf.posterior import FitRecord, GaussianState, Posterior
from bayes_lrmf.program import hyperparameters, program
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec

__all__ = ["fit_svi"]

_FIELDS = ("factor", "ability_unit", "effect_unit")
_CHUNK = 25
_MINI_BATCH_CELLS = 20_000_000


def fit_svi(
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    progress: Progress | None = None,
    max_steps: int = 3000,
    tolerance: float = 1e-5,
    step_size: float = 0.03,
    n_batches: int | None = None,
) -> Posterior:
    """Fit a Gaussian approximation of the posterior by maximising the ELBO.

    Factors and benchmark effects are Gaussian along the lineage (`GraphGaussian`), column by
    column; loadings, intercepts and log hyper-parameters are independent Gaussians.

    Parameters
    ----------
    design : Design
    spec : Spec
        Without a penalty.
    key : jax key
    progress : Progress, optional
    max_steps : int
    tolerance : float
        The step size stays until the mean ELBO of 100 steps gains less than this share of itself
        per step over the 100 before, and is then annealed over 300 steps.
    step_size : float
        Of Adam, in units of a rough posterior standard deviation.
    n_batches : int, optional
        Mini-batches an epoch; by default one, or as many as keep 20 million cells a step.

    Returns
    -------
    Posterior
        With Gaussian parameters; `record.trace` holds the negative ELBO by step.

    Raises
    ------
    InputError
        For a spec with a penalty, which is a point estimate, and for a directed prior.
    """
    refuse_directed("svi", spec)
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is a point estimate", fix="use method map")
    max_steps = whole_number(max_steps, name="max_steps", minimum=400)
    tolerance, step_size = (
        positive(tolerance, name="tolerance"),
        positive(step_size, name="step_size"),
    )
    progress = progress or Progress("svi", enabled=False)
    started = time.perf_counter()
    if n_batches is None:
        n_batches = max(1, round(design.responses.n_observed / _MINI_BATCH_CELLS))
    map_key, run_key = jax.random.split(key)
    mode = fit_map(design, spec, key=map_key, progress=progress, tolerance=1e-5)
    with jax.enable_x64(design.precision == "float64"):
        start = _start(design, spec, mode.state.draw(1, map_key, design))
        guide = _guide(design, start)
        params, trace, converged = _maximise(
            design, spec, guide, run_key, progress, max_steps, tolerance, step_size, n_batches
        )
        values = {k: np.asarray(v) for k, v in _parameters(start, params).items()}
    message = f"ELBO {-np.mean(trace[-100:]):.6g} after {len(trace)} steps"
    if not converged:
        message += ", still rising"
    record = FitRecord(
        method="svi",
        converged=converged,
        message=message,
        trace=np.asarray(trace, np.float32),
        seconds=time.perf_counter() - started,
    )
    return Posterior(design, spec, GaussianState(values), record)


def _start(design: Design, spec: Spec, point: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return loc, scale and coupling of every site at the mode, by its curvature."""
    values = {name: v[0] for name, v in point.items()}
    used = hyperparameters(design, spec)
    hyper = {name: values.pop(name) for name in used}
    scales = curvature_scales(design, spec, hyper, values)
    start: dict[str, Any] = {}
    kappa = float(hyper.get("kappa", 1.0))
    for name, loc in values.items():
        start[f"{name}_loc"], start[f"{name}_scale"] = loc, scales[name]
        if name in _FIELDS:
            sd = float(hyper["factor_sd"]) if name == "factor" else 1.0
            precision = 1 / ((1 + kappa) * sd**2)
            # curvature_scales put evidence and prior into one diagonal; edges complete it.
            diagonal = scales[name] ** -2.0
            off = precision * design.graph.off_diagonal
            factor = design.graph.elimination.factor(
                diagonal, np.broadcast_to(off, (*diagonal.shape[:-1], len(off)))
            )
            start[f"{name}_scale"] = factor.diagonal**-0.5
            start[f"{name}_coupling"] = factor.lower
    for name, (prior, _) in used.items():
        if prior.learned:
            start[f"{name}_loc"] = np.log(hyper[name])
            start[f"{name}_scale"] = np.full(np.shape(hyper[name]), 0.1)
        else:
            start[name] = hyper[name]
    return {name: jnp.asarray(v, float) for name, v in start.items()}


def _parameters(start: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return loc, scale and coupling from the steps taken away from the start."""
    out = dict(start)
    for name, step in params.items():
        if name.endswith("_loc"):
            out[name] = start[name] + start[name[: -len("_loc")] + "_scale"] * step
        elif name.endswith("_scale"):
            out[name] = start[name] * jnp.exp(step)
        else:
            out[name] = start[name] + step
    return out


def _guide(design: Design, start: dict[str, Any]) -> Any:
    def guide(*_: Any, **__: Any) -> None:
        params = {
            name: numpyro.param(name, jnp.zeros_like(value))
            for name, value in start.items()
            if name.endswith(("_loc", "_scale", "_coupling"))
        }
        now = _parameters(start, params)
        for name in [n[: -len("_loc")] for n in now if n.endswith("_loc")]:
            loc, scale = now[f"{name}_loc"], now[f"{name}_scale"]
            if f"{name}_coupling" in now:
                field = GraphGaussian(design.graph.elimination, loc, scale, now[f"{name}_coupling"])
                numpyro.sample(name, field.to_event(loc.ndim - 1))
            elif name in ("loading", "loading_mean", "intercept", "intercept_mean"):
                numpyro.sample(name, dist.Normal(loc, scale).to_event(loc.ndim))
            else:
                numpyro.sample(name, dist.LogNormal(loc, scale).to_event(loc.ndim))

    return guide


def _maximise(
    design: Design,
    spec: Spec,
    guide: Any,
    key: jax.Array,
    progress: Progress,
    max_steps: int,
    tolerance: float,
    step_size: float,
    n_batches: int,
) -> tuple[dict[str, Any], list[float], bool]:
    def optimiser(rate: Any) -> ClippedAdam:
        return ClippedAdam(lambda _: rate, clip_norm=1e6)

    svi = SVI(program, guide, optimiser(step_size), Trace_ELBO())
    state = jax.jit(lambda k: svi.init(k, design, spec, n_batches=n_batches))(key)

    @jax.jit
    def advance(state: Any, rates: jax.Array) -> Any:
        def one(state: Any, rate: jax.Array) -> Any:
            # The step size is data of the compiled loop, so that annealing does not compile anew.
            svi.optim = optimiser(rate)
            return svi.stable_update(state, design, spec, n_batches=n_batches)

        return jax.lax.scan(one, state, rates)

    trace: list[float] = []
    anneal_from: int | None = None
    while len(trace) < max_steps:
        at = len(trace) + np.arange(_CHUNK)
        if anneal_from is None and len(trace) + 300 >= max_steps:
            anneal_from = len(trace)
        rates = np.full(_CHUNK, step_size)
        if anneal_from is not None:
            rates = step_size * 0.03 ** np.clip((at - anneal_from) / 300, 0, 1)
        state, losses = advance(state, jnp.asarray(rates, float))
        trace.extend(np.asarray(losses, float).tolist())
        progress.update(len(trace), elbo=-float(np.mean(trace[-_CHUNK:])))
        if anneal_from is not None and len(trace) >= anneal_from + 300:
            break
        if anneal_from is None and len(trace) >= 300:
            before, now = np.mean(trace[-200:-100]), np.mean(trace[-100:])
            if before - now < tolerance * 100 * abs(now):
                anneal_from = len(trace)
    rising = anneal_from is not None and anneal_from + 300 >= max_steps
    svi.optim = optimiser(step_size)
    params = svi.get_params(state)
    return params, trace, not rising
