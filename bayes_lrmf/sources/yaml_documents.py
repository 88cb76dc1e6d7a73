"""YAML text of strangers: read safely, within limits, with the line of a mistake."""

from __future__ import annotations

import os
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.files import existing_file

__all__ = ["read_documents"]

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 40
_MAX_NODES = 100_000
_MAX_EVENTS = 50_000
_MAX_SCALAR = 10_000


def read_documents(path: str | os.PathLike[str], *, what: str) -> list[Any]:
    """Read every document of a YAML file; empty ones are left out.

    Parameters
    ----------
    path : str or path-like
    what : str
        What the file is, for errors.

    Returns
    -------
    list
        Mappings, lists and scalars; no other Python objects are made.

    Raises
    ------
    InputError
        If PyYAML is missing, the file is missing, larger than 1 MB, not UTF-8 or not YAML, nested
        more than 40 deep, more than 50,000 values or 100,000 once its aliases are written out, or
        a value is longer than 10,000 characters.
    """
    try:
        import yaml
    except ImportError as error:
        raise InputError(
            "PyYAML is not installed", where=str(path), fix="pip install 'bayes-lrmf[merge]'"
        ) from error
    file = existing_file(path, what=what)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(
                f"{what} is larger than 1 MB", where=str(path), fix="give the recipe alone"
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("is not text in UTF-8", where=str(path), fix="save it as UTF-8") from error
    except PermissionError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), fix="change its permissions"
        ) from error
    documents = []
    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader), str(path))
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if _size(node, {}) > _MAX_NODES:
                raise InputError(
                    f"aliases make it more than {_MAX_NODES:,} values",
                    where=str(path),
                    fix="write it without aliases",
                )
        documents = [found for found in yaml.safe_load_all(text) if found is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "cannot be parsed"
        place = str(path) if mark is None else f"{path}, line {mark.line + 1}"
        raise InputError(
            f"is not YAML ({problem})".replace("\t", "a tab"),
            where=place,
            fix="correct it; indent by blanks",
        ) from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        # A scalar that looks like a date and is none fails only when it is made.
        raise InputError(f"is not YAML ({error})", where=str(path), fix="quote it") from error
    return documents


def _check_events(events: Any, where: str) -> None:
    """Refuse deep nesting before anything recurses into it, and what takes long to make."""
    depth = 0
    for number, event in enumerate(events):
        if number > _MAX_EVENTS:
            raise InputError(f"more than {_MAX_EVENTS:,} values", where=where, fix="divide it")
        if len(getattr(event, "value", "")) > _MAX_SCALAR:
            raise InputError(
                f"a value of more than {_MAX_SCALAR:,} characters", where=where, fix="shorten it"
            )
        kind = type(event).__name__
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            depth += 1
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise InputError(f"nested more than {_MAX_DEPTH} deep", where=where, fix="flatten it")


def _size(node: Any, known: dict[int, float]) -> float:
    """Return the number of values below a node, aliases written out; infinite for a circle."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        inside = node.value if isinstance(getattr(node, "value", None), list) else []
        parts = [p for part in inside for p in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
