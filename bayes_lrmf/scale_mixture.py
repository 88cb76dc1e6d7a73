"""Scale mixtures of normals on a grid of variances: heavy tails whose shape is learned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, softmax

__all__ = [
    "SCALE_GRID",
    "Cavity",
    "central_shares",
    "learned_shares",
    "log_classes",
    "mixed",
    "student_shares",
]

SCALE_GRID = 2.0 ** np.arange(-10, 10.5, 0.5)
"""Multiples of a variance, so close that a sum over them stands for an integral."""

_LOG_STEP = 0.5 * np.log(2)
_CENTRAL_SD = 2 * np.log(2)
_POOLED_WORTH = 20.0
_OWN_WORTH = 10.0
_MOST_STEPS, _PRECISE = 60, 1e-10


def student_shares(tail: np.ndarray) -> np.ndarray:
    """Return the shares that make a mixture a Student-t, shape (..., n_classes).

    One over the variance has a Gamma(tail / 2, tail / 2) distribution.

    Parameters
    ----------
    tail : array, shape (...)
        Degrees of freedom.
    """
    half = np.asarray(tail, float)[..., None] / 2
    density = half * np.log(half) - gammaln(half) - half * (np.log(SCALE_GRID) + 1 / SCALE_GRID)
    return softmax(density + np.log(_LOG_STEP), axis=-1)


def central_shares() -> np.ndarray:
    """Return shares around one, log-normal with a factor of 4 as standard deviation."""
    return softmax(-0.5 * (np.log(SCALE_GRID) / _CENTRAL_SD) ** 2)


def learned_shares(counts: np.ndarray) -> np.ndarray:
    """Return the most likely shares given expected numbers of steps in each class.

    The first kind of step, that of roots, has a Dirichlet prior worth 10 steps of
    `central_shares`; the others one worth 10 steps of the shares of all of them pooled, which
    have one worth 20 central steps.

    Parameters
    ----------
    counts : array, shape (n_steps, n_classes)
    """
    pooled = counts[1:].sum(0) + _POOLED_WORTH * central_shares()
    centre = np.tile(pooled / pooled.sum(), (len(counts), 1))
    centre[0] = central_shares()
    shares = counts + _OWN_WORTH * centre
    return shares / shares.sum(1, keepdims=True)


def log_classes(distance: np.ndarray, size: int) -> np.ndarray:
    """Return log densities of normals of the classes' variances, shape (..., n_classes).

    Parameters
    ----------
    distance : array, shape (...)
        Squared distance from the centre under unit scale; its expectation for a bound.
    size : int
        Number of dimensions.
    """
    return -0.5 * (size * np.log(2 * np.pi * SCALE_GRID) + distance[..., None] / SCALE_GRID)


def mixed(log_density: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior shares of the classes, and the log density of their mixture.

    Parameters
    ----------
    log_density, shares : arrays, shape (..., n_classes)
        Of each class, and its prior share.
    """
    top = log_density.max(-1, keepdims=True)
    part = np.exp(log_density - top) * shares
    total = np.maximum(part.sum(-1, keepdims=True), 1e-300)
    return part / total, (top + np.log(total))[..., 0]


class Cavity(NamedTuple):
    """What is known of steps beside their own prior: independent likelihoods in whitened axes.

    Attributes
    ----------
    precision, linear : arrays, shape (..., d)
        Of ``exp(linear e - precision e^2 / 2)``.
    """

    precision: np.ndarray
    linear: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, variance: np.ndarray, weight: np.ndarray) -> Cavity:
        """Take a prior of this precision, shape (...), out of posterior marginals (..., d)."""
        known = 1 / variance
        left = known - weight[..., None]
        # Rounding may leave less than nothing, of which no evidence must come.
        return cls(np.maximum(left, 0.0), np.where(left > 0, known * mean, 0.0))

    def _total(self) -> np.ndarray:
        return self.precision[..., None, :] + 1 / SCALE_GRID[:, None]

    def log_classes(self) -> np.ndarray:
        """Return the log evidence for each class, shape (..., n_classes)."""
        total = self._total()
        square = self.linear[..., None, :] ** 2 / total
        value: np.ndarray = 0.5 * (square - np.log(total * SCALE_GRID[:, None])).sum(-1)
        return value

    def log_normal(self, weight: np.ndarray) -> np.ndarray:
        """Return the log evidence for normals of these precisions, shape (...)."""
        total = self.precision + weight[..., None]
        value: np.ndarray = 0.5 * (self.linear**2 / total - np.log(total / weight[..., None]))
        return value.sum(-1)

    def means(self) -> np.ndarray:
        """Return the posterior mean of the step in each class, shape (..., n_classes, d)."""
        return self.linear[..., None, :] / self._total()

    def variances(self) -> np.ndarray:
        """Return the posterior variance in each class, shape (..., n_classes, d)."""
        return 1 / self._total()

    def matched(self, share: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return the precision of one normal prior with the mixture's posterior E|e|^2.

        This is the projection of expectation propagation onto multiples of the unit precision.
        One over E|e|^2 is nearly straight in the precision, so that Newton's method on it takes
        few steps; where one gains little, or leaves what is known to hold the answer, that is
        halved.

        Parameters
        ----------
        share : array, shape (..., n_classes)
            Posterior shares.
        start : array, shape (...)
            A precision to begin at.
        """
        wanted = (share * (self.variances() + self.means() ** 2).sum(-1)).sum(-1)
        least, most = 1 / SCALE_GRID[-1], 1 / SCALE_GRID[0]
        low, high = np.full_like(wanted, least), np.full_like(wanted, most)
        at, before = np.clip(start, least, most), np.full_like(wanted, np.inf)
        for _ in range(_MOST_STEPS):
            variance = 1 / (self.precision + at[..., None])
            square = (self.linear * variance) ** 2
            value = (variance + square).sum(-1)
            fall = (variance * (variance + 2 * square)).sum(-1)
            low, high = np.where(value > wanted, at, low), np.where(value > wanted, high, at)
            new = np.clip(at + value * (value / wanted - 1) / fall, least, most)
            miss = np.abs(value / wanted - 1)
            halve = (new < low) | (new > high) | ((miss > 0.5 * before) & (miss > _PRECISE))
            new = np.where(halve, np.sqrt(low * high), new)
            before, change, at = miss, np.abs(new / at - 1).max(initial=0.0), new
            if change < _PRECISE:
                break
        return np.asarray(at)
