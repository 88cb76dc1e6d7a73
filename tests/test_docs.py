"""The pages of the site: every example runs and prints what it says, and the site builds."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
RUN = ("python", "bash", "console")

_BLOCK = re.compile(
    r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```[ ]*$", re.DOTALL | re.MULTILINE
)
_EXCUSE = re.compile(r"<!-- not run: (?P<reason>\S[^\n]*?) -->\s*\Z")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")
_COMMAND = 'bayes-lrmf() { "$BAYES_LRMF_PYTHON" -m bayes_lrmf.cli "$@"; }\nset -e\n'


class Block(NamedTuple):
    """A fenced block that runs, and what the page shows of its output."""

    language: str
    text: str
    shown: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks that run, each with the ``text`` block that follows it at once."""
    found = list(_BLOCK.finditer(text))
    for at, match in enumerate(found):
        if match["language"] not in RUN or _EXCUSE.search(text[: match.start()]):
            continue
        after = found[at + 1] if at + 1 < len(found) else None
        shown = ""
        if after and after["language"] == "text":
            between = text[match.end() : after.start()]
            shown = "" if between.strip() else after["text"]
        yield Block(match["language"], match["text"], shown, text[: match.start()].count("\n") + 1)


def run_python(text: str, namespace: dict[str, object], page: str) -> str:
    """Run a block and return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(compile(text, page, "exec"), namespace)
    return printed.getvalue()


def run_bash(text: str, folder: Path) -> str:
    """Run a block with this interpreter's `bayes-lrmf`, and return what it printed."""
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
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_page(path: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in order, in one folder and one namespace."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        for block in blocks(path.read_text(encoding="utf-8")):
            if block.language == "python":
                yield block, run_python(block.text, namespace, f"{path.name}:{block.line}")
            else:
                yield block, run_bash(block.text, folder)


def outline(text: str) -> list[str]:
    """Return the lines with numbers and blanks made alike: these may differ between machines."""
    lines = (_NUMBER.sub("#", line.replace("NaN", "0")) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip() and line.strip() != "..."]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "docs")))
def test_examples_of_a_page_run_and_print_what_it_shows(page, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for block, printed in run_page(page, tmp_path):
            missing = [line for line in outline(block.shown) if line not in outline(printed)]
            assert not missing, f"{page.name}, block of line {block.line} printed:\n{printed}"


def test_python_of_the_readme_runs(tmp_path):
    run_bash("bayes-lrmf simulate -o . --models 20 --items 40 --seed 1\n", tmp_path)
    shutil.move(tmp_path / "responses.parquet", tmp_path / "results.parquet")
    shutil.move(tmp_path / "lineage.csv", tmp_path / "edges.csv")
    found = [b for b in blocks((ROOT / "README.md").read_text("utf-8")) if b.language == "python"]
    assert found
    namespace: dict[str, object] = {}
    for block in found:
        # The names of the page stand for one's own models.
        text = block.text.replace("my/merge", "sim/model-10").replace("my/parent", "sim/base-0")
        with contextlib.chdir(tmp_path):
            run_python(text, namespace, "README.md")


def test_a_block_that_does_not_run_says_why():
    assert not list(blocks("<!-- not run: needs the Hub -->\n```python\n1 / 0\n```\n"))
    assert list(blocks("<!-- not run: -->\n```python\n1 / 0\n```\n"))
    assert [b.shown for b in blocks("```bash\ntrue\n```\n\n```text\n7 rows\n```\n")] == ["7 rows\n"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "docs")))
def test_intervals_are_never_called_confidence(page):
    assert "confidence" not in page.read_text(encoding="utf-8").lower()


def test_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings", "mathjax"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no package {package}: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert "bayes-lrmf fit" in text
    assert "http" not in "".join(re.findall(r'<script[^>]* src="([^"]*)"', text))
