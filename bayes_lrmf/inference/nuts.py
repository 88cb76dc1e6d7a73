"""The No-U-Turn sampler with NumPyro, in coordinates of a fixed gauge."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import jax
import numpy as np
from numpyro.infer.hmc import hmc

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.checkpoint import Checkpoint, Saved, leaves, restored, saved_by
from bayes_lrmf.inference.curvature import CurvatureCoordinates
from bayes_lrmf.inference.gauge import FixedGauge
from bayes_lrmf.inference.svi import fit_svi
from bayes_lrmf.inference.vb import fit_vb
from bayes_lrmf.posterior import DrawsState, FitRecord, GaussianState, Posterior, diagnose_draws
from bayes_lrmf.progress import Progress
from bayes_lrmf.sharing import Program, shared, traced
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["fit_nuts"]

_CHUNK = 50
_SECONDS = 0.5
_START, _KEPT, _POSITION = "start_", "kept_", "z_"
_START_SWEEPS = 60
_STATS = {
    "diverging": "diverging",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
}


def fit_nuts(
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    progress: Progress | None = None,
    num_warmup: int = 500,
    num_samples: int = 800,
    num_chains: int = 2,
    max_tree_depth: int = 9,
    target_accept: float = 0.9,
    checkpoint: Checkpoint | Saved | None = None,
) -> Posterior:
    """Sample the posterior with NumPyro's NUTS.

    Chains run in parallel where JAX was given as many host devices, otherwise vectorised. They
    start at the mean of a fit by SVI, of one by VB under a directed prior, jittered. The arithmetic
    is float64.

    Parameters
    ----------
    design : Design
    spec : Spec
        Without a penalty.
    key : jax key
    progress : Progress, optional
    num_warmup, num_samples, num_chains : int
        `num_samples` per chain.
    max_tree_depth : int
    target_accept : float
    checkpoint : Checkpoint, optional
        Where to save the chains now and then, and to go on from.

    Returns
    -------
    Posterior
        With draws; `record.converged` is False unless R-hat < 1.02 and bulk ESS > 400 for psi of
        1,000 random cells, and no transition diverged.

    Raises
    ------
    InputError
        For a spec with a penalty, which is a point estimate, or with a directed prior and no
        intercepts, and for a checkpoint of another fit.
    Interrupted
        After Ctrl-C, with the draws so far, where the warm-up was over.
    """
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is a point estimate", fix="use method map")
    design = design.on_one_device()
    num_samples = whole_number(num_samples, name="num_samples")
    num_warmup = whole_number(num_warmup, name="num_warmup")
    progress = progress or Progress("nuts", enabled=False)
    saved = saved_by(
        checkpoint,
        "nuts",
        design,
        spec,
        key=key,
        progress=progress,
        options={
            "num_warmup": num_warmup,
            "num_samples": num_samples,
            "num_chains": num_chains,
            "max_tree_depth": max_tree_depth,
            "target_accept": target_accept,
            "parallel": _in_parallel(num_chains),
        },
    )
    svi_key, jitter_key, run_key = jax.random.split(key, 3)
    loaded = saved.load("nuts")
    around: GaussianState | VariationalState
    if loaded is None:
        around = _reference(design, spec, svi_key, progress, saved)
    else:
        kind = VariationalState if spec.lineage == "directed" else GaussianState
        around = kind({n[len(_START) :]: v for n, v in loaded[1].items() if n.startswith(_START)})
    with jax.enable_x64(True):
        coordinates: FixedGauge | CurvatureCoordinates
        if isinstance(around, VariationalState):
            coordinates = CurvatureCoordinates(design, spec, around)
        else:
            coordinates = FixedGauge(design, spec, around.centre())
        first = {
            name: x
            + 0.1 * jax.random.normal(jax.random.fold_in(jitter_key, i), (num_chains, *x.shape))
            for i, (name, x) in enumerate(coordinates.start().items())
        }
        potential, constants = traced(coordinates.potential, coordinates.start(), gradient=True)
        sampler = _sampler(
            potential, num_warmup, max_tree_depth, target_accept, _in_parallel(num_chains)
        )
        chains = _Chains(sampler, constants, num_warmup, num_samples, num_chains)
        run = chains.begun(run_key, first)
        if loaded is not None:
            run = run.restored(*loaded)
            saved.resumed("iteration", run.done)

        to_values = shared(jax.vmap(jax.vmap(lambda z: coordinates.values(z)[0])))

    def state() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        info, arrays = run.saved()
        return info, arrays | {f"{_START}{name}": v for name, v in around.values.items()}

    try:
        with jax.enable_x64(True):
            while run.done < num_warmup + num_samples:
                run, steps = chains.advanced(run)
                stage = "warm-up" if run.done <= num_warmup else "draws"
                of = f"{num_warmup + num_samples:,}"
                progress.update(run.done, of=of, stage=stage, steps=steps)
                saved.offer("nuts", state)
        return _posterior(design, spec, to_values, run, saved)
    except KeyboardInterrupt:
        saved.offer("nuts", state, at_once=True)
        made = functools.partial(_posterior, design, spec, to_values, run, saved, interrupted=True)
        when = f"after {run.done:,} iterations"
        raise saved.interrupted(when, made if run.kept else None) from None


def _posterior(
    design: Design,
    spec: Spec,
    to_values: Callable[[Any], dict[str, jax.Array]],
    run: _Run,
    saved: Saved,
    *,
    interrupted: bool = False,
) -> Posterior:
    z, stats = run.drawn()
    n_draws = len(next(iter(stats.values()))[0])
    kept: list[dict[str, np.ndarray]] = []
    with jax.enable_x64(True):
        for start in range(0, n_draws, _CHUNK):
            part = {n: v[:, start : start + _CHUNK] for n, v in z.items()}
            kept.append({n: np.asarray(v, np.float32) for n, v in to_values(part).items()})
    draws = {n: np.concatenate([p[n] for p in kept], axis=1) for n in kept[0]}
    sample_stats = {name: stats[field] for field, name in _STATS.items()}
    record = FitRecord("nuts", True, "", sample_stats=sample_stats, seconds=saved.seconds)
    posterior = Posterior(design, spec, DrawsState(draws), record)
    converged, message = False, f"interrupted after {n_draws:,} draws a chain"
    if not interrupted:
        converged, message = diagnose_draws(posterior)
    record = FitRecord(
        "nuts", converged, message, sample_stats=sample_stats, seconds=record.seconds
    )
    return Posterior(design, spec, posterior.state, record)


def _reference(
    design: Design, spec: Spec, key: jax.Array, progress: Progress, saved: Saved
) -> GaussianState | VariationalState:
    """Return a fit to start at: by `fit_vb` for a directed prior, else by `fit_svi`."""
    if spec.lineage != "directed":
        around = fit_svi(design, spec, key=key, progress=progress, checkpoint=saved).state
        assert isinstance(around, GaussianState)
        return around
    if not spec.intercept:
        raise InputError(
            "method nuts needs intercepts under a directed prior", fix="set intercept = true"
        )
    # What is not conjugate matters little for a start.
    counts = "logit_normal" if spec.likelihood == "beta_binomial" else spec.likelihood
    twin = dataclasses.replace(spec, likelihood=counts)
    plain = dataclasses.replace(design, item_graph=None)
    found = fit_vb(
        plain, twin, key=key, progress=progress, max_sweeps=_START_SWEEPS, checkpoint=saved
    ).state
    assert isinstance(found, VariationalState)
    return found


def _in_parallel(num_chains: int) -> bool:
    return 1 < num_chains <= jax.local_device_count()


@dataclass(frozen=True, eq=False)
class _Run:
    """How far the chains have come.

    Attributes
    ----------
    state : HMCState
        Of all chains.
    done : int
        Iterations, warm-up included.
    kept : tuple of mappings
        Positions after the warm-up and their statistics, ``z_<name>`` and by the names of
        `_STATS`, each (n_chains, n_draws, ...).
    """

    state: Any
    done: int = 0
    kept: tuple[dict[str, np.ndarray], ...] = ()

    def _joined(self) -> dict[str, np.ndarray]:
        names = self.kept[0] if self.kept else {}
        return {n: np.concatenate([p[n] for p in self.kept], axis=1) for n in names}

    def drawn(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return positions and statistics."""
        joined = self._joined()
        return (
            {n[len(_POSITION) :]: v for n, v in joined.items() if n.startswith(_POSITION)},
            {n: joined[n] for n in _STATS},
        )

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restored` takes."""
        kept = {f"{_KEPT}{n}": v for n, v in self._joined().items()}
        return {"done": self.done}, {**leaves(self.state), **kept}

    def restored(self, info: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Run:
        """Return the run that was saved; this one has the structure of its state."""
        kept = {n[len(_KEPT) :]: v for n, v in arrays.items() if n.startswith(_KEPT)}
        return _Run(restored(self.state, arrays), info["done"], (kept,) if kept else ())


@functools.lru_cache(maxsize=8)
def _sampler(
    potential: Program, num_warmup: int, max_tree_depth: int, target_accept: float, parallel: bool
) -> tuple[Any, Any]:
    """Compile the first state and the iterations of chains, for all constants of a potential.

    Returns
    -------
    begin : callable
        Of constants, keys and positions, the latter two by chain.
    go_on : callable
        Of constants, states by chain, and whether each of `_CHUNK` iterations takes place.
    """
    init, sample = hmc(
        # Compiled apart, it is traced once for the many places that NUTS calls it from.
        potential_fn_gen=lambda *constants: lambda z: potential.call(constants, z),
        algo="NUTS",
    )

    def begin(constants: tuple[Any, ...], key: jax.Array, z: dict[str, Any]) -> Any:
        return init(
            z,
            num_warmup,
            target_accept_prob=target_accept,
            # Before the units are adapted, long trees cost much and teach little.
            max_tree_depth=(min(7, max_tree_depth), max_tree_depth),
            model_args=constants,
            rng_key=key,
        )

    def go_on(constants: tuple[Any, ...], state: Any, steps: jax.Array) -> Any:
        def one(state: Any, active: jax.Array) -> Any:
            state = jax.lax.cond(active, lambda s: sample(s, constants), lambda s: s, state)
            return state, (state.z, {name: getattr(state, name) for name in _STATS})

        return jax.lax.scan(one, state, steps)

    over = jax.pmap if parallel else lambda f, **k: jax.jit(jax.vmap(f, **k))
    return over(begin, in_axes=(None, 0, 0)), over(go_on, in_axes=(None, 0, None))


class _Chains:
    """Chains of a sampler, in parallel where there are devices for it.

    The same compiled step serves warm-up and sampling, so that both can report, be saved and be
    interrupted. It does as many iterations as take half a second, and at most 50.

    Parameters
    ----------
    sampler : pair of callables
        Of `_sampler`.
    constants : tuple of arrays
        Of the potential.
    num_warmup, num_samples, num_chains : int
    """

    def __init__(
        self,
        sampler: tuple[Any, Any],
        constants: tuple[Any, ...],
        num_warmup: int,
        num_samples: int,
        num_chains: int,
    ) -> None:
        self.num_warmup, self.num_samples, self.num_chains = num_warmup, num_samples, num_chains
        self._begin, self._go_on = (functools.partial(part, constants) for part in sampler)
        self._n_steps = 1

    def begun(self, key: jax.Array, first: dict[str, jax.Array]) -> _Run:
        """Return the run before its first iteration."""
        return _Run(self._begin(jax.random.split(key, self.num_chains), first))

    def advanced(self, run: _Run) -> tuple[_Run, float]:
        """Return the run some iterations later, and their mean number of steps."""
        # No call does iterations of both stages.
        is_warmup = run.done < self.num_warmup
        stop = self.num_warmup if is_warmup else self.num_warmup + self.num_samples
        n = min(self._n_steps, stop - run.done)
        begun = monotonic()
        # Iterations of a shorter call are left out, not compiled anew.
        state, (z, stats) = self._go_on(run.state, np.arange(_CHUNK) < n)
        found = {f"{_POSITION}{name}": v for name, v in z.items()} | stats
        cut = {name: np.array(np.asarray(v)[:, :n]) for name, v in found.items()}
        self._n_steps = int(np.clip(_SECONDS * n / (monotonic() - begun), 1, _CHUNK))
        kept = run.kept if is_warmup else (*run.kept, cut)
        return _Run(state, run.done + n, kept), float(np.mean(cut["num_steps"]))
