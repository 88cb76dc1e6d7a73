"""The directed prior in variational Bayes: weights of the steps, and estimates of their scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from bayes_lrmf.design import Design
from bayes_lrmf.directed import STEPS, DirectedGraph, StepScales
from bayes_lrmf.spec import HyperPrior, Spec

__all__ = ["DirectedPrior", "Moments"]

_DRIFT_STEPS = 2.0
_EFFECT_STEPS = 10.0
_TAIL_GRID = np.exp(np.linspace(np.log(0.7), np.log(100.0), 40))
_TAIL_LOG_SD = 0.5


class Moments(NamedTuple):
    """Gaussian of all nodes: means, marginal covariances and those on the pattern."""

    mean: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray


def _log_student(distance: np.ndarray, size: int, tail: np.ndarray) -> np.ndarray:
    """Return the log density of a Student-t of unit scale at a squared distance.

    It is also what a Gaussian with Gamma weight contributes to the ELBO at the best Gamma, the
    squared distance being its expectation.
    """
    half = tail / 2
    value = gammaln(half + size / 2) - gammaln(half) - size / 2 * np.log(np.pi * tail)
    return value - (half + size / 2) * np.log1p(distance / tail)


@dataclass(frozen=True, eq=False)
class DirectedPrior:
    r"""Steps over core nodes: their scales, and the Gamma factors of the weights.

    The estimates of the scales maximise the ELBO plus

    - for each relation, minus `strength` times the Kullback-Leibler divergence of its steps from
      steps of all relations pooled: as if it had `strength` more steps, of the pooled covariance;
      roots likewise from N(0, factor_sd^2), effects likewise with 10 steps;
    - ridges on drifts by relation, on those by kind of child around them, and on coefficients of
      features, each as strong as two more steps; the intercept is free;
    - the log-normal density of the tails around a pooled tail.

    The pooled covariance is the plain estimate from all steps, renewed with every update.
    """

    graph: DirectedGraph
    design: Design
    spec: Spec
    scales: StepScales
    factor_weight: np.ndarray
    effect_weight: np.ndarray
    equivariant = True

    @classmethod
    def start(cls, design: Design, spec: Spec, mean: np.ndarray) -> DirectedPrior:
        """Return a prior fitted to point values of all nodes, shape (n_nodes, size)."""
        n, size = mean.shape
        k, n_steps = spec.rank, len(STEPS)
        known = design.covariates
        assert known is not None
        step_sd = np.where(np.arange(n_steps) == 0, spec.factor_sd.median, spec.step_sd.median)
        effect_sd = np.where(np.arange(n_steps) == 0, spec.benchmark_sd.median, spec.step_sd.median)
        tails = np.full(n_steps, spec.tail.median)
        scales = StepScales(
            coefficient=np.zeros((known.values.shape[1], size)),
            drift=np.zeros((n_steps, len(known.kinds), size)),
            factor_covariance=step_sd[:, None, None] ** 2 * np.eye(k),
            effect_variance=np.repeat(effect_sd[:, None] ** 2, size - k, axis=1),
            factor_tail=tails,
            effect_tail=tails,
        )
        graph = design.directed
        prior = cls(graph, design, spec, scales, np.ones(n), np.ones((n, size - k)))
        nothing = np.zeros((n, size, size)), np.zeros((graph.blocks.n_entries, size, size))
        return prior.updated(Moments(mean, *nothing), learn=True)

    def resumed(self, values: Mapping[str, np.ndarray], moments: Moments) -> DirectedPrior:
        """Return the prior at the scales that an earlier fit kept, if it kept some."""
        if "step_drift" not in values:
            return self
        new = dataclasses.replace(self, scales=StepScales.from_values(values))
        return new.updated(moments, learn=False)

    @property
    def strength(self) -> float:
        """Steps that the prior of a relation's covariance is worth."""
        return 2.0 * (self.spec.rank + 1)

    def _centre(self) -> np.ndarray:
        known = self.design.covariates
        assert known is not None
        return self.scales.centre(self.graph.step, known, np.arange(self.graph.n_nodes))

    def precision(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return expected prior precision blocks and linear term."""
        p = self.scales.precision(self.graph.step, self.factor_weight, self.effect_weight)
        return self.graph.precision(p, self._centre())

    def _second_moments(self, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Return expected outer products of the factors' steps, and squares of the effects'."""
        k = self.spec.rank
        step = self.graph.steps_of(moments.mean) - self._centre()
        second = self.graph.step_covariance(moments.variance, moments.covariance)
        second = second + step[:, :, None] * step[:, None, :]
        return second[:, :k, :k], np.diagonal(second, axis1=1, axis2=2)[:, k:]

    def _distances(self, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        factor, effect = self._second_moments(moments)
        inverse = np.linalg.inv(self.scales.factor_covariance)[self.graph.step]
        return (factor * inverse).sum((1, 2)), effect / self.scales.effect_variance[self.graph.step]

    def updated(self, moments: Moments, *, learn: bool) -> DirectedPrior:
        """Renew the weights, then (`learn`) tails, means and scales, and the weights again."""
        new = self._weighted(moments)
        if not learn:
            return new
        new = dataclasses.replace(new, scales=new._with_tails(moments))._weighted(moments)
        new = dataclasses.replace(new, scales=new._with_means(moments))
        new = dataclasses.replace(new, scales=new._with_scales(moments))
        return new._weighted(moments)

    def _weighted(self, moments: Moments) -> DirectedPrior:
        factor, effect = self._distances(moments)
        s, step, k = self.scales, self.graph.step, self.spec.rank
        nu, nu_b = s.factor_tail[step], s.effect_tail[step][:, None]
        return dataclasses.replace(
            self, factor_weight=(nu + k) / (nu + factor), effect_weight=(nu_b + 1) / (nu_b + effect)
        )

    def log_density(self, moments: Moments) -> float:
        """Return this prior's part of the ELBO with best weights, without the penalties."""
        factor, effect = self._distances(moments)
        s, step, k = self.scales, self.graph.step, self.spec.rank
        value = _log_student(factor, k, s.factor_tail[step]).sum()
        value -= 0.5 * np.linalg.slogdet(s.factor_covariance)[1][step].sum()
        value += _log_student(effect, 1, s.effect_tail[step][:, None]).sum()
        value -= 0.5 * np.log(s.effect_variance[step]).sum()
        return float(value)

    def _with_tails(self, moments: Moments) -> StepScales:
        factor, effect = self._distances(moments)
        prior = self.spec.tail
        tails = []
        for distance, size, old in (
            (factor[:, None], self.spec.rank, self.scales.factor_tail),
            (effect, 1, self.scales.effect_tail),
        ):
            value = _log_student(distance[..., None], size, _TAIL_GRID).sum(1)
            by_step = np.zeros((len(STEPS), len(_TAIL_GRID)))
            np.add.at(by_step, self.graph.step, value)
            tails.append(_shrunk_tails(by_step, old, prior) if prior.learned else old)
        return dataclasses.replace(self.scales, factor_tail=tails[0], effect_tail=tails[1])

    def _with_means(self, moments: Moments) -> StepScales:
        known = self.design.covariates
        assert known is not None
        k, step = self.spec.rank, self.graph.step
        value = self.graph.steps_of(moments.mean)
        weight = np.concatenate(
            [np.repeat(self.factor_weight[:, None], k, axis=1), self.effect_weight], axis=1
        )
        roots = np.flatnonzero(step == 0)
        columns = known.values[roots]
        coefficient = np.zeros_like(self.scales.coefficient)
        coefficient[:, :k] = _ridge(columns, value[roots, :k], weight[roots, 0], free=1)
        if columns.shape[1] > 1:
            # An effect has no intercept: that of its items is the same.
            for d in range(k, value.shape[1]):
                found = _ridge(columns[:, 1:], value[roots, d, None], weight[roots, d], free=0)
                coefficient[1:, d] = found[:, 0]
        drift = self.scales.drift.copy()
        n_kinds = drift.shape[1]
        for r in range(1, len(STEPS)):
            at = np.flatnonzero(step == r)
            total, pull = np.zeros((n_kinds, value.shape[1])), np.zeros((n_kinds, value.shape[1]))
            np.add.at(total, known.kind[at], weight[at])
            np.add.at(pull, known.kind[at], weight[at] * value[at])
            # The drift of a relation, kinds integrated out; then of each kind around it.
            known_by = total * _DRIFT_STEPS / (total + _DRIFT_STEPS)
            own = np.where(total > 0, pull / np.maximum(total, 1e-12), 0.0)
            general = (known_by * own).sum(0) / (known_by.sum(0) + _DRIFT_STEPS)
            drift[r] = (pull + _DRIFT_STEPS * general) / (total + _DRIFT_STEPS)
        return dataclasses.replace(self.scales, coefficient=coefficient, drift=drift)

    def _with_scales(self, moments: Moments) -> StepScales:
        factor, effect = self._second_moments(moments)
        step, n_steps, k = self.graph.step, len(STEPS), self.spec.rank
        covariance, variance = np.zeros((n_steps, k, k)), np.zeros((n_steps, effect.shape[1]))
        np.add.at(covariance, step, self.factor_weight[:, None, None] * factor)
        np.add.at(variance, step, self.effect_weight * effect)
        n = np.bincount(step, minlength=n_steps).astype(float)
        a, b = self.strength, _EFFECT_STEPS
        step_sd, n_all = self.spec.step_sd.median, n[1:].sum()
        pooled = (covariance[1:].sum(0) + step_sd**2 * np.eye(k)) / (n_all + 1)
        pooled_b = (variance[1:].sum(0) + step_sd**2) / (n_all + 1)
        target, target_b = np.tile(pooled, (n_steps, 1, 1)), np.tile(pooled_b, (n_steps, 1))
        target[0] = self.spec.factor_sd.median**2 * np.eye(k)
        target_b[0] = self.spec.benchmark_sd.median**2
        return dataclasses.replace(
            self.scales,
            factor_covariance=(covariance + a * target) / (n + a)[:, None, None],
            effect_variance=(variance + b * target_b) / (n + b)[:, None],
        )

    def transformed(self, back: np.ndarray, shift: np.ndarray) -> DirectedPrior:
        """Return the prior of factors ``(m - shift) back``, rows being models."""
        s, k = self.scales, self.spec.rank
        coefficient, drift = s.coefficient.copy(), s.drift.copy()
        coefficient[0, :k] -= shift
        coefficient[:, :k] = coefficient[:, :k] @ back
        drift[..., :k] = drift[..., :k] @ back
        scales = dataclasses.replace(
            s,
            coefficient=coefficient,
            drift=drift,
            factor_covariance=back.T @ s.factor_covariance @ back,
        )
        return dataclasses.replace(self, scales=scales)

    def values(self) -> dict[str, np.ndarray]:
        """Return what predictions need of it."""
        return self.scales.to_values()


def _ridge(columns: np.ndarray, target: np.ndarray, weight: np.ndarray, free: int) -> np.ndarray:
    """Return weighted least squares coefficients; the first `free` are not shrunk."""
    ridge = np.full(columns.shape[1], _DRIFT_STEPS)
    ridge[:free] = 1e-8
    weighted = (columns * weight[:, None]).T
    return np.linalg.solve(weighted @ columns + np.diag(ridge), weighted @ target)


def _shrunk_tails(by_step: np.ndarray, old: np.ndarray, prior: HyperPrior) -> np.ndarray:
    """Return the best tail of each kind of step, given the tails pooled over relations."""
    grid = np.log(_TAIL_GRID)
    weight, loose = _TAIL_LOG_SD**-2.0, prior.log_sd**-2.0
    pooled = weight * np.log(old[1:]).sum() + loose * np.log(prior.median)
    pooled /= weight * len(old[1:]) + loose
    centre = np.full(len(old), pooled)
    strength = np.full(len(old), weight)
    centre[0], strength[0] = np.log(prior.median), loose
    penalised = by_step - 0.5 * strength[:, None] * (grid - centre[:, None]) ** 2
    return np.exp(grid[penalised.argmax(1)])
