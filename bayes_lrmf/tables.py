"""CSV and Parquet tables in and out, with the place of every mistake."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bayes_lrmf.checks import InputError
from bayes_lrmf.files import existing_file, written_whole
from bayes_lrmf.unpacking import decoded_size, open_gzip, refuse_bomb

__all__ = [
    "MOST_COLUMNS",
    "Table",
    "read_row_groups",
    "read_table",
    "table_of_frame",
    "write_table",
]

_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
_BLANK_LINES = 1_000  # before the header
MOST_COLUMNS = 50_000
"""A table of more takes pandas far longer than the same one written long."""


@dataclass(frozen=True, eq=False)
class Table:
    """A data frame with stripped column names that knows where its values came from.

    Attributes
    ----------
    frame : pandas.DataFrame
        The columns; an index that carries names has become a column.
    name : str or None
        The file, or what the caller said about the frame.
    key : str
        The column that says whose row it is, named in errors.
    is_text : bool
        Whether rows are lines of a text file, whose header is line 1.
    stripped : tuple of str
        Columns that had blanks around their names.
    """

    frame: pd.DataFrame
    name: str | None
    key: str
    is_text: bool = False
    stripped: tuple[str, ...] = ()

    def line(self, row: int) -> str:
        """Return what a reader calls row `row` (from 0): line 2 of a CSV, row 1 elsewhere."""
        return f"line {row + 2}" if self.is_text else f"row {row + 1}"

    def place(self, row: int | None = None, *, column: str | None = None) -> str | None:
        """Return the place in words, as `InputError` takes it for `where`."""
        parts = [self.name or "", f"column {column}" if column else ""]
        if row is not None:
            parts.append(self.line(int(row)))
            if self.key in self.frame and pd.notna(self.frame[self.key].iloc[row]):
                parts.append(f"{self.key} {str(self.frame[self.key].iloc[row]).strip()}")
        return ", ".join(p for p in parts if p) or None

    def names(self, column: str) -> tuple[np.ndarray, list[str], list[str]]:
        """Return a column of names as codes, the stripped unique names, and the names stripped.

        Returns
        -------
        codes : ndarray of int32, shape (n_rows,)
            Index of each row's name.
        names : list of str
            Unique names without blanks around them, in order of first appearance.
        stripped : list of str
            Those that had blanks around them, without them.

        Raises
        ------
        InputError
            If a name is missing or blank.
        """
        codes, raw = pd.factorize(self.frame[column])
        texts = [str(value) for value in raw]
        clean = [text.strip() for text in texts]
        is_blank = np.array([not text for text in clean] + [True])
        if is_blank[codes].any():
            row = int(is_blank[codes].argmax())
            raise InputError(
                f"the {column} name is missing",
                where=self.place(row),
                fix="name it, or delete the row",
            )
        stripped = [c for c, text in zip(clean, texts, strict=True) if c != text]
        merged, names = pd.factorize(np.array(clean, dtype=object))
        return merged[codes].astype(np.int32), list(names), list(dict.fromkeys(stripped))

    def numbers(self, column: str, *, valid: str) -> np.ndarray:
        """Return a column as float64, shape (n_rows,), NaN where it is empty.

        Parameters
        ----------
        column : str
            Name of the column; booleans and the words true and false count as 1 and 0.
        valid : str
            What the column may hold, for the error.

        Raises
        ------
        InputError
            If a value is not a number.
        """
        values = self.frame[column]
        kind = values.dtype
        is_number = pd.api.types.is_integer_dtype(kind) or pd.api.types.is_float_dtype(kind)
        if is_number or (pd.api.types.is_bool_dtype(kind) and kind != "category"):
            return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
        texts = values.astype(object).where(values.notna(), "").map(str).str.strip()
        words = texts.str.casefold().replace({"true": "1", "false": "0"})
        numbers = np.asarray(pd.to_numeric(words, errors="coerce"), dtype=np.float64)
        is_bad = np.isnan(numbers) & (texts != "").to_numpy()
        if is_bad.any():
            row = int(is_bad.argmax())
            raise InputError(
                f"{texts.iloc[row]!r} is not a number",
                where=self.place(row, column=column),
                fix=f"give {valid}",
            )
        return numbers


def read_table(path: str | os.PathLike[str], *, key: str, text: Sequence[str], what: str) -> Table:
    """Read a CSV (plain or gzipped, UTF-8) or Parquet file.

    Only an empty CSV cell is empty: names such as NA or None are names, and the texts nan and
    NA are no numbers.

    Parameters
    ----------
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq.
    key : str
        The column that says whose row it is; in Parquet it may be the index.
    text : sequence of str
        Columns that hold names: kept as text, whatever they look like.
    what : str
        What the file is, for errors.

    Raises
    ------
    InputError
        If the file is missing, not what its suffix says, not UTF-8, empty, ragged, without
        rows, or names a column twice.
    """
    file = existing_file(path, what=what)
    is_text = _suffix(file).startswith(".csv")
    try:
        frame = _read_csv(file, key, text) if is_text else _read_parquet(file, text)
    except PermissionError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), fix="change its permissions"
        ) from error
    return table_of_frame(frame, key=key, name=str(path), is_text=is_text)


def table_of_frame(
    frame: pd.DataFrame, *, key: str, name: str | None = None, is_text: bool = False
) -> Table:
    """Return `frame` as a Table; an index named `key`, or an unnamed one of texts, is `key`.

    Raises
    ------
    InputError
        If there are no rows, or two columns have the same name.
    """
    if key not in frame.columns:
        if key in frame.index.names:
            frame = frame.reset_index()
        elif frame.index.names == [None] and not pd.api.types.is_any_real_numeric_dtype(
            frame.index
        ):
            frame = frame.rename_axis(key).reset_index()
    columns = _unique_names(frame.columns, name)
    if len(frame) == 0:
        raise InputError("has a header but no rows", where=name, fix="add the rows")
    stripped = tuple(c for c, raw in zip(columns, frame.columns, strict=True) if c != str(raw))
    return Table(frame.set_axis(columns, axis=1), name, key, is_text, stripped)


def write_table(
    columns: dict[str, pa.Array | pa.ChunkedArray], path: str | os.PathLike[str]
) -> None:
    """Write named columns to a CSV or Parquet file by suffix, whole or not at all.

    Raises
    ------
    InputError
        If the suffix is unknown or the folder cannot be written.
    """
    suffix = _suffix(Path(path))
    with written_whole(path) as temporary:
        if suffix in (".parquet", ".pq"):
            pq.write_table(pa.table(columns), temporary)
        elif suffix == ".csv.gz":
            with gzip.GzipFile(temporary, "wb", mtime=0) as stream:
                _write_csv(columns, cast(IO[bytes], stream))
        else:
            with temporary.open("wb") as stream:
                _write_csv(columns, stream)


def _unique_names(columns: Iterable[object], name: str | None) -> list[str]:
    stripped = [str(column).strip() for column in columns]
    for column, count in Counter(stripped).items():
        if count > 1:
            raise InputError(
                f"{count} columns are named {column!r}", where=name, fix="keep one, or rename"
            )
    if len(stripped) > MOST_COLUMNS:
        raise InputError(
            f"{len(stripped):,} columns are too many",
            where=name,
            fix=f"keep {MOST_COLUMNS:,}, or write one row for each result",
        )
    return stripped


def _suffix(path: Path) -> str:
    found = next((s for s in _SUFFIXES if path.name.lower().endswith(s)), None)
    if found is None:
        raise InputError(
            f"unknown kind of file {path.suffix!r}",
            where=str(path),
            fix="name it " + ", ".join(_SUFFIXES[:-1]) + f" or {_SUFFIXES[-1]}",
        )
    return found


def read_row_groups(
    path: str | os.PathLike[str], *, key: str, text: Sequence[str], what: str
) -> Iterator[Table]:
    """Read a Parquet file one row group at a time; see `read_table`.

    Yields
    ------
    Table
        Of one row group; rows in errors count from its first.
    """
    file = existing_file(path, what=what)
    if _suffix(file).startswith(".csv"):
        raise InputError("is no Parquet file", where=str(path), fix="write it as .parquet")
    with _parquet(file):
        schema, texts = _checked_schema(file, text)
        stream = pq.ParquetFile(file, read_dictionary=texts)
    with stream:
        for i in range(stream.num_row_groups):
            with _parquet(file):
                group = stream.metadata.row_group(i)
                refuse_bomb(file, _unpacked(group.total_byte_size, group))
                frame = _frame_of(file, stream.read_row_group(i), schema, text)
            yield table_of_frame(frame, key=key, name=f"{path}, row group {i + 1}")


def _read_parquet(file: Path, text: Sequence[str]) -> pd.DataFrame:
    with _parquet(file):
        schema, texts = _checked_schema(file, text)
        with pq.ParquetFile(file, read_dictionary=texts) as stream:
            groups = [stream.metadata.row_group(i) for i in range(stream.num_row_groups)]
            pages = sum(group.total_byte_size for group in groups)
            refuse_bomb(file, _unpacked(pages, stream.metadata))
            return _frame_of(file, stream.read(), schema, text)


@contextlib.contextmanager
def _parquet(file: Path) -> Iterator[None]:
    """Turn what is raised for a damaged file into an error that says so."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError):
            raise
        raise _damaged(file) from error


def _checked_schema(file: Path, text: Sequence[str]) -> tuple[pa.Schema, list[str]]:
    """Return the schema, and the columns to read as dictionaries.

    One text on millions of rows takes its room once then.
    """
    schema = pq.read_schema(file)
    _unique_names(schema.names, str(file))
    for field in schema:
        if pa.types.is_nested(field.type):
            raise InputError(
                f"column {field.name!r} holds lists or mappings",
                where=str(file),
                fix="keep one value in a cell, or drop the column",
            )
    texts = [f.name for f in schema if pa.types.is_string(f.type) or _is_binary(f.type)]
    return schema, texts + [name for name in schema.names if name.strip() in text]


def _frame_of(file: Path, table: pa.Table, schema: pa.Schema, text: Sequence[str]) -> pd.DataFrame:
    table.validate(full=True)
    held = (_held_size(*pair, text) for pair in zip(schema, table.columns, strict=True))
    refuse_bomb(file, sum(held))
    for at, field in enumerate(schema):
        if field.name.strip() not in text and not pa.types.is_dictionary(field.type):
            table = table.set_column(at, field, table.column(at).cast(field.type))
    try:
        return table.to_pandas(types_mapper=_mapped)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        # What pandas noted of its index stands in the file as JSON of its own.
        raise _damaged(file) from error


def _damaged(file: Path) -> InputError:
    what = "is not a Parquet file, or is damaged"
    return InputError(what, where=str(file), fix="write it anew")


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_string(kind))


def _unpacked(n_page_bytes: int, metadata: Any) -> float:
    """Return bytes of pages once unpacked, and of numbers that runs of equal ones stand for."""
    return float(max(n_page_bytes, metadata.num_rows * max(16, 2 * metadata.num_columns)))


def _held_size(field: pa.Field, column: pa.ChunkedArray, text: Sequence[str]) -> float:
    """Return bytes of a column as it is kept: names as dictionaries, the rest row by row."""
    return float(column.nbytes) if field.name.strip() in text else decoded_size(column)


def _mapped(kind: pa.DataType) -> pd.ArrowDtype | None:
    # Names stay dictionaries (pandas categories); numbers stay in Arrow's memory.
    return None if pa.types.is_dictionary(kind) else pd.ArrowDtype(kind)


def _open_csv(file: Path) -> IO[bytes]:
    if file.name.lower().endswith(".gz"):
        return open_gzip(file)
    return file.open("rb")


def _csv_header(file: Path) -> list[str]:
    with _open_csv(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as lines:
        rows = itertools.islice(csv.reader(lines), _BLANK_LINES)
        header = next((row for row in rows if row), [])
    if not any(name.strip() for name in header):
        raise InputError("the file is empty", where=str(file), fix="write a header and rows")
    if any("\0" in name for name in header) or header[0].startswith("PAR1"):
        raise InputError("is not CSV text", where=str(file), fix="write it as CSV in UTF-8")
    for sign, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sign in header[0]:
            raise InputError(
                f"columns are separated by {word}", where=str(file), fix="separate them by commas"
            )
    return header


def _read_csv(file: Path, key: str, text: Sequence[str]) -> pd.DataFrame:
    try:
        header = _csv_header(file)
        columns = _unique_names(header, str(file))
        names = pa.dictionary(pa.int32(), pa.string())
        block = max(1 << 24, 8 * sum(len(name) + 1 for name in header))
        packed = file.name.lower().endswith(".gz")
        with open_gzip(file) if packed else pa.input_stream(str(file)) as stream:
            table = pyarrow.csv.read_csv(
                stream,
                read_options=pyarrow.csv.ReadOptions(block_size=block),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={name: names for name in header if name.strip() in text},
                    null_values=[""],
                ),
            )
    except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise _csv_error(file, error) from error
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(
            "is not a gzip file, or is damaged", where=str(file), fix="compress it anew"
        ) from error
    frame = table.to_pandas(types_mapper=_mapped).set_axis(header, axis=1)
    for name, column in zip(columns, table.columns, strict=True):
        # Arrow reads the text nan as a float; once in pandas it would pass for an empty cell.
        if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
            row = pc.index(pc.is_nan(column), True).as_py()
            raise InputError(
                "'nan' is not a number",
                where=table_of_frame(frame, key=key, name=str(file), is_text=True).place(
                    row, column=name
                ),
                fix="leave the cell empty",
            )
    return frame


def _csv_error(file: Path, error: Exception) -> InputError:
    if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
        return InputError("is not text in UTF-8", where=str(file), fix="save it as CSV in UTF-8")
    with _open_csv(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as lines:
        rows = csv.reader(lines)
        try:
            width = len(next(row for row in rows if row))
            for row in rows:
                if row and len(row) != width:
                    return InputError(
                        f"{len(row):,} cells under a header of {width:,} columns",
                        where=f"{file}, line {rows.line_num}",
                        fix="give each row one cell per column, quoting names that hold commas",
                    )
        except (UnicodeDecodeError, csv.Error):
            pass
    return InputError("is not a CSV table", where=str(file), fix="write it as CSV in UTF-8")


def _write_csv(columns: dict[str, pa.Array | pa.ChunkedArray], stream: IO[bytes]) -> None:
    # Arrow quotes every text or none, so quotes stand only in a file that needs some.
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(columns)
    stream.write(header.getvalue().encode())
    plain = {
        name: column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        for name, column in columns.items()
    }
    texts = [c.unique() for c in plain.values() if pa.types.is_string(c.type)]
    needs_quotes = any(set('",\r\n') & set(str(value)) for text in texts for value in text)
    options = pyarrow.csv.WriteOptions(
        include_header=False, quoting_style="needed" if needs_quotes else "none"
    )
    pyarrow.csv.write_csv(pa.table(plain), stream, options)
