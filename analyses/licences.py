"""Licences of every distribution that requirements.lock names, as a page of the documentation.

What a distribution states of itself counts, or its licence file, read by hand, where it states too
little. A licence that is not known here is an error: read it, then say what it is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from analyses import study
from bayes_lrmf.files import written_whole

LOCK, PAGE = Path("requirements.lock"), Path("docs/licences.md")
PERMISSIVE = {
    "0BSD", "AFL-2.1", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python",
    "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib",
}  # fmt: skip
COPYLEFT_BY_FILE = {"MPL-2.0"}
# Read from licence files, as the metadata names no clause or nothing.
READ = {
    "agent-client-protocol": "Apache-2.0",
    "colorama": "BSD-3-Clause",
    "cycler": "BSD-3-Clause",
    "h5netcdf": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "jsonlines": "BSD-3-Clause",
    "kiwisolver": "BSD-3-Clause",
    "multipledispatch": "BSD-3-Clause",
    "nest-asyncio": "BSD-2-Clause",
    "nest-asyncio2": "BSD-2-Clause",
    "protobuf": "BSD-3-Clause",
    "pysocks": "BSD-3-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "s3fs": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "tiktoken": "MIT",
}
# Not installed on every platform.
ELSEWHERE = {
    "cffi": "MIT-0",
    "colorama": "BSD-3-Clause",
    "httpx2-jsfetch": "BSD-3-Clause",
    "nest-asyncio": "BSD-2-Clause",
    "pycparser": "BSD-3-Clause",
    "tzdata": "Apache-2.0",
    "uvloop": "Apache-2.0 OR MIT",
}
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_SPELT = {"Apache License 2.0": "Apache-2.0", "Apache 2.0": "Apache-2.0", "MIT License": "MIT"}


def locked(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return version and what asked for it, by distribution of a lock file."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in text.splitlines():
        if pin := re.match(r"([a-z0-9][a-z0-9._-]*)==(\S+)", line):
            name = pin[1]
            found[name] = pin[2], []
        elif asked := re.match(r"    #(?: via|  ) ([a-z0-9][a-z0-9._-]*)", line):
            found[name][1].append(asked[1])
    return found


def licence(name: str, about: Message | Mapping[str, Any]) -> str:
    """Return the SPDX expression of a distribution, from its metadata or by hand.

    Raises
    ------
    SystemExit
        Where neither tells, or the licence is none of those above.
    """
    every = getattr(about, "get_all", lambda key: about.get(key))
    classifiers = [c.split(" :: ")[-1] for c in every("Classifier") or () if "License ::" in c]
    stated = about.get("License-Expression") or READ.get(name)
    if not stated:
        short = (about.get("License") or "").strip()
        stated = _SPELT.get(short, short)
        if not _terms(stated) <= PERMISSIVE | COPYLEFT_BY_FILE:
            known = sorted({_CLASSIFIERS[c] for c in classifiers if c in _CLASSIFIERS})
            stated = " OR ".join(known)
    unknown = _terms(stated) - PERMISSIVE - COPYLEFT_BY_FILE
    if unknown or not stated:
        raise SystemExit(
            f"{name}: licence not known ({', '.join(sorted(unknown)) or 'none stated'}); "
            f"read it and say what it is in {Path(__file__).name}"
        )
    return stated


def _terms(expression: str) -> set[str]:
    return set(re.split(r" (?:AND|OR) ", expression.strip("() ")))


def _needed_by(pins: dict[str, tuple[str, list[str]]]) -> dict[str, str]:
    """Return whether fits, extras of users or only development need a distribution."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = {
        "a fit": project["dependencies"],
        "an extra": [one for e, ones in extras.items() if e not in ("dev", "docs") for one in ones],
    }
    found = dict.fromkeys(pins, "development")
    for what in ("an extra", "a fit"):
        reached = {re.split(r"[\[<>=; ]", one)[0].lower() for one in asked[what]}
        while more := {n for n, (_, by) in pins.items() if reached & set(by)} - reached:
            reached |= more
        found |= dict.fromkeys(reached, what)
    return found


_PAGE = """# Licences

`bayes-lrmf` is under Apache-2.0 and ships no code of others: what it needs is installed beside it.
This page names every distribution of `requirements.lock` and its licence, as an SPDX expression;
`make licences` writes it, and fails where a licence is not known. "A fit" needs those that the
package asks for, directly or not; "an extra" those of its optional extras; the rest is for tests
and this documentation.

All but {few} are under permissive licences. These are under MPL-2.0, whose terms for sharing
changes reach the distribution's own files only: {weak}.
None is under the GPL, LGPL or AGPL; wheels of NumPy and SciPy hold a copy of libgfortran, under
GPL-3.0 with the GCC runtime library exception.

{table}"""


def page() -> str:
    """Return the page, Markdown."""
    pins = locked(LOCK.read_text(encoding="utf-8"))
    needed = _needed_by(pins)
    rows = []
    for name, (version, _) in sorted(pins.items()):
        try:
            about: Any = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            about = {"License-Expression": ELSEWHERE.get(name)}
        rows.append((name, version, licence(name, about), needed[name]))
    table = pd.DataFrame(rows, columns=["distribution", "version", "licence", "needed by"])
    weak = [name for name, _, stated, _ in rows if _terms(stated) & COPYLEFT_BY_FILE]
    named = ", ".join(f"`{name}`" for name in weak[:-1]) + f" and `{weak[-1]}`"
    return _PAGE.format(few=len(weak), weak=named, table=study.markdown(table))


def main() -> None:
    """Write the page."""
    text = page()
    with written_whole(PAGE) as part:
        part.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
