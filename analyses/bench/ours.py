"""Fits of this package, and NumPyro's mean-field guide on its program, each in its own process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from analyses.bench.autonormal import fit_autonormal
from analyses.bench.clock import Clock, peak_gigabytes, write_result
from analyses.bench.objective import constant_of
from analyses.bench.tables import point_spec
from bayes_lrmf.design import Design, make_design
from bayes_lrmf.forecast import posterior_forecast
from bayes_lrmf.inference import fit_map, fit_svi, fit_vb
from bayes_lrmf.lineage import read_lineage
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import read_responses
from bayes_lrmf.spec import Spec, read_spec

_KEY = 0
_LOOK_STEPS = 250
_HELD_DRAWS = 50
_COMPILING = (
    "/jax/core/compile/backend_compile_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
_REPLAYED = (16, 32, 64, 128, 256)


class Watch(Progress):
    """A progress that notes the time of every update instead of showing it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("watched", enabled=False)
        self.clock = clock

    def update(self, completed: int, **figures: float | str) -> None:
        """Note the figures, but for those of a start with more factors."""
        if "stage" in figures:
            return
        self.clock.note(**{name: float(value) for name, value in figures.items()})


class CompileSeconds:
    """How long JAX has traced and compiled since this was made."""

    def __init__(self) -> None:
        self.total = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, seconds: float, **_: Any) -> None:
        # Traces of functions within functions would count twice.
        if event in _COMPILING:
            self.total += seconds


def held_out(posterior: Posterior, data: Any) -> float:
    """Return the log loss of the held-out cells, by draws of a posterior or by its point."""
    draws = posterior.draws(_HELD_DRAWS, key=jax.random.key(1))
    psi = posterior.psi(draws, data["held_rows"], data["held_cols"])
    p = np.clip(scipy.special.expit(psi.astype(float)).mean(0), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(data["held_y"] > 0, np.log(p), np.log1p(-p))))


def run_map(design: Design, spec: Spec, clock: Clock, data: Any) -> Posterior:
    """Fit the mode."""
    return fit_map(design, spec, key=jax.random.key(_KEY), progress=Watch(clock))


def replay(design: Design, spec: Spec, clock: Clock, data: Any) -> None:
    """Add what the mode's search would have predicted on its way, by searches cut short."""
    shift = constant_of(design, spec)
    for point in clock.points:
        point["objective"] -= shift
    for n in _REPLAYED:
        if n < len(clock.points):
            part = fit_map(design, spec, key=jax.random.key(_KEY), max_iterations=n)
            clock.points[n - 1]["held_out"] = held_out(part, data)


def run_vb(design: Design, spec: Spec, clock: Clock, data: Any) -> Posterior:
    """Fit by closed-form variational Bayes."""
    return fit_vb(design, spec, key=jax.random.key(_KEY), progress=Watch(clock))


def run_svi(design: Design, spec: Spec, clock: Clock, data: Any) -> Posterior:
    """Fit a Gaussian along the lineage by stochastic variational inference."""
    return fit_svi(design, spec, key=jax.random.key(_KEY), progress=Watch(clock))


def run_autonormal(design: Design, spec: Spec, clock: Clock, data: Any) -> Posterior:
    """Fit NumPyro's mean-field guide, looking at the held-out cells every 250 steps."""

    def noted(n_steps: int, elbo: float, drawn: Callable[[int], Posterior]) -> None:
        point = clock.note(elbo=elbo)
        if n_steps % _LOOK_STEPS == 0:
            with clock.paused():
                point["held_out"] = held_out(drawn(_HELD_DRAWS), data)

    return fit_autonormal(design, spec, key=jax.random.key(_KEY), noted=noted)


Run = Callable[[Design, Spec, Clock, Any], Posterior]
RUNS: dict[str, tuple[Run, Callable[[], Spec]]] = {
    "map": (run_map, point_spec),
    "vb": (run_vb, lambda: read_spec("lrmf")),
    "svi": (run_svi, lambda: read_spec("laplacian")),
    "autonormal": (run_autonormal, lambda: read_spec("laplacian")),
}


def main(contestant: str, arrays: str, folder: str) -> None:
    """Fit and write ``result.json`` and ``point.npz`` or ``forecast.npz``."""
    out, table = Path(folder), Path(arrays).parent
    responses = read_responses(table / "train.parquet")
    lineage = read_lineage(table / "lineage.csv")
    data = np.load(arrays)
    run, spec_of = RUNS[contestant]
    spec = spec_of()
    jnp.zeros(1).block_until_ready()
    compile_seconds = CompileSeconds()
    clock = Clock()
    design = make_design(responses, spec, lineage=lineage)
    if list(design.core.nodes[: len(data["models"])]) != list(data["models"]):
        raise SystemExit(f"{arrays}: rows differ from those of train.parquet")
    posterior = run(design, spec, clock, data)
    seconds, cpu_seconds = clock.now()
    taken, peak = compile_seconds.total, peak_gigabytes()
    about = {"seconds": seconds, "cpu_seconds": cpu_seconds, "held_out": held_out(posterior, data)}
    if contestant == "map":
        replay(design, spec, clock, data)
        clock.points[-1]["held_out"] = about["held_out"]
        values = posterior.draws(1, key=jax.random.key(0))
        np.savez(out / "point.npz", **{n: values[n][0] for n in ("factor", "loading")})
    else:
        # The start of `vb` is a point of another objective.
        for point in clock.points:
            point.pop("objective", None)
        clock.points.append(about)
        forecast = posterior_forecast(posterior, list(data["cold_models"]), key=jax.random.key(1))
        np.savez(
            out / "forecast.npz",
            probabilities=forecast.probabilities,
            scores=forecast.scores.scores,
            n_items=forecast.scores.n_items,
            n_observed=forecast.scores.n_observed,
        )
    write_result(
        out,
        clock,
        compile_seconds=taken,
        seconds=seconds,
        peak_gigabytes=peak,
        converged=bool(posterior.record.converged),
        message=posterior.record.message,
        version=f"jax {jax.__version__}, numpyro {version('numpyro')}",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
