"""Ways to widen a mean field: linear response, a joint Gaussian, importance weights.

Dense and slow, for small tables, beside what `fit_vb` does: covariances of the expected
curvature.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from scipy.special import expit

from bayes_lrmf.inference.vb_closing import Closed, close
from bayes_lrmf.inference.vb_fit import VariationalFit
from bayes_lrmf.inference.vb_passes import cell_terms
from bayes_lrmf.vech import multiplicity

_QUADRATURE = np.polynomial.hermite_e.hermegauss(21)


@contextmanager
def closings() -> Iterator[list[Closed]]:
    """Collect how fits by `fit_vb` are closed while the context lasts."""
    found: list[Closed] = []

    def kept(*given: Any) -> Closed:
        found.append(close(*given))
        return found[-1]

    with patch("bayes_lrmf.inference.vb.close", kept):
        yield found


def mean_psi(fit: VariationalFit) -> np.ndarray:
    """Return E psi of evaluated models, shape (n_models, n_items)."""
    models, items = fit.local(), fit.items.local()
    return models.mean @ items.mean[:, :-1].T + models.effect_mean[fit.cells.panel].T


def sd_psi(fit: VariationalFit) -> np.ndarray:
    """Return standard deviations of psi, models and items being independent."""
    models, items = fit.local(), fit.items.local()
    weighted = items.second * multiplicity(items.mean.shape[1])
    n_shared = models.second.shape[1]
    second = models.second @ weighted[:, :n_shared].T
    effects = models.effect_second[fit.cells.panel]
    second += np.einsum("iul,il->ui", effects, weighted[:, n_shared:])
    return np.asarray(np.sqrt(np.maximum(second - mean_psi(fit) ** 2, 0.0)))


def _cells(fit: VariationalFit) -> tuple[np.ndarray, np.ndarray]:
    """Return successes and trials, shape (n_models, n_items)."""
    cells = fit.design.responses.to_cells()
    k, n = np.zeros((2, *fit.design.responses.shape))
    at = cells.rows, cells.cols
    k[at] = cells.successes
    n[at] = 1 if cells.trials is None else cells.trials
    return k, n


def linear_response(
    bound: VariationalFit,
    cells: np.ndarray,
    *,
    push: float = 0.02,
    tolerance: float = 1e-3,
    max_sweeps: int = 1000,
) -> np.ndarray:
    """Return standard deviations of psi by linear response (Giordano, Broderick & Jordan 2018).

    The covariance of two statistics under the posterior is the derivative of the mean of one as
    the log density gains a multiple of the other. With psi of a cell added, the sweeps go on to
    their new fixed point, with scales as they are, beside sweeps without, which may drift.

    Parameters
    ----------
    bound : VariationalFit
        On a table that is held dense.
    cells : int array, shape (n, 2)
    push : float
        Multiple that is added.
    tolerance : float
        Sweeps end when ten of them change the response by less than this share of it.
    max_sweeps : int

    Raises
    ------
    RuntimeError
        If a response does not come to rest.
    """
    k, n = _cells(bound)
    rows, cols = (axis.ravel() for axis in np.indices(n.shape))
    table = copy.copy(bound.cells)
    table.dtype = np.float64
    bound = dataclasses.replace(bound, cells=table)
    shrink = _shrinkage(bound, k, n)

    def path(pull: np.ndarray) -> Iterator[np.ndarray]:
        fit = bound
        while True:
            table._hold_counts(rows, cols, (k - n / 2 + pull).ravel(), n.ravel())
            for _ in range(10):
                fit, _ = fit.swept(learn=False)
            yield mean_psi(fit)

    without, rest = path(np.zeros(n.shape)), []
    out = np.empty(len(cells))
    for at, (u, i) in enumerate(cells):
        pull = np.zeros(n.shape)
        # Over-dispersion shrinks what a cell says: psi itself is to be pulled, not psi with noise.
        pull[u, i] = push / shrink[u, i]
        before, pulled = np.inf, path(pull)
        for turn in range(max_sweeps // 10):
            if turn == len(rest):
                rest.append(next(without))
            response = (next(pulled) - rest[turn])[u, i] / push
            if abs(response - before) < tolerance * abs(response):
                break
            before = response
        else:
            raise RuntimeError(f"a response still moves after {max_sweeps} sweeps")
        out[at] = response
    return np.sqrt(np.maximum(out, 0.0))


def _shrinkage(fit: VariationalFit, k: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return what noise on the log-odds multiplies the linear coefficients of cells by."""
    if fit.noise is None:
        return np.ones(n.shape)
    mean, square = mean_psi(fit), sd_psi(fit) ** 2 + mean_psi(fit) ** 2
    centred, noise = k - n / 2, np.broadcast_to(fit.noise, n.shape)
    weight = cell_terms(np, centred, n, square, mean, noise)[0]
    # The weight is omega / (1 + v omega), and this 1 / (1 + v omega).
    return np.asarray(1 - noise * weight)


def _weights(fit: VariationalFit) -> tuple[np.ndarray, np.ndarray]:
    """Return expected curvatures and residuals of cells; noise on the log-odds is one with psi."""
    k, n = _cells(fit)
    mean, sd = mean_psi(fit), sd_psi(fit)
    noise = np.zeros(n.shape) if fit.noise is None else np.broadcast_to(fit.noise, n.shape)
    nodes, shares = _QUADRATURE
    shares = shares / shares.sum()

    def moments(centre: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = expit(centre[..., None] + np.sqrt(spread)[..., None] * nodes)
        return p @ shares, (p * (1 - p)) @ shares

    centre, spread = mean, sd**2 + noise
    for _ in range(60):
        p, bend = moments(centre, spread)
        shrink = 1 / (1 + noise * n * bend)
        pull = k - n * p + n * bend * centre
        centre = 0.5 * (centre + shrink * (mean + noise * pull))
        spread = 0.5 * (spread + noise * shrink + shrink**2 * sd**2)
    p, bend = moments(centre, spread)
    shrink = 1 / (1 + noise * n * bend)
    weight = n * bend * shrink
    return weight, shrink * (k - n * p + n * bend * centre) - weight * mean


class JointGaussian(NamedTuple):
    """Models and items with the covariance of one Laplace step for all of them.

    Attributes
    ----------
    fit : VariationalFit
        At the means.
    root : array
        Of the covariance.
    """

    fit: VariationalFit
    root: np.ndarray

    @classmethod
    def at(cls, fit: VariationalFit) -> JointGaussian:
        """Return the Gaussian around a closed fit.

        Its precision has the blocks of `fit` on the diagonal, and between a model and an item
        ``w x t' - r I``, the expected second derivative, of curvature w and residual r.
        """
        k, blocks = fit.spec.rank, fit.design.blocks
        n_nodes, size = fit.moments.mean.shape
        n_items, of_item = fit.items.mean.shape
        n_models = fit.design.n_evaluated
        assert fit.factor is not None
        diagonal, off = blocks.precision(fit.factor)
        models = np.zeros((n_nodes, size, n_nodes, size))
        at = np.arange(n_nodes)
        models[at, :, at] = diagonal
        owner, neighbour = blocks.order.owner, blocks.order.neighbour
        models[neighbour, :, owner] = off
        models[owner, :, neighbour] = off.mT
        items = np.zeros((n_items, of_item, n_items, of_item))
        at = np.arange(n_items)
        items[at, :, at] = np.linalg.inv(fit.items.covariance)
        weight, residual = _weights(fit)
        x = np.concatenate([fit.items.mean[:, :k], fit.maps[fit.cells.panel]], axis=1)
        t = np.concatenate([fit.moments.mean[:n_models, :k], np.ones((n_models, 1))], axis=1)
        across = np.zeros((n_nodes, size, n_items, of_item))
        across[:n_models] = np.einsum("ui,ia,ub->uaib", weight, x, t)
        f = np.arange(k)
        across[:n_models, f, :, f] -= residual
        n, m = n_nodes * size, n_items * of_item
        whole = np.empty((n + m, n + m))
        whole[:n, :n], whole[n:, n:] = models.reshape(n, n), items.reshape(m, m)
        whole[:n, n:] = across.reshape(n, m)
        whole[n:, :n] = whole[:n, n:].T
        value, vector = np.linalg.eigh(whole)
        # Turning all factors and loadings changes little but their priors.
        return cls(fit, vector / np.sqrt(np.maximum(value, value.max() * 1e-9)))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
        """Return models (n_nodes, size), items (n_items, K + 1), and minus half the square."""
        white = rng.standard_normal(len(self.root))
        moved, n = self.root @ white, self.fit.moments.mean.size
        models = self.fit.moments.mean + moved[:n].reshape(self.fit.moments.mean.shape)
        items = self.fit.items.mean + moved[n:].reshape(self.fit.items.mean.shape)
        return models, items, float(-0.5 * white @ white)

    def sd_psi(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return standard deviations of psi, shape (n_models, n_items)."""
        k, n = self.fit.spec.rank, self.fit.design.n_evaluated
        effect = self.fit.maps[self.fit.cells.panel].T
        total, squares = np.zeros((2, n, len(self.fit.items.mean)))
        for _ in range(n_draws):
            models, items, _ = self.draw(rng)
            psi = models[:n, :k] @ items[:, :k].T + models[:n, k:] @ effect + items[:, k]
            total += psi
            squares += psi**2
        return np.asarray(np.sqrt(squares / n_draws - (total / n_draws) ** 2))


def independent_draw(
    fit: VariationalFit, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a draw of a closed fit as `JointGaussian.draw` does."""
    assert fit.factor is not None
    of_models = rng.standard_normal(fit.moments.mean.shape)
    of_items = rng.standard_normal(fit.items.mean.shape)
    models = fit.moments.mean + fit.design.blocks.color(fit.factor, of_models)
    root = np.linalg.cholesky(fit.items.covariance)
    items = fit.items.mean + (root @ of_items[..., None])[..., 0]
    return models, items, float(-0.5 * ((of_models**2).sum() + (of_items**2).sum()))


def log_density(fit: VariationalFit) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the log density of models and items given the scales of a Laplacian prior."""
    import jax

    from bayes_lrmf.inference.map import objective

    k, group = fit.spec.rank, fit.items.group_mean
    known = dict(fit.prior.values())
    known["intercept_sd"] = np.asarray(fit.items.intercept_sd)
    if fit.noise_sd is not None:
        known["overdispersion_sd"] = fit.noise_sd
    known["loading_mean"], known["intercept_mean"] = group[:, :k].T, group[:, k]

    @jax.jit
    def value(models: jax.Array, items: jax.Array) -> jax.Array:
        values = known | {"factor": models[:, :k].T, "loading": items[:, :k].T}
        if "benchmark_sd" in known:
            values["effect_unit"] = models[:, k:].T / known["benchmark_sd"]
        return -objective(fit.design, fit.spec, values | {"intercept": items[:, k]})

    def at(models: np.ndarray, items: np.ndarray) -> float:
        with jax.enable_x64(True):
            return float(value(models, items))

    return at
