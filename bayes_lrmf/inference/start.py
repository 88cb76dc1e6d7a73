"""Where a search for the mode starts: item levels, then singular vectors of what they leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import scipy.special

from bayes_lrmf.design import Design
from bayes_lrmf.inference.scales import as_matrix, row_blocks, total_trials
from bayes_lrmf.program import hyperparameters
from bayes_lrmf.spec import Spec

__all__ = ["initial_values", "item_levels", "narrowed"]

_OVERSAMPLED, _POWERS = 8, 2
_LEAST_KEPT = 0.1
_LEAST_SPREAD = 1e-3


def _shapes(design: Design, spec: Spec) -> dict[str, tuple[int, ...]]:
    k, n, i, b = spec.rank, design.n_core, design.n_items, design.n_groups
    shapes: dict[str, tuple[int, ...]] = {"factor": (k, n), "loading": (k, i)}
    if spec.penalty is not None:
        return shapes
    used = hyperparameters(design, spec)
    if spec.loading_mean:
        shapes["loading_mean"] = (k, b)
    if spec.ability:
        shapes["ability_unit"] = (n,)
    if "benchmark_sd" in used:
        shapes["effect_unit"] = (len(design.effect_benchmarks), n)
    if spec.intercept:
        shapes |= {"intercept": (i,), "intercept_mean": (b,)}
    return shapes


def initial_values(
    design: Design, spec: Spec, hyper: dict[str, Any], *, key: jax.Array
) -> dict[str, np.ndarray]:
    """Return a start: item intercepts at the logit of the item mean, factors by a spectral method.

    Factors and loadings are the leading singular vectors of the residuals in units of their noise,
    by a randomised method (Halko, Martinsson & Tropp 2011), their singular values shrunk as is
    best for a matrix of low rank in white noise (Gavish & Donoho 2017). They are scaled as at a
    mode, where what each pays to its prior is the same. All other sites are small and random.

    Parameters
    ----------
    design : Design
    spec : Spec
    hyper : mapping
        Fixed hyper-parameters.
    key : jax key
        For the random projection, and the small numbers.
    """
    seed = int(np.asarray(jax.random.key_data(key)).ravel()[-1])
    rng = np.random.default_rng(seed)
    values = {name: 0.1 * rng.standard_normal(s) for name, s in _shapes(design, spec).items()}
    if "intercept" in values:
        values["intercept"] = item_levels(design)
        total = np.bincount(design.item_groups, values["intercept"])
        values["intercept_mean"] = total / np.bincount(design.item_groups)
    factor, loading = _spectral(design, spec, hyper, values, rng)
    values["factor"][:, : design.n_evaluated] = factor
    values["loading"] = loading
    return values


def narrowed(
    values: dict[str, np.ndarray], spec: Spec, hyper: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the leading factors of more than a spec has: the best approximation of their products.

    Parameters
    ----------
    values : mapping
        Sites of the program but for hyper-parameters, of the spec with more factors.
    spec : Spec
    hyper : mapping
        Fixed hyper-parameters.
    """
    sd = _factor_sd(spec, hyper)
    factor, loading = values["factor"] / sd, values["loading"]
    of_factor, of_loading = np.linalg.qr(factor.T)[1], np.linalg.qr(loading.T)[1]
    left, size, right = np.linalg.svd(of_factor @ of_loading.T)
    root = np.sqrt(size[: spec.rank])[:, None]
    of_models = root * left.T[: spec.rank] @ np.linalg.pinv(of_factor.T)
    of_items = root * right[: spec.rank] @ np.linalg.pinv(of_loading.T)
    out = values | {"factor": of_models @ values["factor"], "loading": of_items @ loading}
    if "loading_mean" in values:
        out["loading_mean"] = of_items @ values["loading_mean"]
    return out


def _factor_sd(spec: Spec, hyper: dict[str, Any]) -> float:
    return 1.0 if spec.penalty is not None else float(hyper.get("factor_sd", 0.5))


def item_levels(design: Design) -> np.ndarray:
    """Return the logit of each item's share of successes, one success and one failure added."""
    right, run = _item_totals(design)
    share = (right + 1) / (run + 2)
    return np.log(share / (1 - share))


def _item_totals(design: Design) -> tuple[np.ndarray, np.ndarray]:
    values = design.responses.dense
    if values is not None:
        right = np.zeros(design.n_items)
        for _, _, _, centred, _ in row_blocks(design, {}):
            right += centred.sum(0)
        run = design.responses.n_results_of_item
        return right + run / 2, run
    cells = design.responses.to_cells()
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials
    right = np.bincount(cells.cols, cells.successes, minlength=design.n_items)
    return right, np.bincount(cells.cols, trials, minlength=design.n_items)


class _Residuals:
    """Residuals of item means, each divided by its standard deviation; never held as a whole."""

    def __init__(self, design: Design, hyper: dict[str, Any], intercept: np.ndarray) -> None:
        self.design, self.hyper = design, hyper
        p = scipy.special.expit(intercept)
        self.half, self.spread = p - 0.5, np.maximum(p * (1 - p), _LEAST_SPREAD)
        self.n_cells = design.responses.n_observed
        self.information = total_trials(design, hyper)[1] * self.spread

    def __matmul__(self, right: np.ndarray) -> np.ndarray:
        return self._times(right, transposed=False)

    def transposed_times(self, left: np.ndarray) -> np.ndarray:
        """Return the product of the transpose with a matrix."""
        return self._times(left, transposed=True)

    def _times(self, other: np.ndarray, *, transposed: bool) -> np.ndarray:
        d = self.design
        out = np.zeros((d.n_items if transposed else d.n_evaluated, other.shape[1]))
        for block, rows, cols, centred, trials in row_blocks(d, self.hyper):
            for matrix, of_items in self._factors(block, rows, cols, centred, trials):
                scale = of_items[:, None]
                if transposed:
                    out += scale * (matrix.T @ other[block].astype(trials.dtype))
                else:
                    out[block] += matrix @ (scale * other).astype(trials.dtype)
        return out

    def _factors(
        self, block: slice, rows: Any, cols: Any, centred: np.ndarray, trials: np.ndarray
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield matrices whose columns, times what stands beside them, add up to the residuals."""
        root = self.spread**-0.5
        if trials.ndim == 2:
            # One trial each: two products cost less than a table of residuals.
            yield centred, root
            yield trials, -self.half * root
            return
        values = (centred - trials * self.half[cols]) / np.sqrt(trials)
        yield as_matrix(values, rows, cols, (block.stop - block.start, self.design.n_items)), root


def _spectral(
    design: Design,
    spec: Spec,
    hyper: dict[str, Any],
    values: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return factors (K, n_evaluated) and loadings (K, n_items)."""
    n_models, n_items, k = design.n_evaluated, design.n_items, spec.rank
    residuals = _Residuals(design, hyper, values.get("intercept", np.zeros(n_items)))
    wide = min(k + _OVERSAMPLED, n_models, n_items)
    image = residuals @ rng.standard_normal((n_items, wide))
    for _ in range(_POWERS):
        basis = np.linalg.qr(residuals.transposed_times(np.linalg.qr(image)[0]))[0]
        image = residuals @ basis
    left, size, right = np.linalg.svd(image, full_matrices=False)
    known = min(k, wide)
    left, size, right = left[:, :known], size[:known], (basis @ right.T)[:, :known]
    kept = _shrunk(size, n_models, n_items, residuals.n_cells / (n_models * n_items))
    # A residual is psi times the root of its information.
    mean_information = residuals.information / max(residuals.n_cells / n_items, 1.0)
    across = right / np.sqrt(np.maximum(mean_information, _LEAST_SPREAD))[:, None]
    ahead = left * kept
    sd = _factor_sd(spec, hyper)
    norms = [np.sqrt((part**2).sum(0)) for part in (ahead / sd, across)]
    balance = np.sqrt(norms[1] / np.maximum(norms[0], np.finfo(float).tiny))
    factor, loading = values["factor"][:, :n_models].copy(), values["loading"].copy()
    factor[:known], loading[:known] = (ahead * balance).T, (across / balance).T
    return factor, loading


def _shrunk(size: np.ndarray, n_rows: int, n_cols: int, density: float) -> np.ndarray:
    """Return singular values as they are best kept, of a matrix seen in part under unit noise."""
    few, many = sorted((n_rows, n_cols))
    unit = np.sqrt(density * many)
    y, beta = size / unit, few / many
    inside = np.maximum((y**2 - beta - 1) ** 2 - 4 * beta, 0)
    best = np.where(y > 1 + np.sqrt(beta), np.sqrt(inside) / np.maximum(y, 1e-300), 0)
    return unit * np.maximum(best, _LEAST_KEPT * y) / density
