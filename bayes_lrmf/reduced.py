"""Gaussians on graphs that fill in: exact down to a Schur complement, by iteration beyond.

Parents drawn from anywhere make a graph whose treewidth grows with its size, so that no order of
elimination is linear. Nodes of low degree still are eliminated exactly; the Schur complement of
the few that are left is sparse and well conditioned, and is solved by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, cg

from bayes_lrmf.elimination import Elimination, Factor

__all__ = ["Estimate", "ReducedGaussian", "reduced_gaussian"]

_N_LANCZOS = 40


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class ReducedGaussian:
    """A centred Gaussian of sparse precision Q, most of it eliminated.

    Attributes
    ----------
    order : Elimination
        With the nodes that are kept.
    factor : Factor
        D and L; on nodes that are kept, the diagonal of the Schur complement.
    schur : scipy sparse array, shape (n_kept, n_kept)
        The Schur complement, scaled to a diagonal of ones.
    tolerance : float
        Residual norm at which a solution is left, relative to that of all right sides together.
    """

    order: Elimination
    factor: Factor
    schur: sp.csr_array
    tolerance: float

    @property
    def _root(self) -> np.ndarray:
        return np.sqrt(self.factor.diagonal[self.order.kept])

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Return ``Q^-1 right``, shape (..., n_nodes).

        Parameters
        ----------
        right : array, shape (..., n_nodes)
            For a right side drawn with covariance Q the solution is a draw of the Gaussian
            (perturb and solve; Papandreou and Yuille, 2010).

        Raises
        ------
        numpy.linalg.LinAlgError
            If conjugate gradients do not converge: Q is not positive definite, or nearly so.
        """
        kept = self.order.kept
        x = self.order.forward(self.factor.lower, right)
        inner = x[..., kept]
        x = x / self.factor.diagonal
        x[..., kept] = self._solve_kept(inner)
        return np.asarray(self.order.backward(self.factor.lower, x))

    def _solve_kept(self, right: np.ndarray) -> np.ndarray:
        m = len(self.order.kept)
        if not m:
            return right
        flat = np.moveaxis(right / self._root, -1, 0).reshape(m, -1)
        shape = (flat.size, flat.size)

        # All right sides are one system, block-diagonal, of the same spectrum.
        def product(x: np.ndarray) -> np.ndarray:
            return np.asarray(self.schur @ x.reshape(flat.shape)).ravel()

        operator = LinearOperator(shape, matvec=product, dtype=np.float64)
        found, info = cg(operator, flat.ravel(), rtol=self.tolerance, atol=0.0, maxiter=10 * m)
        if info:
            raise np.linalg.LinAlgError("conjugate gradients did not converge")
        back = found.reshape(m, *right.shape[:-1])
        return np.moveaxis(back, 0, -1) / self._root

    def log_determinant(self, *, rng: np.random.Generator, n_probes: int = 32) -> Estimate:
        """Return the log-determinant of Q: exact but for that of the scaled Schur complement.

        Parameters
        ----------
        rng : numpy Generator
        n_probes : int
            Random directions of stochastic Lanczos quadrature.

        Raises
        ------
        numpy.linalg.LinAlgError
            If Q is not positive definite.

        References
        ----------
        Ubaru, Chen and Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature.
        """
        exact = float(np.log(self.factor.diagonal).sum())
        m = len(self.order.kept)
        if not m:
            return Estimate(exact, 0.0)
        probes = rng.choice([-1.0, 1.0], (m, n_probes))
        found = m * _log_quadrature(self.schur, probes)
        error = float(found.std(ddof=1) / np.sqrt(n_probes)) if n_probes > 1 else np.nan
        return Estimate(exact + float(found.mean()), error)

    def variances(self, right: Iterable[np.ndarray]) -> np.ndarray:
        """Return estimated marginal variances, shape (n_nodes,).

        By the law of total variance: a kept node's variance given the other kept ones, any other
        node's given all that are kept, are exact; only the spread of the means is that of draws.

        Parameters
        ----------
        right : iterable of arrays, shape (n_nodes,)
            Right sides drawn with covariance Q, as for draws by `solve`: one for each draw.

        References
        ----------
        Siden, Lindgren, Bolin and Villani (2018), Efficient covariance approximations for large
        sparse precision matrices.
        """
        kept, low = self.order.kept, self.factor.lower
        alone = self.factor.diagonal.copy()
        alone[kept] = np.inf
        variance, _ = self.order.selected_inverse(Factor(alone, low))
        variance[kept] = 1 / self.factor.diagonal[kept]
        square, n_draws = np.zeros_like(variance), 0
        for one in right:
            mean = np.zeros_like(variance)
            mean[kept] = self._solve_kept(self.order.forward(low, one)[kept])
            mean = self.order.backward(low, mean)
            white = mean[kept] * self._root
            mean[kept] = (white - self.schur @ white) / self._root
            square, n_draws = square + mean**2, n_draws + 1
        return np.asarray(variance + square / max(n_draws, 1))


def _log_quadrature(matrix: sp.csr_array, probes: np.ndarray) -> np.ndarray:
    """Return ``v' log(A) v / v'v`` for each column v, by Lanczos without reorthogonalisation."""
    v = probes / np.linalg.norm(probes, axis=0)
    before, off = np.zeros_like(v), np.zeros(v.shape[1])
    n_steps = min(_N_LANCZOS, len(probes))
    diagonals, offs = np.empty((2, n_steps, v.shape[1]))
    for k in range(n_steps):
        w = matrix @ v - off * before
        diagonals[k] = (v * w).sum(0)
        w -= diagonals[k] * v
        off = np.linalg.norm(w, axis=0)
        offs[k] = off
        before, v = v, w / np.maximum(off, np.finfo(float).tiny)
    out = np.empty(v.shape[1])
    for j in range(v.shape[1]):
        # An invariant subspace ends the recursion: what follows has no weight.
        short = np.flatnonzero(offs[:-1, j] < 1e-12)
        size = int(short[0]) + 1 if len(short) else n_steps
        value, vector = eigh_tridiagonal(diagonals[:size, j], offs[: size - 1, j])
        if value[0] <= 0:
            raise np.linalg.LinAlgError("the matrix is not positive definite")
        out[j] = vector[0] ** 2 @ np.log(value)
    return out


def reduced_gaussian(
    order: Elimination, diagonal: np.ndarray, off_diagonal: np.ndarray, *, tolerance: float = 1e-10
) -> ReducedGaussian:
    """Eliminate what an order eliminates of a precision matrix.

    Parameters
    ----------
    order : Elimination
        Of `eliminate` with a ``max_degree``.
    diagonal : array, shape (n_nodes,)
    off_diagonal : array, shape (n_entries,)
        As `Elimination.factor` takes them.
    tolerance : float
        Of conjugate gradients.

    Returns
    -------
    ReducedGaussian

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is seen not to be positive definite.
    """
    d, a = order.reduce(diagonal, off_diagonal)
    if not (d > 0).all():
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    kept, m = order.kept, len(order.kept)
    stop = order.rounds[-1].stop if order.rounds else 0
    place = np.zeros(order.n_nodes, np.int64)
    place[kept] = np.arange(m)
    root = np.sqrt(d)
    row, col = order.owner[stop:], order.neighbour[stop:]
    scaled = a[stop:] / (root[row] * root[col])
    half = sp.coo_array((scaled, (place[row], place[col])), shape=(m, m))
    schur = sp.csr_array(half + half.T + sp.eye_array(m))
    lower = a / d[order.owner]
    lower[stop:] = 0.0
    return ReducedGaussian(order, Factor(d, lower), schur, tolerance)
