"""The No-U-Turn sampler with NumPyro, in coordinates of a fixed gauge."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from numpyro.infer import NUTS

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.curvature import CurvatureCoordinates
from bayes_lrmf.inference.gauge import FixedGauge
from bayes_lrmf.inference.svi import fit_svi
from bayes_lrmf.inference.vb import fit_vb
from bayes_lrmf.posterior import DrawsState, FitRecord, GaussianState, Posterior, diagnose_draws
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["fit_nuts"]

_CHUNK = 50
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

    Returns
    -------
    Posterior
        With draws; `record.converged` is False unless R-hat < 1.02 and bulk ESS > 400 for psi of
        1,000 random cells, and no transition diverged.

    Raises
    ------
    InputError
        For a spec with a penalty, which is a point estimate, or with a directed prior and no
        intercepts.
    """
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is a point estimate", fix="use method map")
    num_samples = whole_number(num_samples, name="num_samples")
    num_warmup = whole_number(num_warmup, name="num_warmup")
    progress = progress or Progress("nuts", enabled=False)
    started = time.perf_counter()
    svi_key, jitter_key, run_key = jax.random.split(key, 3)
    around = _reference(design, spec, svi_key, progress)
    with jax.enable_x64(True):
        coordinates: FixedGauge | CurvatureCoordinates
        if isinstance(around, VariationalState):
            coordinates = CurvatureCoordinates(design, spec, around)
        else:
            coordinates = FixedGauge(design, spec, around.centre())
        kernel = NUTS(
            # Compiled apart, it is traced once for the many places that NUTS calls it from.
            potential_fn=jax.jit(coordinates.potential),
            # Before the units are adapted, long trees cost much and teach little.
            max_tree_depth=(min(7, max_tree_depth), max_tree_depth),
            target_accept_prob=target_accept,
        )
        first = {
            name: x
            + 0.1 * jax.random.normal(jax.random.fold_in(jitter_key, i), (num_chains, *x.shape))
            for i, (name, x) in enumerate(coordinates.start().items())
        }
        chunks = _chains(kernel, first, run_key, num_warmup=num_warmup, num_samples=num_samples)
        to_values = jax.jit(jax.vmap(jax.vmap(lambda z: coordinates.values(z)[0])))
        kept: list[dict[str, np.ndarray]] = []
        stats: list[dict[str, np.ndarray]] = []
        for done, z, stat in chunks:
            steps = float(np.mean(stat["num_steps"]))
            stage = "warm-up" if done <= num_warmup else "draws"
            progress.update(done, of=f"{num_warmup + num_samples:,}", stage=stage, steps=steps)
            if done > num_warmup:
                kept.append({n: np.asarray(v, np.float32) for n, v in to_values(z).items()})
                stats.append({n: np.asarray(v) for n, v in stat.items()})
    draws = {n: np.concatenate([p[n] for p in kept], axis=1) for n in kept[0]}
    sample_stats = {
        name: np.concatenate([s[field] for s in stats], axis=1) for field, name in _STATS.items()
    }
    record = FitRecord(
        "nuts", True, "", sample_stats=sample_stats, seconds=time.perf_counter() - started
    )
    posterior = Posterior(design, spec, DrawsState(draws), record)
    converged, message = diagnose_draws(posterior)
    record = FitRecord(
        "nuts", converged, message, sample_stats=sample_stats, seconds=record.seconds
    )
    return Posterior(design, spec, posterior.state, record)


def _reference(
    design: Design, spec: Spec, key: jax.Array, progress: Progress
) -> GaussianState | VariationalState:
    """Return a fit to start at: by `fit_vb` for a directed prior, else by `fit_svi`."""
    if spec.lineage != "directed":
        around = fit_svi(design, spec, key=key, progress=progress).state
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
    found = fit_vb(plain, twin, key=key, progress=progress, max_sweeps=_START_SWEEPS).state
    assert isinstance(found, VariationalState)
    return found


def _chains(
    kernel: NUTS, first: Any, key: jax.Array, *, num_warmup: int, num_samples: int
) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Yield the iterations done, the positions and the statistics of chunk after chunk.

    The same compiled step serves warm-up and sampling, so that both can report and be interrupted.
    """
    num_chains = len(next(iter(first.values())))
    keys = jax.random.split(key, num_chains)

    def chunk(state: Any, steps: jax.Array) -> Any:
        def one(state: Any, active: jax.Array) -> Any:
            state = jax.lax.cond(active, lambda s: kernel.sample(s, (), {}), lambda s: s, state)
            return state, (state.z, {name: getattr(state, name) for name in _STATS})

        return jax.lax.scan(one, state, steps)

    parallel = 1 < num_chains <= jax.local_device_count()
    over = jax.pmap if parallel else lambda f, **k: jax.jit(jax.vmap(f, **k))
    state = over(lambda k, z: kernel.init(k, num_warmup, z, (), {}))(keys, first)
    run = over(chunk, in_axes=(0, None))
    done = 0
    for total in (num_warmup, num_samples):
        for start in range(0, total, _CHUNK):
            n_steps = min(_CHUNK, total - start)
            # Steps of a last, shorter chunk are left out, not compiled anew.
            state, (z, stats) = run(state, np.arange(_CHUNK) < n_steps)
            done += n_steps
            cut = jax.tree.map(lambda x, n=n_steps: np.asarray(x)[:, :n], (z, stats))
            yield done, *cut
