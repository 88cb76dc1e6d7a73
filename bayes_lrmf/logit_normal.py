"""The likelihood of counts whose log-odds carry normal noise, integrated out by quadrature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import roots_hermitenorm

__all__ = ["logit_normal"]

_NODES, _WEIGHTS = roots_hermitenorm(11)
_LOG_WEIGHTS = np.log(_WEIGHTS) + _NODES**2 / 2 - 0.5 * np.log(2 * np.pi)
_STEPS = 6


def logit_normal(psi: Any, successes: Any, trials: Any, sd: Any) -> jax.Array:
    r"""Return ``log E Binomial(k | n, sigmoid(psi + sd x))``, x standard normal.

    The binomial coefficient is left out. Arguments broadcast; without trials the result is 0, and
    with ``sd = 0`` it is the Binomial.

    Parameters
    ----------
    psi : array
        Log-odds before the noise.
    successes, trials : arrays
    sd : array
        Standard deviation of the noise, 0 or more.

    Notes
    -----
    Gauss-Hermite quadrature with 11 nodes around the mode of the integrand, in units of its
    curvature there (Liu & Pierce 1994). The nodes are constants for derivatives: where they lie
    does not change the integral.
    """
    psi = jnp.asarray(psi, float)
    k, n = jnp.asarray(successes, psi.dtype), jnp.asarray(trials, psi.dtype)
    return _integral(*jnp.broadcast_arrays(psi, jnp.asarray(sd, psi.dtype)), k, n)


@jax.custom_jvp
def _integral(psi: jax.Array, sd: jax.Array, k: Any, n: Any) -> jax.Array:
    return _integral_parts(psi, sd, k, n)[0]


@_integral.defjvp
def _integral_jvp(primals: Any, tangents: Any) -> Any:
    value, by_psi, by_sd = _integral_parts(*primals)
    return value, by_psi * tangents[0] + by_sd * tangents[1]


def _integral_parts(psi: Any, sd: Any, k: Any, n: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the logarithm of the integral, and its derivatives by psi and by sd."""
    mode, unit = jax.lax.stop_gradient(_mode(psi, k, n, sd))
    # Nodes come first: sums over a short last axis are slow.
    nodes, log_weights = (
        jnp.asarray(x, psi.dtype).reshape(-1, *(1,) * psi.ndim) for x in (_NODES, _LOG_WEIGHTS)
    )
    x = mode + unit * nodes
    odds = psi + sd * x
    small = jnp.exp(-jnp.abs(odds))
    p = jnp.where(odds >= 0, 1.0, small) / (1 + small)
    # k odds - n log(1 + exp(odds)), which would cancel where odds are huge: a likelihood above one
    # by rounding holds a sampler that once went astray.
    against = jnp.where(odds >= 0, n - k, k)
    # The standard normal density of x and its Jacobian go with the weights.
    value = -against * jnp.abs(odds) - n * jnp.log1p(small) - x**2 / 2 + log_weights
    top = jax.lax.stop_gradient(value.max(0))
    weight = jnp.exp(value - top)
    total = weight.sum(0)
    slope = weight * (k - n * p)
    return top + jnp.log(total * unit), slope.sum(0) / total, (slope * x).sum(0) / total


def _mode(psi: jax.Array, k: jax.Array, n: jax.Array, sd: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return where the integrand is highest, and the standard deviation its curvature tells.

    Newton's method on the log-odds, by bisection where it would leave what encloses the mode.
    """
    share, variance = (k + 0.5) / (n + 1), sd**2
    weight = variance * n * share * (1 - share)
    furthest = psi + variance * (k - n * jax.nn.sigmoid(psi))
    low, high = jnp.minimum(psi, furthest), jnp.maximum(psi, furthest)
    odds = psi + weight / (1 + weight) * (jnp.log(share / (1 - share)) - psi)
    odds = jnp.clip(odds, low, high)
    for _ in range(_STEPS):
        p = jax.nn.sigmoid(odds)
        slope = variance * (k - n * p) - (odds - psi)
        low, high = jnp.where(slope > 0, odds, low), jnp.where(slope > 0, high, odds)
        new = odds + slope / (1 + variance * n * p * (1 - p))
        odds = jnp.where((new >= low) & (new <= high), new, (low + high) / 2)
    p = jax.nn.sigmoid(odds)
    return (odds - psi) / jnp.where(sd > 0, sd, 1.0), (1 + variance * n * p * (1 - p)) ** -0.5
