"""How a fit of the bound is closed: covariances of the expected curvature, and scales that suit."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bayes_lrmf.inference.vb_fit import VariationalFit

__all__ = ["Closed", "close", "close_briefly"]

_FEWEST_PASSES, _MOST_PASSES = 3, 100
_DAMPED_AT = (10, 20, 40, 60)
_WINDOW = 10
_NOISE_CHANGE = 2e-3
_WEIGHT_CHANGE = 0.1
_SCALE_ROUNDS = 150
_SCALE_CHANGE = 3e-3
_EXTRAPOLATED_EVERY = 4
_GREATEST_RATE = 0.9


class Closed(NamedTuple):
    """A closed fit, and how it came about.

    Attributes
    ----------
    bound : VariationalFit
        The fit of the bound at the scales of `fit`.
    fit : VariationalFit
        With covariances of its expected curvature.
    n_rounds : int
        Rounds of new scales.
    settled : bool
        Whether the last one moved no scale by much, nor the last pass a weight or the noise.
    """

    bound: VariationalFit
    fit: VariationalFit
    n_rounds: int
    settled: bool


def close_briefly(fit: VariationalFit) -> Closed:
    """Close a fit with the means and scales it has, but for the over-dispersion.

    The bound, which pays in accuracy for being one, has a larger curvature and knows less of the
    noise: intervals would be too narrow.

    Parameters
    ----------
    fit : VariationalFit
    """
    closed, settled = _with_passes(_with_noise_of_the_prior(fit), fit)
    return Closed(fit, closed, 0, settled)


def close(fit: VariationalFit, report: Callable[[int], None] = lambda _: None) -> Closed:
    """Close a fit, with scales that suit its covariances.

    Scales that are learned from the covariances of the bound are too small where results are few,
    and all is drawn to its prior too much. Here the means are those of the bound given the scales,
    the covariances those of the expected curvature at these means, and the scales of a field, of
    intercepts and of over-dispersion the best given both, in turn. Scales of a directed prior's
    steps from parents are learned once, at the end, and the means of models move along by a step of
    Newton: in turn with the rest they would go back and forth. Those of roots' steps stay. With 0/1
    results under such a prior there is nothing else to learn.

    Parameters
    ----------
    fit : VariationalFit
    report : callable
        Is told the number of each round, 0 where there are none.
    """
    if fit.noise_sd is None and not len(fit.prior.log_scales):
        report(0)
        new, settled = _finished(fit.with_curvature(fit), fit)
        return Closed(fit, new, 0, settled)
    bound = new = _with_noise_of_the_prior(fit)
    n, before, steps, settled = 0, _log_scales(new), [np.zeros(0)], False
    while n < _SCALE_ROUNDS and not settled:
        n += 1
        bound = bound.swept(learn=False)[0]
        new = _with_items_of(new, bound).with_curvature(bound)
        prior = new.prior.with_field_scales(new.moments)
        new = dataclasses.replace(new, prior=prior, items=new.items.with_scales())
        steps.append(_log_scales(new) - before)
        report(n)
        settled = bool(np.abs(steps[-1]).max() < _SCALE_CHANGE)
        if n % _EXTRAPOLATED_EVERY == 0 and not settled:
            new = _with_log_scales(new, _log_scales(new) + _rest(*steps[-2:]))
        bound, before = _with_scales_of(bound, new), _log_scales(new)
    bound = bound.swept(learn=False)[0]
    new, rested = _finished(_with_items_of(new, bound), bound)
    return Closed(bound, new, n, settled and rested)


def _finished(fit: VariationalFit, bound: VariationalFit) -> tuple[VariationalFit, bool]:
    """Return the fit with scales of steps that suit it, if it has any, and whether it rests."""
    if fit.prior.marginal:
        fit = fit.with_curvature(bound, learn=True)
    return _with_passes(fit, bound)


def _with_items_of(fit: VariationalFit, bound: VariationalFit) -> VariationalFit:
    """Return a fit with the means of a bound's items, and covariances of its own."""
    items = dataclasses.replace(bound.items, covariance=fit.items.covariance)
    return dataclasses.replace(fit, items=items)


def _with_passes(fit: VariationalFit, bound: VariationalFit) -> tuple[VariationalFit, bool]:
    """Return the fit whose weights and noise suit its covariances, and whether they rest.

    Some weights have no value that suits: at one side of a threshold the best one lies at the
    other. Shorter steps leave them close to it. Those that go anywhere are told by a window.
    """
    past: deque[Any] = deque(maxlen=1)
    for n in range(1, _MOST_PASSES + 1):
        if n in _DAMPED_AT:
            fit = dataclasses.replace(fit, prior=fit.prior.damped())
            past = deque(maxlen=_WINDOW)
        past.append(fit.prior)
        before, fit = fit, fit.with_curvature(bound)
        noise = 0.0 if fit.noise_sd is None else np.abs(fit.noise_sd / before.noise_sd - 1).max()
        if n >= _FEWEST_PASSES and len(past) == past.maxlen and noise < _NOISE_CHANGE:
            change = max(fit.prior.change_of_weights(other) for other in past)
            if change < _WEIGHT_CHANGE:
                return fit, True
    return fit, False


def _with_noise_of_the_prior(fit: VariationalFit) -> VariationalFit:
    """Return the fit with no less over-dispersion than the prior's median.

    That of the bound is too small, often next to nothing, and updates hardly leave from there; from
    above they are fast.
    """
    if fit.noise_sd is None:
        return fit
    least = fit.spec.overdispersion_sd.median
    return dataclasses.replace(fit, noise_sd=np.maximum(fit.noise_sd, least))


def _log_scales(fit: VariationalFit) -> np.ndarray:
    """Return logarithms of the scales that are learned anew: intercepts, noise, a field."""
    parts = [np.log([fit.items.intercept_sd])]
    if fit.noise_sd is not None:
        parts.append(np.log(fit.noise_sd))
    return np.concatenate([*parts, fit.prior.log_scales])


def _with_log_scales(fit: VariationalFit, logs: np.ndarray) -> VariationalFit:
    items = dataclasses.replace(fit.items, intercept_sd=float(np.exp(logs[0])))
    new, rest = dataclasses.replace(fit, items=items), logs[1:]
    if fit.noise_sd is not None:
        n = len(fit.noise_sd)
        new, rest = dataclasses.replace(new, noise_sd=np.exp(rest[:n])), rest[n:]
    return dataclasses.replace(new, prior=fit.prior.with_log_scales(rest))


def _with_scales_of(fit: VariationalFit, other: VariationalFit) -> VariationalFit:
    items = dataclasses.replace(
        fit.items, group_mean=other.items.group_mean, intercept_sd=other.items.intercept_sd
    )
    return dataclasses.replace(fit, items=items, prior=other.prior, noise_sd=other.noise_sd)


def _rest(before: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return how far is left to go where steps shrink at the rate of the last two (Aitken)."""
    rate = np.divide(last, before, out=np.zeros_like(last), where=before != 0)
    rate = np.clip(rate, 0.0, _GREATEST_RATE)
    return np.asarray(last * rate / (1 - rate))
