"""JSON of other tools, whole or by the line, with the place of what is broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError

__all__ = ["json_content", "json_records"]

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def json_content(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    InputError
        If the file cannot be read, is not UTF-8, or is no JSON.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise _refusal(error, path) from error


def json_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the content of each line, or of each member of one array.

    Raises
    ------
    InputError
        As `json_content` does.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            is_array = stream.read(1) == "["
            stream.seek(0)
            yield from enumerate(json_content(path), 1) if is_array else _lines(path, stream)
    except (UnicodeDecodeError, OSError) as error:
        raise _refusal(error, path) from error


def _lines(path: Path, stream: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, text in enumerate(stream, 1):
        if text.strip():
            try:
                content = _parsed(text)
            except (ValueError, RecursionError) as error:
                raise _refusal(error, path, line=number) from error
            yield number, content


def _parsed(text: str) -> Any:
    content = json.loads(text)
    # Half a character, as models write when they are cut short, can be kept in no table.
    return _whole(content) if _HALF.search(text) else content


def _whole(content: Any) -> Any:
    """Return JSON in which surrogates that stand alone are replaced."""
    if isinstance(content, str):
        return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(content, list):
        return [_whole(inner) for inner in content]
    if isinstance(content, dict):
        return {_whole(name): _whole(inner) for name, inner in content.items()}
    return content


def _refusal(error: Exception, path: Path, *, line: int | None = None) -> InputError:
    if isinstance(error, UnicodeDecodeError):
        return InputError("is not text in UTF-8", where=str(path), fix="copy the file anew")
    if isinstance(error, OSError):
        return InputError(
            f"cannot be read ({error.strerror})", where=str(path), fix="change its permissions"
        )
    where = str(path) if line is None else f"{path}, line {line}"
    if isinstance(error, RecursionError):
        return InputError("is nested too deeply", where=where, fix="leave the file out")
    if not isinstance(error, json.JSONDecodeError):
        return InputError("holds a number of thousands of digits", where=where, fix="correct it")
    if line is None:
        where = f"{path}, line {error.lineno}"
    return InputError("is not JSON, or cut short", where=where, fix="copy the file anew")
