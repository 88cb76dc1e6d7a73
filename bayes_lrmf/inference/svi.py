"""Stochastic variational inference with NumPyro: Gaussian along the lineage, from the mode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
from bayes_lrmf.inference.checkpoint import Checkpoint, Saved, leaves, restored, saved_by
from bayes_lrmf.inference.map import fit_map, refuse_directed
from bayes_lrmf.inference.scales import curvature_scales
from bayes_lrmf.posterior import FitRecord, GaussianState, Posterior
from bayes_lrmf.program import hyperparameters, program
from bayes_lrmf.progress import Progress
from bayes_lrmf.sharing import shared
from bayes_lrmf.spec import Spec

__all__ = ["fit_svi"]

_FIELDS = ("factor", "ability_unit", "effect_unit")
_CHUNK = 25
_ANNEALING = 300
_MODE = "mode_"
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
    checkpoint: Checkpoint | Saved | None = None,
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
    checkpoint : Checkpoint, optional
        Where to save the fit now and then, and to go on from.

    Returns
    -------
    Posterior
        With Gaussian parameters; `record.trace` holds the negative ELBO by step.

    Raises
    ------
    InputError
        For a spec with a penalty, which is a point estimate, for a directed prior, and for a
        checkpoint of another fit.
    Interrupted
        After Ctrl-C, with the posterior so far.
    """
    refuse_directed("svi", spec)
    design = design.on_one_device()
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is a point estimate", fix="use method map")
    max_steps = whole_number(max_steps, name="max_steps", minimum=400)
    tolerance, step_size = (
        positive(tolerance, name="tolerance"),
        positive(step_size, name="step_size"),
    )
    progress = progress or Progress("svi", enabled=False)
    if n_batches is None:
        n_batches = max(1, round(design.responses.n_observed / _MINI_BATCH_CELLS))
    saved = saved_by(
        checkpoint,
        "svi",
        design,
        spec,
        key=key,
        progress=progress,
        options={
            "max_steps": max_steps,
            "tolerance": tolerance,
            "step_size": step_size,
            "n_batches": n_batches,
        },
    )
    map_key, run_key = jax.random.split(key)
    loaded = saved.load("svi")
    if loaded is None:
        mode = fit_map(
            design, spec, key=map_key, progress=progress, tolerance=1e-5, checkpoint=saved
        )
        point = mode.state.draw(1, map_key, design)
    else:
        point = {n[len(_MODE) :]: v for n, v in loaded[1].items() if n.startswith(_MODE)}
    with jax.enable_x64(design.precision == "float64"):
        start = _start(design, spec, point)
        ascent = _Ascent(design, spec, _guide(design, start), max_steps, step_size, n_batches)
        run = ascent.begun(run_key)
        if loaded is not None:
            run = run.restored(*loaded)
            saved.resumed("step", len(run.trace))

        def state() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
            info, arrays = run.saved()
            return info, arrays | {f"{_MODE}{name}": v for name, v in point.items()}

        def posterior(otherwise: str = "still rising") -> Posterior:
            with jax.enable_x64(design.precision == "float64"):
                now = _parameters(start, ascent.params(run))
            values = {k: np.asarray(v) for k, v in now.items()}
            converged = otherwise != "interrupted" and run.settled(max_steps)
            message = f"ELBO {-np.mean(run.trace[-100:]):.6g} after {len(run.trace)} steps"
            if not converged:
                message += f", {otherwise}"
            record = FitRecord(
                method="svi",
                converged=converged,
                message=message,
                trace=np.asarray(run.trace, np.float32),
                seconds=saved.seconds,
            )
            return Posterior(design, spec, GaussianState(values), record)

        try:
            while not run.is_over(max_steps):
                run = ascent.advanced(run, tolerance)
                progress.update(len(run.trace), elbo=-float(np.mean(run.trace[-_CHUNK:])))
                saved.offer("svi", state)
        except KeyboardInterrupt:
            saved.offer("svi", state, at_once=True)
            made = (lambda: posterior("interrupted")) if run.trace else None
            raise saved.interrupted(f"after {len(run.trace):,} steps", made) from None
        return posterior()


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


@dataclass(frozen=True, eq=False)
class _Run:
    """How far the ascent has come.

    Attributes
    ----------
    state : SVIState
    trace : tuple of float
        Negative ELBO by step.
    anneal_from : int or None
        Step from which the step size falls.
    """

    state: Any
    trace: tuple[float, ...] = ()
    anneal_from: int | None = None

    def is_over(self, max_steps: int) -> bool:
        """Whether all steps are done."""
        n = len(self.trace)
        return n >= max_steps or (
            self.anneal_from is not None and n >= self.anneal_from + _ANNEALING
        )

    def settled(self, max_steps: int) -> bool:
        """Whether the ELBO had stopped rising before the steps ran out."""
        return self.anneal_from is None or self.anneal_from + _ANNEALING < max_steps

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restored` takes."""
        return {"anneal_from": self.anneal_from}, {
            **leaves(self.state),
            "trace": np.array(self.trace),
        }

    def restored(self, info: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Run:
        """Return the run that was saved; this one has the structure of its state."""
        trace = tuple(arrays["trace"].tolist())
        return _Run(restored(self.state, arrays), trace, info["anneal_from"])


class _Ascent:
    """Steps of Adam on the ELBO, 25 at a time.

    Parameters
    ----------
    design, spec : Design, Spec
    guide : callable
    max_steps : int
    step_size : float
    n_batches : int
    """

    def __init__(
        self,
        design: Design,
        spec: Spec,
        guide: Any,
        max_steps: int,
        step_size: float,
        n_batches: int,
    ) -> None:
        self.max_steps, self.step_size = max_steps, step_size
        self.svi = svi = SVI(program, guide, _optimiser(step_size), Trace_ELBO())

        def advance(state: Any, rates: jax.Array) -> Any:
            def one(state: Any, rate: jax.Array) -> Any:
                # The step size is data of the compiled loop, so that annealing does not compile
                # anew.
                svi.optim = _optimiser(rate)
                return svi.stable_update(state, design, spec, n_batches=n_batches)

            return jax.lax.scan(one, state, rates)

        self._init = shared(lambda key: svi.init(key, design, spec, n_batches=n_batches))
        self._advance = shared(advance)

    def begun(self, key: jax.Array) -> _Run:
        """Return the run before its first step."""
        return _Run(self._init(key))

    def advanced(self, run: _Run, tolerance: float) -> _Run:
        """Return the run 25 steps later."""
        anneal_from = run.anneal_from
        at = len(run.trace) + np.arange(_CHUNK)
        if anneal_from is None and len(run.trace) + _ANNEALING >= self.max_steps:
            anneal_from = len(run.trace)
        rates = np.full(_CHUNK, self.step_size)
        if anneal_from is not None:
            share = np.clip((at - anneal_from) / _ANNEALING, 0, 1)
            rates = self.step_size * 0.03**share
        state, losses = self._advance(run.state, jnp.asarray(rates, float))
        trace = (*run.trace, *np.asarray(losses, float).tolist())
        new = dataclasses.replace(run, state=state, trace=trace, anneal_from=anneal_from)
        if anneal_from is None and len(trace) >= 300:
            before, now = np.mean(trace[-200:-100]), np.mean(trace[-100:])
            if before - now < tolerance * 100 * abs(now):
                return dataclasses.replace(new, anneal_from=len(trace))
        return new

    def params(self, run: _Run) -> dict[str, Any]:
        """Return the parameters of the guide."""
        self.svi.optim = _optimiser(self.step_size)
        found: dict[str, Any] = self.svi.get_params(run.state)
        return found


def _optimiser(rate: Any) -> ClippedAdam:
    return ClippedAdam(lambda _: rate, clip_norm=1e6)
