"""Pages of the documentation: run their examples, and write anew the outputs that they show."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_lrmf.files import written_whole

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
RUN = ("python", "bash", "console")
# What a figure may differ by between platforms.
RELATIVE, ABSOLUTE = 0.05, 0.02

_BLOCK = re.compile(
    r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```[ ]*$", re.DOTALL | re.MULTILINE
)
_EXCUSE = re.compile(r"<!-- not run: (?P<reason>\S[^\n]*?) -->\s*\Z")
_COMMAND = 'bayes-lrmf() { "$BAYES_LRMF_PYTHON" -m bayes_lrmf.cli "$@"; }\nset -e\n'
# A duration or a size, which depends on the machine: 17 s, 2 min 5 s, 1.5 GB.
_COST = re.compile(
    r"(?<![\w-])\.?\d[\d,.]* ?(?:[nµm]?s|min|h|seconds?|minutes?|hours?|[kMGT]i?B|bytes)\b"
    r"(?: \d+ (?:min|s)\b)*"
)
# Digits of a word or a date are a part of its name: model-24, q141, 2024-01-06.
_NUMBER = re.compile(
    r"(?P<name>(?<=[A-Za-z_])-?\d+(?:\.\d+)*|\d{4}-\d\d-\d\d)"
    r"|\b[Nn]a[Nn]\b"
    r"|(?<![\w,.])[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!,?\w)"
    r"|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
)


class Block(NamedTuple):
    """A fenced block that runs, and what the page shows of its output."""

    language: str
    text: str
    shown: str
    line: int
    # Where in the page `shown` starts.
    at: int


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks that run, each with the ``text`` block that follows it at once."""
    found = list(_BLOCK.finditer(text))
    for number, match in enumerate(found):
        if match["language"] not in RUN or _EXCUSE.search(text[: match.start()]):
            continue
        shown, at = "", match.end()
        after = found[number + 1] if number + 1 < len(found) else None
        if after and after["language"] == "text" and not text[at : after.start()].strip():
            shown, at = after["text"], after.start("text")
        line = text[: match.start()].count("\n") + 1
        yield Block(match["language"], match["text"], shown, line, at)


def run_python(text: str, namespace: dict[str, object], page: str) -> str:
    """Run a block and return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(compile(text, page, "exec"), namespace)
    return printed.getvalue()


def run_bash(text: str, folder: Path) -> str:
    """Run a block with this interpreter's `bayes-lrmf`, and return what it printed.

    Raises
    ------
    RuntimeError
        If a command of it fails.
    """
    if text.startswith("$ "):
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    environment = os.environ | {
        "BAYES_LRMF_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        ["bash", "-c", _COMMAND + text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of\n{text}\n{done.stdout}")
    return done.stdout


def run_page(text: str, folder: Path, *, name: str) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in order, in one folder and one namespace.

    Parameters
    ----------
    text : str
        Markdown.
    folder : Path
        Where blocks run and leave their files.
    name : str
        What tracebacks call the page.

    Yields
    ------
    tuple of Block and str
        A block, and what it printed.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        for block in blocks(text):
            if block.language == "python":
                with warnings.catch_warnings():
                    warnings.simplefilter("default")
                    printed = run_python(block.text, namespace, f"{name}:{block.line}")
            else:
                printed = run_bash(block.text, folder)
            yield block, printed


def outline(line: str) -> str:
    """Return a line with numbers and blanks made alike, and durations and sizes as well."""
    return " ".join(_NUMBER.sub("\0", _COST.sub("\a", line)).split())


def agree(shown: str, printed: str) -> bool:
    """Return whether two lines of one outline show the same, but for what platforms differ in.

    Figures may be `RELATIVE` of what was printed plus `ABSOLUTE` apart, durations and sizes
    anything; NaN is NaN, and digits of a name are what they are.
    """
    return all(near >= 0 for near in _nearness(shown, printed))


def _nearness(shown: str, printed: str) -> list[float]:
    """Return 1 for each number that is the same, 0 at its tolerance, less beyond."""
    return [_near(*pair) for pair in zip(_numbers(shown), _numbers(printed), strict=True)]


def _numbers(line: str) -> list[float | str]:
    found = _NUMBER.finditer(_COST.sub("\a", line))
    return [one["name"] or float(one[0].replace(",", "")) for one in found]


def _near(shown: float | str, printed: float | str) -> float:
    if isinstance(shown, str) or isinstance(printed, str):
        return 1.0 if shown == printed else -1.0
    if math.isnan(shown) or math.isnan(printed):
        return 1.0 if math.isnan(shown) and math.isnan(printed) else -1.0
    return max(1 - abs(shown - printed) / (RELATIVE * abs(printed) + ABSOLUTE), -1.0)


def paired(shown: str, printed: str) -> list[tuple[str, str | None]]:
    """Return each line that is shown with its counterpart among those printed.

    Counterparts have the same outline and come in the same order. There are as many as possible,
    and where lines of one outline are more than are shown, those with the nearest numbers.

    Parameters
    ----------
    shown : str
        All of the output or an excerpt of it. Blank lines and those of three dots stand for
        nothing and are their own counterparts.
    printed : str

    Returns
    -------
    list of tuple of str and str or None
        A line shown, and the line printed or None.
    """
    lines = shown.splitlines()
    old = [line for line in lines if not _stands_for_nothing(line)]
    new = [line.rstrip() for line in printed.splitlines() if not _stands_for_nothing(line)]
    found = iter(_alignment(old, new))
    return [(line, line if _stands_for_nothing(line) else next(found)) for line in lines]


def _stands_for_nothing(line: str) -> bool:
    return line.strip() in ("", "...")


def _alignment(old: Sequence[str], new: Sequence[str]) -> Iterator[str | None]:
    # A pair more is worth more than the numbers of all lines.
    worth = np.full((len(old), len(new)), -np.inf)
    outlines = [outline(line) for line in new]
    for i, line in enumerate(old):
        this = outline(line)
        for j in (j for j, other in enumerate(outlines) if other == this):
            near = [float(line == new[j]), *_nearness(line, new[j])]
            worth[i, j] = len(old) + 1 + np.mean(np.maximum(near, 0.0))
    # The most that the lines from i and from j on are worth together.
    best = np.zeros((len(old) + 1, len(new) + 1))
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            best[i, j] = max(worth[i, j] + best[i + 1, j + 1], best[i + 1, j], best[i, j + 1])
    i = j = 0
    while i < len(old):
        if j < len(new) and best[i, j] == worth[i, j] + best[i + 1, j + 1]:
            yield new[j]
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            yield None
            i += 1
        else:
            j += 1


def rewritten(text: str, folder: Path, *, name: str) -> tuple[str, list[str]]:
    """Run a page and return it with its outputs as they are printed now.

    A line that differs in durations and sizes alone is left, and so is one that has no
    counterpart. An excerpt stays one.

    Parameters
    ----------
    text : str
        Markdown.
    folder : Path
        Where blocks run and leave their files.
    name : str
        What tracebacks and remarks call the page.

    Returns
    -------
    text : str
        The page; code and prose are as they were.
    remarks : list of str
        What to look at: lines that nothing printed corresponds to, and changed blocks that show
        a part of what is printed, durations aside.
    """
    parts, remarks, done = [], [], 0
    for block, printed in run_page(text, folder, name=name):
        first = text[: block.at].count("\n") + 1
        pairs = paired(block.shown, printed)
        lines = [
            line if now is None or _same_but_for_costs(line, now) else now for line, now in pairs
        ]
        remarks += [
            f"{name}:{number}: no line like this is printed: {line}"
            for number, (line, now) in enumerate(pairs, first)
            if now is None
        ]
        n_more = _n_lines(printed.splitlines()) - _n_lines(now for _, now in pairs if now)
        if n_more and lines != block.shown.splitlines():
            remarks.append(f"{name}:{first}: {n_more} more lines are printed than shown")
        parts += [text[done : block.at], *(f"{line}\n" for line in lines)]
        done = block.at + len(block.shown)
    return "".join([*parts, text[done:]]), remarks


def _n_lines(lines: Iterable[str]) -> int:
    return sum(not _stands_for_nothing(line) and not _COST.search(line) for line in lines)


def _same_but_for_costs(line: str, now: str) -> bool:
    # A duration of more digits may move what stands beside it.
    plain = [" ".join(_COST.sub("\a", one).split()) for one in (line, now)]
    return "\a" in plain[0] and plain[0] == plain[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run pages and rewrite them; return 1 if one was left as it was."""
    parser = argparse.ArgumentParser(prog="python -m analyses.pages", description=__doc__)
    parser.add_argument(
        "pages", nargs="*", type=Path, default=PAGES, metavar="PAGE", help="default: all of docs/"
    )
    given = parser.parse_args(arguments)
    # As in tests: no figure depends on a device, and fits of one shape are compiled once.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
    done = [_rewrite(page.resolve()) for page in given.pages]
    return int(not all(done))


def _rewrite(page: Path) -> bool:
    name = os.path.relpath(page)
    text = page.read_text(encoding="utf-8")
    if not any(block.shown for block in blocks(text)):
        return True
    try:
        with tempfile.TemporaryDirectory() as folder:
            new, remarks = rewritten(text, Path(folder), name=name)
    except Exception:
        traceback.print_exc()
        print(f"{name} does not run and is left as it is", file=sys.stderr)
        return False
    if page.read_text(encoding="utf-8") != text:
        print(f"{name} was edited while it ran and is left as it is", file=sys.stderr)
        return False
    if new != text:
        with written_whole(page) as part:
            part.write_text(new, encoding="utf-8")
    both = zip(text.splitlines(), new.splitlines(), strict=True)
    print(f"{name}: {sum(old != now for old, now in both)} lines rewritten", flush=True)
    for remark in remarks:
        print(remark, file=sys.stderr)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
