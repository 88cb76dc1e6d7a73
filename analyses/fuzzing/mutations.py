"""Bad input: what strangers, spreadsheets and attackers make of a good file."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable
from typing import Any

__all__ = ["NASTY_TEXTS", "mutated"]

NASTY_TEXTS = (
    "", " ", "\t", "\0", "a\0b", "nan", "NaN", "NA", "None", "null", "inf", "-inf", "Infinity",
    "1e309", "1e-400", "0x10", "1_000", "+1", "-0", "-1", "2", "0.5", "100", "1e20", "True",
    "FALSE", "9" * 400, "9" * 5000, "\u0661", "\uff11", "=cmd()", "=HYPERLINK(\"http://x\")",
    "@SUM(A1)", "-1+1", "+x", "<script>alert(1)</script>", "</script>", "a\nb", "a\rb", "a\r\nb",
    '"', "'", '""', ",", ";", ":", "a:b:c", "::", "\ufeff", "\u2028", "\u202e", "\u00e9",
    "e\u0301", "\u0130", "\U0001f917", "\ud800", "x" * 5000, "../../x", "2024-02-30",
    "2024-01-01T00:00:00+99:99", "0000-00-00", "10000-01-01", "model", "item", "all", "A" * 300,
    "{}", "[]", "%s%n", "${x}", "{{x}}", "\x1b[31m",
)  # fmt: skip
_NASTY_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**53 + 1, 2**63,
    2**64, -(2**63) - 1, 10**25, 10**400, float("nan"), float("inf"), -float("inf"), [], {}, [[]],
    [None], [1, "a"], [True, False], {"a": 1}, {"": None}, {"model": "x"}, [{}], [0, 1], [1, 0],
    ["\ud800"],
)  # fmt: skip
# What no library would write, put in place of a mark after the rest is written.
_MARK = "@@raw@@"
_MOST_PARSED = 30_000  # longer files are changed as bytes, which is fast
_RAW = (
    "9" * 5000, "-" + "9" * 400, "1e999", "NaN", "-Infinity", "[" * 3000, "[" * 200_000,
    '{"a":' * 20_000, '"\\ud800"', '"\\u0000"', '"unended', "tru", "1 2", "{,}", "", "\0",
    "\ufeff", "/**/", "&a [*a]", "!!python/object/apply:os.system ['true']", "<<: 1",
    "!!binary x", "2024-13-45", "*none",
)  # fmt: skip


def mutated(data: bytes, form: str, rng: random.Random, limit: int = 1_000_000) -> bytes:
    """Return a broken neighbour of a file.

    Parameters
    ----------
    data : bytes
        A file, broken already or not.
    form : {"csv", "json", "jsonl", "yaml", "toml", "bytes"}
        What it is, so that most of it can stay in order.
    rng : random.Random
    limit : int
        Most bytes of the result.
    """
    for _ in range(1 + (rng.random() < 0.3) + (rng.random() < 0.1)):
        is_small = len(data) < _MOST_PARSED
        change = _BY_FORM.get(form, _bytes) if is_small and rng.random() < 0.8 else _bytes
        data = change(data, rng)
    return data[:limit]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Change bytes without a thought of what they mean."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(12)
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[to:]
    if kind == 2:
        return data[:to] + data[at:]
    if kind == 3:
        return data[:at]
    if kind == 4:
        return data[:at] + _encoded(rng.choice(NASTY_TEXTS)) + data[at:]
    if kind == 5:
        return b"\xef\xbb\xbf" + data
    if kind == 6:
        return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\0", b"\x0b")))
    if kind == 7:
        return _text(data).encode(rng.choice(("utf-16", "utf-16-le", "utf-32")), "replace")
    if kind == 8:
        return _text(data).encode("latin-1", "replace").replace(b"a", b"\xe4")
    if kind == 9:
        return data.replace(b",", rng.choice((b";", b"\t", b",,", b"")))
    if kind == 10 and data:
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    return data + rng.choice((b"\n", b"\0" * 64, b"}", b"\n\n\n", data))


def _csv(data: bytes, rng: random.Random) -> bytes:
    try:
        rows = list(csv.reader(io.StringIO(_text(data), newline="")))
    except csv.Error:
        return _bytes(data, rng)
    if not rows or not rows[0]:
        return _bytes(data, rng)
    row = rng.randrange(len(rows))
    width = len(rows[row])
    kind = rng.randrange(11)
    if kind <= 3 and width:
        rows[row][rng.randrange(width)] = rng.choice(NASTY_TEXTS)
    elif kind == 4:
        rows.insert(row, list(rng.choice(rows)))
    elif kind == 5:
        del rows[row]
    elif kind == 6:
        at = rng.randrange(len(rows[0]))
        rows = [[*r[:at], *r[at + 1 :]] for r in rows]
    elif kind == 7:
        at, name = rng.randrange(len(rows[0]) + 1), rng.choice((*rows[0], *NASTY_TEXTS))
        rows = [
            [*r[:at], name if r is rows[0] else rng.choice(("", "1", "0.5", name)), *r[at:]]
            for r in rows
        ]
    elif kind == 8:
        at = rng.randrange(len(rows[0]))
        value = rng.choice(NASTY_TEXTS)
        rows = [rows[0], *([*r[:at], value, *r[at + 1 :]] for r in rows[1:])]
    elif kind == 9:
        rows[row] = rows[row][: rng.randrange(width + 1)] + ["1"] * rng.randrange(3)
    else:
        rng.shuffle(rows[0])
    out = io.StringIO()
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(out, quoting=quoting, lineterminator=rng.choice(("\n", "\n", "\r\n"))).writerows(
        rows
    )
    return _encoded(out.getvalue())


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (holder, key) of a tree of lists and mappings."""
    found: list[tuple[Any, Any]] = []
    waiting, seen = [tree], set()
    while waiting:
        holder = waiting.pop()
        # Aliases of YAML make circles.
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        keys: Any = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def _tree(tree: Any, rng: random.Random) -> Any:
    """Change one place of a tree."""
    places = _places(tree) if isinstance(tree, dict | list) else []
    if not places or rng.random() < 0.02:
        return rng.choice((_MARK, *_NASTY_VALUES))
    holder, key = rng.choice(places)
    kind = rng.randrange(9)
    if kind <= 2:
        holder[key] = rng.choice(_NASTY_VALUES)
    elif kind == 3:
        holder[key] = rng.choice(NASTY_TEXTS)
    elif kind == 4:
        holder[key] = _MARK
    elif kind == 5:
        del holder[key]
    elif kind == 6 and isinstance(holder, dict):
        holder[rng.choice((*NASTY_TEXTS, *(str(k) for _, k in places)))] = holder.pop(key)
    elif kind == 7:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name], default=str))
    elif isinstance(holder, list):
        holder += [holder[key]] * rng.choice((1, 3, 100))
    else:
        holder[rng.choice(NASTY_TEXTS)] = rng.choice(_NASTY_VALUES)
    return tree


def _written(tree: Any, rng: random.Random) -> str:
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.9, default=str)
    except (ValueError, RecursionError):
        return "[1]"
    return text.replace(f'"{_MARK}"', rng.choice(_RAW))


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    return _encoded(_written(_tree(tree, rng), rng))


def _jsonl(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, rng.choice(lines))
    elif kind == 2:
        lines = [b"[" + b",".join(line for line in lines if line) + b"]"]
    else:
        lines[at] = _json(lines[at], rng)
    return b"\n".join(lines)


def _yaml(data: bytes, rng: random.Random) -> bytes:
    import yaml

    if rng.random() < 0.3:
        return _lines(data, rng)
    try:
        documents = list(yaml.safe_load_all(data))
    except (yaml.YAMLError, ValueError, RecursionError):
        return _lines(data, rng)
    if not documents:
        return _lines(data, rng)
    at = rng.randrange(len(documents))
    documents[at] = _tree(documents[at], rng)
    return _encoded("\n---\n".join(_written(document, rng) for document in documents))


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Change a line of text of the kind ``name = value`` or ``name: value``."""
    lines = _text(data).split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind <= 3:
        value = rng.choice((*_RAW, *NASTY_TEXTS, *(repr(v) for v in _NASTY_VALUES[:-1])))
        value = rng.choice((value, json.dumps(value)))
        lines[at] = re.sub(r"(?<=[=:] ).*", lambda _: value, lines[at], count=1)
    elif kind == 4:
        lines.insert(at, rng.choice(lines))
    elif kind == 5:
        del lines[at]
    elif kind == 6:
        lines[at] = rng.choice(("  ", "\t", " ", "- ", "#", "[", "[[")) + lines[at]
    else:
        lines[at] = lines[at].lstrip() + rng.choice(("]", ":", "=", " &a", " *a", ".x = 1"))
    return _encoded("\n".join(lines))


_BY_FORM: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "yaml": _yaml,
    "toml": _lines,
}
