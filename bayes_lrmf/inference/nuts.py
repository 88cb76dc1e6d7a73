"""The No-U-Turn sampler with NumPyro, in coordinates free of the ridges of factor models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.elimination import Factor
from bayes_lrmf.inference.map import curvature_scales, evidence, objective
from bayes_lrmf.inference.svi import fit_svi
from bayes_lrmf.posterior import DrawsState, FitRecord, Posterior, diagnose_draws
from bayes_lrmf.program import hyperparameters
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec

__all__ = ["FixedGauge", "fit_nuts"]

_CHUNK = 50
_STATS = {
    "diverging": "diverging",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
}
_MOST_STORED = 200_000_000


class FixedGauge:
    r"""Coordinates in which the posterior of a factor model is nearly round.

    psi = m_u . x_i + b_i does not change when factors and loadings turn together, and hardly cares
    for any other linear change of factors that the loadings undo, or for a shift that the
    intercepts undo: long curved ridges, along which only the priors speak. Around a reference
    point (X0, M0, b0), here

    - the rotation is fixed by :math:`X S^{-2} X_0'` being symmetric, a linear condition, with S
      the scale of each item's loadings. Integrating the rotation out leaves the factor
      :math:`\prod_{i<j}(s_i + s_j)` of the eigenvalues of that matrix, so psi and every
      hyper-parameter keep their posterior exactly;
    - factors are ``M = A (M0 + U z) + c``: A and c are the regression that best restores psi of
      the reference from the loadings and intercepts at hand, U the square root of the Gaussian
      conditional of the factors at the reference, along the lineage. So loadings move without
      dragging every factor along;
    - the directions of loadings and intercepts that a change of all factors undoes are as long as
      the prior of the factors lets them be;
    - the scale of the field is that of its steps along edges, which the data know well, not its
      marginal standard deviation; loadings are in inverse units of it, so that it moves freely.

    Coordinates of the loadings along the rotation are given a standard normal of their own.

    Parameters
    ----------
    design, spec : Design, Spec
    reference : mapping
        Values of all sites, such as the mean of a fit by SVI.
    """

    def __init__(self, design: Design, spec: Spec, reference: dict[str, np.ndarray]) -> None:
        self.design, self.spec = design, spec
        used = hyperparameters(design, spec)
        hyper = {name: np.asarray(reference[name], float) for name in used}
        self.learned = [n for n, (p, _) in used.items() if p.learned]
        self.hyper = hyper
        ref = {n: np.asarray(v, float) for n, v in reference.items() if n not in hyper}
        left, size, right = np.linalg.svd(ref["loading"], full_matrices=False)
        # Directions that the reference lacks need some length to be told apart.
        size = np.maximum(size, 0.1 * np.sqrt(design.n_items))
        ref["loading"] = (left * size) @ right
        self.ref = ref
        self.scale = curvature_scales(design, spec, hyper, ref)
        by_model, by_item = evidence(design, hyper)
        self.item_evidence = by_item / design.n_evaluated
        share = np.zeros(design.n_core)
        share[: design.n_evaluated] = by_model / by_model.mean()
        strength, self.axes = np.linalg.eigh(
            (ref["loading"] * self.item_evidence) @ ref["loading"].T
        )
        self.step = float(self._step(hyper["factor_sd"], hyper.get("kappa")))
        self.ridge = self.step**-2.0 * np.eye(spec.rank)
        self.units = {"factor": self._unit(strength[:, None] * share, self.step)}
        if "ability_unit" in ref:
            evident = self.item_evidence.sum() * hyper["ability_sd"] ** 2
            self.units["ability_unit"] = self._unit(evident * share, 1.0)
        if "effect_unit" in ref:
            within = np.bincount(design.benchmark_index, self.item_evidence)
            evident = within[design.effect_benchmarks, None] * hyper["benchmark_sd"] ** 2
            self.units["effect_unit"] = self._unit(evident * share, 1.0)
        self.tangent = self._tangent()
        self.coherent = {"loading": self._sheared_loadings()}
        if "intercept" in ref:
            self.coherent["intercept"] = self._shifted_intercepts()

    def _log_scale(self, kappa: Any) -> Any:
        """Return half the log ratio of the field's variance to that of a step along an edge."""
        return 0.0 if kappa is None else self.design.graph.log_determinant_and_scale(kappa)[1] / 2

    def _step(self, sd: Any, kappa: Any) -> Any:
        return sd * jnp.exp(-self._log_scale(kappa))

    def _unit(self, evident: np.ndarray, step: float) -> Factor:
        """Return the factor of the precision of fields with such evidence at their nodes."""
        graph, kappa = self.design.graph, self.hyper.get("kappa", np.float64(1.0))
        diagonal = evident + (graph.degree + kappa) / step**2
        off = np.broadcast_to(
            graph.off_diagonal / step**2, (*diagonal.shape[:-1], len(graph.off_diagonal))
        )
        return graph.elimination.factor(diagonal, off)

    def _spread(self, name: str, z: Any) -> Any:
        factor = Factor(*(jnp.asarray(part) for part in self.units[name]))
        return self.design.graph.elimination.solve_upper(factor, z)

    def _tangent(self) -> np.ndarray:
        """Return an orthonormal basis of the rotations of the reference, (r, K, n_items)."""
        white = self.ref["loading"] / self.scale["loading"]
        first, second = np.triu_indices(self.spec.rank, 1)
        turned = np.zeros((len(first), *white.shape))
        at = np.arange(len(first))
        turned[at, first], turned[at, second] = white[second], -white[first]
        basis = np.linalg.qr(turned.reshape(len(first), white.size).T)[0]
        return basis.T.reshape(turned.shape)

    def _sheared_loadings(self) -> tuple[np.ndarray, np.ndarray]:
        """Return directions of loadings that a linear change of factors undoes, and their stretch.

        A field over n nodes knows a symmetric change of its K columns to a variance of 1 / (2 n).
        """
        white = self.ref["loading"] / self.scale["loading"]
        first, second = np.triu_indices(self.spec.rank)
        symmetric = np.zeros((len(first), self.spec.rank, self.spec.rank))
        at = np.arange(len(first))
        symmetric[at, first, second] = symmetric[at, second, first] = np.sqrt(0.5)
        symmetric[first == second] *= np.sqrt(2)
        moved = (symmetric @ white).reshape(len(first), -1)
        turn = self.tangent.reshape(len(self.tangent), white.size)
        _, size, rows = np.linalg.svd(moved - moved @ turn.T @ turn, full_matrices=False)
        return rows, np.sqrt(1 + size**2 / (2 * self.design.n_core)) - 1

    def _shifted_intercepts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return directions of intercepts that a shift of all factors undoes, and their stretch.

        A priori the mean of the field has variance ``step^2 / (n kappa)``.
        """
        unit = self.scale["intercept"]
        _, size, rows = np.linalg.svd(self.ref["loading"] / unit, full_matrices=False)
        kappa = self.hyper.get("kappa", np.float64(1.0))
        variance = self.step**2 / (self.design.n_core * kappa) * size**2
        bound = np.mean(self.hyper["intercept_sd"] ** 2 / unit**2)
        return rows, np.sqrt(1 + 1 / (1 / variance + 1 / bound)) - 1

    def _stretched(self, name: str, z: Any) -> Any:
        rows, stretch = self.coherent[name]
        return z + (stretch * (rows @ z.ravel()) @ rows).reshape(z.shape)

    def start(self) -> dict[str, jax.Array]:
        """Return the coordinates of the reference."""
        zero = {n: jnp.zeros(v.shape) for n, v in self.ref.items()}
        return zero | {n: jnp.zeros(self.hyper[n].shape) for n in self.learned}

    def values(self, z: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the sites of the program at coordinates `z`, and the log Jacobian.

        The Jacobian includes the density of the coordinates along the rotation.
        """
        ref, scale, weight = self.ref, self.scale, self.item_evidence
        values: dict[str, Any] = {n: jnp.asarray(v) for n, v in self.hyper.items()}
        for name in self.learned:
            values[name] = values[name] * jnp.exp(z[name])
        widen = self._log_scale(values.get("kappa")) - self._log_scale(self.hyper.get("kappa"))
        if "factor_sd" in self.learned:
            values["factor_sd"] = values["factor_sd"] * jnp.exp(widen)
        log_narrow = jnp.log(self.step / self._step(values["factor_sd"], values.get("kappa")))
        along = jnp.tensordot(self.tangent, z["loading"], 2)
        across = z["loading"] - jnp.tensordot(along, self.tangent, 1)
        loading = ref["loading"] + scale["loading"] * self._stretched("loading", across)
        jacobian = self._orbit(loading) - 0.5 * (along**2).sum()
        values["loading"] = loading = loading * jnp.exp(log_narrow)
        n_scaled = loading.size
        if "loading_mean" in ref:
            mean = ref["loading_mean"] + scale["loading_mean"] * z["loading_mean"]
            values["loading_mean"] = mean * jnp.exp(log_narrow)
            n_scaled += mean.size
        jacobian = jacobian + n_scaled * log_narrow
        square = (loading * weight) @ loading.T + self.ridge
        restore = jnp.linalg.solve(square, (loading * weight) @ ref["loading"].T + self.ridge)
        values["factor"] = restore @ (
            ref["factor"] + self.axes @ self._spread("factor", z["factor"])
        )
        jacobian = jacobian + self.design.n_core * jnp.linalg.slogdet(restore)[1]
        if "intercept" in ref:
            centre = ref["factor"][:, : self.design.n_evaluated].mean(1)
            shift = scale["intercept"] * self._stretched("intercept", z["intercept"])
            shift = shift + centre @ (ref["loading"] - restore.T @ loading)
            values["intercept"] = ref["intercept"] + shift
            offset = jnp.linalg.solve(square, (loading * weight) @ shift)
            values["factor"] = values["factor"] - offset[:, None]
            mean = ref["intercept_mean"] + scale["intercept_mean"] * z["intercept_mean"]
            values["intercept_mean"] = mean
        for unit, sd in (("ability_unit", "ability_sd"), ("effect_unit", "benchmark_sd")):
            if unit in ref:
                values[unit] = (ref[unit] + self._spread(unit, z[unit])) * jnp.exp(widen)
                jacobian = jacobian + ref[unit].size * widen
                if sd in self.learned:
                    values[sd] = values[sd] * jnp.exp(-widen)
        return values, jacobian + sum(jnp.log(values[n]).sum() for n in self.learned)

    def _orbit(self, loading: Any) -> Any:
        """Return the log volume of the orbit of rotations through `loading`."""
        if self.spec.rank == 1:
            return 0.0
        square = (loading / self.scale["loading"] ** 2) @ self.ref["loading"].T
        same = np.eye(self.spec.rank)
        first, second = np.triu_indices(self.spec.rank, 1)
        i, j, k, m = first[:, None], second[:, None], first[None], second[None]
        matrix = square[i, k] * same[j, m] - square[i, m] * same[j, k]
        matrix = matrix - square[j, k] * same[i, m] + square[j, m] * same[i, k]
        return jnp.linalg.slogdet(matrix)[1]

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
    start at the mean of a fit by SVI, jittered. The arithmetic is float64.

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
    svi_key, jitter_key, run_key = jax.random.split(key, 3)
    reference = centre(fit_svi(design, spec, key=svi_key, progress=progress))
    with jax.enable_x64(True):
        coordinates = FixedGauge(design, spec, reference)
        kernel = NUTS(
            potential_fn=coordinates.potential,
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


def centre(gaussian: Posterior) -> dict[str, np.ndarray]:
    """Return the values of all sites at the centre of a Gaussian posterior."""
    state, design, spec = gaussian.state, gaussian.design, gaussian.spec
    positive_sites = hyperparameters(design, spec)
    out = {}
    for name, value in state.values.items():
        if name.endswith("_loc"):
            site = name[: -len("_loc")]
            out[site] = np.exp(value) if site in positive_sites else value
        elif not name.endswith(("_scale", "_coupling")):
            out[name] = value
    return out
