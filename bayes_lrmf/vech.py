"""Symmetric matrices as vectors of their distinct entries: the half-vectorisation.

Entries stand column by column of the upper triangle, so that those of a leading block come first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["congruence", "multiplicity", "unvech", "vech"]


@lru_cache(maxsize=64)
def _places(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row and column of each distinct entry, and the entry of each place of the matrix."""
    col, row = np.tril_indices(size)
    entry = np.empty((size, size), np.int64)
    entry[row, col] = entry[col, row] = np.arange(len(row))
    return row, col, entry.ravel()


def vech(matrices: np.ndarray) -> np.ndarray:
    """Return the entries on and above the diagonal, shape (..., n (n + 1) / 2).

    Parameters
    ----------
    matrices : array, shape (..., n, n)
        Symmetric.
    """
    size = matrices.shape[-1]
    row, col, _ = _places(size)
    flat = matrices.reshape(*matrices.shape[:-2], size * size)
    return np.take(flat, row * size + col, axis=-1)


def unvech(entries: np.ndarray) -> np.ndarray:
    """Return the symmetric matrices, shape (..., n, n), of these entries."""
    # n (n + 1) = 2 F.
    size = int(np.sqrt(2 * entries.shape[-1]))
    flat = np.take(entries, _places(size)[2], axis=-1)
    return flat.reshape(*entries.shape[:-1], size, size)


def multiplicity(size: int) -> np.ndarray:
    """Return how often each entry stands in the matrix, so that ``tr(A B)`` is a weighted sum."""
    row, col, _ = _places(size)
    return np.where(row == col, 1.0, 2.0)


def congruence(a: np.ndarray) -> np.ndarray:
    """Return C with ``vech(a S a') = C vech(S)`` for every symmetric S.

    Parameters
    ----------
    a : array, shape (n, m)

    Returns
    -------
    array, shape (n (n + 1) / 2, m (m + 1) / 2)
    """
    rows, cols, _ = _places(a.shape[0])
    first, second, _ = _places(a.shape[1])
    one, other = a[rows], a[cols]
    crossed = one[:, second] * other[:, first]
    return one[:, first] * other[:, second] + np.where(first == second, 0.0, crossed)
