"""Files in the folders that a user names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bayes_lrmf.checks import InputError

__all__ = ["files_in", "in_words"]


def files_in(
    places: Iterable[str | os.PathLike[str]], suffixes: tuple[str, ...]
) -> dict[Path, bool]:
    """Return files that end so in folders, searched to the bottom, and whether each was named.

    Raises
    ------
    InputError
        If a place does not exist.
    """
    files: dict[Path, bool] = {}
    for place in map(Path, places):
        if place.is_dir():
            for file in sorted(place.rglob("*")):
                if file.suffix in suffixes and file.is_file():
                    files.setdefault(file, False)
        elif place.is_file():
            files[place] = True
        else:
            raise InputError("no such file or folder", where=str(place), fix="check the path")
    return files


def in_words(places: Iterable[str | os.PathLike[str]]) -> str:
    """Return the first places, as `InputError` takes them for `where`."""
    return ", ".join(str(place) for place in list(places)[:3])
