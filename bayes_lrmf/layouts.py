"""The layouts of responses on disk: from a table's columns to checked cells, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from bayes_lrmf.cells import Cells, cell_order, matrix_cells
from bayes_lrmf.checks import InputError, nearest, one_of
from bayes_lrmf.tables import Table

__all__ = [
    "MOST_TRIALS",
    "Parsed",
    "counted",
    "labels",
    "long_columns",
    "named",
    "parse",
    "wide_columns",
]

_LAYOUTS = {
    "long": ("model", "benchmark", "item", "response"),
    "counts": ("model", "benchmark", "successes", "trials"),
    "long with counts": ("model", "benchmark", "item", "successes", "trials"),
}
MOST_TRIALS = 2**24
"""Counts are held in single precision, where larger ones are not exact."""
_RESPONSE = "0, 1, a fraction between them, or leave it empty"


@dataclass(frozen=True, eq=False)
class Parsed:
    """What a table says, models and items without a result included.

    Attributes
    ----------
    models : list of str
    items : pandas.DataFrame
        Columns benchmark, item, trials.
    content : ndarray of int8, shape (n_models, n_items), or Cells
        0, 1 or -1 for not run, from a wide table without fractions; cells from any other.
    notes : list of str
    """

    models: list[str]
    items: pd.DataFrame
    content: np.ndarray | Cells
    notes: list[str]


def parse(table: Table, *, fraction_trials: int) -> Parsed:
    """Return the responses in a table of any layout, checked.

    Parameters
    ----------
    table : Table
        Columns model and benchmark:item (wide), or one of the long layouts.
    fraction_trials : int
        Trials behind a response strictly between 0 and 1.

    Raises
    ------
    InputError
        If columns fit no layout, a name is missing, a value is no response, or two results of
        one cell disagree.
    """
    layout = _layout(table)
    notes: list[str] = []
    rows, models, stripped = table.names("model")
    if layout == "wide":
        items, more = _wide_items(table)
        content: np.ndarray | Cells = _wide_content(
            table, rows, models, items, fraction_trials, notes
        )
    else:
        cols, items, more = _long_items(table, layout)
        content = _long_cells(table, layout, rows, cols, models, items, fraction_trials, notes)
    stripped = [*table.stripped, *stripped, *more]
    if stripped:
        notes.insert(0, f"blanks around {counted(stripped, 'name')} stripped: {named(stripped)}")
    return Parsed(models, items, content, notes + _lookalikes(models))


def named(names: Sequence[str]) -> str:
    """Return the first three names in a row."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def counted(things: Sequence[object], noun: str) -> str:
    """Return how many things there are, in words: ``"1 item"``, ``"2,000 items"``."""
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def labels(items: pd.DataFrame) -> list[str]:
    """Return the items' names as wide columns have them: ``"benchmark:item"``."""
    return list(items["benchmark"] + ":" + items["item"])


def wide_columns(
    models: Sequence[str], items: pd.DataFrame, matrix: np.ndarray
) -> dict[str, pa.Array]:
    """Return columns model and benchmark:item of 0, 1 or null.

    Models beyond the rows of `matrix` (int8, -1 for not run) get empty lines.
    """
    columns = {"model": pa.array(models, pa.string())}
    empty = np.full(len(models) - len(matrix), -1, dtype=np.int8)
    for label, column in zip(labels(items), matrix.T, strict=True):
        values = np.concatenate([column, empty])
        columns[label] = pa.array(values, mask=values < 0)
    return columns


def long_columns(models: Sequence[str], items: pd.DataFrame, cells: Cells) -> dict[str, pa.Array]:
    """Return columns model, benchmark, item, successes, trials; every model gets a line.

    There is no column item where every item is called "all", unless some successes are not
    whole numbers.
    """
    n = len(items)
    rows, cols = cells.rows, cells.cols
    counts = np.ones((2, len(rows)), dtype=np.float32)
    counts[0] = cells.successes
    if cells.trials is not None:
        counts[1] = cells.trials
    if not np.array_equal(pd.unique(cols), np.arange(n)):
        # Items are read in order of first appearance, so the first model's lines name them all.
        first = int(np.searchsorted(rows, 1))
        block = np.full((2, n), np.nan, dtype=np.float32)
        block[:, cols[:first]] = counts[:, :first]
        rows = np.concatenate([np.zeros(n, dtype=np.int32), rows[first:]])
        cols = np.concatenate([np.arange(n, dtype=np.int32), cols[first:]])
        counts = np.concatenate([block, counts[:, first:]], axis=1)
    silent = np.setdiff1d(np.arange(len(models), dtype=np.int32), rows)
    rows = np.concatenate([rows, silent])
    cols = np.concatenate([cols, np.zeros_like(silent)])
    counts = np.pad(counts, ((0, 0), (0, len(silent))), constant_values=np.nan)
    columns = {
        "model": _dictionary(rows, models),
        "benchmark": _dictionary(cols, items["benchmark"]),
        "item": _dictionary(cols, items["item"]),
        "successes": pa.array(counts[0], from_pandas=True),
        "trials": pa.array(counts[1], from_pandas=True).cast(pa.int64()),
    }
    if not _is_broken(counts[0]).any():
        columns["successes"] = columns["successes"].cast(pa.int64())
        if (items["item"] == "all").all():
            del columns["item"]
    return columns


def _dictionary(codes: np.ndarray, names: Sequence[str] | pd.Series) -> pa.Array:
    indices, unique = pd.factorize(np.array(list(names), dtype=object))
    return pa.DictionaryArray.from_arrays(
        pa.array(indices.astype(np.int32)[codes]), pa.array(list(unique), pa.string())
    )


def _layout(table: Table) -> str:
    columns = list(table.frame.columns)
    if "model" not in columns:
        alike = [c for c in columns if "model" in c.casefold() and ":" not in c]
        short = [c for c in columns if 4 <= len(c) <= 6 and ":" not in c]
        close = alike[0] if len(alike) == 1 else nearest("model", short)
        raise InputError(
            "no column 'model'",
            where=table.name,
            fix=f"did you mean column {close!r}?"
            if close
            else "name the column that holds the models 'model'",
        )
    words = {word for layout in _LAYOUTS.values() for word in layout[1:]}
    is_wide = any(":" in c for c in columns) and "benchmark" not in columns
    if is_wide or not words & set(columns):
        return "wide"
    name = min(_LAYOUTS, key=lambda k: len(set(columns) ^ set(_LAYOUTS[k])))
    layout = _LAYOUTS[name]
    missing = [c for c in layout if c not in columns]
    for column in columns:
        if column not in layout:
            one_of(column, layout, name="column", where=table.name)
    if missing:
        raise InputError(
            f"no column {missing[0]!r}",
            where=table.name,
            fix=f"a {name} table has columns " + ", ".join(layout),
        )
    return name


def _wide_items(table: Table) -> tuple[pd.DataFrame, list[str]]:
    """Return the items (without trials yet) and those with blanks beside the colon."""
    columns = [c for c in table.frame.columns if c != "model"]
    if not columns:
        raise InputError(
            "no column but 'model'", where=table.name, fix="add a column benchmark:item per item"
        )
    column_of: dict[tuple[str, str], str] = {}
    for column in columns:
        benchmark, colon, item = (part.strip() for part in column.partition(":"))
        if not (benchmark and colon and item):
            close = nearest(column, [c for c in columns if ":" in c and c != column])
            fix = f"rename it, like {close!r}" if close else "rename it"
            if not column:
                fix = "name it, or delete it"
            elif not any(":" in c for c in columns):
                fix = "rename it, or give the columns model, benchmark, successes, trials"
            raise InputError(
                f"column {column!r} is not named benchmark:item",
                where=table.name,
                fix=fix,
            )
        if (benchmark, item) in column_of:
            raise InputError(
                f"columns {column_of[benchmark, item]!r} and {column!r} are the same item",
                where=table.name,
                fix="keep one, or rename",
            )
        column_of[benchmark, item] = column
    items = pd.DataFrame(list(column_of), columns=["benchmark", "item"], dtype="str")
    names = zip(labels(items), columns, strict=True)
    return items, [label for label, column in names if label != column]


def _wide_content(
    table: Table,
    rows: np.ndarray,
    models: list[str],
    items: pd.DataFrame,
    fraction_trials: int,
    notes: list[str],
) -> np.ndarray | Cells:
    """Fill in `items["trials"]` and return the int8 matrix, or cells if there are fractions."""
    columns = [c for c in table.frame.columns if c != "model"]
    matrix = np.full((len(rows), len(columns)), -1, dtype=np.int8)
    is_fraction = np.zeros(len(columns), dtype=bool)
    for col, column in enumerate(columns):
        values = table.numbers(column, valid=_RESPONSE)
        is_run = ~np.isnan(values)
        _check_responses(table, values, column)
        is_fraction[col] = _is_broken(values).any()
        if is_fraction[col]:
            values = values * fraction_trials
            if matrix.dtype == np.int8:
                matrix = matrix.astype(np.float32)
        matrix[is_run, col] = values[is_run]
    items["trials"] = np.where(is_fraction, fraction_trials, 1)
    matrix = _one_row_each(table, matrix, rows, models, items, notes)
    if not is_fraction.any():
        return matrix
    notes.append(_fraction_note(items, is_fraction, fraction_trials))
    cells = matrix_cells(matrix)
    trials = items["trials"].to_numpy(np.float32)[cells.cols]
    return Cells(cells.rows, cells.cols, cells.successes, trials)


def _one_row_each(
    table: Table,
    matrix: np.ndarray,
    rows: np.ndarray,
    models: list[str],
    items: pd.DataFrame,
    notes: list[str],
) -> np.ndarray:
    """Merge the rows of models that have several."""
    first = np.unique(rows, return_index=True)[1]
    if len(first) == len(rows):
        return matrix
    again = np.setdiff1d(np.arange(len(rows)), first)
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    highest = np.maximum.reduceat(matrix[order], starts, axis=0)
    above = np.float32(np.inf) if matrix.dtype.kind == "f" else matrix.dtype.type(127)
    lowest = np.minimum.reduceat(np.where(matrix >= 0, matrix, above)[order], starts, axis=0)
    clash = (highest >= 0) & (highest != lowest)
    if clash.any():
        model, col = np.argwhere(clash)[0]
        its_rows = np.flatnonzero((rows == model) & (matrix[:, col] >= 0))
        other = its_rows[matrix[its_rows, col] != matrix[its_rows[0], col]][0]
        raise _disagreement(table, models[model], items.iloc[col], int(its_rows[0]), int(other))
    repeated = [models[k] for k in np.unique(rows[again])]
    notes.append(
        f"{counted(repeated, 'model')} with several rows that agree, merged: {named(repeated)}"
    )
    return highest


def _long_items(table: Table, layout: str) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Return each line's item, the items (without trials yet) and the names stripped."""
    codes, benchmarks, stripped = table.names("benchmark")
    if layout == "counts":
        items = pd.DataFrame({"benchmark": benchmarks, "item": "all"}, dtype="str")
        return codes, items, stripped
    item_codes, names, more = table.names("item")
    pairs = codes.astype(np.int64) * len(names) + item_codes
    cols, pairs = pd.factorize(pairs)
    items = pd.DataFrame(
        {
            "benchmark": np.array(benchmarks, dtype=object)[pairs // len(names)],
            "item": np.array(names, dtype=object)[pairs % len(names)],
        },
        dtype="str",
    )
    return cols.astype(np.int32), items, [*stripped, *more]


def _long_cells(
    table: Table,
    layout: str,
    rows: np.ndarray,
    cols: np.ndarray,
    models: list[str],
    items: pd.DataFrame,
    fraction_trials: int,
    notes: list[str],
) -> Cells:
    """Fill in `items["trials"]` and return the cells, one each."""
    if layout == "long":
        successes = table.numbers("response", valid=_RESPONSE)
        _check_responses(table, successes, "response")
        is_fraction = np.zeros(len(items), dtype=bool)
        is_fraction[cols[_is_broken(successes)]] = True
        items["trials"] = np.where(is_fraction, fraction_trials, 1)
        if is_fraction.any():
            notes.append(_fraction_note(items, is_fraction, fraction_trials))
        trials = items["trials"].to_numpy(np.float32)[cols]
        successes = (successes * trials).astype(np.float32)
    else:
        successes, trials = _counts(table, whole=layout == "counts")
        successes, trials = successes.astype(np.float32), trials.astype(np.float32)
        is_part = np.zeros(len(items), dtype=bool)
        is_part[cols[_is_broken(successes)]] = True
        if is_part.any():
            parts = labels(items[is_part])
            notes.append(f"{counted(parts, 'item')} with broken successes kept: {named(parts)}")
    lines = np.flatnonzero(~np.isnan(successes))
    order = cell_order(rows[lines], cols[lines], len(items))
    lines = lines if order is None else lines[order]
    rows, cols, successes, trials = rows[lines], cols[lines], successes[lines], trials[lines]
    is_again = (rows[1:] == rows[:-1]) & (cols[1:] == cols[:-1])
    if is_again.any():
        differs = (successes[1:] != successes[:-1]) | (trials[1:] != trials[:-1])
        if (is_again & differs).any():
            k = int((is_again & differs).argmax())
            item = items.iloc[cols[k]]
            raise _disagreement(table, models[rows[k]], item, int(lines[k]), int(lines[k + 1]))
        k = int(is_again.argmax())
        notes.append(
            f"{counted(lines[1:][is_again], 'repeated result')} that agree merged, first model "
            f"{models[rows[k]]}, {items['benchmark'][cols[k]]}:{items['item'][cols[k]]}"
        )
    is_first = np.concatenate([[True], ~is_again])[: len(rows)]
    rows, cols, successes, trials = (v[is_first] for v in (rows, cols, successes, trials))
    if layout != "long":
        items["trials"] = _usual_trials(cols, trials, len(items))
    return Cells(rows, cols, successes, trials)


def _check_responses(table: Table, values: np.ndarray, column: str) -> None:
    is_bad = (values < 0) | (values > 1)
    if is_bad.any():
        row = int(is_bad.argmax())
        is_percentage = 1 < values[row] <= 100
        raise InputError(
            f"response {values[row]:g} is outside [0, 1]",
            where=table.place(row, column=column),
            fix="divide percentages by 100, or give successes and trials"
            if is_percentage
            else f"give {_RESPONSE}",
        )


def _counts(table: Table, *, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return successes and trials, float64, NaN in both where nothing was run."""
    successes = table.numbers("successes", valid="a count, or leave it empty")
    trials = table.numbers("trials", valid="a count, or leave it empty")
    no_successes, no_trials = np.isnan(successes), np.isnan(trials)
    both = "give both, or leave both empty"
    for column, is_bad, what, fix in (
        ("successes", no_successes & ~no_trials, "successes are missing", both),
        ("trials", no_trials & ~no_successes, "trials are missing", both),
        ("trials", np.isinf(trials), "trials are infinite", "give a whole number"),
        (
            "trials",
            trials > MOST_TRIALS,
            "trials {:g} are too many",
            f"give {MOST_TRIALS:,} or less",
        ),
        ("trials", trials < 1, "trials {:g} are below 1", "leave successes and trials empty"),
        ("trials", _is_broken(trials), "trials {:g} are not whole", "give a whole number"),
        ("successes", successes < 0, "successes {:g} are negative", "give 0 or more"),
        ("successes", successes > trials, "successes {:g} exceed trials", "check both"),
        (
            "successes",
            _is_broken(successes) & whole,
            "successes {:g} are not whole",
            "give the count",
        ),
    ):
        if is_bad.any():
            row = int(is_bad.argmax())
            value = (successes if column == "successes" else trials)[row]
            place = table.place(row, column=column)
            raise InputError(what.format(value), where=place, fix=fix)
    return successes, trials


def _is_broken(values: np.ndarray) -> np.ndarray:
    return np.asarray(~np.isnan(values) & (np.floor(values) != values))


def _usual_trials(cols: np.ndarray, trials: np.ndarray, n_items: int) -> np.ndarray:
    """Return each item's most common trials, the larger of equals; 1 without a result."""
    seen = pd.DataFrame({"col": cols, "trials": trials}).dropna()
    sizes = seen.groupby(["col", "trials"]).size().rename("size").reset_index()
    usual = sizes.sort_values(["col", "size", "trials"]).drop_duplicates("col", keep="last")
    result = np.ones(n_items, dtype=np.int64)
    result[usual["col"]] = usual["trials"].to_numpy(np.int64)
    return result


def _disagreement(table: Table, model: str, item: pd.Series, row: int, again: int) -> InputError:
    return InputError(
        f"two results that differ ({table.line(row)} and {table.line(again)})",
        where=", ".join(
            [*filter(None, [table.name]), f"model {model}, {item['benchmark']}:{item['item']}"]
        ),
        fix="keep one",
    )


def _fraction_note(items: pd.DataFrame, is_fraction: np.ndarray, fraction_trials: int) -> str:
    those = labels(items[is_fraction])
    return (
        f"{counted(those, 'item')} with fractions of unknown size, read as k of "
        f"{fraction_trials}: {named(those)}; the counts layout is better"
    )


def _lookalikes(models: list[str]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for name in models:
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    groups = [" and ".join(group) for group in alike.values() if len(group) > 1]
    if not groups:
        return []
    return [
        f"{counted(groups, 'group')} of models differ only by case or blanks and are kept "
        f"apart: {named(groups)}"
    ]
