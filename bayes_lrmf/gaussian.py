"""Gaussian families of variational posteriors: along a graph, and independent."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from bayes_lrmf.elimination import Elimination, Factor

__all__ = ["GraphGaussian"]


class GraphGaussian(dist.Distribution):
    r"""Gaussian whose precision has the pattern of a graph's sparse Cholesky factor.

    With nodes in order of elimination, ``x_j = loc_j - sum_i coupling_ij (x_i - loc_i) + scale_j
    e_j`` over the later neighbours i of j. It holds independent Gaussians (coupling 0), and the
    exact posterior of a field on the graph with independent Gaussian evidence at each node.

    Parameters
    ----------
    elimination : Elimination
        n_nodes nodes, n_entries couplings.
    loc, scale : arrays, shape (..., n_nodes)
    coupling : array, shape (..., n_entries)

    References
    ----------
    Tan & Nott (2018), Gaussian variational approximation with sparse precision matrices.
    """

    arg_constraints = {  # noqa: RUF012 (the base class declares it as an instance attribute)
        "loc": dist.constraints.real_vector,
        "scale": dist.constraints.independent(dist.constraints.positive, 1),
    }
    support = dist.constraints.real_vector
    reparametrized_params = ["loc", "scale", "coupling"]  # noqa: RUF012

    def __init__(
        self,
        elimination: Elimination,
        loc: Any,
        scale: Any,
        coupling: Any,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.elimination = elimination
        self.loc, self.scale, self.coupling = loc, scale, coupling
        super().__init__(jnp.shape(loc)[:-1], jnp.shape(loc)[-1:], validate_args=validate_args)

    @property
    def _factor(self) -> Factor:
        return Factor(self.scale**-2, self.coupling)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw by one sparse triangular solve."""
        noise = jax.random.normal(key, self.shape(sample_shape), jnp.result_type(self.loc))
        return self.loc + self.elimination.solve_upper(self._factor, noise)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the log density of `value`, shape (..., n_nodes)."""
        white = self.elimination.multiply_upper(self._factor, value - self.loc)
        inner = -0.5 * white**2 - jnp.log(self.scale) - 0.5 * np.log(2 * np.pi)
        return inner.sum(-1)

    @property
    def mean(self) -> jax.Array:
        """The location."""
        return self.loc

    @property
    def variance(self) -> jax.Array:
        """Marginal variances, shape (..., n_nodes)."""
        return self.elimination.selected_inverse(self._factor)[0]
