"""Tests of the house: imports go downwards, one module one name, the wheel carries the specs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "bayes_lrmf"
ROOT = Path(__file__).resolve().parent.parent

# A module imports only from lower floors, or from its own where that makes no circle.
FLOORS = {
    "checks": 0,
    "files": 0,
    "interruption": 0,
    "intervals": 0,
    "metrics": 0,
    "progress": 0,
    "sharing": 0,
    "tables": 0,
    "unpacking": 0,
    "cells": 0,
    "devices": 0,
    "vech": 0,
    "threads": 0,
    "layouts": 1,
    "responses": 1,
    "lineage": 1,
    "similarity": 1,
    "scale_mixture": 1,
    "elimination": 1,
    "block_elimination": 1,
    "reduced": 1,
    "spec": 1,
    "logit_normal": 1,
    "kernels": 1,
    "features": 1,
    "comparison": 1,
    "gmrf": 2,
    "gaussian": 2,
    "twins": 2,
    "joining": 2,
    "growth": 3,
    "covariates": 1,
    "directed": 2,
    "sparse_binary": 1,
    "design": 2,
    "streaming": 2,
    "descent": 3,
    "program": 3,
    "provenance": 3,
    "variational": 3,
    "simulate": 4,
    "posterior": 4,
    "storage": 5,
    "cell_draws": 1,
    "draws": 5,
    "inference.*": 5,
    "diagnose": 6,
    "item_space": 6,
    "inheritance": 6,
    "agreement": 6,
    "kinship": 6,
    "random_parents": 6,
    "jumps": 6,
    "lineage_quality": 6,
    "predict": 6,
    "redraw": 6,
    "retrodiction": 6,
    "coldstart": 6,
    "forecast": 7,
    "outlook": 7,
    "holdouts": 7,
    "baselines.*": 7,
    "flag": 7,
    "families": 7,
    "told": 8,
    "report_data": 8,
    "plan": 8,
    "handover": 9,
    "guard": 9,
    "scoring": 8,
    "conformal": 8,
    "methods": 8,
    "evaluation": 9,
    "evaluate": 9,
    "sources.*": 8,
    "plots": 9,
    "report": 9,
    "console": 9,
    "commands.*": 10,
    "commands": 10,
    "cli": 11,
    # The package itself and what `python -m` runs: nothing may import them.
    "": 12,
    "__main__": 12,
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager"}
# Who alone may import a library, by the first letters of its name.
KEEPERS = {
    "networkx": {"lineage"},
    "arviz": {"posterior", "plots"},
    "inspect_ai": {"sources.inspect_ai_logs"},
}


def modules(folder: Path) -> dict[str, Path]:
    """Return {dotted name below the package: file}; the package itself is ''."""
    names = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names[".".join(p for p in parts if p != "__init__")] = path
    return names


def imported(source: str, name: str, is_package: bool) -> set[str]:
    """Return the dotted names a module imports anywhere in it, `from a import b` as ``a.b``."""
    inside = [PACKAGE, *name.split(".")] if name else [PACKAGE]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                kept = inside[: len(inside) - node.level + is_package]
                start = ".".join([*kept, start] if start else kept)
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


def graph(folder: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return for each module the modules of the package and the outside libraries it imports."""
    names = modules(folder)
    own: dict[str, set[str]] = {}
    outside: dict[str, set[str]] = {}
    for name, path in names.items():
        own[name], outside[name] = set(), set()
        for target in imported(path.read_text(encoding="utf-8"), name, path.stem == "__init__"):
            top, _, rest = target.partition(".")
            if top != PACKAGE:
                outside[name].add(top)
                continue
            # The last name may be a function or class: then its module is meant.
            own[name].add(rest if rest in names else rest.rpartition(".")[0])
    return own, outside


def floor(name: str) -> int | None:
    return FLOORS.get(name, FLOORS.get(f"{name.partition('.')[0]}.*"))


def upward(own: dict[str, set[str]]) -> list[str]:
    names = set(own).union(*own.values())
    placed = {name: level for name in names if (level := floor(name)) is not None}
    return [
        f"{name} (floor {placed[name]}) imports {target or PACKAGE} (floor {placed[target]})"
        for name in own.keys() & placed.keys()
        for target in own[name] & placed.keys()
        if placed[target] > placed[name]
    ]


OWN, OUTSIDE = graph(ROOT / PACKAGE)


def test_every_module_has_a_floor():
    assert [name for name in OWN if floor(name) is None] == []


def test_every_imported_module_exists():
    # Imports inside functions, such as those of the command line, fail only when they are reached.
    assert set().union(*OWN.values()) - set(OWN) == set()


def test_imports_go_downwards():
    assert upward(OWN) == []


def test_imports_make_no_circle():
    try:
        TopologicalSorter(OWN).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(name or PACKAGE for name in error.args[1]))


def test_module_names_say_what_they_know():
    parts = {part for name in OWN for part in name.split(".")}
    assert parts & FORBIDDEN_NAMES == set()


@pytest.mark.parametrize("library", KEEPERS)
def test_only_its_keepers_import_a_library(library):
    users = {n for n, tops in OUTSIDE.items() if any(t.startswith(library) for t in tops)}
    assert users - KEEPERS[library] == set()


def test_the_reader_of_imports_sees_every_form(tmp_path):
    (tmp_path / "inference").mkdir()
    sources = {
        "__init__.py": "",
        "checks.py": "def f():\n    import bayes_lrmf.cli\n",
        "files.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import spec\n",
        "spec.py": "from bayes_lrmf.checks import InputError\nfrom bayes_lrmf import program\n",
        "program.py": "import numpy.linalg\nfrom bayes_lrmf import __version__\n",
        "cli.py": "from arviz_stats import x\nfrom bayes_lrmf.inference import fit_map\n",
        "inference/__init__.py": "from .map import fit_map\nfrom ..checks import InputError\n",
        "inference/map.py": "from ..cli import main\nfrom . import svi\n",
        "inference/svi.py": "from bayes_lrmf.inference.map import fit_map\n",
    }
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    own, outside = graph(tmp_path)
    assert own == {
        "": set(),
        "checks": {"cli"},
        "files": {"spec"},
        "spec": {"checks", "program"},
        "program": {""},
        "cli": {"inference"},
        "inference": {"inference.map", "checks"},
        "inference.map": {"cli", "inference.svi"},
        "inference.svi": {"inference.map"},
    }
    assert outside["program"] == {"numpy"}
    assert outside["cli"] == {"arviz_stats"}
    assert {line.split(" ")[0] for line in upward(own)} == {
        "checks",
        "files",
        "spec",
        "program",
        "inference.map",
    }
    with pytest.raises(CycleError):
        TopologicalSorter(own).prepare()


@pytest.mark.skipif("cli" not in OWN, reason="bayes_lrmf/cli.py is not written yet")
@pytest.mark.parametrize("arguments", [[], ["--help"], ["fit", "--help"]])
def test_help_does_not_wait_for_jax(arguments):
    run = (
        "import sys\n"
        "from bayes_lrmf.cli import main\n"
        "try:\n"
        "    sys.argv[1:] and main()\n"
        "finally:\n"
        "    heavy = {'jax', 'numpyro', 'arviz', 'pandas'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", run, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if arguments:
        assert "Usage" in done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel with the locked build backend, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("bayes_lrmf-*.whl")
    return path


def test_the_wheel_carries_every_spec_and_each_parses(wheel):
    specs = {path.name for path in (ROOT / "models").glob("*.toml")}
    assert specs
    with zipfile.ZipFile(wheel) as archive:
        inside = {Path(n).name: n for n in archive.namelist() if n.startswith("bayes_lrmf/models/")}
        assert set(inside) == specs
        for name, member in inside.items():
            declared = tomllib.loads(archive.read(member).decode())
            assert declared["name"] == Path(name).stem


@pytest.mark.slow
def test_arviz_may_come_first():
    # ArviZ leaves a lazy NumPyro behind; `import numpyro.distributions` would then load it twice.
    run = (
        "import arviz\n"
        "import bayes_lrmf.inference\n"
        "import numpyro.distributions\n"
        "assert numpyro.distributions.distribution\n"
    )
    subprocess.run([sys.executable, "-c", run], cwd=ROOT, check=True)
