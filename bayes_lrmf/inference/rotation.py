"""Loadings of one orientation: a slice through the rotations of a factor model."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["RotationSlice"]


class RotationSlice:
    r"""Loadings X for which :math:`X S^{-2} X_0'` is symmetric, a linear condition.

    Where a density does not change under rotations of X (and of what goes with it), its integral
    over all X is that over the slice, times the volume of the rotations of each X:
    :math:`\prod_{i<j}(s_i + s_j)` of the eigenvalues of that matrix.

    Parameters
    ----------
    reference : array, shape (K, n_items)
        Loadings X0 in the slice.
    scale : array
        S, which broadcasts to the loadings.
    """

    def __init__(self, reference: np.ndarray, scale: Any) -> None:
        self.reference, self.scale = reference, scale
        self.tangent = self._tangent()

    @property
    def rank(self) -> int:
        """Number of factors."""
        return len(self.reference)

    def _tangent(self) -> np.ndarray:
        """Return an orthonormal basis of the rotations of the reference, (r, K, n_items)."""
        white = self.reference / self.scale
        first, second = np.triu_indices(self.rank, 1)
        turned = np.zeros((len(first), *white.shape))
        at = np.arange(len(first))
        turned[at, first], turned[at, second] = white[second], -white[first]
        basis = np.linalg.qr(turned.reshape(len(first), white.size).T)[0]
        return basis.T.reshape(turned.shape)

    def split(self, z: Any) -> tuple[Any, Any]:
        """Return what of z, in units of the scale, lies in the slice, and coordinates of the rest.

        The rest, shape (r,), wants a standard normal density of its own.
        """
        along = jnp.tensordot(self.tangent, z, 2)
        return z - jnp.tensordot(along, self.tangent, 1), along

    def log_volume(self, loading: Any) -> Any:
        """Return the log volume of the rotations of loadings in the slice, but for a constant."""
        if self.rank == 1:
            return 0.0
        square = (loading / self.scale**2) @ self.reference.T
        same = np.eye(self.rank)
        first, second = np.triu_indices(self.rank, 1)
        i, j, k, m = first[:, None], second[:, None], first[None], second[None]
        matrix = square[i, k] * same[j, m] - square[i, m] * same[j, k]
        matrix = matrix - square[j, k] * same[i, m] + square[j, m] * same[i, k]
        return jnp.linalg.slogdet(matrix)[1]
