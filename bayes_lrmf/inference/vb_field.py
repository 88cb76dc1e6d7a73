"""The Laplacian prior, or none, in variational Bayes: precision and estimates of scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.optimize

from bayes_lrmf.design import Design
from bayes_lrmf.inference.vb_steps import Moments
from bayes_lrmf.program import hyperparameters
from bayes_lrmf.spec import Spec

__all__ = ["FieldPrior"]

_SD_SITES = ("factor_sd", "ability_sd", "benchmark_sd")


@dataclass(frozen=True, eq=False)
class FieldPrior:
    """Independent columns with precision ``tau s (L + kappa I)``, or ``tau I`` without edges.

    The estimates of sd and kappa maximise the ELBO plus the log density of their logarithms; at the
    end of a fit, with the covariances of its expected curvature in the place of those of the bound.
    """

    design: Design
    spec: Spec
    hyper: dict[str, float]
    equivariant = False
    marginal = False

    @classmethod
    def start(cls, design: Design, spec: Spec, mean: np.ndarray) -> FieldPrior:
        """Return the prior at the medians of its hyper-parameters."""
        used = hyperparameters(design, spec)
        hyper = {n: used[n][0].median for n in (*_SD_SITES, "kappa") if n in used}
        return cls(design, spec, hyper)

    @cached_property
    def _columns(self) -> np.ndarray:
        """Index into `_SD_SITES` of the scale of each column."""
        n_effects = len(self.design.effect_benchmarks) if "benchmark_sd" in self.hyper else 0
        n_ability = int("ability_sd" in self.hyper)
        return np.repeat([0, 1, 2], [self.spec.rank, n_ability, n_effects])

    def _kappa_and_scale(self, hyper: dict[str, float]) -> tuple[float, float, float]:
        """Return kappa, log determinant and log scale of ``L + kappa I``."""
        if "kappa" not in hyper:
            return 1.0, 0.0, 0.0
        kappa = float(np.clip(hyper["kappa"], 1e-4, 1e2))
        log_det, log_scale = self.design.graph.log_determinant_and_scale(np.float64(kappa))
        return kappa, float(log_det), float(log_scale)

    def precision(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prior precision blocks and linear term."""
        kappa, _, log_scale = self._kappa_and_scale(self.hyper)
        graph = self.design.graph
        tau = np.array([self.hyper.get(s, 1.0) for s in _SD_SITES])[self._columns] ** -2.0
        unit = np.diag(tau * np.exp(log_scale))
        degree = graph.degree if "kappa" in self.hyper else np.zeros(graph.n_nodes)
        diagonal = (degree + kappa)[:, None, None] * unit
        off = np.zeros((self.design.blocks.n_entries, *unit.shape))
        if "kappa" in self.hyper:
            entry, _ = self.design.blocks.located(graph.rows, graph.cols)
            np.add.at(off, entry, -graph.weights[:, None, None] * unit)
        return diagonal, off, np.zeros((graph.n_nodes, len(tau)))

    def _squares(self, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Return expected sums of squared differences along edges and of squares, by column."""
        graph = self.design.graph
        square = moments.mean**2 + np.diagonal(moments.variance, axis1=1, axis2=2)
        edges: np.ndarray = np.zeros(square.shape[1])
        if "kappa" in self.hyper:
            entry, _ = self.design.blocks.located(graph.rows, graph.cols)
            cross = moments.mean[graph.rows] * moments.mean[graph.cols]
            cross = cross + np.diagonal(moments.covariance[entry], axis1=1, axis2=2)
            step = square[graph.rows] + square[graph.cols] - 2 * cross
            edges = graph.weights @ step
        return edges, square.sum(0)

    def _log_density(
        self, hyper: dict[str, float], edges: np.ndarray, squares: np.ndarray
    ) -> float:
        kappa, log_det, log_scale = self._kappa_and_scale(hyper)
        n = self.design.graph.n_nodes
        log_tau = -2 * np.log([hyper.get(s, 1.0) for s in _SD_SITES])[self._columns] + log_scale
        quadratic = np.exp(log_tau) * (edges + kappa * squares)
        return float(0.5 * (n * (log_tau - np.log(2 * np.pi)) + log_det - quadratic).sum())

    def _penalty(self, hyper: dict[str, float]) -> float:
        used = hyperparameters(self.design, self.spec)
        learned = [(used[n][0], v) for n, v in hyper.items() if used[n][0].learned]
        return sum(-0.5 * (np.log(v / p.median) / p.log_sd) ** 2 for p, v in learned)

    def updated(self, moments: Moments, *, learn: bool) -> FieldPrior:
        """Return the prior at the best hyper-parameters that the spec learns."""
        used = hyperparameters(self.design, self.spec)
        learned = [n for n in self.hyper if used[n][0].learned]
        if not learn or not learned:
            return self
        edges, squares = self._squares(moments)

        def lost(logs: np.ndarray) -> float:
            hyper = self.hyper | dict(zip(learned, np.exp(logs).tolist(), strict=True))
            return -self._log_density(hyper, edges, squares) - self._penalty(hyper)

        start = np.log([self.hyper[n] for n in learned])
        bounds = [(v - 2, v + 2) for v in start]
        found = scipy.optimize.minimize(lost, start, method="L-BFGS-B", bounds=bounds)
        best = found.x if found.fun < lost(start) else start
        hyper = self.hyper | dict(zip(learned, np.exp(best).tolist(), strict=True))
        return dataclasses.replace(self, hyper=hyper)

    def with_field_scales(self, moments: Moments) -> FieldPrior:
        """Return the prior at the best hyper-parameters for other covariances."""
        return self.updated(moments, learn=True)

    def damped(self) -> FieldPrior:
        """Return the prior: it has no weights to take steps."""
        return self

    def change_of_weights(self, before: FieldPrior) -> float:
        """Return zero: its differences have no weights of their own."""
        return 0.0

    def log_density(self, moments: Moments) -> float:
        """Return this prior's part of the ELBO, and of the penalty on hyper-parameters."""
        return self._log_density(self.hyper, *self._squares(moments)) + self._penalty(self.hyper)

    @property
    def log_scales(self) -> np.ndarray:
        """Logarithms of the hyper-parameters."""
        return np.log(list(self.hyper.values()))

    def with_log_scales(self, logs: np.ndarray) -> FieldPrior:
        """Return the prior with these `log_scales`."""
        hyper = dict(zip(self.hyper, np.exp(logs).tolist(), strict=True))
        return dataclasses.replace(self, hyper=hyper)

    def transformed(self, back: np.ndarray, shift: np.ndarray) -> FieldPrior:
        """Refuse: this prior knows no other coordinates."""
        raise NotImplementedError

    def resumed(self, values: Mapping[str, np.ndarray], moments: Moments) -> FieldPrior:
        """Return the prior at the hyper-parameters that an earlier fit kept."""
        kept = {n: float(values[n]) for n in self.hyper if n in values}
        return dataclasses.replace(self, hyper=self.hyper | kept)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of_arrays` takes."""
        return self.values()

    @classmethod
    def of_arrays(cls, design: Design, spec: Spec, arrays: Mapping[str, np.ndarray]) -> FieldPrior:
        """Return the prior that gave these arrays."""
        return cls(design, spec, {name: float(value) for name, value in arrays.items()})

    def values(self) -> dict[str, np.ndarray]:
        """Return the hyper-parameters, as sites of the program."""
        return {name: np.asarray(value) for name, value in self.hyper.items()}
