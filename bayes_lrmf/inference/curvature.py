"""Coordinates for sampling a directed spec: those of the curvature at a fit by `fit_vb`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers

from bayes_lrmf.block_elimination import BlockFactor
from bayes_lrmf.descent import ascend, step_units
from bayes_lrmf.design import Design
from bayes_lrmf.directed import StepScales
from bayes_lrmf.inference.map import objective
from bayes_lrmf.inference.rotation import RotationSlice
from bayes_lrmf.program import fixed_hyperparameters, hyperparameters, program
from bayes_lrmf.sharing import shared
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["CurvatureCoordinates"]

_LEAST_CURVATURE = 0.25
_TOLD = 0.1
_HESSIAN_COLUMNS = 16


class CurvatureCoordinates:
    """Linear coordinates of the sites of a directed program, nearly round at a reference.

    Steps are white a priori (`descend`), and far from it once responses tell where models are.
    Steps that these tell well are in fixed units, so that a new scale does not move them; others
    stay in units of their scale. The Hessian of the negative log density at the reference undoes
    the correlations; directions in which it is flatter than a quarter of a standard normal are
    taken to be that flat. Rotations of the factors are taken out by a slice through them. Memory is
    quadratic in the number of coordinates.

    Parameters
    ----------
    design, spec : Design, Spec
    state : VariationalState
        Of a fit by `fit_vb`.
    """

    def __init__(self, design: Design, spec: Spec, state: VariationalState) -> None:
        self.design, self.spec = design, spec
        centre = {n: jnp.asarray(v, float) for n, v in state.centre().items()}
        fields = np.asarray(state.values["model_mean"], float)
        scales = StepScales.from_values(state.values)
        fixed = {n: jnp.asarray(v) for n, v in fixed_hyperparameters(design, spec).items()}
        sites = fixed | centre | ascend(design, spec, fields, scales)
        names = self._names()
        self.positive = [n for n in hyperparameters(design, spec) if n in names]
        reference = {n: jnp.asarray(sites[n], float) for n in names}
        reference |= {n: jnp.log(reference[n]) for n in self.positive}
        loading = np.asarray(reference["loading"])
        left, size, right = np.linalg.svd(loading, full_matrices=False)
        # Directions that the reference lacks need some length to be told apart.
        size = np.maximum(size, 0.1 * np.sqrt(design.n_items))
        self.rotation = RotationSlice((left * size) @ right, 1.0)
        reference["loading"] = jnp.asarray(self.rotation.reference)
        self.told = self._told(state, scales)
        self.start_units = shared(self._units)(sites)
        self.reference, self.unravel = ravel_pytree(reference)
        curvature = self._hessian()
        value, vector = np.linalg.eigh(curvature)
        self.unit = vector / np.sqrt(np.maximum(value, _LEAST_CURVATURE))

    def _names(self) -> list[str]:
        """Return the names of the sites."""
        found: list[str] = []

        def names() -> None:
            seeded = handlers.seed(program, jax.random.key(0))
            trace = handlers.trace(seeded).get_trace(self.design, self.spec)
            sampled = [n for n, s in trace.items() if s["type"] == "sample"]
            found.extend(n for n in sampled if not trace[n]["is_observed"])

        jax.eval_shape(names)
        return found

    def _told(self, state: VariationalState, scales: StepScales) -> tuple[np.ndarray, np.ndarray]:
        """Return which steps of factors (n_core,) and of effects (n_core, E) responses tell."""
        v, graph = state.values, self.design.directed
        factor = BlockFactor(v["model_root"].astype(float), v["model_lower"].astype(float))
        spread = graph.step_covariance(*graph.blocks.selected_inverse(factor))
        k, step = self.spec.rank, graph.step
        within = spread[:, :k, :k] * np.linalg.inv(scales.factor_covariance)[step]
        of_effects = np.diagonal(spread, axis1=1, axis2=2)[:, k:]
        share = of_effects / scales.effect_variance[step]
        return within.sum((1, 2)) / k < _TOLD, share < _TOLD

    def _units(self, sites: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return roots (n_core, K, K), sd of effects (n_core, E) and centres (n_core, K + E)."""
        fixed = handlers.substitute(step_units, data=sites)
        units = handlers.seed(fixed, jax.random.key(0))(self.design, self.spec)
        step = self.design.directed.step
        return units.roots[step], jnp.sqrt(units.variance[step]), units.centre(self.design)

    def _whitened(self, sites: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return white steps from those in fixed units where they are told, and the Jacobian."""
        (root, sd, centre), (root0, sd0, centre0) = self._units(sites), self.start_units
        k, (told, told_e) = self.spec.rank, self.told
        shift = centre0 - centre
        moved = jnp.einsum("nij,nj->ni", root0, sites["white_factor"]) + shift[:, :k]
        white = jnp.linalg.solve(root, moved[..., None])[..., 0]
        out = {"white_factor": jnp.where(told[:, None], white, sites["white_factor"])}
        change = jnp.linalg.slogdet(root0)[1] - jnp.linalg.slogdet(root)[1]
        jacobian = jnp.where(told, change, 0.0).sum()
        if told_e.size:
            white = (sd0 * sites["white_effect"] + shift[:, k:]) / sd
            out["white_effect"] = jnp.where(told_e, white, sites["white_effect"])
            jacobian = jacobian + jnp.where(told_e, jnp.log(sd0 / sd), 0.0).sum()
        return out, jacobian

    def _hessian(self) -> np.ndarray:
        slope = jax.grad(lambda flat: -self._log_density(flat))

        def columns(flat: jax.Array) -> jax.Array:
            def one(direction: jax.Array) -> jax.Array:
                return jax.jvp(slope, (flat,), (direction,))[1]

            return jax.lax.map(one, jnp.eye(len(flat)), batch_size=_HESSIAN_COLUMNS)

        found = np.asarray(shared(columns)(self.reference))
        return (found + found.T) / 2

    def _sites(self, flat: Any) -> tuple[dict[str, Any], Any]:
        """Return the sites of the program, and the log Jacobian."""
        sites = dict(self.unravel(flat))
        jacobian: Any = 0.0
        for name in self.positive:
            jacobian = jacobian + sites[name].sum()
            sites[name] = jnp.exp(sites[name])
        own, along = self.rotation.split(sites["loading"] - self.rotation.reference)
        sites["loading"] = self.rotation.reference + own
        jacobian = jacobian + self.rotation.log_volume(sites["loading"])
        white, change = self._whitened(sites)
        return sites | white, jacobian + change - 0.5 * (along**2).sum()

    def _log_density(self, flat: Any) -> Any:
        sites, jacobian = self._sites(flat)
        return jacobian - objective(self.design, self.spec, sites)

    def _flat(self, z: dict[str, Any]) -> Any:
        return self.reference + jnp.asarray(self.unit) @ z["curved"]

    def start(self) -> dict[str, jax.Array]:
        """Return the coordinates of the reference."""
        return {"curved": jnp.zeros(len(self.reference))}

    def values(self, z: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the sites and deterministic values of the program, and the log Jacobian.

        White steps and what makes scales of white noise are left out.
        """
        sites, jacobian = self._sites(self._flat(z))
        seeded = handlers.seed(handlers.substitute(program, data=sites), jax.random.key(0))
        trace = handlers.trace(seeded).get_trace(self.design, self.spec)
        made = {n: s["value"] for n, s in trace.items() if s["type"] == "deterministic"}
        kept = ("loading", "loading_mean", "intercept", "intercept_mean", *self.positive)
        return made | {n: sites[n] for n in kept if n in sites}, jacobian

    def potential(self, z: dict[str, Any]) -> Any:
        """Return the negative log density of the coordinates."""
        return -self._log_density(self._flat(z))
