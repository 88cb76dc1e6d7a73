"""The table of models: numbers, categories and dates that are known of each model."""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, nearest
from bayes_lrmf.tables import Table, read_table, table_of_frame

__all__ = ["features_from_frame", "read_features"]

_KEY = "model"
# date, Submission Date, last_modified, lastModified, created_at
_DATE = re.compile(
    r"(^|[ _-])date$|modified$|(created|updated|uploaded)([ _-]?at)?$", re.IGNORECASE
)


def read_features(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of models from CSV or Parquet: ``model`` and any columns of features.

    Parameters
    ----------
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq.

    Returns
    -------
    DataFrame
        Indexed by model. Numbers and yes/no are float64; dates (columns named date, "... date",
        last_modified, created_at and the like, or stored as such) are datetimes in UTC; other
        texts are categories. Empty cells are NaN or NaT.

    Raises
    ------
    InputError
        If the file cannot be read, there is no column of features, a model is missing or stands
        twice, a date cannot be read, or a column mixes numbers with a few words.
    """
    table = read_table(path, key=_KEY, text=(_KEY,), what="the table of models")
    return _features_of(table)


def features_from_frame(frame: pd.DataFrame, *, where: str | None = None) -> pd.DataFrame:
    """Check a frame with the columns of `read_features`; models may be a column or the index.

    Parameters
    ----------
    frame : DataFrame
    where : str, optional
        What messages call the frame.

    Returns
    -------
    DataFrame
        As that of `read_features`.

    Raises
    ------
    InputError
        As `read_features`.
    """
    return _features_of(table_of_frame(frame, key=_KEY, name=where))


def _features_of(table: Table) -> pd.DataFrame:
    columns = [str(c) for c in table.frame.columns]
    if _KEY not in columns:
        close = nearest(_KEY, columns)
        hint = f"rename {close!r}" if close else "its columns are " + ", ".join(columns[:6])
        raise InputError(f"no column {_KEY!r}", where=table.name, fix=hint)
    if len(columns) == 1:
        raise InputError("no column of features", where=table.name, fix="add one, such as params_b")
    codes, names, _ = table.names(_KEY)
    again = pd.Series(codes).duplicated().to_numpy()
    if again.any():
        row = int(again.argmax())
        first = int((codes == codes[row]).argmax())
        raise InputError(
            "the model stands twice",
            where=table.place(row),
            fix=f"keep one of this and {table.line(first)}",
        )
    index = pd.Index(np.array(names, dtype=object), name=_KEY)
    read = {c: _column(table, c) for c in columns if c != _KEY}
    return pd.DataFrame({c: values.set_axis(index) for c, values in read.items()}, index=index)


def _column(table: Table, column: str) -> pd.Series:
    values = table.frame[column]
    if pd.api.types.is_datetime64_any_dtype(values.dtype) or _DATE.search(column):
        return _dates(table, column)
    texts = _texts(values)
    given = (texts != "").to_numpy()
    words = texts.str.casefold().replace({"true": "1", "false": "0"})
    share = pd.to_numeric(words[given], errors="coerce").notna().mean()
    if not given.any() or share > 0.5:
        numbers = table.numbers(column, valid="numbers alone, or words alone")
        infinite = np.isinf(numbers)
        if infinite.any():
            row = int(infinite.argmax())
            raise InputError(
                f"{values.iloc[row]} is not finite",
                where=table.place(row, column=column),
                fix="leave the cell empty",
            )
        return pd.Series(numbers)
    return pd.Series(pd.Categorical(texts.where(given, None)))


def _dates(table: Table, column: str) -> pd.Series:
    values = table.frame[column]
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return pd.Series(pd.to_datetime(values, utc=True)).dt.as_unit("us")
    texts = _texts(values)
    given = texts != ""
    if pd.api.types.is_any_real_numeric_dtype(values.dtype) and given.any():
        # pandas would take the year 2024 for so many nanoseconds after 1970.
        bad = given
    else:
        dates = pd.to_datetime(texts.where(given), utc=True, format="ISO8601", errors="coerce")
        bad = given & dates.isna()
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise InputError(
            f"{texts.iloc[row]!r} is not a date",
            where=table.place(row, column=column),
            fix="give dates such as 2024-03-21 or 2024-03-21T06:05:50Z",
        )
    return pd.Series(dates).dt.as_unit("us")


def _texts(values: pd.Series) -> pd.Series:
    """Return the values as texts without blanks around them, empty where missing."""
    return values.astype(object).where(values.notna(), "").map(str).str.strip()
