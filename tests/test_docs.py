"""The pages of the site: every example runs and prints what it says, and the site builds."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

from analyses import pages
from analyses.pages import PAGES, ROOT, blocks, run_bash, run_page, run_python

pytestmark = pytest.mark.slow


_CHAOTIC = {"arviz.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "docs")))
def test_examples_of_a_page_run_and_print_what_it_shows(page, tmp_path):
    wrong = []
    for block, printed in run_page(page.read_text("utf-8"), tmp_path, name=page.name):
        for shown, now in pages.paired(block.shown, printed):
            # Short chains end elsewhere on another processor.
            same = page.name in _CHAOTIC or (now is not None and pages.agree(shown, now))
            if now is None or not same:
                wrong.append(
                    f"block of line {block.line} shows\n{shown}\nand prints\n{now or printed}"
                )
    assert not wrong, "\n".join([f"{page.name}: make docs-outputs rewrites what it can", *wrong])


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("mean 0.50", "mean 0.54", True),
        ("mean 0.50", "mean 0.56", False),
        ("ELBO -3200.23", "ELBO -3100", True),
        ("ELBO -3200.23", "ELBO 3200.23", False),
        ("12,000 rows", "12,500 rows", True),
        ("12,000 rows", "12 rows", False),
        ("a,0,50,100", "a,0.01,50,100", True),
        ("a,0,50,100", "a,0.01,50,110", False),
        ("0.5 NaN", "0.5 NaN", True),
        ("0.5 NaN", "0.5 0.0", False),
        ("0.5 0.0", "0.5 NaN", False),
        ("model-24 0.5", "model-25 0.5", False),
        ("bench1,0.5", "bench1,0.51", True),
        ("later:2024-01-06", "later:2024-01-07", False),
        ("converged (17 s), 59 sweeps", "converged (2 min 5 s), 59 sweeps", True),
        ("converged (17 s), 59 sweeps", "converged (17 s), 79 sweeps", False),
        ("in 1.5 GB", "in 12 MB", True),
    ],
)
def test_figures_agree_within_tolerance_costs_always_and_names_never(shown, printed, same):
    assert [now for _, now in pages.paired(shown, printed)] == [printed]
    assert pages.agree(shown, printed) == same


def test_lines_of_an_excerpt_are_paired_in_order_with_the_nearest():
    table = "name  mean\nm-1    0.1\nm-2    0.2\nm-3    0.3\n"
    pairs = pages.paired("name  mean\nm-2  0.25\n...\nm-3  0.31\n\nall  0.3\n", table)
    now = ["name  mean", "m-2    0.2", "...", "m-3    0.3", "", None]
    assert [line for _, line in pairs] == now
    assert [line for _, line in pages.paired("sum 1\nname mean", "name mean\nsum 1")] == [
        None,
        "name mean",
    ]


_PAGE = """# Half of 8 is 3

```python
print("text\\n   half\\n     3", end="\\n\\n")
print("took 12 s, in 5 steps", "kept 3", "took 2 s", "done", sep="\\n")
```

```text
text
half
   4

took 1.5 s, in 5 steps
kept 4
took 1 s
gone 7
```

The half is 4.

```python
1 / 2
```

<!-- not run: no such command -->
```bash
half 8
```

```text
3
```
"""


def test_outputs_are_rewritten_and_nothing_else(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(_PAGE, encoding="utf-8")
    assert pages.main([str(page)]) == 0
    new = _PAGE.replace("half\n   4", "   half\n     3").replace("kept 4", "kept 3")
    assert page.read_text("utf-8") == new
    told = capsys.readouterr()
    assert "page.md: 3 lines rewritten" in told.out
    assert "page.md:16: no line like this is printed: gone 7" in told.err
    assert "page.md:9: 1 more lines are printed than shown" in told.err
    before = page.stat().st_mtime_ns
    assert pages.main([str(page)]) == 0
    assert page.read_text("utf-8") == new
    assert page.stat().st_mtime_ns == before
    assert "page.md: 0 lines rewritten" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("```bash\nfalse\n```", "page.md does not run and is left as it is"),
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```python\nwith open(PAGE, 'a') as f: f.write('more')\n```", "was edited while it ran"),
    ],
)
def test_a_page_that_fails_or_is_edited_is_left(code, told, tmp_path, capsys):
    page = tmp_path / "page.md"
    first = '```python\nprint("now 3")\n```\n\n```text\nnow 2\n```\n\n'
    page.write_text(first + code.replace("PAGE", repr(str(page))), encoding="utf-8")
    assert pages.main([str(page)]) == 1
    assert "now 2\n" in page.read_text("utf-8")
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [page]


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
