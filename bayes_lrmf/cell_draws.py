"""Cells given draws of the parameters: their probabilities, and successes of the trials left."""

from __future__ import annotations

import numpy as np
import scipy.special

__all__ = ["cell_probabilities", "noise_given", "noise_mode", "successes_left"]

_STEPS, _LONGEST_STEP = 6, 3.0


def noise_given(
    psi: np.ndarray, k: np.ndarray, n: np.ndarray, sd: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the noise of log-odds given what cells showed: normal around the mode, by curvature.

    Without trials that is the prior, N(0, sd^2).

    Parameters
    ----------
    psi : array, shape (n_draws, n_models, n_items)
    k, n : arrays, shape (n_models, n_items)
        Successes and trials observed.
    sd : array, shape (n_draws, n_items)
        0 where there is no noise.
    rng : numpy Generator
    """
    variance = np.square(sd, dtype=np.float32)[:, None]
    noise = np.sqrt(variance) * rng.standard_normal(psi.shape, dtype=np.float32)
    run = np.flatnonzero(n.any(axis=1))
    if len(run):
        mode, bend = noise_mode(psi[:, run], k[run], n[run], variance)
        noise[:, run] = mode + noise[:, run] / np.sqrt(bend)
    return noise


def noise_mode(
    psi: np.ndarray, k: np.ndarray, n: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mode of the noise, and the curvature there times the variance of the prior.

    Parameters
    ----------
    psi : array, shape (n_draws, ..., n_items)
    k, n : arrays, shape (..., n_items)
        Successes and trials observed.
    variance : array
        Of the noise before these; broadcasts to the shape of `psi`.
    """
    k, n = k.astype(psi.dtype), n.astype(psi.dtype)
    # Between the prior and the log-odds observed, where few steps are left.
    seen = (k + 0.5) / (n + 1)
    weight = variance * n * seen * (1 - seen)
    noise = weight / (1 + weight) * (scipy.special.logit(seen) - psi)
    for _ in range(_STEPS):
        p = scipy.special.expit(psi + noise)
        step = (variance * (k - n * p) - noise) / (1 + variance * n * p * (1 - p))
        # From where the curvature is next to nothing Newton would step over the mode and back.
        noise = noise + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
    p = scipy.special.expit(psi + noise)
    return noise, 1 + variance * n * p * (1 - p)


def cell_probabilities(
    psi: np.ndarray,
    k: np.ndarray,
    n: np.ndarray,
    noise_sd: np.ndarray | None,
    concentration: np.ndarray | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw probabilities of success of cells, over-dispersion included, given what they showed.

    Parameters
    ----------
    psi : array, shape (n_draws, n_models, n_items)
    k, n : arrays, shape (n_models, n_items)
        Successes and trials observed.
    noise_sd : array, shape (n_draws, n_items), or None
        Of logit-normal counts.
    concentration : array, shape (n_draws, n_items), or None
        Of Beta-Binomial counts; infinite where there is no over-dispersion.
    rng : numpy Generator

    Returns
    -------
    float64 array, shape (n_draws, n_models, n_items)
    """
    if noise_sd is not None:
        psi = psi + noise_given(psi, k, n, noise_sd, rng)
    # In float32 a probability within 6e-8 of 1 would be 1, and its log loss infinite.
    p = np.asarray(scipy.special.expit(psi, dtype=np.float64))
    if concentration is not None:
        at = np.flatnonzero(np.isfinite(concentration[0]))
        phi = concentration[:, None, at].astype(float)
        right, wrong = k[:, at], (n - k)[:, at]
        # Neither shape may be zero.
        a = np.maximum(phi * p[..., at] + right, 1e-8)
        p[..., at] = rng.beta(a, np.maximum(phi * (1 - p[..., at]) + wrong, 1e-8))
    return p


def successes_left(
    mean: np.ndarray, variance: np.ndarray, n: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw whole counts in 0..n from Beta distributions of about the given moments.

    Parameters
    ----------
    mean, variance : arrays, shape (n_draws, n_models)
        Of sums over many cells.
    n : array, shape (n_models,)
    rng : numpy Generator
    """
    size = np.maximum(n, 1)
    share = np.clip(mean / size, 1e-6, 1 - 1e-6)
    # Rounding to whole counts adds a twelfth.
    variance = np.maximum(variance - 1 / 12, variance / 2)
    total = share * (1 - share) / np.maximum(variance / size**2, 1e-12) - 1
    total = np.clip(total, 1e-3, 1e9)
    counts = np.rint(size * rng.beta(share * total, (1 - share) * total))
    return np.where(n > 0, counts, 0.0).astype(np.float32)
