"""The directed prior in NumPyro: white steps, their scales, and the walk down the lineage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

from bayes_lrmf.design import Design
from bayes_lrmf.directed import (
    DRIFT_STEPS,
    EFFECT_STEPS,
    STEPS,
    TAIL_LOG_SD,
    StepScales,
    covariance_steps,
)
from bayes_lrmf.scale_mixture import SCALE_GRID, central_shares
from bayes_lrmf.spec import Spec

__all__ = [
    "StepUnits",
    "ascend",
    "central_scales",
    "descend",
    "n_effects",
    "step_units",
    "wave_basis",
    "white_steps",
]

_POOLED_EFFECT_STEPS = 2.0
_N_WAVES = 12
_WAVE_LENGTH = 2 * np.log(2)


def n_effects(design: Design, spec: Spec) -> int:
    """Return the number of fields beside the factors: ability, then benchmark effects."""
    return int(spec.ability) + len(design.effect_benchmarks) * int(spec.benchmark_effects)


def wave_basis() -> np.ndarray:
    """Return a basis of smooth functions of the log scale, shape (n_classes, n_waves).

    Its products with white noise are a Gaussian process of unit variance whose correlation falls
    to exp(-1 / 2) over a factor of 4 in the variance, but for directions that matter little.
    """
    gap = np.log(SCALE_GRID)[:, None] - np.log(SCALE_GRID)
    value, vector = np.linalg.eigh(np.exp(-0.5 * (gap / _WAVE_LENGTH) ** 2))
    return np.asarray(vector[:, -_N_WAVES:] * np.sqrt(value[-_N_WAVES:]))


def _wishart_freedom(rank: int) -> np.ndarray:
    """Return degrees of freedom of the precisions, pooled first, then by kind of step."""
    return np.array([rank + 1.0] + [covariance_steps(rank)] * len(STEPS))


def _sizes(design: Design, spec: Spec) -> tuple[int, int, int, int]:
    known = design.covariates
    assert known is not None
    return spec.rank, n_effects(design, spec), known.values.shape[1], len(known.kinds)


def central_scales(design: Design, spec: Spec) -> dict[str, np.ndarray]:
    """Return the sites of the scales where covariances are those of the spec, and drifts are zero.

    Steps to children have covariance ``step_sd^2 I``, roots ``factor_sd^2 I``.
    """
    k, e, n_columns, n_kinds = _sizes(design, spec)
    n = len(STEPS)
    freedom = _wishart_freedom(k)
    out = {
        "spread_log_square": np.repeat(np.log(freedom)[:, None], k, axis=1),
        "spread_below": np.zeros((n + 1, k * (k - 1) // 2)),
        "white_coefficient": np.zeros((n_columns, k)),
        "white_drift": np.zeros((n - 1, n_kinds + 1, k + e)),
    }
    if e:
        log_effect = np.log([_POOLED_EFFECT_STEPS] + [EFFECT_STEPS] * n)
        out["effect_log_square"] = np.repeat(log_effect[:, None], e, axis=1)
        out["white_effect_coefficient"] = np.zeros((n_columns - 1, e))
    if spec.step_shape == "mixture":
        out["white_shares"] = np.zeros((2, n + 1, _N_WAVES))
    elif spec.tail.learned:
        out["white_tail"] = np.zeros((2, n + 1))
    return out


def _white(name: str, shape: tuple[int, ...]) -> jax.Array:
    if 0 in shape:
        return jnp.zeros(shape)
    return numpyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))


def _log_chi_square(name: str, freedom: np.ndarray) -> jax.Array:
    square = dist.Gamma(jnp.asarray(freedom) / 2, 0.5)
    logs = dist.TransformedDistribution(square, dist.transforms.ExpTransform().inv)
    return numpyro.sample(name, logs.to_event(freedom.ndim))


def _factor_roots(spec: Spec) -> jax.Array:
    """Return square roots of the covariances of the factors' steps, shape (n_steps, K, K).

    By Bartlett's decomposition ``A A'`` of a standard Wishart matrix, with ``R R'`` the centre of
    its inverse: the covariance is ``freedom R (A A')^-1 R'``.
    """
    k, n = spec.rank, len(STEPS) + 1
    freedom = _wishart_freedom(k)
    log_square = _log_chi_square("spread_log_square", freedom[:, None] - np.arange(k))
    log_square = jnp.asarray(log_square)
    below = _white("spread_below", (n, k * (k - 1) // 2))
    at = np.arange(k)
    bartlett = jnp.zeros((n, k, k), log_square.dtype).at[:, at, at].set(jnp.exp(log_square / 2))
    row, column = np.tril_indices(k, -1)
    bartlett = bartlett.at[:, row, column].set(below)
    eye = jnp.broadcast_to(jnp.eye(k), (n, k, k))
    inverse = jax.scipy.linalg.solve_triangular(bartlett, eye, lower=True).mT
    inverse = inverse * jnp.sqrt(freedom)[:, None, None]
    pooled = spec.step_sd.median * inverse[0]
    return jnp.concatenate([spec.factor_sd.median * inverse[1:2], pooled @ inverse[2:]])


def _effect_variances(spec: Spec, n: int) -> jax.Array:
    """Return variances of the effects' steps, shape (n_steps, E)."""
    if not n:
        return jnp.zeros((len(STEPS), 0))
    freedom = np.array([_POOLED_EFFECT_STEPS] + [EFFECT_STEPS] * len(STEPS))
    freedom = np.repeat(freedom[:, None], n, axis=1)
    ratio = freedom * jnp.exp(-_log_chi_square("effect_log_square", freedom))
    pooled = spec.step_sd.median**2 * ratio[0]
    return jnp.concatenate([spec.benchmark_sd.median**2 * ratio[1:2], pooled * ratio[2:]])


def _pooled(white: jax.Array, pooled_sd: float, own_sd: float) -> jax.Array:
    """Return deviations by kind of step: of roots on their own, of others around a pooled one."""
    own = pooled_sd * white[:, :1] + own_sd * white[:, 2:]
    return jnp.concatenate([pooled_sd * white[:, 1:2], own], axis=1)


def _shapes(spec: Spec) -> tuple[jax.Array, jax.Array]:
    """Return log shares (2, n_steps, n_classes) and tails (2, n_steps) of factors and effects."""
    n = len(STEPS)
    if spec.step_shape == "mixture":
        deviation = _pooled(_white("white_shares", (2, n + 1, _N_WAVES)), 1.0, 1.0)
        log_shares = jnp.log(central_shares()) + deviation @ wave_basis().T
        return jax.nn.log_softmax(log_shares), jnp.full((2, n), jnp.nan)
    log_tail = jnp.full((2, n), jnp.log(spec.tail.median))
    if spec.tail.learned:
        white = _white("white_tail", (2, n + 1))
        log_tail = log_tail + _pooled(white, spec.tail.log_sd, TAIL_LOG_SD)
    tail = jnp.exp(log_tail)
    # The Gamma density of one over the variance, on the grid.
    density = -tail[..., None] / 2 * (np.log(SCALE_GRID) + 1 / SCALE_GRID)
    return jax.nn.log_softmax(density), tail


def white_steps(log_shares: Any, tail: Any, size: int | None) -> dist.Distribution:
    """Return the distribution of steps in units of their scale.

    Parameters
    ----------
    log_shares : array, shape (..., n_classes)
    tail : array, shape (...), or None
        Degrees of freedom of Student-t steps; None for the mixture that `log_shares` make.
    size : int or None
        Dimensions that share one scale; None for a scalar.
    """
    event: tuple[int, ...] = () if size is None else (size,)
    if tail is not None and size is None:
        return dist.StudentT(tail)
    if tail is not None and size is not None:
        return dist.MultivariateStudentT(tail, jnp.zeros(size), jnp.eye(size))
    sd = jnp.sqrt(jnp.asarray(SCALE_GRID))
    part = dist.Normal(0.0, sd[(...,) + (None,) * len(event)])
    part = part.expand((*log_shares.shape, *event)).to_event(len(event))
    return dist.MixtureSameFamily(dist.Categorical(logits=log_shares), part)


def _means(design: Design, spec: Spec, roots: jax.Array, variance: jax.Array) -> tuple[Any, Any]:
    """Return coefficients of features (n_columns, K + E) and drifts (n_steps, n_kinds, K + E)."""
    k, e, n_columns, n_kinds = _sizes(design, spec)

    def scaled(white: jax.Array, at: Any) -> jax.Array:
        """Turn white noise (..., K + E) into a step of these kinds, of `DRIFT_STEPS` averaged."""
        factors = jnp.einsum("...ij,...j->...i", roots[at], white[..., :k])
        moved = jnp.concatenate([factors, jnp.sqrt(variance[at]) * white[..., k:]], axis=-1)
        return moved / DRIFT_STEPS**0.5

    own = _white("white_coefficient", (n_columns, k))
    of_effects = jnp.zeros((n_columns, e))
    if e:
        # An effect has no intercept: that of its items is the same.
        white = _white("white_effect_coefficient", (n_columns - 1, e))
        of_effects = of_effects.at[1:].set(white)
    white = jnp.concatenate([own, of_effects], axis=1)
    coefficient = scaled(white, 0).at[0].set(white[0])
    white = _white("white_drift", (len(STEPS) - 1, n_kinds + 1, k + e))
    moved = scaled(white, np.arange(1, len(STEPS))[:, None])
    drift = moved[:, :1] + moved[:, 1:]
    return coefficient, jnp.concatenate([jnp.zeros((1, *drift.shape[1:])), drift])


@dataclass(frozen=True, eq=False)
class StepUnits:
    """What turns white steps into steps, by kind of step.

    Attributes
    ----------
    roots : array, shape (n_steps, K, K)
        Square roots of the covariances of the factors.
    variance : array, shape (n_steps, E)
    log_shares : array, shape (2, n_steps, n_classes)
        Of factors and of effects.
    tail : array, shape (2, n_steps)
    coefficient : array, shape (n_columns, K + E)
    drift : array, shape (n_steps, n_kinds, K + E)
    """

    roots: jax.Array
    variance: jax.Array
    log_shares: jax.Array
    tail: jax.Array
    coefficient: jax.Array
    drift: jax.Array

    def centre(self, design: Design) -> jax.Array:
        """Return the mean step of each core node, shape (n_core, K + E)."""
        known, step = design.covariates, design.directed.step
        assert known is not None
        columns, kind = known.values[: len(step)], known.kind[: len(step)]
        return jnp.where((step == 0)[:, None], columns @ self.coefficient, self.drift[step, kind])


def step_units(design: Design, spec: Spec) -> StepUnits:
    """Draw the scales and the means of the steps, as `descend` says."""
    roots, variance = _factor_roots(spec), _effect_variances(spec, n_effects(design, spec))
    log_shares, tail = _shapes(spec)
    return StepUnits(roots, variance, log_shares, tail, *_means(design, spec, roots, variance))


def descend(design: Design, spec: Spec) -> dict[str, Any]:
    r"""Draw the scales of the steps and the steps, and walk down the lineage.

    Everything is sampled in units in which its prior is nearly white. With freedom
    a = 2 (K + 1) of relations and K + 1 of what they have in common,

    - the precision of a relation's steps is Wishart around the pooled one,
      :math:`S_r^{-1} \sim W(a, P^{-1} / a)`: as if a more steps of the pooled covariance P had
      been seen, the strength that `fit_vb` gives it. :math:`P^{-1} \sim W(K + 1, I / (K + 1) /
      \sigma^2)` with sigma the `step_sd`; roots have W(a, .) around ``factor_sd^2 I``;
    - variances of effects are scaled inverse chi-square with 10 degrees of freedom around a pooled
      one with 2, around ``step_sd^2``; of roots around ``benchmark_sd^2``;
    - a drift by relation is N(0, S_r / 2), those by kind of child N(that, S_r / 2); coefficients of
      features are N(0, S_root / 2). The intercept of roots is standard normal;
    - log tails are normal around a pooled one, roots have their own. Log shares of a mixture are
      those of `central_shares` plus a Gaussian process over the log scale, pooled likewise; a
      Dirichlet has classes of so little mass that their logarithms cannot be sampled.

    Returns
    -------
    dict
        ``factor`` (K, n_core), ``ability_unit`` (n_core,) and ``effect_unit`` (n_effects, n_core)
        as the spec has them, and the attributes of `StepScales`, ``step_drift`` and so on.
    """
    k, e, *_ = _sizes(design, spec)
    graph = design.directed
    units = step_units(design, spec)
    roots, variance, log_shares, tail = units.roots, units.variance, units.log_shares, units.tail
    step, mixed = graph.step, spec.step_shape == "mixture"
    of_factors = white_steps(log_shares[0, step], None if mixed else tail[0, step], k)
    white = numpyro.sample("white_factor", of_factors.to_event(1))
    moved = [jnp.einsum("nij,nj->ni", roots[step], white)]
    if e:
        n_classes = len(SCALE_GRID)
        shares = jnp.broadcast_to(log_shares[1, step][:, None], (len(step), e, n_classes))
        tails = None if mixed else jnp.broadcast_to(tail[1, step][:, None], (len(step), e))
        white = numpyro.sample("white_effect", white_steps(shares, tails, None).to_event(2))
        moved.append(jnp.sqrt(variance[step]) * white)
    fields = (jnp.concatenate(moved, axis=1) + units.centre(design)).T
    for edges in graph.levels:
        weight = jnp.asarray(graph.weight[edges], fields.dtype)
        fields = fields.at[:, graph.child[edges]].add(weight * fields[:, graph.parent[edges]])
    out = {"factor": fields[:k]}
    if spec.ability:
        out["ability_unit"] = fields[k]
    if e > int(spec.ability):
        out["effect_unit"] = fields[k + int(spec.ability) :]
    shares = jnp.exp(log_shares)
    return out | {
        "step_coefficient": units.coefficient,
        "step_drift": units.drift,
        "step_factor_covariance": roots @ roots.mT,
        "step_effect_variance": variance,
        "step_factor_shares": shares[0],
        "step_effect_shares": shares[1],
        "step_factor_tail": tail[0],
        "step_effect_tail": tail[1],
    }


def ascend(
    design: Design, spec: Spec, fields: np.ndarray, scales: StepScales
) -> dict[str, np.ndarray]:
    """Return the sites at which `descend` gives these fields and scales, but for their shares.

    Parameters
    ----------
    fields : array, shape (n_core, K + E)
        Factors, ability, effects.
    scales : StepScales
        Shares of a mixture are not inverted: their sites are those of the central ones.
    """
    k = spec.rank
    graph, known = design.directed, design.covariates
    assert known is not None
    out = central_scales(design, spec)
    s, freedom = scales, _wishart_freedom(k)
    pooled = s.factor_covariance[1:].mean(0)
    first = np.linalg.cholesky(freedom[0] * spec.step_sd.median**2 * np.linalg.inv(pooled))
    centre = spec.step_sd.median * np.sqrt(freedom[0]) * np.linalg.inv(first).T
    centres = np.stack([spec.factor_sd.median * np.eye(k)] + [centre] * (len(STEPS) - 1))
    white = centres.mT @ np.linalg.inv(s.factor_covariance) @ centres
    rest = np.linalg.cholesky(freedom[1:, None, None] * white)
    bartlett = np.concatenate([first[None], rest])
    at, (row, column) = np.arange(k), np.tril_indices(k, -1)
    out["spread_log_square"] = 2 * np.log(bartlett[:, at, at])
    out["spread_below"] = bartlett[:, row, column]
    roots = np.sqrt(freedom[1:, None, None]) * centres @ np.linalg.inv(rest).mT
    unit = np.zeros((len(STEPS), fields.shape[1], fields.shape[1]))
    unit[:, :k, :k] = np.linalg.inv(roots)
    effects = np.arange(k, fields.shape[1])
    unit[:, effects, effects] = s.effect_variance**-0.5
    if len(effects):
        pooled_b = np.exp(np.log(s.effect_variance[1:]).mean(0))
        ratio = s.effect_variance[1:] / pooled_b
        ratio = np.stack(
            [
                pooled_b / spec.step_sd.median**2,
                s.effect_variance[0] / spec.benchmark_sd.median**2,
                *ratio,
            ]
        )
        out["effect_log_square"] = out["effect_log_square"] - np.log(ratio)
    if "white_tail" in out:
        log_tail = np.log(np.stack([s.factor_tail, s.effect_tail]) / spec.tail.median)
        pooled_t = log_tail[:, 1:].mean(1, keepdims=True)
        own = (log_tail[:, 1:] - pooled_t) / TAIL_LOG_SD
        both = np.concatenate([pooled_t, log_tail[:, :1]], axis=1) / spec.tail.log_sd
        out["white_tail"] = np.concatenate([both, own], axis=1)
    columns = DRIFT_STEPS**0.5 * s.coefficient @ unit[0].T
    out["white_coefficient"] = columns[:, :k]
    out["white_coefficient"][0] = s.coefficient[0, :k]
    if len(effects):
        out["white_effect_coefficient"] = columns[1:, k:]
    general = s.drift[1:].mean(1, keepdims=True)
    moved = np.concatenate([general, s.drift[1:] - general], axis=1)
    out["white_drift"] = DRIFT_STEPS**0.5 * np.einsum("rij,rkj->rki", unit[1:], moved)
    step = graph.steps_of(fields) - s.centre(graph.step, known, np.arange(graph.n_nodes))
    whitened = (unit[graph.step] @ step[..., None])[..., 0]
    out["white_factor"] = whitened[:, :k]
    if len(effects):
        out["white_effect"] = whitened[:, k:]
    return out
