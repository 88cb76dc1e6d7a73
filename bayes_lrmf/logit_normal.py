"""The likelihood of counts whose log-odds carry normal noise, integrated out by quadrature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import roots_hermitenorm

__all__ = ["logit_normal"]

_NODES, _WEIGHTS = roots_hermitenorm(15)
_LOG_WEIGHTS = np.log(_WEIGHTS) + _NODES**2 / 2 - 0.5 * np.log(2 * np.pi)
_STEPS = 8


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
    Gauss-Hermite quadrature with 15 nodes around the mode of the integrand, in units of its
    curvature there (Liu & Pierce 1994). The nodes are constants for derivatives: where they lie
    does not change the integral.
    """
    psi, sd = jnp.asarray(psi), jnp.asarray(sd)
    k, n = jnp.asarray(successes, psi.dtype), jnp.asarray(trials, psi.dtype)
    mode, unit = jax.lax.stop_gradient(_mode(psi, k, n, sd))
    # The standard normal density of x and its Jacobian go with the weights.
    x = mode[..., None] + unit[..., None] * jnp.asarray(_NODES, psi.dtype)
    odds = psi[..., None] + sd[..., None] * x
    value = k[..., None] * odds - n[..., None] * jax.nn.softplus(odds) - x**2 / 2
    value = value + jnp.asarray(_LOG_WEIGHTS, psi.dtype)
    return jax.nn.logsumexp(value, axis=-1) + jnp.log(unit)


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
