"""What a fit returns: draws, or Gaussian or point parameters that yield them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.elimination import Factor
from bayes_lrmf.gmrf import KAPPA_RANGE
from bayes_lrmf.kernels import beta_binomial, log_gamma
from bayes_lrmf.logit_normal import logit_normal
from bayes_lrmf.program import components, hyperparameters, noise_of_items
from bayes_lrmf.provenance import design_digests, package_versions, spec_digest
from bayes_lrmf.responses import Cells
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = [
    "DrawsState",
    "FitRecord",
    "GaussianState",
    "PointState",
    "Posterior",
    "VariationalState",
    "diagnose_draws",
]

_N_PSI_CELLS = 1000
_LOG_LIKELIHOOD_VALUES = 20_000_000
RHAT_LIMIT, ESS_LIMIT = 1.02, 400

Values = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class FitRecord:
    """How a fit went.

    Attributes
    ----------
    method : {"map", "svi", "nuts", "vb"}
    converged : bool
        Whether the method's own stopping rule was met.
    message : str
        One line on how it ended.
    trace : array
        Objective (map) or negative ELBO (svi, vb) by iteration; empty for nuts.
    sample_stats : mapping of arrays, shape (n_chains, n_draws)
        NUTS only: diverging, n_steps, acceptance_rate, energy, step_size.
    seconds : float
        Wall time, that of the processes it goes on from included; not written to the file, which
        is the same for the same seed, data and versions.
    """

    method: str
    converged: bool
    message: str
    trace: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    seconds: float = float("nan")


@dataclass(frozen=True, eq=False)
class PointState:
    """One value of every site."""

    values: Values
    group = "point"

    def draw(self, n_draws: int, key: jax.Array, design: Design) -> Values:
        """Return the point, once."""
        return {name: np.asarray(value)[None] for name, value in self.values.items()}


@dataclass(frozen=True, eq=False)
class GaussianState:
    """Parameters of a Gaussian over factors, loadings, biases and log hyper-parameters.

    Attributes
    ----------
    values : mapping of arrays
        ``<site>_loc`` and ``<site>_scale`` in the shape of the site, of its logarithm for
        hyper-parameters; ``<site>_coupling`` (..., n_entries) for fields over the lineage; a bare
        ``<site>`` is fixed.
    """

    values: Values
    group = "gaussian"

    def centre(self) -> Values:
        """Return every site at the mean, hyper-parameters at that of their logarithm."""
        out: Values = {}
        for name, value in self.values.items():
            if name.endswith("_loc"):
                site = name[: -len("_loc")]
                out[site] = np.exp(value) if site in _POSITIVE else value
            elif not name.endswith(("_scale", "_coupling")):
                out[name] = value
        return out

    def draw(self, n_draws: int, key: jax.Array, design: Design) -> Values:
        """Return `n_draws` independent draws of every site."""
        out: Values = {}
        sites = [n[: -len("_loc")] for n in self.values if n.endswith("_loc")]
        for name, site_key in zip(sites, jax.random.split(key, len(sites)), strict=True):
            loc, scale = self.values[f"{name}_loc"], self.values[f"{name}_scale"]
            noise = np.asarray(jax.random.normal(site_key, (n_draws, *loc.shape)))
            if f"{name}_coupling" in self.values:
                coupling = self.values[f"{name}_coupling"]
                factor = Factor(np.asarray(scale) ** -2, np.asarray(coupling))
                out[name] = loc + design.graph.elimination.solve_upper(factor, noise)
            else:
                out[name] = loc + scale * noise
            if name in _POSITIVE:
                out[name] = np.exp(out[name])
        for name, value in self.values.items():
            if not name.endswith(("_loc", "_scale", "_coupling")):
                out[name] = np.broadcast_to(value, (n_draws, *value.shape))
        if "kappa" in out:
            out["kappa"] = np.clip(out["kappa"], 2 * KAPPA_RANGE[0], KAPPA_RANGE[1] / 2)
        return out


_POSITIVE = (
    "kappa",
    "factor_sd",
    "ability_sd",
    "benchmark_sd",
    "intercept_sd",
    "concentration",
    "overdispersion_sd",
)


@dataclass(frozen=True, eq=False)
class DrawsState:
    """Draws of every site, shape (n_chains, n_draws, ...)."""

    values: Values
    group = "draws"

    @property
    def n_draws(self) -> int:
        """Draws over all chains."""
        first = next(iter(self.values.values()))
        return int(first.shape[0] * first.shape[1])

    def draw(self, n_draws: int, key: jax.Array, design: Design) -> Values:
        """Return `n_draws` of the draws, evenly spaced; all of them if there are fewer."""
        at = np.unique(np.linspace(0, self.n_draws - 1, n_draws).round().astype(int))
        return {n: v.reshape(-1, *v.shape[2:])[at] for n, v in self.values.items()}


State = PointState | GaussianState | DrawsState | VariationalState


@dataclass(frozen=True, eq=False)
class Posterior:
    """The result of a fit, with all that is needed to predict from it.

    Attributes
    ----------
    design : Design
    spec : Spec
    state : PointState, GaussianState, DrawsState or VariationalState
    record : FitRecord
    seed : int or None
        The seed behind the key, where one was given.
    versions : mapping
        Versions of the packages that made it.
    """

    design: Design
    spec: Spec
    state: State
    record: FitRecord
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())

    def __repr__(self) -> str:
        d = self.design
        return (
            f"Posterior({self.record.method}, spec {self.spec.name}, {d.n_evaluated:,} evaluated "
            f"of {len(d.models):,} models, {d.n_items:,} items, {self.record.message})"
        )

    @property
    def provenance(self) -> dict[str, str]:
        """Which data, which spec and which code made it; digests are SHA-256, in hex."""
        return {
            "method": self.record.method,
            "seed": "not noted" if self.seed is None else str(self.seed),
            "spec": self.spec.name,
            "spec digest": spec_digest(self.spec),
            **{f"{name} digest": of for name, of in design_digests(self.design).items()},
            **self.versions,
        }

    @property
    def is_point(self) -> bool:
        """Whether there is no uncertainty in it."""
        return isinstance(self.state, PointState)

    @property
    def kind(self) -> str:
        """How predictions from it are marked: "point" or "predictive"."""
        return "point" if self.is_point else "predictive"

    def draws(self, n_draws: int, *, key: jax.Array) -> Values:
        """Return draws of all sites, each (n_draws, ...); a point estimate yields one.

        Raw factors and loadings are identified only up to rotation and sign.
        """
        n_draws = whole_number(n_draws, name="n_draws")
        return self.state.draw(n_draws, key, self.design)

    @cached_property
    def psi_cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of up to 1,000 random cells on which the fit is diagnosed."""
        d = self.design
        size = min(_N_PSI_CELLS, d.n_evaluated * d.n_items)
        flat = np.random.default_rng(0).choice(d.n_evaluated * d.n_items, size, replace=False)
        rows, cols = np.divmod(np.sort(flat), d.n_items)
        return rows, cols

    def psi(self, values: Values, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return psi of cells for draws of the sites, shape (n_draws, n_cells)."""
        left, right = components(self.design, values)
        pairs = zip(left, right, strict=True)
        made = [np.einsum("ci,ci->i", r[:, rows], c[:, cols]) for r, c in pairs]
        return np.asarray(made, np.float32)

    def datatree(self, *, log_likelihood: bool | None = None, n_draws: int = 500) -> xr.DataTree:
        """Return the identified quantities as an ArviZ DataTree.

        Parameters
        ----------
        log_likelihood : bool, optional
            Whether to add the log-likelihood of every observed cell, for ``az.loo``; by default
            where that is at most 20 million numbers.
        n_draws : int
            Draws from a Gaussian posterior; NUTS gives all of its own.

        Raises
        ------
        InputError
            For a point estimate, which has no draws.
        """
        if self.is_point:
            raise InputError("a point estimate has no draws", fix="fit with method svi or nuts")
        values = self.state.values
        n_chains = 1
        if isinstance(self.state, DrawsState):
            n_chains = next(iter(values.values())).shape[0]
            n_draws = self.state.n_draws
        draws = self.draws(n_draws, key=jax.random.key(0))
        d = self.design
        rows, cols = self.psi_cells
        names = _cell_names(d, rows, cols)
        shaped = {"psi": self.psi(draws, rows, cols)}
        shaped |= {name: draws[name] for name in hyperparameters(d, self.spec) if name in draws}
        posterior = {n: v.reshape(n_chains, -1, *v.shape[1:]) for n, v in shaped.items()}
        groups: dict[str, Any] = {"posterior": posterior}
        dims = {"psi": ["cell"], "concentration": ["benchmark"], "overdispersion_sd": ["benchmark"]}
        coords: dict[str, Any] = {"cell": names, "benchmark": list(d.benchmarks)}
        if self.record.sample_stats:
            groups["sample_stats"] = dict(self.record.sample_stats)
        n_values = d.responses.n_observed * n_draws
        wanted = n_values <= _LOG_LIKELIHOOD_VALUES if log_likelihood is None else log_likelihood
        if wanted:
            cells = d.responses.to_cells()
            pointwise = self._pointwise(draws, cells)
            groups["log_likelihood"] = {
                "response": pointwise.reshape(n_chains, -1, pointwise.shape[-1])
            }
            dims["response"] = ["observed_cell"]
            coords["observed_cell"] = _cell_names(d, cells.rows, cells.cols)
        # ArviZ takes a second to import, and only diagnoses and files need it.
        from arviz_base import from_dict

        return from_dict(groups, coords=coords, dims=dims)

    def _pointwise(self, draws: Values, cells: Cells) -> np.ndarray:
        psi = self.psi(draws, cells.rows, cells.cols)
        k = cells.successes.astype(float)
        n = np.ones(len(k)) if cells.trials is None else cells.trials.astype(float)
        if self.spec.likelihood == "bernoulli":
            k, n = k / n, np.ones(len(k))
        with jax.enable_x64(True):
            coefficient = log_gamma(n + 1) - log_gamma(k + 1) - log_gamma(n - k + 1)
            coefficient = jnp.where(n > 1, coefficient, 0.0)
            of_cell = self.design.benchmark_index[cells.cols]

            def one(psi: jax.Array, spread: Any, noise: Any) -> jax.Array:
                psi = psi.astype(float)
                if noise is not None:
                    sd = noise_of_items(self.design, noise.astype(float))[cells.cols]
                    value = logit_normal(psi, k, n, sd)
                elif spread is None:
                    value = k * psi - n * jnp.logaddexp(0.0, psi)
                else:
                    value = beta_binomial(psi, k, n, spread.astype(float)[of_cell])
                return (value + coefficient).astype(jnp.float32)

            spreads = (draws.get(name) for name in ("concentration", "overdispersion_sd"))
            known = (None if spread is None else jnp.asarray(spread) for spread in spreads)
            arrays = (jnp.asarray(psi), *known)
            return np.asarray(jax.jit(lambda a: jax.lax.map(lambda each: one(*each), a))(arrays))


def diagnose_draws(posterior: Posterior) -> tuple[bool, str]:
    """Judge draws by psi of `Posterior.psi_cells` and hyper-parameters; return verdict, one line.

    Good is R-hat < 1.02 and bulk ESS > 400 for every psi, and no divergence.
    """
    import arviz as az

    tree = posterior.datatree(log_likelihood=False)
    psi = tree["posterior"]["psi"]
    rhat = np.asarray(az.rhat(psi))
    ess = np.asarray(az.ess(psi, method="bulk"))
    n_diverging = int(np.sum(posterior.record.sample_stats.get("diverging", 0)))
    worst, least = float(np.max(rhat)), float(np.min(ess))
    good = worst < RHAT_LIMIT and least > ESS_LIMIT and n_diverging == 0
    return good, (
        f"psi of {psi.sizes['cell']:,} cells: R-hat at most {worst:.3f}, bulk ESS at least "
        f"{least:.0f}, {n_diverging} divergences"
    )


def _cell_names(design: Design, rows: np.ndarray, cols: np.ndarray) -> list[str]:
    items = (design.items["benchmark"] + ":" + design.items["item"]).to_numpy()
    return [f"{design.models[r]} | {items[c]}" for r, c in zip(rows, cols, strict=True)]
