"""New responses in draws and points under the Laplacian prior: each model given all others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from scipy.special import expit

from bayes_lrmf.cell_draws import noise_mode
from bayes_lrmf.design import Design
from bayes_lrmf.draws import field_parameters, noise_sd_of, rows_and_columns
from bayes_lrmf.posterior import DrawsState, PointState, Posterior

__all__ = ["redrawn"]

_N_DRAWS = 1000
_SWEEPS = 3
_NEWTON_STEPS = 12
_LARGEST_STEP = 2.0
_LEAST_INFORMATION = 1e-6


def redrawn(
    posterior: Posterior, before: Design, after: Design, models: Sequence[str], *, key: jax.Array
) -> Posterior:
    """Return a posterior in which some models are drawn anew, given all else and all responses.

    In every draw a model follows its normal conditional given its kin, its items and the
    hyper-parameters there (Laplace); a point moves to the mode of it. Three rounds pass what
    several of them tell each other on. Kin without new responses, items and hyper-parameters stay.

    Parameters
    ----------
    posterior : Posterior
        Not of the directed prior. Gaussian ones become 1,000 draws.
    before : Design
        Which has the models, in its core or below, and not the new responses.
    after : Design
        Which has them, all of `models` in its core.
    models : sequence of str
        Parents before children.
    key : jax key
    """
    draw_key, rest = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rest)).tolist())
    state = posterior.state
    n_draws = state.n_draws if isinstance(state, DrawsState) else _N_DRAWS
    values = posterior.draws(n_draws, key=draw_key)
    known = dataclasses.replace(posterior, design=before)
    at = np.array([before.periphery.index[m] for m in after.core.nodes])
    rows, cols = rows_and_columns(known, values, rng=rng, chosen=at)
    n_fields = rows.shape[1] - ("intercept" in values)
    fields, x = rows[:, :n_fields].astype(float), cols[:, :n_fields].astype(float)
    offset = cols[:, n_fields:].sum(1).astype(float)
    sd, kappa, scale = field_parameters(before, posterior.spec, values, n_fields)
    # The unit of the field's scale is that of the graph, which has grown: the field stays.
    grown = field_parameters(after, posterior.spec, values, n_fields)[2]
    for name in ("factor_sd", "ability_sd", "benchmark_sd"):
        if name in values:
            values[name] = np.asarray(values[name]) * np.sqrt(grown / scale)
    noise_sd = noise_sd_of(known, values)
    concentration = values.get("concentration")
    strength = after.core.strengths(after.strengths)
    for _ in range(_SWEEPS if len(models) > 1 else 1):
        for model in models:
            u = after.core.index[model]
            mean, precision = _given_kin(fields, u, after, strength, kappa)
            precision = precision[:, None] * scale[:, None] / sd**2
            k, n = (part[0] for part in after.responses.matrices([model]))
            seen = np.flatnonzero(n > 0)
            overlap = np.zeros((len(fields), len(seen)))
            if concentration is not None:
                of_item = after.benchmark_index[seen]
                overlap = 1 / (1 + np.asarray(concentration, float)[:, of_item])
            noise = None if noise_sd is None else noise_sd[:, seen].astype(float) ** 2
            cells = _Cells(x[:, :, seen], offset[:, seen], k[seen], n[seen], overlap, noise)
            if posterior.spec.likelihood == "bernoulli":
                cells = cells._once()
            t, root = cells.mode(mean, precision)
            if not posterior.is_point:
                white = rng.standard_normal((*t.shape, 1))
                t = t + np.linalg.solve(root.mT, white)[..., 0]
            fields[:, :, u] = t
    return dataclasses.replace(posterior, design=after, state=_state(posterior, values, fields))


def _given_kin(
    fields: np.ndarray, u: int, design: Design, strength: np.ndarray, kappa: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (n_draws, n_fields) and relative precision (n_draws,) of a node given others."""
    core = design.core
    up, down = core.child == u, core.parent == u
    kin = np.concatenate([core.parent[up], core.child[down]])
    weight = np.concatenate([strength[up], strength[down]])
    closeness = weight.sum() + kappa
    return (fields[:, :, kin] @ weight) / closeness[:, None], closeness


@dataclasses.dataclass(frozen=True, eq=False)
class _Cells:
    """Cells of one model in every draw."""

    x: np.ndarray
    offset: np.ndarray
    k: np.ndarray
    n: np.ndarray
    overlap: np.ndarray
    noise: np.ndarray | None

    def _once(self) -> _Cells:
        return dataclasses.replace(self, k=self.k / self.n, n=np.ones(len(self.n)))

    def mode(self, mean: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mode and the Cholesky factor of its curvature, by Fisher scoring.

        Beta-Binomial counts weigh as their variance says; logit-normal ones have their noise at its
        mode.
        """
        t = mean.copy()
        diagonal = np.arange(t.shape[1])
        for _ in range(_NEWTON_STEPS):
            psi = np.einsum("df,dfi->di", t, self.x) + self.offset
            if self.noise is not None:
                # At the best noise: at none, noisy log-odds would be taken for plain ones nearer 0.
                psi = psi + noise_mode(psi, self.k, self.n, self.noise)[0]
            p = expit(psi)
            information = self.n * p * (1 - p) + _LEAST_INFORMATION
            spread = 1 + (self.n - 1) * self.overlap
            residual = (self.k - self.n * p) / spread
            if self.noise is not None:
                spread = spread + information * self.noise
            curvature = (self.x * (information / spread)[:, None]) @ self.x.mT
            curvature[:, diagonal, diagonal] += precision
            slope = np.einsum("dfi,di->df", self.x, residual) - precision * (t - mean)
            step = np.linalg.solve(curvature, slope[..., None])[..., 0]
            reach = np.abs(np.einsum("df,dfi->di", step, self.x)).max(1, initial=0.0)
            t = t + step * np.minimum(1, _LARGEST_STEP / np.maximum(reach, 1e-12))[:, None]
        return t, np.linalg.cholesky(curvature)


def _state(
    posterior: Posterior, values: dict[str, np.ndarray], fields: np.ndarray
) -> DrawsState | PointState:
    k = posterior.spec.rank
    sites = {name: np.asarray(value) for name, value in values.items()}
    sites["factor"] = fields[:, :k]
    if "ability_unit" in values:
        sites["ability_unit"] = fields[:, k] / np.asarray(values["ability_sd"])[:, None]
        k += 1
    if "effect_unit" in values:
        sd = np.asarray(values["benchmark_sd"])[:, None, None]
        sites["effect_unit"] = fields[:, k:] / sd
    kept = {name: value.astype(np.float32) for name, value in sites.items()}
    if isinstance(posterior.state, PointState):
        return PointState({name: value[0] for name, value in kept.items()})
    n_chains = 1
    if isinstance(posterior.state, DrawsState):
        n_chains = next(iter(posterior.state.values.values())).shape[0]
    shaped = {n: v.reshape(n_chains, -1, *v.shape[1:]) for n, v in kept.items()}
    return DrawsState(shaped)
