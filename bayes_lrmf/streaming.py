"""Tables larger than memory: read from Parquet by row groups, held by the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_lrmf.cells import Cells, matrix_cells
from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import Parsed, parse
from bayes_lrmf.responses import Responses, silence_notes
from bayes_lrmf.tables import read_row_groups

__all__ = ["stream_responses"]

_LEAST_DENSITY = 0.02


def stream_responses(
    path: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None
) -> Responses:
    """Read a Parquet file of 0/1 responses one row group at a time, into a file.

    The table is the one that `read_responses` reads, models and items in order of appearance. Its
    cells lie in a temporary file that the system reads and forgets as it needs memory, and that
    goes when the table does. What is held are names, and the row group that is being read.

    Parameters
    ----------
    path : str or path-like
        A Parquet file of any layout of `read_responses`, in row groups that memory can hold. Long
        files name each result's model, benchmark and item.
    folder : str or path-like, optional
        Where the temporary file goes, a byte for each model and item; by default beside `path`.

    Returns
    -------
    Responses
        With notes on models and items without a result, but none on names that were stripped or
        results that were repeated.

    Raises
    ------
    InputError
        As `read_responses`; for a response that is not 0, 1 or empty; and if there is no room.
    """
    models: dict[str, int] = {}
    items: dict[tuple[str, str], int] = {}
    for parsed in _parsed(path):
        for name, n in zip(parsed.models, _totals(parsed, 0), strict=True):
            models[name] = models.get(name, 0) + int(n)
        for pair, n in zip(_pairs(parsed.items), _totals(parsed, 1), strict=True):
            items[pair] = items.get(pair, 0) + int(n)
    row_of = {name: i for i, name in enumerate(n for n, total in models.items() if total)}
    col_of = {pair: i for i, pair in enumerate(p for p, total in items.items() if total)}
    if not row_of:
        raise InputError("no result at all", where=str(path), fix="fill in some responses")
    density = sum(models.values()) / (len(row_of) * len(col_of))
    if density < _LEAST_DENSITY:
        shape = f"{len(row_of):,} models x {len(col_of):,} items"
        raise InputError(
            f"{density:.2%} of the cells of {shape} observed",
            where=str(path),
            fix="use read_responses, which holds those alone",
        )
    folder = Path(path).parent if folder is None else Path(folder)
    matrix = _room(len(row_of), len(col_of), folder)
    for parsed in _parsed(path):
        _fill(matrix, row_of, col_of, parsed, path)
    table = pd.DataFrame(list(col_of), columns=["benchmark", "item"], dtype="str")
    table["trials"] = 1
    silent = tuple(name for name, total in models.items() if not total)
    unused = [f"{benchmark}:{item}" for (benchmark, item), total in items.items() if not total]
    notes = silence_notes(silent, unused)
    return Responses(np.array(list(row_of), dtype=object), table, matrix, None, silent, notes)


def _parsed(path: str | os.PathLike[str]) -> Iterator[Parsed]:
    names, what = ("model", "benchmark", "item"), "the table of responses"
    for table in read_row_groups(path, key="model", text=names, what=what):
        parsed = parse(table, fraction_trials=2)
        many = (parsed.items["trials"] > 1).to_numpy()
        if many.any():
            item = parsed.items.iloc[int(many.argmax())]
            raise InputError(
                f"{item['benchmark']}:{item['item']} has responses other than 0 and 1",
                where=table.name,
                fix="use read_responses, which reads fractions and counts",
            )
        yield parsed


def _totals(parsed: Parsed, axis: int) -> np.ndarray:
    """Return the number of results of each model, or of each item."""
    if isinstance(parsed.content, Cells):
        at = (parsed.content.rows, parsed.content.cols)[axis]
        return np.bincount(at, minlength=(len(parsed.models), len(parsed.items))[axis])
    return (parsed.content >= 0).sum(1 - axis)


def _fill(
    matrix: np.ndarray,
    row_of: dict[str, int],
    col_of: dict[tuple[str, str], int],
    parsed: Parsed,
    path: str | os.PathLike[str],
) -> None:
    """Enter the results of a row group, unless one is another than what stands there."""
    content = parsed.content
    cells = content if isinstance(content, Cells) else matrix_cells(content)
    rows = np.array([row_of.get(name, -1) for name in parsed.models])[cells.rows]
    cols = np.array([col_of.get(pair, -1) for pair in _pairs(parsed.items)])[cells.cols]
    known = matrix[rows, cols]
    differs = (known >= 0) & (known != cells.successes)
    if differs.any():
        at = int(differs.argmax())
        model = parsed.models[cells.rows[at]]
        item = parsed.items.iloc[int(cells.cols[at])]
        raise InputError(
            f"two results of model {model} on {item['benchmark']}:{item['item']} disagree",
            where=str(path),
            fix="keep one",
        )
    matrix[rows, cols] = cells.successes


def _pairs(items: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return zip(items["benchmark"], items["item"], strict=True)


def _room(n_models: int, n_items: int, folder: Path) -> np.ndarray:
    """Return a matrix of -1 in a temporary file, items one after the other."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".responses-") as file:
            # Written now: a full disk that a mapped file meets later ends the program.
            row = np.full(n_models, -1, np.int8).tobytes()
            for _ in range(n_items):
                file.write(row)
            file.flush()
            matrix = np.memmap(file, np.int8, "r+", shape=(n_items, n_models))
    except OSError as error:
        raise InputError(
            f"no room for {n_models:,} x {n_items:,} responses ({error.strerror})",
            where=str(folder),
            fix="name another folder",
        ) from error
    return np.asarray(matrix).T
