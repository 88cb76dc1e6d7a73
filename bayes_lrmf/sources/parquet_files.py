"""Rows of Parquet files of other tools, some columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bayes_lrmf.checks import InputError
from bayes_lrmf.unpacking import decoded_size, refuse_bomb

__all__ = ["columns_of", "rows_of"]

_BROKEN = (pa.ArrowException, OSError, RecursionError, UnicodeDecodeError)
_STREAMED = 4 << 30
_ROWS = 1_024  # questions with their prompts and tokens are large


def columns_of(path: Path) -> dict[str, list[str]]:
    """Return each column, with the fields of those that have any.

    Raises
    ------
    InputError
        If the file cannot be read, or is not Parquet.
    """
    try:
        schema = pq.read_schema(path)
    except _BROKEN as error:
        raise _refusal(error, path) from error
    return {
        field.name: [inner.name for inner in field.type] if pa.types.is_struct(field.type) else []
        for field in schema
    }


def rows_of(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number, from 1, and the content of each row.

    Parameters
    ----------
    path : Path
    columns : sequence of str, optional
        Columns, or fields of columns as ``column.field``; by default all.

    Raises
    ------
    InputError
        If the file cannot be read, or is not Parquet.
    """
    number, size = 0, 0.0
    try:
        with pq.ParquetFile(path) as stream:
            groups = [stream.metadata.row_group(i) for i in range(stream.num_row_groups)]
            pages = sum(group.total_byte_size for group in groups)
            refuse_bomb(path, max(pages, 64 * stream.metadata.num_rows))
            for batch in stream.iter_batches(_ROWS, columns=columns):
                of_batch = sum(decoded_size(column) for column in batch.columns)
                size += of_batch
                refuse_bomb(path, of_batch)
                refuse_bomb(path, size, free=_STREAMED)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except _BROKEN as error:
        raise _refusal(error, path) from error


def _refusal(error: Exception, path: Path) -> InputError:
    if isinstance(error, PermissionError):
        what = f"cannot be read ({error.strerror})"
        return InputError(what, where=str(path), fix="change its permissions")
    return InputError(
        "is not a Parquet file, or is damaged", where=str(path), fix="copy the file anew"
    )
