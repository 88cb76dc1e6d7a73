"""What the reference lists: said in full, and shown at work."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_docs import PAGES, blocks

ROOT = Path(__file__).resolve().parent.parent

_DIRECTIVE = re.compile(
    r"^::: (?P<name>[\w.]+)\n(?:    options:\n      members: \[(?P<members>[^\]]*)\])?",
    re.MULTILINE,
)


def listed(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the functions and classes that a page of the reference lists, by their full names."""
    for match in _DIRECTIVE.finditer(text):
        module_name, members = match["name"], match["members"]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            module_name, _, members = module_name.rpartition(".")
            module = importlib.import_module(module_name)
        for name in members.split(", ") if members else module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"{module_name}.{name}", value


def left_out(value: Any) -> list[str]:
    """Return what the docstring of a function or class does not tell of its parameters."""
    text = inspect.getdoc(value) or ""
    names = list(inspect.signature(value).parameters)
    headed = re.search(r"^(Parameters|Attributes)\n-+$", text, re.MULTILINE)
    if names and not headed:
        return ["no section of parameters"]
    told = set(re.findall(r"\w+", text[headed.start() :])) if headed else set()
    return [name for name in names if name not in told]


def used(text: str) -> set[str]:
    """Return the names that the Python of a page uses; an import alone is no use."""
    found = set()
    for block in blocks(text):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Name):
                    found.add(node.id)
                elif isinstance(node, ast.Attribute):
                    found.add(node.attr)
    return found


LISTED = {
    name: value
    for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for name, value in listed(page.read_text(encoding="utf-8"))
}
USED = set().union(*(used(p.read_text(encoding="utf-8")) for p in [*PAGES, ROOT / "README.md"]))


def test_the_reference_lists_the_package():
    assert len(LISTED) > 80
    assert {"bayes_lrmf.flag.flag", "bayes_lrmf.inference.vb.fit_vb"} < set(LISTED)
    assert "bayes_lrmf.metrics.crps" in LISTED


@pytest.mark.parametrize("name", LISTED)
def test_parameters_are_told(name):
    assert left_out(LISTED[name]) == []


def test_every_function_and_class_is_used_on_a_page():
    assert [name for name in LISTED if name.rpartition(".")[2] not in USED] == []


def test_what_is_missing_is_seen():
    def silent(rows):
        """Do something."""

    def half(rows, cols):
        """Do something.

        Parameters
        ----------
        rows : array
        """

    assert left_out(silent) == ["no section of parameters"]
    assert left_out(half) == ["cols"]
    page = "```python\nfrom a import b\nb.c(d)\n```\n<!-- not run: slow -->\n```python\ne()\n```\n"
    assert used(page) == {"b", "c", "d"}
    assert used("```python\nfrom a import b\n```\n") == set()
