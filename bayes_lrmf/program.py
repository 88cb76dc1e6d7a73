"""The NumPyro program of a spec, and how its parameters make psi."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

from bayes_lrmf.descent import descend
from bayes_lrmf.design import Design
from bayes_lrmf.gmrf import LineageGMRF
from bayes_lrmf.spec import HyperPrior, Spec

__all__ = [
    "components",
    "fixed_hyperparameters",
    "hyperparameters",
    "noise_of_items",
    "observed_rows",
    "program",
]

Values = Mapping[str, jax.Array]


def hyperparameters(design: Design, spec: Spec) -> dict[str, tuple[HyperPrior, tuple[int, ...]]]:
    """Return the positive hyper-parameters in use: prior and shape by site name."""
    if spec.penalty is not None:
        return {}
    used: dict[str, tuple[HyperPrior, tuple[int, ...]]] = {}
    # Scales of steps are matrices by relation: `descend` has them.
    if spec.lineage != "directed":
        used["factor_sd"] = (spec.factor_sd, ())
        if len(design.graph.rows) and spec.lineage == "laplacian":
            used["kappa"] = (spec.kappa, ())
        if spec.ability:
            used["ability_sd"] = (spec.ability_sd, ())
        if spec.benchmark_effects and len(design.effect_benchmarks):
            used["benchmark_sd"] = (spec.benchmark_sd, ())
    if spec.intercept:
        used["intercept_sd"] = (spec.intercept_sd, ())
    if spec.likelihood == "beta_binomial" and len(design.count_benchmarks):
        used["concentration"] = (spec.concentration, (len(design.benchmarks),))
    if spec.likelihood == "logit_normal" and len(design.count_benchmarks):
        used["overdispersion_sd"] = (spec.overdispersion_sd, (len(design.benchmarks),))
    return used


def fixed_hyperparameters(design: Design, spec: Spec) -> dict[str, np.ndarray]:
    """Return every hyper-parameter in use at its prior median."""
    used = hyperparameters(design, spec)
    return {name: np.full(shape, prior.median) for name, (prior, shape) in used.items()}


def _hyper(name: str, prior: HyperPrior, shape: tuple[int, ...]) -> jax.Array:
    if not prior.learned:
        return jnp.full(shape, prior.median)
    logarithm = dist.LogNormal(jnp.log(prior.median), prior.log_sd)
    if name == "kappa":
        # Far inside the tabulated range of the field, and far outside what data can tell apart.
        bounded = dist.TruncatedNormal(
            np.log(prior.median), prior.log_sd, low=np.log(1e-4), high=np.log(1e2)
        )
        return numpyro.sample(
            name, dist.TransformedDistribution(bounded, dist.transforms.ExpTransform())
        )
    return numpyro.sample(name, logarithm.expand(shape).to_event(len(shape)))


def _field(design: Design, kappa: Any, sd: Any) -> dist.Distribution:
    """Return the prior of one column over core nodes."""
    if kappa is None:
        return dist.Normal(0.0, sd).expand([design.n_core]).to_event(1)
    return LineageGMRF(design.graph, tau=1 / sd**2, kappa=kappa)


def _sample_penalised(design: Design, spec: Spec) -> dict[str, Any]:
    penalty = spec.penalty
    assert penalty is not None

    def flat(name: str, graph: Any, strength: float, n: int) -> jax.Array:
        if graph is None or strength == 0 or not len(graph.rows):
            prior: Any = dist.Normal(0.0, (2 * penalty.ridge) ** -0.5).expand([n]).to_event(1)
        else:
            prior = LineageGMRF(
                graph, tau=2 * strength, kappa=penalty.ridge / strength, scaled=False
            )
        return numpyro.sample(name, prior.expand([spec.rank]).to_event(1))

    return {
        "factor": flat("factor", design.graph, penalty.models, design.n_core),
        "loading": flat("loading", design.item_graph, penalty.items, design.n_items),
    }


def _sample_latent(design: Design, spec: Spec) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: _hyper(name, prior, shape)
        for name, (prior, shape) in hyperparameters(design, spec).items()
    }
    if spec.lineage == "directed":
        for name, value in descend(design, spec).items():
            values[name] = numpyro.deterministic(name, value)
    else:
        values |= _sample_field(design, spec, values)
    return values | _sample_items(design, spec, values)


def _sample_field(design: Design, spec: Spec, values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    kappa = values.get("kappa")
    field = _field(design, kappa, values["factor_sd"])
    out["factor"] = numpyro.sample("factor", field.expand([spec.rank]).to_event(1))
    # Ability and benchmark effects may have next to no variance, a funnel for their values;
    # in units of their standard deviation there is none.
    unit = _field(design, kappa, 1.0)
    if spec.ability:
        out["ability_unit"] = numpyro.sample("ability_unit", unit)
    if "benchmark_sd" in values:
        effects = unit.expand([len(design.effect_benchmarks)]).to_event(1)
        out["effect_unit"] = numpyro.sample("effect_unit", effects)
    return out


def _sample_items(design: Design, spec: Spec, hyper: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    n_groups, of_item = design.n_groups, design.item_groups
    centre: Any = 0.0
    if spec.loading_mean:
        mean = dist.Normal(0.0, spec.loading_mean_sd.median)
        values["loading_mean"] = numpyro.sample(
            "loading_mean", mean.expand([spec.rank, n_groups]).to_event(2)
        )
        centre = values["loading_mean"][:, of_item]
    if spec.item_prior == "laplacian" and design.item_graph is not None:
        shifted = dist.transforms.AffineTransform(centre, 1.0)
        around = LineageGMRF(design.item_graph).expand([spec.rank]).to_event(1)
        values["loading"] = numpyro.sample("loading", dist.TransformedDistribution(around, shifted))
    else:
        loading = dist.Normal(centre, 1.0).expand([spec.rank, design.n_items])
        values["loading"] = numpyro.sample("loading", loading.to_event(2))
    if spec.intercept:
        level = dist.Normal(0.0, spec.intercept_mean_sd.median).expand([n_groups])
        values["intercept_mean"] = numpyro.sample("intercept_mean", level.to_event(1))
        values["intercept"] = numpyro.sample(
            "intercept",
            dist.Normal(values["intercept_mean"][of_item], hyper["intercept_sd"]).to_event(1),
        )
    return values


def components(design: Design, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return rows and columns whose products are psi over core nodes.

    Parameters
    ----------
    design : Design
    values : mapping
        Sites of `program`, each with the same batch dimensions in front, or none. Under a directed
        prior ability and effects have units of their own.

    Returns
    -------
    rows : array, shape (..., n_components, n_core)
        Factors, ability, benchmark effects, one. NumPy's where all values are, else JAX's.
    cols : array, shape (..., n_components, n_items)
        Loadings, one, membership of benchmarks, intercepts.
    """
    xp: Any = np if all(isinstance(v, np.ndarray | np.generic) for v in values.values()) else jnp
    values = {name: xp.asarray(value) for name, value in values.items()}
    rows, cols = [values["factor"]], [values["loading"]]
    dtype = rows[0].dtype
    batch = rows[0].shape[:-2]

    def repeated(block: Any) -> Any:
        return xp.broadcast_to(xp.asarray(block, dtype), (*batch, *block.shape))

    one = xp.ones((), dtype)
    if "ability_unit" in values:
        sd = values.get("ability_sd", one)[..., None]
        rows.append((sd * values["ability_unit"])[..., None, :])
        cols.append(repeated(np.ones((1, design.n_items))))
    if "effect_unit" in values:
        rows.append(values.get("benchmark_sd", one)[..., None, None] * values["effect_unit"])
        cols.append(repeated(design.benchmark_index == design.effect_benchmarks[:, None]))
    if "intercept" in values:
        rows.append(repeated(np.ones((1, design.n_core))))
        cols.append(values["intercept"][..., None, :])
    return (
        xp.concatenate(rows, axis=-2).astype(dtype),
        xp.concatenate(cols, axis=-2).astype(dtype),
    )


def noise_of_items(design: Design, overdispersion_sd: Any) -> Any:
    """Return the noise of the log-odds by item, (..., n_items): none for items of one trial.

    Parameters
    ----------
    overdispersion_sd : array, shape (..., n_benchmarks), or None
    """
    if overdispersion_sd is None:
        return None
    many = design.items["trials"].to_numpy() > 1
    return jnp.where(many, overdispersion_sd[..., design.benchmark_index], 0.0)


def observed_rows(design: Design, rows: jax.Array) -> jax.Array:
    """Return the rows of evaluated models, shape (n_components, n_evaluated)."""
    return rows[:, : design.n_evaluated]


def program(design: Design, spec: Spec, *, n_batches: int = 1) -> None:
    """NumPyro program: priors of the spec, and the likelihood of the design as one factor.

    Sites: ``factor`` (K, n_core), ``loading`` (K, n_items), ``loading_mean`` (K, n_groups),
    ``intercept`` (n_items,), ``intercept_mean`` (n_groups,), ``ability_unit`` (n_core,),
    ``effect_unit`` (n_effects, n_core), and the hyper-parameters that the spec learns. Under a
    directed prior factors and effects are deterministic, and `descend` has the sites.

    Parameters
    ----------
    design : Design
    spec : Spec
    n_batches : int
        With more than one, the likelihood is an unbiased estimate from a random part of the table.
    """
    if spec.penalty is not None:
        values = _sample_penalised(design, spec)
    else:
        values = _sample_latent(design, spec)
    rows, cols = components(design, values)
    concentration = values.get("concentration")
    if concentration is not None:
        concentration = concentration[design.benchmark_index]
    noise_sd = noise_of_items(design, values.get("overdispersion_sd"))
    seen = observed_rows(design, rows)
    if n_batches == 1:
        value = design.table.log_likelihood(seen, cols, concentration, noise_sd)
    else:
        key = numpyro.prng_key()
        value = design.table.estimate(key, seen, cols, concentration, n_batches, noise_sd)
    numpyro.factor("responses", value)
