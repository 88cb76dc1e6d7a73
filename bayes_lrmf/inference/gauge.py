"""Coordinates for sampling a factor model, free of its ridges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.elimination import Factor
from bayes_lrmf.inference.map import objective
from bayes_lrmf.inference.rotation import RotationSlice
from bayes_lrmf.inference.scales import curvature_scales, evidence
from bayes_lrmf.program import hyperparameters
from bayes_lrmf.spec import Spec

__all__ = ["FixedGauge"]


_SD_OF = {"ability_unit": "ability_sd", "effect_unit": "benchmark_sd"}


class FixedGauge:
    r"""Coordinates in which the posterior of a factor model is nearly round.

    psi = m_u . x_i + b_i does not change when factors and loadings turn together, and hardly cares
    for any other linear change of factors that the loadings undo, or for a shift that the
    intercepts undo: long curved ridges, along which only the priors speak. Around a reference
    point (X0, M0, b0), here

    - the rotation is fixed by :math:`X S^{-2} X_0'` being symmetric, a linear condition on the own
      part X of the loadings, which does not follow their mean, with S the scale of each item.
      Integrating the rotation out leaves the factor
      :math:`\prod_{i<j}(s_i + s_j)` of the eigenvalues of that matrix, so psi and every
      hyper-parameter keep their posterior exactly;
    - factors are ``M = A (M0 + U z) + c``: A and c are the regression that best restores psi of
      the reference from the loadings and intercepts at hand, U the square root of the Gaussian
      conditional of the factors at the reference, along the lineage. So loadings move without
      dragging every factor along;
    - the spread of factors and effects follows the information about them, as loadings and scales
      move;
    - the directions of loadings and intercepts that a change of all factors undoes are as long as
      the prior of the factors lets them be;
    - the scale of the field is that of its steps along edges, which the data know well, not its
      marginal standard deviation; loadings that the responses tell are in inverse units of it,
      the others follow their mean in units of their prior.

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
        self.hyper: dict[str, Any] = hyper
        ref = {n: np.asarray(v, float) for n, v in reference.items() if n not in hyper}
        left, size, right = np.linalg.svd(ref["loading"], full_matrices=False)
        # Directions that the reference lacks need some length to be told apart.
        size = np.maximum(size, 0.1 * np.sqrt(design.n_items))
        ref["loading"] = (left * size) @ right
        self.ref = ref
        self.scale = curvature_scales(design, spec, hyper, ref)
        # In units of the prior precision of a loading, which is one.
        self.loading_evidence = self.scale["loading"][0] ** -2 - 1
        self.own = ref["loading"] - self._inherited(ref, 1.0)
        by_model, by_item = evidence(design, hyper)
        self.item_evidence = by_item / design.n_evaluated
        share = np.zeros(design.n_core)
        share[: design.n_evaluated] = by_model / by_model.mean()
        self.step: Any = float(self._step(hyper["factor_sd"], hyper.get("kappa")))
        self.information = np.asarray(self._information(ref["loading"], 0.0))
        strength, self.axes = np.linalg.eigh(
            (ref["loading"] * self.item_evidence) @ ref["loading"].T
        )
        self.units = {"factor": self._unit(strength[:, None] * share, self.step)}
        within = np.bincount(design.benchmark_index, self.item_evidence)
        self.evident = {
            "ability_unit": within.sum(),
            "effect_unit": within[design.effect_benchmarks, None],
        }
        for name in self.evident.keys() & ref.keys():
            evident = self.evident[name] * hyper[_SD_OF[name]] ** 2
            self.units[name] = self._unit(evident * share, 1.0)
        self.rotation = RotationSlice(self.own, self.scale["loading"])
        self.tangent = self.rotation.tangent
        self.coherent = {"loading": self._sheared_loadings()}
        if "intercept" in ref:
            self.coherent["intercept"] = self._shifted_intercepts()
        # Scalars of NumPy would be part of the compiled program.
        self.hyper = {name: jnp.asarray(value) for name, value in hyper.items()}
        self.step = jnp.asarray(self.step)

    def _inherited(self, values: dict[str, Any], ratio: Any) -> Any:
        """Return the part of the loadings that follows their mean."""
        if "loading_mean" not in values:
            return 0.0
        share = 1 / (1 + self.loading_evidence * ratio**2)
        return share * values["loading_mean"][:, self.design.item_groups]

    def _mean_evidence(self, ratio: Any) -> Any:
        """Return what the loadings of each group tell about their mean."""
        known = self.loading_evidence * ratio**2
        member = np.eye(self.design.n_groups)[self.design.item_groups]
        return (known / (1 + known)) @ member

    def _information(self, loading: Any, log_narrow: Any) -> Any:
        """Return the information of a model's responses and prior about its factors, (K, K)."""
        prior = jnp.exp(2 * log_narrow) / self.step**2 * jnp.eye(self.spec.rank)
        return (loading * self.item_evidence) @ loading.T + prior

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

    def _sheared_loadings(self) -> tuple[np.ndarray, np.ndarray]:
        """Return directions of loadings that a linear change of factors undoes, and their stretch.

        A field over n nodes knows a symmetric change of its K columns to a variance of 1 / (2 n).
        """
        white = self.own / self.scale["loading"]
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
        across, along = self.rotation.split(z["loading"])
        own = self.own + scale["loading"] * self._stretched("loading", across)
        jacobian = self.rotation.log_volume(own) - 0.5 * (along**2).sum()
        ratio, known = jnp.exp(-log_narrow), self.loading_evidence
        narrowed = jnp.sqrt((1 + known) / (1 + known * ratio**2))
        jacobian = jacobian + self.spec.rank * jnp.log(narrowed).sum()
        if "loading_mean" in ref:
            before, now = self._mean_evidence(1.0), self._mean_evidence(ratio)
            prior = self.spec.loading_mean_sd.median**-2
            mean = ref["loading_mean"] * now * (before + prior) / (before * ratio)
            spread = jnp.sqrt(now + prior)
            values["loading_mean"] = mean / spread**2 + z["loading_mean"] / spread
            jacobian = jacobian - self.spec.rank * jnp.log(spread).sum()
        values["loading"] = loading = narrowed * own + self._inherited(values, ratio)
        # Where loadings say little, factors follow the scale of their prior.
        square = self._information(loading, log_narrow)
        target = (loading * weight) @ ref["loading"].T
        target = target + jnp.exp(log_narrow) / self.step**2 * jnp.eye(self.spec.rank)
        chol, chol0 = jnp.linalg.cholesky(square), jnp.linalg.cholesky(self.information)
        spread = jnp.linalg.solve(chol.T, chol0.T @ self.axes @ self._spread("factor", z["factor"]))
        restore = jnp.linalg.solve(square, target)
        values["factor"] = restore @ ref["factor"] + spread
        narrowed = jnp.log(jnp.diagonal(chol)).sum() - jnp.log(jnp.diagonal(chol0)).sum()
        jacobian = jacobian - self.design.n_core * narrowed
        if "intercept" in ref:
            centre = ref["factor"][:, : self.design.n_evaluated].mean(1)
            shift = scale["intercept"] * self._stretched("intercept", z["intercept"])
            shift = shift + centre @ (ref["loading"] - restore.T @ loading)
            values["intercept"] = ref["intercept"] + shift
            offset = jnp.linalg.solve(square, (loading * weight) @ shift)
            values["factor"] = values["factor"] - offset[:, None]
            mean = ref["intercept_mean"] + scale["intercept_mean"] * z["intercept_mean"]
            values["intercept_mean"] = mean
        for name in self.evident.keys() & ref.keys():
            sd, before = values[_SD_OF[name]], self.hyper[_SD_OF[name]]
            informed = self.evident[name] * sd**2 + 1
            mean = ref[name] * (self.evident[name] * sd * before + 1) / informed
            narrowed = jnp.sqrt((self.evident[name] * before**2 + 1) / informed)
            unit = mean + narrowed * self._spread(name, z[name])
            values[name] = unit * jnp.exp(widen)
            jacobian = jacobian + unit.size * widen + self.design.n_core * jnp.log(narrowed).sum()
            if _SD_OF[name] in self.learned:
                values[_SD_OF[name]] = sd * jnp.exp(-widen)
        return values, jacobian + sum(jnp.log(values[n]).sum() for n in self.learned)

    def potential(self, z: dict[str, Any]) -> Any:
        """Return the negative log density of the coordinates."""
        values, jacobian = self.values(z)
        return objective(self.design, self.spec, values) - jacobian
