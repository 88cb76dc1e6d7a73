"""What a fit returns: draws, or Gaussian or point parameters that yield them; one file on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp
import xarray as xr

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.elimination import Elimination
from bayes_lrmf.files import existing_file, written_whole
from bayes_lrmf.gaussian import GraphGaussian
from bayes_lrmf.gmrf import KAPPA_RANGE, LaplacianGraph
from bayes_lrmf.kernels import beta_binomial, log_gamma
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.program import components, hyperparameters
from bayes_lrmf.responses import Cells, Responses
from bayes_lrmf.spec import Spec

__all__ = [
    "DrawsState",
    "FitRecord",
    "GaussianState",
    "PointState",
    "Posterior",
    "diagnose_draws",
    "read_posterior",
    "write_posterior",
]

FORMAT_VERSION = 1
_N_PSI_CELLS = 1000
_LOG_LIKELIHOOD_VALUES = 20_000_000
RHAT_LIMIT, ESS_LIMIT = 1.02, 400

Values = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class FitRecord:
    """How a fit went.

    Attributes
    ----------
    method : {"map", "svi", "nuts"}
    converged : bool
        Whether the method's own stopping rule was met.
    message : str
        One line on how it ended.
    trace : array
        Objective (map) or negative ELBO (svi) by iteration; empty for nuts.
    sample_stats : mapping of arrays, shape (n_chains, n_draws)
        NUTS only: diverging, n_steps, acceptance_rate, energy, step_size.
    seconds : float
        Wall time; not written to the file, which is the same for the same seed, data and versions.
    """

    method: str
    converged: bool
    message: str
    trace: np.ndarray = field(default_factory=lambda: np.empty(0))
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict)
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

    def draw(self, n_draws: int, key: jax.Array, design: Design) -> Values:
        """Return `n_draws` independent draws of every site."""
        out: Values = {}
        sites = [n[: -len("_loc")] for n in self.values if n.endswith("_loc")]
        for name, site_key in zip(sites, jax.random.split(key, len(sites)), strict=True):
            loc, scale = self.values[f"{name}_loc"], self.values[f"{name}_scale"]
            if f"{name}_coupling" in self.values:
                coupling = self.values[f"{name}_coupling"]
                out[name] = _field_draws(
                    design.graph.elimination, loc, scale, coupling, site_key, n_draws
                )
            else:
                noise = np.asarray(jax.random.normal(site_key, (n_draws, *loc.shape)))
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
)


def _field_draws(
    elimination: Elimination,
    loc: np.ndarray,
    scale: np.ndarray,
    coupling: np.ndarray,
    key: jax.Array,
    n_draws: int,
) -> np.ndarray:
    gaussian = GraphGaussian(elimination, jnp.asarray(loc), jnp.asarray(scale), coupling)
    return np.asarray(jax.jit(lambda k: gaussian.sample(k, (n_draws,)))(key))


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


State = PointState | GaussianState | DrawsState


@dataclass(frozen=True, eq=False)
class Posterior:
    """The result of a fit, with all that is needed to predict from it.

    Attributes
    ----------
    design : Design
    spec : Spec
    state : PointState, GaussianState or DrawsState
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
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())

    def __repr__(self) -> str:
        d = self.design
        return (
            f"Posterior({self.record.method}, spec {self.spec.name}, {d.n_evaluated:,} evaluated "
            f"of {len(d.models):,} models, {d.n_items:,} items, {self.record.message})"
        )

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

        def one(v: dict[str, Any]) -> jax.Array:
            r, c = components(self.design, v)
            return (r[:, rows] * c[:, cols]).sum(0)

        return np.asarray(jax.lax.map(jax.jit(one), {n: jnp.asarray(v) for n, v in values.items()}))

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
        dims = {"psi": ["cell"], "concentration": ["benchmark"]}
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
        return az.from_dict(groups, coords=coords, dims=dims)

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

            def one(psi: jax.Array, spread: jax.Array | None) -> jax.Array:
                psi = psi.astype(float)
                if spread is None:
                    value = k * psi - n * jnp.logaddexp(0.0, psi)
                else:
                    value = beta_binomial(psi, k, n, spread.astype(float)[of_cell])
                return (value + coefficient).astype(jnp.float32)

            spreads = draws.get("concentration")
            arrays = (jnp.asarray(psi), None if spreads is None else jnp.asarray(spreads))
            return np.asarray(jax.jit(lambda a: jax.lax.map(lambda pair: one(*pair), a))(arrays))


def diagnose_draws(posterior: Posterior) -> tuple[bool, str]:
    """Judge draws by psi of `Posterior.psi_cells` and hyper-parameters; return verdict, one line.

    Good is R-hat < 1.02 and bulk ESS > 400 for every psi, and no divergence.
    """
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


def _versions() -> dict[str, str]:
    names = ("bayes-lrmf", "jax", "numpyro", "numpy", "scipy")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _strings(values: Any) -> np.ndarray:
    return np.array([str(v) for v in values], dtype=object)


def _lineage_dataset(lineage: Lineage, prefix: str) -> dict[str, Any]:
    return {
        "node": ("node", _strings(lineage.nodes)),
        "child": ("edge", lineage.child),
        "parent": ("edge", lineage.parent),
        "relation": ("edge", _strings(lineage.relation)),
        "weight": ("edge", lineage.weight),
    }


def _lineage_of(data: xr.Dataset) -> Lineage:
    return Lineage(
        nodes=np.asarray(data["node"].values, dtype=object),
        child=data["child"].values.astype(np.int32),
        parent=data["parent"].values.astype(np.int32),
        relation=np.asarray(data["relation"].values, dtype=object),
        weight=data["weight"].values.astype(float),
    )


def _responses_dataset(responses: Responses) -> xr.Dataset:
    variables: dict[str, Any] = {
        "model": ("model", _strings(responses.models)),
        "item_benchmark": ("item_index", _strings(responses.items["benchmark"])),
        "item_name": ("item_index", _strings(responses.items["item"])),
        "item_trials": ("item_index", responses.items["trials"].to_numpy()),
        "unevaluated": ("unevaluated_index", _strings(responses.unevaluated)),
    }
    if responses.dense is not None:
        variables["dense"] = (("model", "item_index"), responses.dense)
    else:
        cells = responses.to_cells()
        for name in ("rows", "cols", "successes", "trials"):
            value = getattr(cells, name)
            if value is not None:
                variables[name] = ("observed", value)
    return xr.Dataset(variables)


def _responses_of(data: xr.Dataset) -> Responses:
    items = pd.DataFrame(
        {
            "benchmark": [str(v) for v in data["item_benchmark"].values],
            "item": [str(v) for v in data["item_name"].values],
            "trials": data["item_trials"].values,
        }
    )
    dense, cells = None, None
    if "dense" in data:
        dense = data["dense"].values
    else:
        trials = data["trials"].values if "trials" in data else None
        cells = Cells(data["rows"].values, data["cols"].values, data["successes"].values, trials)
    return Responses(
        models=np.asarray(data["model"].values, dtype=object),
        items=items,
        dense=dense,
        cells=cells,
        unevaluated=tuple(str(v) for v in data["unevaluated"].values),
    )


def write_posterior(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write one self-contained netCDF file: labels, data, graph, spec, parameters, provenance.

    ``xarray.open_datatree(path)`` opens it; its ``posterior`` group suits ArviZ.
    """
    d = posterior.design
    groups: dict[str, Any] = {
        "/responses": _responses_dataset(d.responses),
        "/core": xr.Dataset(_lineage_dataset(d.core, "core")),
        "/periphery": xr.Dataset(_lineage_dataset(d.periphery, "periphery")),
        "/record": xr.Dataset({"trace": ("iteration", posterior.record.trace)}),
    }
    if d.item_graph is not None:
        g = d.item_graph
        groups["/item_graph"] = xr.Dataset(
            {"row": ("edge", g.rows), "col": ("edge", g.cols), "weight": ("edge", g.weights)}
        )
    if not posterior.is_point:
        for group, data in posterior.datatree().children.items():
            groups[f"/{group}"] = data.to_dataset()
    state = {
        name: ([f"{name}_{axis}" for axis in range(np.ndim(v))], _compact(v))
        for name, v in posterior.state.values.items()
    }
    groups[f"/{posterior.state.group}"] = xr.Dataset(state)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "format_version": FORMAT_VERSION,
        "method": posterior.record.method,
        "converged": int(posterior.record.converged),
        "message": posterior.record.message,
        "spec": json.dumps(posterior.spec.to_dict()),
        "relation_strength": json.dumps(d.strengths),
        "seed": -1 if posterior.seed is None else posterior.seed,
        "versions": json.dumps(dict(posterior.versions)),
        "data_sha256": d.responses.fingerprint(),
    }
    encoding: dict[str, Any] = {}
    for node in tree.subtree:
        numeric = [n for n, v in node.data_vars.items() if v.dtype.kind in "fiu" and v.size > 1000]
        if numeric:
            encoding[node.path] = {n: {"zlib": True, "complevel": 1} for n in numeric}
    with written_whole(path) as temporary:
        tree.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def _compact(value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype == np.float64 and value.ndim > 2 else value


def read_posterior(path: str | os.PathLike[str]) -> Posterior:
    """Read a file written by `write_posterior`.

    Raises
    ------
    InputError
        If the file is missing, is not a posterior, or is of a later format.
    """
    file, where = existing_file(path, what="posterior file"), str(path)
    try:
        tree = xr.open_datatree(file, engine="h5netcdf").load()
        tree.close()
        version = int(tree.attrs["format_version"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "not a posterior file", where=where, fix="give what `bayes-lrmf fit -o` wrote"
        ) from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"format {version} is newer than this version reads ({FORMAT_VERSION})",
            where=where,
            fix="upgrade bayes-lrmf",
        )
    spec_table = json.loads(tree.attrs["spec"])
    spec = Spec.from_dict({k: v for k, v in spec_table.items() if _is_given(k, v, spec_table)})
    responses = _responses_of(tree["responses"].to_dataset())
    core = _lineage_of(tree["core"].to_dataset())
    periphery = _lineage_of(tree["periphery"].to_dataset())
    strengths = json.loads(tree.attrs["relation_strength"])
    graph = LaplacianGraph(core.adjacency(core.strengths(strengths)))
    item_graph = None
    if "item_graph" in tree:
        g = tree["item_graph"].to_dataset()
        n = responses.n_items
        upper = sp.coo_array((g["weight"].values, (g["row"].values, g["col"].values)), shape=(n, n))
        item_graph = LaplacianGraph(upper + upper.T)
    design = Design(responses, core, periphery, strengths, graph, item_graph)
    if spec.likelihood == "bernoulli":
        design = design.once_per_cell()
    kinds: dict[str, Any] = {s.group: s for s in (PointState, GaussianState, DrawsState)}
    group = next(g for g in kinds if g in tree)
    state = kinds[group]({str(n): v.values for n, v in tree[group].data_vars.items()})
    stats = {}
    if "sample_stats" in tree:
        stats = {str(n): v.values for n, v in tree["sample_stats"].data_vars.items()}
    record = FitRecord(
        method=tree.attrs["method"],
        converged=bool(tree.attrs["converged"]),
        message=tree.attrs["message"],
        trace=tree["record"].to_dataset()["trace"].to_numpy(),
        sample_stats=stats,
    )
    seed = int(tree.attrs["seed"])
    versions = json.loads(tree.attrs["versions"])
    return Posterior(design, spec, state, record, None if seed < 0 else seed, versions)


def _is_given(key: str, value: Any, table: Mapping[str, Any]) -> bool:
    # Beside a penalty the hyper-priors are defaults that do not apply.
    return "penalty" not in table or not (isinstance(value, dict) and "median" in value)
