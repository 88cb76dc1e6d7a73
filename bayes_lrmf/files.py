"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bayes_lrmf.checks import InputError

__all__ = ["existing_file", "written_whole"]


def existing_file(path: str | os.PathLike[str], *, what: str) -> Path:
    """Return `path` as a Path if a file stands there; raise `InputError` if not."""
    found = Path(path)
    if found.is_dir():
        raise InputError(f"{what} is a folder", where=str(path), fix="name a file in it")
    if not found.is_file():
        raise InputError(f"{what} not found", where=str(path), fix="check the path")
    return found


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError("the output is a folder", where=str(path), fix="name a file")
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix
        )
    except OSError as error:
        raise InputError(
            f"cannot write there ({error.strerror})", where=str(path), fix="choose another folder"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
