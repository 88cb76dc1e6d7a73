"""What a valid argument is, and the one-line error that says what, where and how to fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "InputError",
    "nearest",
    "one_of",
    "positive",
    "printable",
    "probability",
    "whole_number",
]

_LONGEST = 600
_LONGEST_NAME = 300  # the nearest to a longer one takes long to find


class InputError(ValueError):
    """The user's mistake: one line that says what is wrong, where, and how to fix it.

    Parameters
    ----------
    what : str
        What is wrong, e.g. ``"response 1.7 is outside [0, 1]"``.
    where : str, optional
        File, column, row or argument, e.g. ``"results.csv, column arc:3, model m1"``.
    fix : str, optional
        What to do about it, e.g. ``"give a fraction, or successes and trials"``.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        parts = [part and printable(part) for part in (where, what, fix)]
        line = f"{parts[0]}: {parts[1]}" if where else str(parts[1])
        if fix:
            line = f"{line}; {parts[2]}"
        super().__init__(line)


def printable(text: str) -> str:
    """Return a text as one line of at most 600 characters that leaves a terminal alone.

    Blanks of every kind become spaces, other characters that cannot be printed their escapes.
    """
    line = " ".join(text.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 100]} ... {line[-90:]}"
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name most like `name`, ignoring case, or None when none is alike."""
    if len(name) > _LONGEST_NAME:
        return None
    by_folded = {v.casefold(): v for v in valid if len(v) <= _LONGEST_NAME}
    hits = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[hits[0]] if hits else None


def one_of(value: str, valid: Iterable[str], *, name: str, where: str | None = None) -> str:
    """Return `value` if it is one of `valid`; raise `InputError` naming the nearest one if not."""
    valid = list(valid)
    if value in valid:
        return value
    close = nearest(str(value), valid)
    if close:
        fix = f"did you mean {close!r}?"
    elif len(valid) <= 12:
        fix = "valid: " + ", ".join(valid)
    else:
        fix = f"there are {len(valid):,} valid names, such as {valid[0]!r}"
    raise InputError(f"unknown {name} {value!r}", where=where, fix=fix)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and (isinstance(value, float) or abs(value) < 1e300) and value == value


def positive(value: Any, *, name: str, where: str | None = None) -> float:
    """Return `value` as a float if it is a finite number above zero."""
    if not _is_number(value) or not 0 < value < float("inf"):
        raise InputError(f"{name} is {value!r}", where=where, fix="give a number above 0")
    return float(value)


def probability(value: Any, *, name: str, where: str | None = None) -> float:
    """Return `value` as a float if it lies strictly between 0 and 1."""
    if not _is_number(value) or not 0 < value < 1:
        raise InputError(f"{name} is {value!r}", where=where, fix="give a number between 0 and 1")
    return float(value)


def whole_number(value: Any, *, name: str, minimum: int = 1, where: str | None = None) -> int:
    """Return `value` as an int if it is a whole number of at least `minimum`."""
    if not _is_number(value) or not minimum <= value < float("inf") or value != int(value):
        raise InputError(
            f"{name} is {value!r}", where=where, fix=f"give a whole number of at least {minimum}"
        )
    return int(value)
