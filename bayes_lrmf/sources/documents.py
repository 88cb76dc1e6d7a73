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
    return hashlib.sha256(json.dumps(sorted(_parts(document))).encode()).hexdigest()[:16]


def _parts(document: Any) -> Iterator[str]:
    waiting = [(document, False)]
    while waiting:
        value, in_answer = waiting.pop()
        if isinstance(value, dict):
            waiting += [(v, bool(_ANSWER_KEYS.search(str(name)))) for name, v in value.items()]
        elif isinstance(value, list):
            waiting += [(inner, in_answer) for inner in value]
        elif value is not None:
            text = str(value)
            if not (in_answer and _PLACE.fullmatch(text)):
                yield text
