"""What a reader is to the fuzzing, and forms that several of them read."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

DATA = Path(__file__).resolve().parent.parent.parent / "tests" / "sources" / "data"
_NO_TABLE = (
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    pa.ArrowException,
)


@dataclass(frozen=True)
class Reader:
    """What is attacked.

    Attributes
    ----------
    form : str
        What the input is, as `mutated` takes it.
    seeds : callable
        Returns good inputs.
    read : callable
        Takes an input and an empty folder, lays the input out as files there, reads them and uses
        what they give; may raise `InputError`.
    share : float
        Inputs relative to other readers: less where one takes long.
    bombs : callable
        Returns inputs that are read as they are.
    """

    form: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    share: float = 1.0
    bombs: Callable[[], list[bytes]] = list


def listed(*seeds: bytes) -> Callable[[], list[bytes]]:
    """Return seeds that are these inputs."""
    return lambda: list(seeds)


def bytes_of(*files: str) -> Callable[[], list[bytes]]:
    """Return seeds that are files of `DATA`."""
    return lambda: [(DATA / file).read_bytes() for file in files]


def csv_file(name: str, read: Callable[[Path], None]) -> Callable[[bytes, Path], None]:
    """Return an attack by the bytes of a CSV file, or of a gzipped one."""

    def attack(data: bytes, folder: Path) -> None:
        path = folder / (name + ".gz" if data[:2] == b"\x1f\x8b" else name)
        path.write_bytes(data)
        read(path)

    return attack


def parquet_file(read: Callable[[Path], None]) -> Callable[[bytes, Path], None]:
    """Return an attack by a JSON mapping of columns, or by the bytes of a file."""

    def attack(data: bytes, folder: Path) -> None:
        path = folder / "t.parquet"
        lay_parquet(data, path)
        read(path)

    return attack


def lay_parquet(data: bytes, path: Path) -> None:
    """Write a JSON tree as a Parquet file if it is a table, and anything else as it is."""
    path.write_bytes(data)
    if data.startswith(b"PAR1"):
        return
    with contextlib.suppress(*_NO_TABLE):
        tree = json.loads(data)
        if isinstance(tree, list):
            table = pa.Table.from_pylist(tree)
        else:
            columns = {name: _arrow(values) for name, values in tree.items()}
            width = max((len(column) for column in columns.values()), default=0)
            table = pa.table(
                {
                    n: pa.concat_arrays([c, pa.nulls(width - len(c), c.type)])
                    for n, c in columns.items()
                }
            )
        pq.write_table(table, path)


def _arrow(values: Any) -> pa.Array:
    values = values if isinstance(values, list) else [values]
    if values and all(v is None or str(v)[:5] == "2024-" for v in values):
        with contextlib.suppress(ValueError):
            return pa.array(pd.to_datetime(pd.Series(values), format="ISO8601"))
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if v is None else str(v) for v in values])


def columns_of(*tables: bytes) -> Callable[[], list[bytes]]:
    """Return seeds that hold these CSV tables as JSON mappings of columns, and as Parquet."""

    def seeds() -> list[bytes]:
        frames = [pd.read_csv(io.BytesIO(table)) for table in tables]
        return [
            json.dumps(
                {c: [None if pd.isna(v) else v for v in f[c].tolist()] for c in f}, default=str
            ).encode()
            for f in frames
        ] + [f.to_parquet() for f in frames]

    return seeds


def parquet_bombs() -> list[bytes]:
    """Return files of some KB that hold up to 300 million rows."""
    zeros = np.zeros(10_000_000, np.int32)
    long = pa.array(["x" * 400_000])
    found = []
    for columns, times in (
        ({"model": pa.DictionaryArray.from_arrays(zeros, ["m"]), "arc:1": pa.array(zeros)}, 10),
        ({"model": pa.DictionaryArray.from_arrays(zeros[:500_000], long)}, 1),
        ({"doc": pa.DictionaryArray.from_arrays(zeros[:500_000], long), "acc": zeros[:500_000]}, 1),
        ({"child": pa.nulls(10_000_000, pa.string())}, 20),
        ({"model": pa.nulls(10_000_000), "arc:1": pa.nulls(10_000_000, pa.int8())}, 30),
    ):
        out, table = io.BytesIO(), pa.table(columns)
        with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
            for _ in range(times):
                writer.write_table(table)
        found.append(out.getvalue())
    return found


def json_bombs() -> list[bytes]:
    """Return deep, long and strange JSON of less than 1 MB."""
    return [
        b"[" * 500_000 + b"]" * 500_000,
        b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
        b"9" * 900_000,
        b"1e" + b"9" * 900_000,
        b"[" + b"1," * 400_000 + b"1]",
        b'{"results": {' + b'"a": {}, ' * 100_000 + b'"b": 1}, "versions": {}}',
        b'"' + b"\\u0000" * 150_000 + b'"',
        b"\xff\xfe" + "[1]".encode("utf-16-le"),
    ]
