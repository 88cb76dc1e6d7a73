"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bayes_lrmf.checks import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

__all__ = ["existing_file", "locked", "remove_leftovers", "written_whole"]

_PART = "-being-written-"
_LONGEST_STEM = 50


def existing_file(path: str | os.PathLike[str], *, what: str) -> Path:
    """Return `path` as a Path if a file stands there; raise `InputError` if not."""
    found = Path(path)
    if found.is_dir():
        raise InputError(f"{what} is a folder", where=str(path), fix="name a file in it")
    if not found.exists():
        raise InputError(f"{what} not found", where=str(path), fix="check the path")
    if not found.is_file():
        raise InputError(f"{what} is no regular file", where=str(path), fix="save it as one first")
    return found


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written, or if the file cannot be written to its
        end, as on a full disk. What stood at `path` then stands there still.
    """
    # The file that a link leads to, not the link.
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError("the output is a folder", where=str(path), fix="name a file")
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=_prefix(target), suffix=target.suffix
        )
    except OSError as error:
        raise InputError(
            f"cannot write there ({error.strerror})", where=str(path), fix="choose another folder"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _to_disk(temporary)
        temporary.chmod(_mode_of(target))
        temporary.replace(target)
    except OSError as error:
        kept = "; the old file is as it was" if target.exists() else ""
        raise InputError(
            f"could not be written to its end ({error.strerror or error}){kept}",
            where=str(path),
            fix="make room, or choose another folder",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _mode_of(path: Path) -> int:
    """Return the permissions of a file, or those of a new one."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _to_disk(path: Path) -> None:
    # Some file systems report a full disk only now; a rename must not come before the contents.
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prefix(target: Path) -> str:
    stem = target.stem
    if len(stem) > _LONGEST_STEM:
        # Room for what is added to a name that is as long as names may be.
        digest = hashlib.sha256(stem.encode(errors="surrogatepass")).hexdigest()[:12]
        stem = stem[: _LONGEST_STEM - len(digest)] + digest
    return f".{stem}{_PART}"


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove temporary files of `written_whole` that a killed process left beside `path`.

    Whoever calls it knows that no other process writes to `path` now.
    """
    target = Path(os.path.realpath(path))
    # As many characters as `tempfile` puts in.
    length = len(_prefix(target) + target.suffix) + 8
    for found in target.parent.iterdir():
        name = found.name
        if (
            len(name) == length
            and name.startswith(_prefix(target))
            and name.endswith(target.suffix)
        ):
            found.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], *, fix: str) -> Iterator[None]:
    """Hold an exclusive lock on ``PATH.lock``, which the system releases when the process ends.

    Where the file system knows no locks, there is none.

    Parameters
    ----------
    path : str or path-like
    fix : str
        What to do where another process holds it.

    Raises
    ------
    InputError
        If another process holds it, or the folder cannot be written.
    """
    place = Path(f"{os.fspath(path)}.lock")
    handle = _locked_handle(place, path, fix)
    try:
        yield
    finally:
        # Removed while it is held: who waits for it looks whether it is still there.
        with contextlib.suppress(OSError):
            place.unlink()
        os.close(handle)


def _locked_handle(place: Path, path: str | os.PathLike[str], fix: str) -> int:
    while True:
        try:
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(
                f"cannot write there ({error.strerror})",
                where=str(path),
                fix="choose another folder",
            ) from error
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            who = f"process {holder}" if holder else "another process"
            raise InputError(f"{who} is writing it", where=str(path), fix=fix) from error
        except OSError:
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(place.stat(), os.fstat(handle)):
                with contextlib.suppress(OSError):
                    os.write(handle, f"{os.getpid():<20}".encode())
                return handle
        os.close(handle)
