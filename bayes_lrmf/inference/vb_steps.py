"""The directed prior in variational Bayes: weights of the steps, and estimates of their scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayes_lrmf.covariates import Covariates
from bayes_lrmf.design import Design
from bayes_lrmf.directed import (
    DRIFT_STEPS,
    EFFECT_STEPS,
    STEPS,
    TAIL_LOG_SD,
    DirectedGraph,
    StepScales,
    covariance_steps,
)
from bayes_lrmf.scale_mixture import (
    SCALE_GRID,
    Cavity,
    central_shares,
    learned_shares,
    log_classes,
    mixed,
    student_shares,
)
from bayes_lrmf.spec import HyperPrior, Spec
from bayes_lrmf.threads import by_rows

__all__ = ["DirectedPrior", "Moments"]

# Whole steps of expectation propagation may end in a cycle of two states.
_DAMPING = 0.5
_ROWS = 512
_TAIL_GRID = np.exp(np.linspace(np.log(0.7), np.log(100.0), 40))


class Moments(NamedTuple):
    """Gaussian of all nodes: means, marginal covariances and those on the pattern."""

    mean: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray


class _Steps(NamedTuple):
    """What is known of the steps around their centres, of factors together or of each effect.

    Attributes
    ----------
    log_class : array, shape (..., n_classes)
        Log evidence for each variance.
    share : array, shape (..., n_classes)
        Posterior probability of each.
    log_mixture : array, shape (...)
        Log evidence for all of them.
    log_normal : array, shape (...)
        Log evidence for the one normal prior that stands for them in the joint Gaussian.
    weight : array, shape (...)
        Of the prior in the joint Gaussian.
    inverse : array, shape (...)
        Expectation of one over the variance.
    mean, square : arrays, shapes (..., d) and (..., d, d)
        Expectations of the step and of its outer product, over the variance.
    """

    log_class: np.ndarray
    share: np.ndarray
    log_mixture: np.ndarray
    log_normal: np.ndarray
    weight: np.ndarray
    inverse: np.ndarray
    mean: np.ndarray
    square: np.ndarray


@dataclass(frozen=True, eq=False)
class DirectedPrior:
    r"""Steps over core nodes: their scales, and the Gamma factors of the weights.

    The estimates of the scales maximise the ELBO plus

    - for each relation, minus `strength` times the Kullback-Leibler divergence of its steps from
      steps of all relations pooled: as if it had `strength` more steps, of the pooled covariance;
      roots likewise from N(0, factor_sd^2), effects likewise with 10 steps;
    - ridges on drifts by relation, on those by kind of child around them, and on coefficients of
      features, each as strong as two more steps; the intercept is free;
    - the log-normal density of the tails around a pooled tail, or the Dirichlet density of the
      shares (`learned_shares`).

    The pooled covariance is the plain estimate from all steps, renewed with every update.

    In mean field a step and its variance are independent given the data. Where little is known of
    a step, that takes a guess of its variance for knowledge, and the scales end too small.
    `marginal` integrates the variances out instead, by expectation propagation: the evidence for
    each variance is that of the step's cavity distribution.

    References
    ----------
    Minka (2001), expectation propagation.
    """

    graph: DirectedGraph
    known: Covariates
    spec: Spec
    scales: StepScales
    factor_weight: np.ndarray
    effect_weight: np.ndarray
    marginal: bool = False
    settled: float = 0.0
    damping: float = _DAMPING
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
        shares = student_shares(tails)
        if spec.step_shape == "mixture":
            tails = np.full(n_steps, np.nan)
            shares = np.tile(central_shares(), (n_steps, 1))
        scales = StepScales(
            coefficient=np.zeros((known.values.shape[1], size)),
            drift=np.zeros((n_steps, len(known.kinds), size)),
            factor_covariance=step_sd[:, None, None] ** 2 * np.eye(k),
            effect_variance=np.repeat(effect_sd[:, None] ** 2, size - k, axis=1),
            factor_shares=shares,
            effect_shares=shares,
            factor_tail=tails,
            effect_tail=tails,
        )
        graph = design.directed
        prior = cls(graph, known, spec, scales, np.ones(n), np.ones((n, size - k)))
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
        return covariance_steps(self.spec.rank)

    def _centre(self) -> np.ndarray:
        return self.scales.centre(self.graph.step, self.known, np.arange(self.graph.n_nodes))

    def precision(
        self, nodes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return expected prior precision blocks and linear term.

        Parameters
        ----------
        nodes : bool array, shape (n_nodes,), optional
            Those whose steps count; all by default.
        """
        p = self.scales.precision(self.graph.step, self.factor_weight, self.effect_weight)
        if nodes is not None:
            p[~nodes] = 0.0
        return self.graph.precision(p, self._centre())

    def _second_moments(self, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Return expected outer products of the factors' steps, and squares of the effects'."""
        k = self.spec.rank
        step = self.graph.steps_of(moments.mean) - self._centre()
        second = self.graph.step_covariance(moments.variance, moments.covariance)
        second = second + step[:, :, None] * step[:, None, :]
        return second[:, :k, :k], np.diagonal(second, axis1=1, axis2=2)[:, k:]

    def _mean_field(self, moments: Moments) -> tuple[_Steps, _Steps]:
        factor, effect = self._second_moments(moments)
        s, step, k = self.scales, self.graph.step, self.spec.rank
        mean = self.graph.steps_of(moments.mean) - self._centre()
        distance = (factor * np.linalg.inv(s.factor_covariance)[step]).sum((1, 2))

        def steps(log_class: np.ndarray, shares: np.ndarray, m: Any, square: Any) -> _Steps:
            share, mixture = mixed(log_class, shares)
            weight = share @ (1 / SCALE_GRID)
            w = weight[..., None]
            return _Steps(
                log_class, share, mixture, mixture, weight, weight, w * m, w[..., None] * square
            )

        of_effects = log_classes(effect / s.effect_variance[step], 1)
        return (
            steps(log_classes(distance, k), s.factor_shares[step], mean[:, :k], factor),
            steps(
                of_effects,
                s.effect_shares[step][:, None],
                mean[:, k:, None],
                effect[..., None, None],
            ),
        )

    def _marginal(self, moments: Moments, at: Any = slice(None)) -> tuple[_Steps, _Steps]:
        s, step, k = self.scales, self.graph.step[at], self.spec.rank
        mean = (self.graph.steps_of(moments.mean) - self._centre())[at]
        covariance = self.graph.step_covariance(moments.variance, moments.covariance)[at]
        root = np.linalg.cholesky(s.factor_covariance)
        white = np.linalg.inv(root)

        def factors(
            step: np.ndarray, mean: np.ndarray, covariance: np.ndarray, weight: np.ndarray
        ) -> _Steps:
            of_step = white[step]
            variance, axes = np.linalg.eigh(of_step @ covariance @ of_step.mT)
            along = ((of_step @ mean[:, :, None]).mT @ axes)[:, 0]
            shares, back = s.factor_shares[step], root[step] @ axes
            return _integrated(along, variance, weight, shares, back, self.damping)

        def effects(
            step: np.ndarray, mean: np.ndarray, variance: np.ndarray, weight: np.ndarray
        ) -> _Steps:
            sd = np.sqrt(s.effect_variance[step])[..., None]
            shares = s.effect_shares[step][:, None]
            along, back = mean / sd, sd[..., None]
            return _integrated(along, variance / sd**2, weight, shares, back, self.damping)

        own = np.diagonal(covariance, axis1=1, axis2=2)[:, k:, None]
        return (
            by_rows(
                factors,
                step,
                mean[:, :k],
                covariance[:, :k, :k],
                self.factor_weight[at],
                rows=_ROWS,
            ),
            by_rows(effects, step, mean[:, k:, None], own, self.effect_weight[at], rows=_ROWS),
        )

    def _steps(self, moments: Moments) -> tuple[_Steps, _Steps]:
        return self._marginal(moments) if self.marginal else self._mean_field(moments)

    def updated(self, moments: Moments, *, learn: bool) -> DirectedPrior:
        """Renew the weights, then (`learn`) shares, means and scales, and the weights again."""
        factor, effect = self._steps(moments)
        new = dataclasses.replace(self, factor_weight=factor.weight, effect_weight=effect.weight)
        if self.marginal:
            new = dataclasses.replace(new, settled=self._log_evidence(moments, factor, effect))
        if not learn:
            return new
        new = dataclasses.replace(new, scales=new._with_shares(factor, effect))
        if not self.marginal:
            factor, effect = new._steps(moments)
        scales, shift = new._with_means(factor, effect)
        new = dataclasses.replace(new, scales=scales)
        new = dataclasses.replace(new, scales=new._with_scales(factor, effect, shift))
        if self.marginal:
            return new
        factor, effect = new._steps(moments)
        return dataclasses.replace(new, factor_weight=factor.weight, effect_weight=effect.weight)

    @property
    def log_scales(self) -> np.ndarray:
        """Nothing: scales of steps are no hyper-parameters of a field."""
        return np.zeros(0)

    def with_log_scales(self, logs: np.ndarray) -> DirectedPrior:
        """Return the prior: it has no `log_scales`."""
        return self

    def with_field_scales(self, moments: Moments) -> DirectedPrior:
        """Return the prior: in turn with sweeps, scales of steps go back and forth."""
        return self

    def damped(self) -> DirectedPrior:
        """Return the prior whose weights take steps half as long, which end cycles."""
        return dataclasses.replace(self, damping=self.damping / 2)

    def change_of_weights(self, before: DirectedPrior) -> float:
        """Return the largest change of a weight's logarithm."""
        pairs = (
            (self.factor_weight, before.factor_weight),
            (self.effect_weight, before.effect_weight),
        )
        return float(max(np.abs(np.log(new / old)).max(initial=0.0) for new, old in pairs))

    def reweighed(self, moments: Moments, nodes: np.ndarray) -> DirectedPrior:
        """Renew weights of steps to some nodes, shape (n,), their variances integrated out."""
        found = self._marginal(moments, nodes)
        kept = [self.factor_weight.copy(), self.effect_weight.copy()]
        for old, new in zip(kept, found, strict=True):
            old[nodes] = new.weight
        return dataclasses.replace(self, factor_weight=kept[0], effect_weight=kept[1])

    def log_density(self, moments: Moments) -> float:
        """Return this prior's part of the ELBO with the best variances, without the penalties.

        With the variances integrated out, its part in the log evidence of expectation propagation
        at the last update.
        """
        if self.marginal:
            return self.settled
        factor, effect = self._mean_field(moments)
        s, step = self.scales, self.graph.step
        value = factor.log_mixture.sum()
        value -= 0.5 * np.linalg.slogdet(s.factor_covariance)[1][step].sum()
        value += effect.log_mixture.sum()
        value -= 0.5 * np.log(s.effect_variance[step]).sum()
        return float(value)

    def _log_evidence(self, moments: Moments, factor: _Steps, effect: _Steps) -> float:
        second, second_b = self._second_moments(moments)
        s, step, k = self.scales, self.graph.step, self.spec.rank
        distance = (second * np.linalg.inv(s.factor_covariance)[step]).sum((1, 2))
        value = 0.5 * (k * np.log(self.factor_weight) - self.factor_weight * distance).sum()
        value -= 0.5 * np.linalg.slogdet(s.factor_covariance)[1][step].sum()
        precision = self.effect_weight / s.effect_variance[step]
        value += 0.5 * (np.log(precision) - precision * second_b).sum()
        value -= 0.5 * moments.mean.size * np.log(2 * np.pi)
        value += (factor.log_mixture - factor.log_normal).sum()
        return float(value + (effect.log_mixture - effect.log_normal).sum())

    def _with_shares(self, factor: _Steps, effect: _Steps) -> StepScales:
        s, step, prior = self.scales, self.graph.step, self.spec.tail
        found = []
        for steps, tail in ((factor, s.factor_tail), (effect, s.effect_tail)):
            n, n_classes = steps.log_class.shape[0], steps.log_class.shape[-1]
            if self.spec.step_shape == "mixture":
                counts = np.zeros((len(STEPS), n_classes))
                np.add.at(counts, step, steps.share.reshape(n, -1, n_classes).sum(1))
                found.append((learned_shares(counts), tail))
                continue
            if prior.learned:
                log_class = steps.log_class.reshape(n, -1, n_classes)
                value = _log_mixtures(log_class, student_shares(_TAIL_GRID)).sum(1)
                by_step = np.zeros((len(STEPS), len(_TAIL_GRID)))
                np.add.at(by_step, step, value)
                tail = _shrunk_tails(by_step, tail, prior)
            found.append((student_shares(tail), tail))
        return dataclasses.replace(
            s,
            factor_shares=found[0][0],
            effect_shares=found[1][0],
            factor_tail=found[0][1],
            effect_tail=found[1][1],
        )

    def _with_means(self, factor: _Steps, effect: _Steps) -> tuple[StepScales, np.ndarray]:
        """Return scales with new means, and by how much these moved the centres."""
        k, step, known = self.spec.rank, self.graph.step, self.known
        weight = np.concatenate(
            [np.repeat(factor.inverse[:, None], k, axis=1), effect.inverse], axis=1
        )
        pulled = np.concatenate([factor.mean, effect.mean[..., 0]], axis=1)
        before = self._centre()
        value = before + pulled / weight
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
            known_by = total * DRIFT_STEPS / (total + DRIFT_STEPS)
            own = np.where(total > 0, pull / np.maximum(total, 1e-12), 0.0)
            general = (known_by * own).sum(0) / (known_by.sum(0) + DRIFT_STEPS)
            drift[r] = (pull + DRIFT_STEPS * general) / (total + DRIFT_STEPS)
        scales = dataclasses.replace(self.scales, coefficient=coefficient, drift=drift)
        after = dataclasses.replace(self, scales=scales)._centre()
        return scales, after - before

    def _with_scales(self, factor: _Steps, effect: _Steps, shift: np.ndarray) -> StepScales:
        """Return scales fitted to the steps, whose centres have moved by `shift`."""
        step, n_steps, k = self.graph.step, len(STEPS), self.spec.rank
        moved, moved_b = shift[:, :k], shift[:, k:]
        cross = factor.mean[:, :, None] * moved[:, None, :]
        square = factor.square - cross - cross.mT
        square += factor.inverse[:, None, None] * moved[:, :, None] * moved[:, None, :]
        square_b = effect.square[..., 0, 0] - 2 * effect.mean[..., 0] * moved_b
        square_b += effect.inverse * moved_b**2
        covariance = np.zeros((n_steps, k, k))
        variance = np.zeros((n_steps, square_b.shape[1]))
        np.add.at(covariance, step, square)
        np.add.at(variance, step, square_b)
        n = np.bincount(step, minlength=n_steps).astype(float)
        a, b = self.strength, EFFECT_STEPS
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

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of_arrays` takes."""
        return {
            **self.scales.to_values(),
            "factor_weight": self.factor_weight,
            "effect_weight": self.effect_weight,
            "marginal": np.asarray(self.marginal),
            "settled": np.asarray(self.settled),
        }

    @classmethod
    def of_arrays(
        cls, design: Design, spec: Spec, arrays: Mapping[str, np.ndarray]
    ) -> DirectedPrior:
        """Return the prior that gave these arrays."""
        assert design.covariates is not None
        return cls(
            design.directed,
            design.covariates,
            spec,
            StepScales.from_values(arrays),
            arrays["factor_weight"],
            arrays["effect_weight"],
            bool(arrays["marginal"]),
            float(arrays["settled"]),
        )

    def values(self) -> dict[str, np.ndarray]:
        """Return what predictions need of it."""
        return self.scales.to_values()


def _integrated(
    mean: np.ndarray,
    variance: np.ndarray,
    weight: np.ndarray,
    shares: np.ndarray,
    back: np.ndarray,
    damping: float,
) -> _Steps:
    """Return steps with their variances integrated out, from marginals in whitened axes.

    Parameters
    ----------
    mean, variance : arrays, shape (..., d)
        Posterior marginals along axes in which their covariance is diagonal.
    weight : array, shape (...)
        Of the prior in them.
    shares : array, shape (..., n_classes)
    back : array, shape (..., d, d)
        From those axes to the step.
    damping : float
        Share of the way, in logarithms, that a weight goes to its new value.
    """
    cavity = Cavity.of(mean, variance, weight)
    log_class = cavity.log_classes()
    share, log_mixture = mixed(log_class, shares)
    inverse = share / SCALE_GRID
    means, variances = cavity.means(), cavity.variances()
    along = (inverse[..., None] * means).sum(-2)
    square = (inverse[..., None] * means).mT @ means
    at = np.arange(square.shape[-1])
    square[..., at, at] += (inverse[..., None] * variances).sum(-2)
    return _Steps(
        log_class,
        share,
        log_mixture,
        cavity.log_normal(weight),
        weight ** (1 - damping) * cavity.matched(share, weight) ** damping,
        inverse.sum(-1),
        (back @ along[..., None])[..., 0],
        back @ square @ back.mT,
    )


def _log_mixtures(log_class: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return logs of mixtures for several sets of shares, shape (..., n_sets)."""
    top = log_class.max(-1, keepdims=True)
    return np.asarray(top + np.log(np.maximum(np.exp(log_class - top) @ shares.T, 1e-300)))


def _ridge(columns: np.ndarray, target: np.ndarray, weight: np.ndarray, free: int) -> np.ndarray:
    """Return weighted least squares coefficients; the first `free` are not shrunk."""
    ridge = np.full(columns.shape[1], DRIFT_STEPS)
    ridge[:free] = 1e-8
    weighted = (columns * weight[:, None]).T
    return np.linalg.solve(weighted @ columns + np.diag(ridge), weighted @ target)


def _shrunk_tails(by_step: np.ndarray, old: np.ndarray, prior: HyperPrior) -> np.ndarray:
    """Return the best tail of each kind of step, given the tails pooled over relations."""
    grid = np.log(_TAIL_GRID)
    weight, loose = TAIL_LOG_SD**-2.0, prior.log_sd**-2.0
    pooled = weight * np.log(old[1:]).sum() + loose * np.log(prior.median)
    pooled /= weight * len(old[1:]) + loose
    centre = np.full(len(old), pooled)
    strength = np.full(len(old), weight)
    centre[0], strength[0] = np.log(prior.median), loose
    penalised = by_step - 0.5 * strength[:, None] * (grid - centre[:, None]) ** 2
    return np.exp(grid[penalised.argmax(1)])
