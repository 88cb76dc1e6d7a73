"""The table of responses: read, validate, write; dense int8 or sparse inside."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bayes_lrmf.cells import Cells, cell_order, held, matrix_cells, read_only
from bayes_lrmf.checks import InputError, one_of, whole_number
from bayes_lrmf.layouts import counted, labels, long_columns, named, parse, wide_columns
from bayes_lrmf.tables import MOST_COLUMNS, Table, read_table, table_of_frame, write_table

__all__ = [
    "AVERAGE",
    "Cells",
    "Responses",
    "read_responses",
    "responses_from_frame",
    "write_responses",
]

AVERAGE = "average"
"""Name of the mean over benchmarks in predictions, which no benchmark may have."""

_COUNTED_CELLS = 2**24
_WIDE_CELLS = 10_000_000  # a sparse table larger than this is written long


@dataclass(frozen=True, eq=False, repr=False)
class Responses:
    """Which model had how many successes in how many trials on which item.

    Exactly one of `dense` and `cells` holds the responses; `to_cells` serves both. The arrays
    are read-only: every method returns another table.

    Attributes
    ----------
    models : ndarray of object (str), shape (n_models,)
    items : pandas.DataFrame
        Columns benchmark, item and trials: those of a full run of the item, which are the most
        common observed ones (the larger of equals).
    dense : ndarray of int8, shape (n_models, n_items), or None
        0, 1, or -1 for not run; for 0/1 tables with at least a fifth of the cells observed.
    cells : Cells or None
        For all other tables.
    unevaluated : tuple of str
        Models of the file without a result.
    notes : tuple of str
        One line each: what reading dropped or merged, and why.
    """

    models: np.ndarray
    items: pd.DataFrame
    dense: np.ndarray | None
    cells: Cells | None
    unevaluated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.dense is None) == (self.cells is None):
            raise ValueError("give exactly one of dense and cells")
        object.__setattr__(self, "models", read_only(self.models))
        if self.dense is not None:
            if self.dense.shape != self.shape:
                raise ValueError(f"dense has shape {self.dense.shape}, not {self.shape}")
            object.__setattr__(self, "dense", read_only(self.dense))

    def __repr__(self) -> str:
        kind = "0/1" if self.is_binary else "counts"
        holding = "sparse" if self.dense is None else "dense"
        return (
            f"Responses({self.n_models:,} models x {self.n_items:,} items of "
            f"{len(self.benchmarks):,} benchmarks, {kind}, {self.density:.1%} observed, {holding})"
        )

    @property
    def n_models(self) -> int:
        """Number of rows."""
        return len(self.models)

    @property
    def n_items(self) -> int:
        """Number of columns."""
        return len(self.items)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_models, n_items)."""
        return self.n_models, self.n_items

    @cached_property
    def n_observed(self) -> int:
        """Number of observed cells."""
        return int(self.n_results_of_item.sum())

    @cached_property
    def n_results_of_item(self) -> np.ndarray:
        """Number of observed cells of each item, shape (n_items,)."""
        if self.dense is None:
            return np.bincount(self.to_cells().cols, minlength=self.n_items)
        step = max(1, _COUNTED_CELLS // max(self.n_models, 1))
        starts = range(0, self.n_items, step)
        counts = [(self.dense[:, start : start + step] >= 0).sum(0) for start in starts]
        return np.concatenate([np.zeros(0, np.int64), *counts])

    @cached_property
    def n_results_of_model(self) -> np.ndarray:
        """Number of observed cells of each model, shape (n_models,)."""
        if self.dense is None:
            return np.bincount(self.to_cells().rows, minlength=self.n_models)
        step = max(1, _COUNTED_CELLS // max(self.n_items, 1))
        starts = range(0, self.n_models, step)
        counts = [(self.dense[start : start + step] >= 0).sum(1) for start in starts]
        return np.concatenate([np.zeros(0, np.int64), *counts])

    @property
    def density(self) -> float:
        """Share of cells that are observed."""
        return self.n_observed / max(self.n_models * self.n_items, 1)

    @property
    def is_binary(self) -> bool:
        """Whether every response is 0 or 1 in one trial."""
        return self.cells is None or self.cells.successes.dtype == np.int8

    @cached_property
    def benchmarks(self) -> np.ndarray:
        """Names of the benchmarks in order of first appearance, object array of str."""
        return np.array(list(pd.unique(self.items["benchmark"])), dtype=object)

    @cached_property
    def benchmark_index(self) -> np.ndarray:
        """Index of each item's benchmark into `benchmarks`, int32, shape (n_items,)."""
        return np.asarray(pd.factorize(self.items["benchmark"])[0], dtype=np.int32)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.models)}

    def to_cells(self) -> Cells:
        """Return the observed cells, however they are held."""
        if self.cells is not None:
            return self.cells
        assert self.dense is not None
        return matrix_cells(self.dense)

    def select_models(self, names: Iterable[str]) -> Responses:
        """Return the table of these models, in this order; every item stays.

        Raises
        ------
        InputError
            If a name is unknown or stands twice.
        """
        rows = self._rows_of(names)
        again = pd.Series(rows).duplicated()
        if again.any():
            name = self.models[rows[again.argmax()]]
            raise InputError(f"model {name!r} is selected twice", fix="name each model once")
        return self._taken(rows, np.arange(self.n_items))

    def select_items(self, which: Any) -> Responses:
        """Return the table of some items; every model stays.

        Parameters
        ----------
        which : array_like
            A boolean mask of shape (n_items,), or indices from 0 in the order wanted.

        Raises
        ------
        InputError
            If the mask has another shape, or an index is outside the table or stands twice.
        """
        cols = np.asarray(which)
        if cols.dtype == bool:
            if cols.shape != (self.n_items,):
                raise InputError(
                    f"the mask has shape {cols.shape}", fix=f"give one of shape ({self.n_items},)"
                )
            cols = np.flatnonzero(cols)
        cols = _checked_index(cols, self.n_items, "item")
        if len(np.unique(cols)) < len(cols):
            raise InputError("an item is selected twice", fix="give each index once")
        return self._taken(np.arange(self.n_models), cols)

    def hide(self, models: Iterable[str] | None = None, cells: Any = None) -> Responses:
        """Return a copy without some responses; all models and items stay, in order.

        Parameters
        ----------
        models : iterable of str, optional
            Models whose every cell is hidden.
        cells : ndarray of bool, shape (n_models, n_items), or pair of index arrays, optional
            Cells to hide, as a mask or as (rows, cols); unobserved ones are ignored.

        Raises
        ------
        InputError
            If a model is unknown, a mask has another shape or an index is outside the table.
        """
        rows = self._rows_of(() if models is None else models)
        where = self._where(cells)
        if self.dense is not None:
            dense = self.dense.copy()
            dense[rows] = -1
            dense[where] = -1
            return self._with(dense)
        shown = self.to_cells()
        is_shown = ~np.isin(shown.rows, rows)
        if isinstance(where, tuple):
            flat = shown.rows.astype(np.int64) * self.n_items + shown.cols
            is_shown &= ~np.isin(flat, where[0] * self.n_items + where[1])
        else:
            is_shown &= ~where[shown.rows, shown.cols]
        return self._with(shown.taken(is_shown))

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return successes and observed trials, each float64 of shape (n_models, n_benchmarks)."""
        shape = (self.n_models, len(self.benchmarks))
        if self.dense is not None:
            successes, trials = np.zeros(shape), np.zeros(shape)
            for k in range(shape[1]):
                block = self.dense[:, self.benchmark_index == k]
                successes[:, k] = (block == 1).sum(axis=1)
                trials[:, k] = (block >= 0).sum(axis=1)
            return successes, trials
        cells = self.to_cells()
        flat = cells.rows.astype(np.int64) * shape[1] + self.benchmark_index[cells.cols]
        both = [
            np.bincount(flat, weights=weights, minlength=shape[0] * shape[1])
            for weights in (cells.successes, cells.trials)
        ]
        return both[0].reshape(shape), both[1].astype(np.float64).reshape(shape)

    def matrices(self, names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return successes and trials of models as dense matrices; others have no trials.

        Parameters
        ----------
        names : iterable of str
            Models of the table or not, each once.

        Returns
        -------
        successes, trials : ndarray of float32, shape (n_names, n_items)
        """
        row_of = np.array([self._row_of.get(name, -1) for name in names], dtype=np.int64)
        successes: np.ndarray = np.zeros((len(row_of), self.n_items), np.float32)
        trials: np.ndarray = np.zeros_like(successes)
        inside = np.flatnonzero(row_of >= 0)
        if self.dense is not None:
            values = self.dense[row_of[inside]]
            trials[inside] = values >= 0
            successes[inside] = values > 0
            return successes, trials
        cells = self.to_cells()
        position = np.full(self.n_models, -1)
        position[row_of[inside]] = inside
        at = position[cells.rows]
        mine = at >= 0
        successes[at[mine], cells.cols[mine]] = cells.successes[mine]
        trials[at[mine], cells.cols[mine]] = 1.0 if cells.trials is None else cells.trials[mine]
        return successes, trials

    def to_frame(self) -> pd.DataFrame:
        """Return one line per observed cell: model, benchmark, item, successes, trials."""
        cells = self.to_cells()
        trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials
        return pd.DataFrame(
            {
                "model": pd.array(self.models, dtype="str").take(cells.rows),
                "benchmark": self.items["benchmark"].array.take(cells.cols),
                "item": self.items["item"].array.take(cells.cols),
                "successes": cells.successes,
                "trials": trials.astype(np.int64),
            }
        )

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of names and responses in their order, without notes."""
        items = self.items
        names = [*self.models, "", *self.unevaluated, "", *items["benchmark"], "", *items["item"]]
        digest = hashlib.sha256("\0".join(names).encode())
        digest.update(items["trials"].to_numpy("<i8").tobytes())
        for block in self._blocks(1024):
            kind = "<i1" if self.is_binary else "<f4"
            trials = None if block.trials is None else block.trials.astype("<f4")
            for values in (block.rows.astype("<i4"), block.cols.astype("<i4")):
                digest.update(values.tobytes())
            digest.update(block.successes.astype(kind).tobytes())
            digest.update(b"" if trials is None else trials.tobytes())
        return digest.hexdigest()

    def _blocks(self, size: int) -> Iterator[Cells]:
        starts = range(0, self.n_models, size)
        if self.dense is not None:
            yield from (matrix_cells(self.dense[start : start + size]) for start in starts)
            return
        cells = self.to_cells()
        for start in starts:
            first, last = np.searchsorted(cells.rows, [start, start + size])
            block = cells.taken(np.arange(first, last))
            yield replace(block, rows=block.rows - start)

    def _rows_of(self, names: Iterable[str]) -> np.ndarray:
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in self._row_of:
                one_of(name, self._row_of, name="model")
        return np.array([self._row_of[name] for name in wanted], dtype=np.int64)

    def _where(self, cells: Any) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        pair = ((), ()) if cells is None else cells
        if isinstance(pair, (tuple, list)) and len(pair) == 2:
            rows = _checked_index(pair[0], self.n_models, "row")
            cols = _checked_index(pair[1], self.n_items, "column")
            if len(rows) != len(cols):
                raise InputError(
                    f"{len(rows):,} rows and {len(cols):,} columns name no cells",
                    fix="give as many rows as columns",
                )
            return rows, cols
        mask = np.asarray(cells)
        if mask.dtype != bool or mask.shape != self.shape:
            raise InputError(
                f"the mask of cells is {mask.dtype} of shape {mask.shape}",
                fix=f"give booleans of shape {self.shape}, or a pair (rows, cols)",
            )
        return mask

    def _with(self, content: np.ndarray | Cells) -> Responses:
        full_trials = self.items["trials"].to_numpy()
        dense, cells = held(content, self.shape, full_trials=full_trials)
        return replace(self, dense=dense, cells=cells)

    def _taken(self, rows: np.ndarray, cols: np.ndarray) -> Responses:
        items = self.items.iloc[cols].reset_index(drop=True)
        if self.dense is not None:
            content: np.ndarray | Cells = self.dense[rows][:, cols]
        else:
            content = self.to_cells()
            new_rows = _new_positions(rows, self.n_models)[content.rows]
            new_cols = _new_positions(cols, self.n_items)[content.cols]
            kept = np.flatnonzero((new_rows >= 0) & (new_cols >= 0))
            order = cell_order(new_rows[kept], new_cols[kept], len(cols))
            kept = kept if order is None else kept[order]
            content = replace(content.taken(kept), rows=new_rows[kept], cols=new_cols[kept])
        dense, cells = held(
            content, (len(rows), len(items)), full_trials=items["trials"].to_numpy()
        )
        return replace(self, models=self.models[rows], items=items, dense=dense, cells=cells)


def read_responses(path: str | os.PathLike[str], *, fraction_trials: int = 100) -> Responses:
    """Read a table of responses from CSV or Parquet; its columns say which layout it has.

    Wide: model, then one column benchmark:item each. Long: model, benchmark, item, response.
    Counts: model, benchmark, successes, trials, where each benchmark is one item "all", unless
    a column item names them. An empty cell was not run.

    Parameters
    ----------
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq.
    fraction_trials : int
        An item with a response strictly between 0 and 1 is read as `fraction_trials` trials of
        which `fraction_trials` times the response, not rounded, are successes.

    Returns
    -------
    Responses
        With a note on whatever was dropped, merged or stripped.

    Raises
    ------
    InputError
        If the file cannot be read, columns do not fit a layout, a name is missing, a value is
        no response, two results of one cell disagree, or there is no result.
    """
    table = read_table(
        path, key="model", text=("model", "benchmark", "item"), what="the table of responses"
    )
    return _responses_of(table, fraction_trials)


def responses_from_frame(
    frame: pd.DataFrame, *, fraction_trials: int = 100, where: str | None = None
) -> Responses:
    """Return the responses in a data frame of any layout that `read_responses` takes.

    Parameters
    ----------
    frame : pandas.DataFrame
        Models may be a column or the index; NaN and None were not run.
    fraction_trials : int
        As for `read_responses`.
    where : str, optional
        What errors call the frame.

    Raises
    ------
    InputError
        As `read_responses`.
    """
    return _responses_of(table_of_frame(frame, key="model", name=where), fraction_trials)


def write_responses(responses: Responses, path: str | os.PathLike[str]) -> None:
    """Write a table so that `read_responses` reads it back exactly.

    A 0/1 table is written wide, unless it is sparse and huge; a table whose benchmarks each
    have one item "all" as counts; any other long, with successes and trials. Models without a
    result get a line that is empty but for names, and are read back as unevaluated.

    Parameters
    ----------
    responses : Responses
        Items without any result are not read back.
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq; it is replaced whole.

    Raises
    ------
    InputError
        If the suffix is unknown or the folder cannot be written.
    """
    # Wide column names are split at the first colon.
    has_colon = any(":" in benchmark for benchmark in responses.benchmarks)
    is_small = responses.n_models * responses.n_items <= _WIDE_CELLS
    is_wide = responses.n_items < MOST_COLUMNS and (is_small or responses.dense is not None)
    names = [*responses.models, *responses.unevaluated]
    if responses.is_binary and not has_colon and is_wide:
        matrix = responses.dense
        if matrix is None:
            cells = responses.to_cells()
            matrix = np.full(responses.shape, -1, dtype=np.int8)
            matrix[cells.rows, cells.cols] = cells.successes
        write_table(wide_columns(names, responses.items, matrix), path)
    else:
        write_table(long_columns(names, responses.items, responses.to_cells()), path)


def _responses_of(table: Table, fraction_trials: int) -> Responses:
    whole_number(fraction_trials, name="fraction_trials")
    parsed = parse(table, fraction_trials=fraction_trials)
    models, items, notes = np.array(parsed.models, dtype=object), parsed.items, parsed.notes
    if (items["benchmark"] == AVERAGE).any():
        raise InputError(
            f"a benchmark is named {AVERAGE!r}, as the mean over benchmarks is in predictions",
            where=table.name,
            fix="give it another name",
        )
    if isinstance(parsed.content, Cells):
        results_of_model = np.bincount(parsed.content.rows, minlength=len(models))
        results_of_item = np.bincount(parsed.content.cols, minlength=len(items))
    else:
        results_of_model = (parsed.content >= 0).sum(axis=1)
        results_of_item = (parsed.content >= 0).sum(axis=0)
    if not results_of_model.any():
        raise InputError("no result at all", where=table.name, fix="fill in some responses")
    silent = tuple(models[results_of_model == 0])
    unused = labels(items[results_of_item == 0])
    notes.extend(silence_notes(silent, unused))
    dense, cells = held(
        parsed.content, (len(models), len(items)), full_trials=items["trials"].to_numpy()
    )
    responses = Responses(models, items, dense, cells, silent, tuple(notes))
    if not silent and not unused:
        return responses
    return responses._taken(np.flatnonzero(results_of_model), np.flatnonzero(results_of_item))


def silence_notes(models: Sequence[str], items: Sequence[str]) -> tuple[str, ...]:
    """Return a line on models, and one on items, without a result."""
    notes = []
    if models:
        notes.append(f"{counted(models, 'model')} without a result: {named(models)}")
    if items:
        notes.append(f"{counted(items, 'item')} without a result dropped: {named(items)}")
    return tuple(notes)


def _checked_index(index: Any, size: int, name: str) -> np.ndarray:
    array = np.atleast_1d(np.asarray(index))
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{name} indices are {array.dtype} of shape {array.shape}",
            fix="give a list of whole numbers",
        )
    is_outside = (array < 0) | (array >= size)
    if is_outside.any():
        raise InputError(
            f"{name} index {array[is_outside][0]} is outside the table",
            fix=f"give 0 to {size - 1}",
        )
    return array.astype(np.int64)


def _new_positions(kept: np.ndarray, size: int) -> np.ndarray:
    positions = np.full(size, -1, dtype=np.int32)
    positions[kept] = np.arange(len(kept), dtype=np.int32)
    return positions
