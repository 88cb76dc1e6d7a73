"""Observed cells, sorted, and the one rule when a dense int8 matrix holds them instead."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

__all__ = ["Cells", "cell_order", "held", "matrix_cells"]

_DENSE_FROM = 0.2  # well above where a byte per cell takes less than nine per observed one


@dataclass(frozen=True, eq=False)
class Cells:
    """Observed cells, sorted by row, then by column; the arrays are read-only.

    Attributes
    ----------
    rows, cols : ndarray of int32, shape (n_observed,)
    successes : ndarray of int8 (0/1 tables) or float32, shape (n_observed,)
    trials : ndarray of float32, shape (n_observed,), or None
        None when every cell has one trial.
    """

    rows: np.ndarray
    cols: np.ndarray
    successes: np.ndarray
    trials: np.ndarray | None

    def __post_init__(self) -> None:
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None:
                object.__setattr__(self, field.name, read_only(array))

    def taken(self, at: np.ndarray) -> Cells:
        """Return the cells at these indices, or under this boolean mask."""
        trials = None if self.trials is None else self.trials[at]
        return Cells(self.rows[at], self.cols[at], self.successes[at], trials)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view of `array` that cannot be written to."""
    view = array.view()
    view.setflags(write=False)
    return view


def matrix_cells(matrix: np.ndarray) -> Cells:
    """Return the cells of a matrix that are not negative, with its values as successes."""
    rows, cols, values = [], [], []
    for start in range(0, len(matrix), 1024):  # in blocks, since nonzero yields int64
        block = matrix[start : start + 1024]
        row, col = np.nonzero(block >= 0)
        rows.append((row + start).astype(np.int32))
        cols.append(col.astype(np.int32))
        values.append(block[row, col])
    none = np.zeros(0, dtype=np.int32)
    return Cells(
        np.concatenate([none, *rows]),
        np.concatenate([none, *cols]),
        np.concatenate([none.astype(matrix.dtype), *values]),
        None,
    )


def cell_order(rows: np.ndarray, cols: np.ndarray, n_items: int) -> np.ndarray | None:
    """Return the indices that sort cells by row, then by column, or None if they are sorted.

    Repeated cells keep their order.
    """
    flat = rows.astype(np.int64) * n_items + cols
    if (flat[1:] >= flat[:-1]).all():
        return None
    return np.argsort(flat, kind="stable")


def held(
    content: np.ndarray | Cells, shape: tuple[int, int], *, full_trials: np.ndarray
) -> tuple[np.ndarray | None, Cells | None]:
    """Return a table's responses as (dense, None) or (None, cells).

    Parameters
    ----------
    content : ndarray of int8, shape (n_models, n_items), or Cells
        0, 1 or -1; or sorted cells, each once.
    shape : tuple
        (n_models, n_items).
    full_trials : ndarray, shape (n_items,)
        Trials of a full run of each item: a table is 0/1 only if all are 1.
    """
    size = max(shape[0] * shape[1], 1)
    if isinstance(content, np.ndarray):
        if int((content >= 0).sum()) >= _DENSE_FROM * size:
            return np.ascontiguousarray(content), None
        return None, matrix_cells(content)
    # A zero below zero is one as well.
    successes, trials = content.successes + content.successes.dtype.type(0), content.trials
    if trials is not None and (trials == 1).all():
        trials = None
    is_binary = trials is None and (full_trials == 1).all()
    if is_binary and ((successes == 0) | (successes == 1)).all():
        successes = successes.astype(np.int8, copy=False)
        if len(successes) >= _DENSE_FROM * size:
            dense = np.full(shape, -1, dtype=np.int8)
            dense[content.rows, content.cols] = successes
            return dense, None
    return None, Cells(content.rows, content.cols, successes, trials)
