"""Whether two documents are the same question, however its choices were shuffled."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["document_hash"]

# Which choice is right, by its letter or place, changes with their order.
_ANSWER_KEYS = re.compile(r"answer|label|gold|target|correct|solution", re.IGNORECASE)
_PLACE = re.compile(r"\s*\(?([A-Za-z]|\d{1,2})\)?[.:]?\s*", re.ASCII)


def document_hash(document: Any) -> str:
    """Return 16 hex digits that are equal for the same question with its choices in any order.

    The texts and numbers of the document are hashed as a set with repeats, whatever their order
    and the names of their fields, without letters and small numbers that say which choice is
    right.

    Parameters
    ----------
    document : JSON value
        A question, as a mapping of its fields.
    """
    parts = sorted(_parts(document, in_answer=False))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _parts(value: Any, *, in_answer: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _parts(inner, in_answer=bool(_ANSWER_KEYS.search(str(name))))
    elif isinstance(value, list):
        for inner in value:
            yield from _parts(inner, in_answer=in_answer)
    elif value is not None:
        text = str(value)
        if not (in_answer and _PLACE.fullmatch(text)):
            yield text
