"""Whether tests would notice: small changes of a module, one at a time, and what they let pass.

Cosmic Ray makes the changes (`make mutation` installs it, in an environment of its own). Each is
tried in a copy of the tree by the fast tests of its module, until the first fails. A change that
breaks arithmetic by its type alone (a bit shift of floats) or touches annotations only is not made.
What was tried is kept in build/mutation; a table of the results goes into docs/validation.md.

It forks, so it runs where Unix does.
"""

from __future__ import annotations

import argparse
import ast
import csv
import datetime
import difflib
import importlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

MODULES = {
    "metrics": ("tests/test_metrics.py",),
    "flag": ("tests/test_flag.py", "tests/test_jumps.py"),
    "predict": ("tests/test_predict.py", "tests/test_flag.py"),
    "gmrf": ("tests/test_gmrf.py",),
    "program": ("tests/test_program.py",),
}
FOLDER = Path("build/mutation")
EXPLAINED = Path("analyses/mutation_survivors.csv")
_COPIED = ("analyses", "bayes_lrmf", "models", "tests", "pyproject.toml")
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
_BITS = {"BitOr", "BitAnd", "BitXor"}
_IDENTITY = {"Is", "IsNot"}
_WITHOUT_SENSE = {"ReplaceUnaryOperator_USub_Invert", "ReplaceUnaryOperator_USub_Not"}
_IMPORTED = ("arviz", "h5netcdf", "matplotlib.pyplot", "networkx", "numpyro", "pandas", "rich",
             "scipy.stats", "sklearn.metrics")  # fmt: skip
_ENVIRONMENT = {
    "CI": "true",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path("build/jax/mutation").resolve()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # Threads do not outlive a fork.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0",
}
_BYTES = 8 << 30


def _sensible(operator: str) -> bool:
    if operator in _WITHOUT_SENSE:
        return False
    swap = re.fullmatch(r"Replace(Binary|Comparison)Operator_(\w+)_(\w+)", operator)
    if swap is None:
        return True
    kinds = (_ARITHMETIC, _BITS) if swap[1] == "Binary" else (_IDENTITY,)
    both = {swap[2], swap[3]}
    if swap[1] == "Comparison" and not both & _IDENTITY:
        return True
    return any(both <= kind for kind in kinds)


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where annotations stand, from and to (line, column)."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            found.append(node.returns)
    return [
        ((one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0))
        for one in found
        if one is not None
    ]


def places(source: str) -> list[tuple[str, int]]:
    """Return where which operator of Cosmic Ray can change a source: name, occurrence."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree, lines, skipped = get_ast(source), source.splitlines(), _annotations(source)
    found = []
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments() or not _sensible(name.split("/")[1]):
            continue
        starts = [at for node in ast_nodes(tree) for at, _ in kind().mutation_positions(node)]
        for occurrence, (line, column) in enumerate(starts):
            # The star of arguments is taken for a product.
            star = re.match(r"\*{1,2}[^ *]", lines[line - 1][column:])
            if not star and not any(low <= (line, column) < high for low, high in skipped):
                found.append((name, occurrence))
    return found


def changed(source: str, name: str, occurrence: int) -> str:
    """Return the source with one change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    new = mutate_code(source, get_operator(name)(), occurrence)
    assert new is not None
    ast.parse(new)
    return str(new)


def difference(before: str, after: str) -> tuple[int, str, str]:
    """Return number, old and new text of the lines that differ."""
    old, new = before.splitlines(), after.splitlines()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    (block,) = [block for block in blocks if block[0] != "equal"]
    parts = (old[block[1] : block[2]], new[block[3] : block[4]])
    return block[1] + 1, *(" ".join(map(str.strip, part)).strip() for part in parts)


def _fails(folder: Path, tests: tuple[str, ...], log: Path, seconds: int) -> tuple[bool, float]:
    """Run tests of a tree in a fork, at most so many seconds of CPU; return what CPU they took."""
    import resource

    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            for limit, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, _BYTES)):
                resource.setrlimit(limit, (most, most))
            with open(log, "wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(folder)
            sys.path.insert(0, str(folder))
            os.environ["PYTHONPATH"] = str(folder)
            for name in [name for name in sys.modules if name.split(".")[0] == "analyses"]:
                del sys.modules[name]
            import pytest

            code = int(pytest.main(["-qx", "-m", "not slow", "-p", "no:cacheprovider", *tests]))
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    return status != 0, used.ru_utime + used.ru_stime


def _read(path: Path, source: str) -> dict[str, dict[str, Any]]:
    """Return what was tried of this source before, by changed source."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["tried"] if kept["source"] == source else {}


def tried(module: str, *, most: int, seed: int, again: bool) -> dict[str, Any]:
    """Try changes of a module, all or a random part; return a row of the table."""
    path = Path("bayes_lrmf") / f"{module}.py"
    source = path.read_text(encoding="utf-8")
    every = places(source)
    random.Random(seed).shuffle(every)
    some = [changed(source, *place) for place in every[:most]]
    kept_at = FOLDER / f"{module}.json"
    known = _read(kept_at, source)
    left = [one for one in some if one not in known or (again and not known[one]["killed"])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in _COPIED:
            copy: Any = shutil.copytree if Path(part).is_dir() else shutil.copy
            copy(part, folder / part)
        log, tests = FOLDER / f"{module}.log", MODULES[module]
        if left:
            sys.dont_write_bytecode = False
            broken, seconds = _fails(folder, tests, log.resolve(), 3600)
            if broken:
                raise SystemExit(f"the tests of {module} fail without a change: see {log}")
            sys.dont_write_bytecode = True
            for compiled in (folder / "bayes_lrmf" / "__pycache__").glob(f"{module}.*.pyc"):
                compiled.unlink()
        for at, one in enumerate(left):
            (folder / path).write_text(one, encoding="utf-8")
            killed, _ = _fails(folder, tests, log.resolve(), int(3 * seconds + 60))
            line, old, new = difference(source, one)
            known[one] = {"killed": killed, "line": line, "old": old, "new": new}
            kept_at.write_text(json.dumps({"source": source, "tried": known}), encoding="utf-8")
            if not killed:
                print(f"{module} {line}: {old}  ->  {new}", flush=True)
            elif at % 10 == 0:
                print(f"{module}: {at + 1} of {len(left)}", flush=True)
    return row(module, len(every), seed, [known[one] for one in some])


def row(module: str, n: int, seed: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the table, of results of a random part of n changes."""
    reasons = explanations()
    alive = [one for one in results if not one["killed"]]
    return {
        "module": module,
        "changes": n,
        "seed": seed,
        "tried": len(results),
        "noticed": len(results) - len(alive),
        "explained": sum((module, one["old"], one["new"]) in reasons for one in alive),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def explanations() -> dict[tuple[str, str, str], str]:
    """Return why some changes may pass, by module, old and new text."""
    with EXPLAINED.open(encoding="utf-8", newline="") as file:
        return {(r["module"], r["old"], r["new"]): r["why"] for r in csv.DictReader(file)}


def main() -> None:
    """Try changes of the modules, print those that pass, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m analyses.mutation", description=__doc__)
    parser.add_argument("--modules", default=",".join(MODULES))
    parser.add_argument("--most", type=int, default=80, help="changes tried of a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="try those that passed once more")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.update(_ENVIRONMENT)
    # The one thread is that of pyarrow's allocator, which knows of forks.
    warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
    for name in _IMPORTED:
        importlib.import_module(name)
    names = given.modules.split(",")
    rows = [tried(m, most=given.most, seed=given.seed, again=given.again) for m in names]
    for one in rows:
        print(json.dumps(one))
    from analyses import validation

    validation.keep("mutants", "module", rows)


if __name__ == "__main__":
    main()
