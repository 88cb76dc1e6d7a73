"""What a compressed file may unpack to, so that a small one cannot fill the memory."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.compute as pc

from bayes_lrmf.checks import InputError

__all__ = ["decoded_size", "open_gzip", "refuse_bomb"]

# Tables of zeros and ones, and constant columns of numbers, stay well below.
_TIMES = 100
_FREE = 256 << 20
_FREE_TEXT = 16 << 20


def refuse_bomb(path: Path, n_bytes: float, *, free: int = _FREE) -> None:
    """Refuse a file that unpacks to more than `free` bytes and more than 100 times its size.

    Parameters
    ----------
    path : Path
    n_bytes : float
        What it unpacks to.
    free : int
        Bytes that any file may unpack to; 256 MB by default.

    Raises
    ------
    InputError
        If it is too much.
    """
    size = path.stat().st_size
    if n_bytes > max(free, _TIMES * size):
        raise InputError(
            f"unpacks from {size / 1e6:,.3g} MB to over {max(free, _TIMES * size) / 1e6:,.0f} MB",
            where=str(path),
            fix="divide it into several files, or compress it less, if that is meant",
        )


def decoded_size(column: pa.Array | pa.ChunkedArray) -> float:
    """Return bytes of a column of Arrow if each row held its own text, not a shared one."""
    if isinstance(column, pa.ChunkedArray):
        return sum(decoded_size(chunk) for chunk in column.chunks)
    if pa.types.is_struct(column.type):
        return sum(decoded_size(part) for part in column.flatten())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return decoded_size(column.flatten())
    values = column.dictionary if pa.types.is_dictionary(column.type) else None
    kinds = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    if values is None or values.type not in kinds:
        return float(column.nbytes)
    lengths = pc.binary_length(values.cast(pa.large_binary()))
    return float(pc.sum(lengths.take(column.indices)).as_py() or 0)


def open_gzip(path: Path) -> IO[bytes]:
    """Open a gzip file that raises `InputError` on reading when it unpacks to too much."""
    return cast(IO[bytes], io.BufferedReader(_Watched(path), 1 << 20))


class _Watched(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._path, self._n = path, 0
        self._stream = gzip.GzipFile(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = self._stream.readinto(buffer)
        self._n += n
        refuse_bomb(self._path, self._n, free=_FREE_TEXT)
        return n

    def close(self) -> None:
        self._stream.close()
        super().close()
