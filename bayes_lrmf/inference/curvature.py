"""Coordinates for sampling a directed spec: those of the curvature at a fit by `fit_vb`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers

from bayes_lrmf.descent import ascend
from bayes_lrmf.design import Design
from bayes_lrmf.directed import StepScales
from bayes_lrmf.inference.map import objective
from bayes_lrmf.inference.rotation import RotationSlice
from bayes_lrmf.program import hyperparameters, program
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["CurvatureCoordinates"]

_LEAST_CURVATURE = 0.25
_HESSIAN_COLUMNS = 16


class CurvatureCoordinates:
    """Linear coordinates of the sites of a directed program, nearly round at a reference.

    Steps are white a priori (`descend`), and far from it once responses tell where models are.
    The Hessian of the negative log density at the reference undoes that; directions in which it is
    flatter than a quarter of a standard normal are taken to be that flat. Rotations of the factors
    are taken out by a slice through them. Memory is quadratic in the number of coordinates.

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
        sites = centre | ascend(design, spec, fields, scales)
        seeded = handlers.seed(handlers.substitute(program, data=sites), jax.random.key(0))
        trace = handlers.trace(seeded).get_trace(design, spec)
        names = [n for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]]
        self.positive = [n for n in hyperparameters(design, spec) if n in names]
        reference = {n: jnp.asarray(trace[n]["value"], float) for n in names}
        reference |= {n: jnp.log(reference[n]) for n in self.positive}
        loading = np.asarray(reference["loading"])
        left, size, right = np.linalg.svd(loading, full_matrices=False)
        # Directions that the reference lacks need some length to be told apart.
        size = np.maximum(size, 0.1 * np.sqrt(design.n_items))
        self.rotation = RotationSlice((left * size) @ right, 1.0)
        reference["loading"] = jnp.asarray(self.rotation.reference)
        self.reference, self.unravel = ravel_pytree(reference)
        curvature = self._hessian()
        value, vector = np.linalg.eigh(curvature)
        self.unit = vector / np.sqrt(np.maximum(value, _LEAST_CURVATURE))

    def _hessian(self) -> np.ndarray:
        slope = jax.grad(lambda flat: -self._log_density(flat))

        @jax.jit
        def columns(flat: jax.Array) -> jax.Array:
            def one(direction: jax.Array) -> jax.Array:
                return jax.jvp(slope, (flat,), (direction,))[1]

            return jax.lax.map(one, jnp.eye(len(flat)), batch_size=_HESSIAN_COLUMNS)

        found = np.asarray(columns(self.reference))
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
        return sites, jacobian - 0.5 * (along**2).sum()

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
