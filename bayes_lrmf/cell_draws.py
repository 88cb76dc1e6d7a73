"""Cells given draws of the parameters: their probabilities, and successes of the trials left."""

from __future__ import annotations

import numpy as np
import scipy.special

__all__ = ["cell_probabilities", "noise_given", "noise_mode", "noise_of_means", "successes_left"]

_STEPS, _LONGEST_STEP = 6, 3.0
_METROPOLIS = 5
_NODES = 15
_RARE = 3.0


def noise_given(
    psi: np.ndarray, k: np.ndarray, n: np.ndarray, sd: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the noise of log-odds given what cells showed: normal around the mode, by curvature.

    Without trials that is the prior, N(0, sd^2). Where nearly all trials went one way, and the
    noise is far from normal, a few steps of Metropolis follow, with such draws as proposals.

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
    model, item = np.nonzero((n > 0) & (np.minimum(k, n - k) < _RARE))
    if len(model):
        at = np.searchsorted(run, model), item
        around = mode[:, *at], np.broadcast_to(variance, psi.shape)[:, model, item], bend[:, *at]
        told = psi[:, model, item], k[model, item], n[model, item]
        noise[:, model, item] = _stepped(noise[:, model, item], *told, *around, rng)
    return noise


def _stepped(
    noise: np.ndarray,
    psi: np.ndarray,
    k: np.ndarray,
    n: np.ndarray,
    mode: np.ndarray,
    variance: np.ndarray,
    bend: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Move draws of noise from their normal approximation towards what they approximate."""
    spread = np.where(bend > 0, variance / bend, 0.0)
    safe = np.maximum(spread, np.finfo(np.float32).tiny)

    def log_weight(e: np.ndarray) -> np.ndarray:
        fit = k * (psi + e) - n * np.logaddexp(0, psi + e)
        return np.asarray(fit - e**2 / (2 * safe * bend) + (e - mode) ** 2 / (2 * safe))

    now = log_weight(noise)
    for _ in range(_METROPOLIS):
        other = mode + np.sqrt(spread) * rng.standard_normal(noise.shape, dtype=np.float32)
        weight = log_weight(other)
        moved = np.log(rng.random(noise.shape)) < weight - now
        noise, now = np.where(moved, other, noise), np.where(moved, weight, now)
    return noise


def noise_of_means(psi: np.ndarray, k: np.ndarray, n: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return the noise at which probabilities are their means, given what cells showed.

    What a point predicts has no luck in it. Shapes are those of `noise_given`.
    """
    psi, variance = np.asarray(psi, float), np.square(sd, dtype=float)[:, None]
    mode, bend = noise_mode(psi, k, n, variance)
    at, weight = np.polynomial.hermite_e.hermegauss(_NODES)
    middle, reach = psi + mode, np.sqrt(variance / bend)
    mean = sum(
        w * scipy.special.expit(middle + reach * z)
        for w, z in zip(weight / weight.sum(), at, strict=True)
    )
    return np.asarray(scipy.special.logit(np.clip(mean, 1e-12, 1 - 1e-12)) - psi)


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
    rng: np.random.Generator | None,
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
    rng : numpy Generator, or None
        Without one they are means over logit-normal noise.

    Returns
    -------
    float64 array, shape (n_draws, n_models, n_items)
    """
    if noise_sd is not None:
        if rng is None:
            psi = psi + noise_of_means(psi, k, n, noise_sd)
        else:
            psi = psi + noise_given(psi, k, n, noise_sd, rng)
    # In float32 a probability within 6e-8 of 1 would be 1, and its log loss infinite.
    p = np.asarray(scipy.special.expit(psi, dtype=np.float64))
    if concentration is not None and rng is not None:
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
    """Draw whole counts in 0..n from distributions of about the given moments.

    They are Betas on [0, n], rounded; where few successes or few failures are expected, and no more
    spread than of Bernoulli trials, Binomials, which give none their probability.

    Parameters
    ----------
    mean, variance : arrays, shape (n_draws, n_models)
        Of sums over many cells.
    n : array, shape (n_models,)
    rng : numpy Generator
    """
    size = np.maximum(n, 1)
    share = np.clip(mean / size, 1e-6, 1 - 1e-6)
    given = variance
    # Rounding to whole counts adds a twelfth.
    variance = np.maximum(variance - 1 / 12, variance / 2)
    total = share * (1 - share) / np.maximum(variance / size**2, 1e-12) - 1
    total = np.clip(total, 1e-3, 1e9)
    counts = np.rint(size * rng.beta(share * total, (1 - share) * total))
    few, many = np.minimum(mean, n - mean), mean > n / 2
    rare = (few < _RARE) & (few > 0) & (given < few * (1 - few / size) * (1 + 1e-5))
    if rare.any():
        # Of mean n' p and variance n' p (1 - p): n' is less than n where trials are not alike.
        few, most = few[rare], np.broadcast_to(n, few.shape)[rare]
        trials = np.clip(np.rint(few / (1 - given[rare] / few)), np.ceil(few), most).astype(int)
        drawn = rng.binomial(trials, few / trials)
        counts[rare] = np.where(many[rare], most - drawn, drawn)
    return np.where(n > 0, counts, 0.0).astype(np.float32)
