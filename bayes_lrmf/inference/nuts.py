"""The No-U-Turn sampler with NumPyro, in coordinates fixed for rotation and shift."""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from numpyro.infer import MCMC, NUTS

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.map import curvature_scales, fit_map, objective
from bayes_lrmf.posterior import DrawsState, FitRecord, Posterior, diagnose_draws
from bayes_lrmf.program import hyperparameters
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec

__all__ = ["RotationFixed", "fit_nuts"]

_CHUNK = 50
_MOST_STORED = 200_000_000


class RotationFixed:
    r"""Coordinates in which the posterior of a factor model is nearly round.

    psi = m_u . x_i does not change when factors and loadings turn together, nor when the mean of
    the factors moves into the intercepts: long curved ridges that a sampler has to walk. Here

    - the loadings of K anchor items are lower triangular with a positive diagonal; integrating
      the rotation out leaves the factor :math:`\prod_j L_{jj}^{K-j}` (the Jacobian of the LQ
      decomposition), so psi and every hyper-parameter keep their posterior exactly;
    - intercepts are taken at the average evaluated model, a shift with unit Jacobian;
    - factors are in units of their average posterior covariance given the loadings, and a
      Householder reflection makes the mean over evaluated models a coordinate of its own.

    Parameters
    ----------
    design, spec : Design, Spec
    mode : mapping
        Values of all sites, from which anchors and units are taken.
    """

    def __init__(self, design: Design, spec: Spec, mode: dict[str, np.ndarray]) -> None:
        self.design, self.spec, k = design, spec, spec.rank
        hyper = {name: mode[name] for name in hyperparameters(design, spec)}
        self.learned = [n for n, (p, _) in hyperparameters(design, spec).items() if p.learned]
        self.fixed = {n: jnp.asarray(v) for n, v in hyper.items() if n not in self.learned}
        values = {name: v for name, v in mode.items() if name not in hyper}
        loading = values["loading"]
        self.anchors = scipy.linalg.qr(loading, pivoting=True)[2][:k]
        turn, upper = np.linalg.qr(loading[:, self.anchors])
        turn = turn * np.sign(np.diag(upper))
        for name in {"loading", "factor", "loading_mean"} & set(values):
            values[name] = turn.T @ values[name]
        self.rest = np.setdiff1d(np.arange(design.n_items), self.anchors)
        self.below = np.tril_indices(k, -1)
        self.mode, self.scale = values, curvature_scales(design, spec, hyper, values)
        evidence = self.scale["loading"].mean(0) ** -2.0 - 1.0
        square = (values["loading"] * evidence) @ values["loading"].T
        square = square / max(np.trace(square), 1e-12) * k
        self.unit = np.linalg.inv(np.linalg.cholesky(square + 0.02 * np.eye(k))).T
        self.unit /= np.sqrt(np.mean(self.unit**2) * k)
        reflect = np.zeros(design.n_core)
        reflect[: design.n_evaluated] = -1 / np.sqrt(design.n_evaluated)
        reflect[0] += 1.0
        norm = np.linalg.norm(reflect)
        self.reflect = reflect / norm if norm > 0 else reflect

    def _reflected(self, x: Any) -> Any:
        return x - 2 * (x @ self.reflect)[..., None] * self.reflect

    def _mean_row(self, values: dict[str, Any]) -> Any:
        return values["factor"][:, : self.design.n_evaluated].mean(1)

    def start(self) -> dict[str, jax.Array]:
        """Return the coordinates of the mode."""
        v, s = self.mode, self.scale
        # One unit for every node keeps the reflection orthogonal.
        self.row_unit = float(np.median(s["factor"][0, : self.design.n_evaluated]))
        z: dict[str, Any] = {
            "factor": self._reflected(np.linalg.solve(self.unit, v["factor"]) / self.row_unit),
            "diagonal": np.log(np.diag(v["loading"][:, self.anchors])),
            "below": v["loading"][:, self.anchors].T[self.below],
            "loading": v["loading"][:, self.rest] / s["loading"][:, self.rest],
        }
        for name in ("loading_mean", "intercept_mean", "ability_unit", "effect_unit"):
            if name in v:
                z[name] = v[name] / s[name]
        if "intercept" in v:
            z["intercept"] = (v["intercept"] + self._mean_row(v) @ v["loading"]) / s["intercept"]
        medians = hyperparameters(self.design, self.spec)
        for name in self.learned:
            z[name] = np.full(medians[name][1], np.log(medians[name][0].median))
        return {name: jnp.asarray(x, float) for name, x in z.items()}

    def values(self, z: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the sites of the program at coordinates `z`, and the log Jacobian."""
        k = self.spec.rank
        diagonal = jnp.exp(z["diagonal"])
        corner = jnp.zeros((k, k)).at[jnp.arange(k), jnp.arange(k)].set(diagonal)
        corner = corner.at[self.below].set(z["below"])
        loading = jnp.zeros((k, self.design.n_items))
        loading = loading.at[:, self.anchors].set(corner.T)
        loading = loading.at[:, self.rest].set(z["loading"] * self.scale["loading"][:, self.rest])
        values = dict(self.fixed)
        values["loading"] = loading
        values["factor"] = self.unit @ self._reflected(z["factor"]) * self.row_unit
        for name in ("loading_mean", "intercept_mean", "ability_unit", "effect_unit"):
            if name in z:
                values[name] = z[name] * self.scale[name]
        if "intercept" in z:
            shift = self._mean_row(values) @ loading
            values["intercept"] = z["intercept"] * self.scale["intercept"] - shift
        jacobian = ((k - jnp.arange(k)) * z["diagonal"]).sum()
        for name in self.learned:
            values[name] = jnp.exp(z[name])
            jacobian = jacobian + z[name].sum()
        return values, jacobian

    def potential(self, z: dict[str, Any]) -> Any:
        """Return the negative log density of the coordinates."""
        values, jacobian = self.values(z)
        return objective(self.design, self.spec, values) - jacobian


def fit_nuts(
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    progress: Progress | None = None,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 2,
    max_tree_depth: int = 9,
    target_accept: float = 0.8,
) -> Posterior:
    """Sample the posterior with NumPyro's NUTS.

    Chains run in parallel where JAX was given as many host devices, otherwise vectorised. They
    start at the mode, jittered. The arithmetic is float64.

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
        For a spec with a penalty, which is a point estimate.
    """
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is a point estimate", fix="use method map")
    num_samples = whole_number(num_samples, name="num_samples")
    num_warmup = whole_number(num_warmup, name="num_warmup")
    progress = progress or Progress("nuts", enabled=False)
    started = time.perf_counter()
    map_key, jitter_key, run_key = jax.random.split(key, 3)
    mode = fit_map(design, spec, key=map_key, precision="float64", tolerance=1e-6)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There are not enough devices")
        coordinates = RotationFixed(design, spec, dict(mode.state.values))
        start = coordinates.start()
        first = {
            name: x
            + 0.1 * jax.random.normal(jax.random.fold_in(jitter_key, i), (num_chains, *x.shape))
            for i, (name, x) in enumerate(start.items())
        }
        parallel = jax.local_device_count() >= num_chains
        sampler = MCMC(
            NUTS(
                potential_fn=coordinates.potential,
                max_tree_depth=max_tree_depth,
                target_accept_prob=target_accept,
            ),
            num_warmup=num_warmup,
            num_samples=min(_CHUNK, num_samples),
            num_chains=num_chains,
            chain_method="parallel" if parallel else "vectorized",
            progress_bar=False,
        )
        if num_chains == 1:
            first = {name: x[0] for name, x in first.items()}
        progress.say(f"nuts: warming up, {num_warmup:,} iterations of {num_chains} chains")
        fields = ("diverging", "num_steps", "accept_prob", "energy")
        sampler.warmup(run_key, init_params=first, extra_fields=fields)
        to_values = jax.jit(jax.vmap(jax.vmap(lambda z: coordinates.values(z)[0])))
        kept: list[dict[str, np.ndarray]] = []
        stats: list[dict[str, np.ndarray]] = []
        done = 0
        while done < num_samples:
            sampler.run(sampler.post_warmup_state.rng_key, extra_fields=fields)
            sampler.post_warmup_state = sampler.last_state
            part = to_values(sampler.get_samples(group_by_chain=True))
            kept.append({name: np.asarray(v, np.float32) for name, v in part.items()})
            extra = sampler.get_extra_fields(group_by_chain=True)
            stats.append({name: np.asarray(v) for name, v in extra.items()})
            done += part["factor"].shape[1]
            progress.update(done, steps=float(np.mean(stats[-1]["num_steps"])))
    draws = {n: np.concatenate([p[n] for p in kept], axis=1)[:, :num_samples] for n in kept[0]}
    sample_stats = {
        _STAT_NAMES[n]: np.concatenate([s[n] for s in stats], axis=1)[:, :num_samples]
        for n in fields
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


_STAT_NAMES = {
    "diverging": "diverging",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
}
