"""The lineage prior as a NumPyro distribution: a proper, scaled Laplacian Gaussian Markov field."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from numpyro import distributions as dist
from numpyro.distributions.util import promote_shapes, validate_sample

from bayes_lrmf.checks import InputError
from bayes_lrmf.elimination import Elimination, Factor, eliminate

__all__ = ["KAPPA_RANGE", "LaplacianGraph", "LineageGMRF"]

KAPPA_RANGE = (1e-6, 1e4)
"""The range of kappa over which log-determinants are tabulated."""

_N_NODES_OF_TABLE = 128
_VALUES_AT_ONCE = 2_000_000


class LaplacianGraph:
    """What the Laplacian prior needs to know of a graph, worked out once.

    Parameters
    ----------
    adjacency : scipy sparse array, shape (n_nodes, n_nodes)
        Symmetric, non-negative edge weights; no self-loops. Isolated nodes are welcome.

    Notes
    -----
    ``log|L + kappa I|`` and the mean log marginal variance are analytic in log kappa in a strip of
    half-width pi (their singularities lie at -lambda_j), so 128 Chebyshev nodes give them to about
    1e-12 over `KAPPA_RANGE`; each node costs one sparse factorisation.
    """

    def __init__(self, adjacency: Any) -> None:
        matrix = sp.coo_array(adjacency, copy=True)
        matrix.sum_duplicates()
        if matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"adjacency has shape {matrix.shape}", fix="give a square matrix")
        difference = abs(matrix - matrix.T)
        if difference.nnz and difference.max() > 0:
            raise InputError("adjacency is not symmetric", fix="give A + A' of a directed graph")
        upper = sp.coo_array(sp.triu(matrix, k=1))
        if matrix.nnz and (not np.isfinite(matrix.data).all() or matrix.data.min() < 0):
            raise InputError("adjacency has a negative weight", fix="give weights above 0")
        if matrix.diagonal().any():
            raise InputError("adjacency has a self-loop", fix="set its diagonal to 0")
        keep = upper.data > 0
        self.n_nodes: int = matrix.shape[0]
        self.rows = upper.row[keep].astype(np.int32)
        self.cols = upper.col[keep].astype(np.int32)
        self.weights = upper.data[keep].astype(np.float64)
        self.degree = np.zeros(self.n_nodes)
        np.add.at(self.degree, self.rows, self.weights)
        np.add.at(self.degree, self.cols, self.weights)

    def __repr__(self) -> str:
        return f"LaplacianGraph({self.n_nodes:,} nodes, {len(self.rows):,} edges)"

    @cached_property
    def elimination(self) -> Elimination:
        """The elimination order of the graph."""
        return eliminate(self.n_nodes, self.rows, self.cols)

    @cached_property
    def off_diagonal(self) -> np.ndarray:
        """Entries of the Laplacian on the pattern of the elimination, shape (n_entries,)."""
        entries = np.zeros(self.elimination.n_entries)
        entries[self.elimination.entry_of(self.rows, self.cols)] = -self.weights
        return entries

    def factor(self, kappa: Any) -> Factor:
        """Return the L D L' factor of ``L + kappa I``; `kappa` may have any batch shape."""
        if isinstance(kappa, (float, np.ndarray)):
            return self.elimination.factor(
                self.degree + np.asarray(kappa)[..., None], self.off_diagonal
            )
        kappa = jnp.asarray(kappa)
        diagonal = jnp.asarray(self.degree, kappa.dtype) + kappa[..., None]
        return self.elimination.factor(diagonal, jnp.asarray(self.off_diagonal, kappa.dtype))

    @cached_property
    def _table(self) -> np.ndarray:
        """Chebyshev coefficients of the log-determinant and of the mean log marginal variance."""
        angle = np.pi * (np.arange(_N_NODES_OF_TABLE) + 0.5) / _N_NODES_OF_TABLE
        low, high = np.log(KAPPA_RANGE)
        kappas = np.exp((high + low) / 2 + (high - low) / 2 * np.cos(angle))
        values = np.empty((2, _N_NODES_OF_TABLE))
        batch = max(1, _VALUES_AT_ONCE // (self.n_nodes + self.elimination.n_entries))
        for start in range(0, len(kappas), batch):
            factor = self.factor(kappas[start : start + batch])
            variance, _ = self.elimination.selected_inverse(factor)
            values[0, start : start + batch] = np.log(factor.diagonal).sum(-1)
            values[1, start : start + batch] = np.log(variance).mean(-1)
        basis = np.cos(np.outer(np.arange(_N_NODES_OF_TABLE), angle))
        coefficients = 2 / _N_NODES_OF_TABLE * values @ basis.T
        coefficients[:, 0] /= 2
        return coefficients

    def log_determinant_and_scale(self, kappa: Any) -> tuple[Any, Any]:
        """Return ``log|L + kappa I|`` and the mean of ``log diag (L + kappa I)^-1``.

        Both are differentiable in `kappa` (any shape); NaN outside `KAPPA_RANGE`. For a number or
        array of NumPy's they are computed by NumPy.
        """
        xp: Any = np if isinstance(kappa, (np.floating, np.ndarray)) else jnp
        kappa = xp.asarray(kappa)
        low, high = np.log(KAPPA_RANGE)
        position = (xp.log(kappa) - (high + low) / 2) / ((high - low) / 2)
        inside = xp.abs(position) < 1
        angle = xp.arccos(xp.where(inside, position, 0.0))
        basis = xp.cos(xp.arange(_N_NODES_OF_TABLE) * angle[..., None])
        both = basis @ xp.asarray(self._table.T, basis.dtype)
        both = xp.where(inside[..., None], both, xp.nan)
        return both[..., 0], both[..., 1]

    def log_determinant_and_gradient(self, kappa: float) -> tuple[float, float, np.ndarray]:
        """Return ``log|L + kappa I|`` and its derivatives, by one factorisation and no table.

        Returns
        -------
        log_determinant, by_kappa : float
        by_weight : array, shape (n_edges,)
            With respect to the weights of the edges: resistances between their ends, grounded by
            kappa.
        """
        factor = self.factor(float(kappa))
        variance, covariance = self.elimination.selected_inverse(factor)
        across = covariance[self.elimination.entry_of(self.rows, self.cols)]
        by_weight = variance[self.rows] + variance[self.cols] - 2 * across
        return float(np.log(factor.diagonal).sum()), float(variance.sum()), by_weight

    def perturbation(self, kappa: float, *, rng: np.random.Generator) -> np.ndarray:
        """Draw with covariance ``L + kappa I``, shape (n_nodes,): a flow along each edge."""
        flow = np.sqrt(self.weights) * rng.standard_normal(len(self.weights))
        out = np.sqrt(kappa) * rng.standard_normal(self.n_nodes)
        out += np.bincount(self.rows, flow, minlength=self.n_nodes)
        return np.asarray(out - np.bincount(self.cols, flow, minlength=self.n_nodes))

    def quadratic_form(self, x: jax.Array, kappa: Any) -> jax.Array:
        """Return ``x' (L + kappa I) x`` as a sum over edges; x has shape (..., n_nodes)."""
        step = x[..., self.rows] - x[..., self.cols]
        edges = (jnp.asarray(self.weights, x.dtype) * step**2).sum(-1)
        return edges + kappa * (x**2).sum(-1)


class LineageGMRF(dist.Distribution):
    r"""Gaussian Markov random field with precision :math:`\tau s (L + \kappa I)`.

    Parameters
    ----------
    graph : LaplacianGraph
        The graph, n_nodes nodes.
    tau : float or array, shape (...)
        Precision. With ``scaled=True`` the geometric mean of the marginal variances is 1 / tau on
        every graph.
    kappa : float or array, shape (...)
        Shrinkage to zero relative to shrinkage along edges, within `KAPPA_RANGE`. Makes the field
        proper and isolated nodes legal: their variance is 1 / (tau s kappa).
    scaled : bool
        Whether ``s = exp(mean log diag (L + kappa I)^-1)`` (Soerbye & Rue 2014) or 1.
    validate_args : bool, optional
        As for any NumPyro distribution.

    Notes
    -----
    Event shape (n_nodes,). One evaluation of `log_prob` is a sum over edges; sampling is one
    sparse triangular solve.
    """

    arg_constraints = {  # noqa: RUF012 (the base class declares it as an instance attribute)
        "tau": dist.constraints.positive,
        "kappa": dist.constraints.interval(*KAPPA_RANGE),
    }
    support = dist.constraints.real_vector
    reparametrized_params = ["tau", "kappa"]  # noqa: RUF012

    def __init__(
        self,
        graph: LaplacianGraph,
        *,
        tau: Any = 1.0,
        kappa: Any = 0.1,
        scaled: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.graph, self.scaled = graph, scaled
        self.tau, self.kappa = promote_shapes(jnp.asarray(tau, float), jnp.asarray(kappa, float))
        batch_shape = jnp.broadcast_shapes(self.tau.shape, self.kappa.shape)
        super().__init__(batch_shape, (graph.n_nodes,), validate_args=validate_args)

    def _precision_scale(self) -> tuple[jax.Array, jax.Array]:
        log_determinant, log_scale = self.graph.log_determinant_and_scale(self.kappa)
        return (self.tau * jnp.exp(log_scale) if self.scaled else self.tau), log_determinant

    @validate_sample
    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the log density of `value`, shape (..., n_nodes)."""
        precision, log_determinant = self._precision_scale()
        n = self.graph.n_nodes
        quadratic = precision * self.graph.quadratic_form(value, self.kappa)
        return 0.5 * (n * jnp.log(precision / (2 * jnp.pi)) + log_determinant - quadratic)

    def color(self, noise: jax.Array) -> jax.Array:
        """Turn white noise of shape (..., n_nodes) into a draw; the inverse of `whiten`."""
        precision, _ = self._precision_scale()
        factor = self.graph.factor(self.kappa)
        return self.graph.elimination.solve_upper(factor, noise) / precision[..., None] ** 0.5

    def whiten(self, value: jax.Array) -> jax.Array:
        """Turn a draw of shape (..., n_nodes) into white noise."""
        precision, _ = self._precision_scale()
        factor = self.graph.factor(self.kappa)
        return self.graph.elimination.multiply_upper(factor, value) * precision[..., None] ** 0.5

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw exactly, by one sparse triangular solve."""
        return self.color(jax.random.normal(key, self.shape(sample_shape)))

    @property
    def mean(self) -> jax.Array:
        """Zero, shape batch + (n_nodes,)."""
        return jnp.zeros(self.shape())

    @property
    def variance(self) -> jax.Array:
        """Marginal variances, shape batch + (n_nodes,)."""
        precision, _ = self._precision_scale()
        diagonal, _ = self.graph.elimination.selected_inverse(self.graph.factor(self.kappa))
        return jnp.broadcast_to(diagonal / precision[..., None], self.shape())

    def precision(self) -> sp.csr_array:
        """Return the sparse precision matrix of an unbatched field."""
        if self.batch_shape:
            raise InputError(f"precision of a batch {self.batch_shape}", fix="index tau and kappa")
        scale, _ = self._precision_scale()
        g = self.graph
        off = sp.coo_array((g.weights, (g.rows, g.cols)), shape=(g.n_nodes, g.n_nodes))
        laplacian = sp.diags_array(g.degree + float(self.kappa)) - off - off.T
        return sp.csr_array(float(scale) * laplacian)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Flatten for JAX: parameters as leaves, the graph as static data."""
        return (self.tau, self.kappa), (self.graph, self.scaled, self.batch_shape)

    @classmethod
    def tree_unflatten(cls, aux_data: Any, params: Any) -> LineageGMRF:
        """Rebuild from the parts given by `tree_flatten`."""
        new = cls.__new__(cls)
        new.graph, new.scaled, batch_shape = aux_data
        new.tau, new.kappa = params
        dist.Distribution.__init__(new, batch_shape, (new.graph.n_nodes,), validate_args=False)
        return new
