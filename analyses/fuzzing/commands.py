"""Posteriors, plans and the whole command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from analyses.fuzzing.documents import RECIPES, SPEC
from analyses.fuzzing.forms import DATA, Reader, listed
from analyses.fuzzing.tables import ALIASES, TREE, WIDE
from analyses.fuzzing.tools import CARDS, leaderboard_seeds
from bayes_lrmf.checks import InputError
from bayes_lrmf.cli import main
from bayes_lrmf.plan import AT_RANDOM
from bayes_lrmf.responses import read_responses
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import read_posterior


@cache
def posterior_file() -> bytes:
    """Return a small posterior of simulated data, kept under build/fuzz."""
    kept = Path("build/fuzz/posterior.nc")
    if kept.is_file():
        return kept.read_bytes()
    import dataclasses

    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.inference import fit_vb
    from bayes_lrmf.simulate import simulate
    from bayes_lrmf.storage import write_posterior

    spec = dataclasses.replace(read_spec("directed"), rank=1)
    drawn = simulate(spec, key=jax.random.key(0), n_models=6, n_items=4, n_benchmarks=2)
    design = make_design(drawn.responses, spec, lineage=drawn.lineage)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_posterior(fit_vb(design, spec, key=jax.random.key(0)), kept)
    return kept.read_bytes()


def _edits() -> list[bytes]:
    """Return lists of changes of a posterior: an action, a path, and a value."""
    found: list[list[Any]] = []
    with h5py.File(io.BytesIO(posterior_file())) as file:
        found += [["attr", name, 0] for name in file.attrs]
        found += [["no attr", name, 0] for name in file.attrs]

        def visit(path: str, thing: Any) -> None:
            found.append(["delete", path, 0])
            if isinstance(thing, h5py.Dataset):
                found.extend([action, path, value] for action, value in _ACTIONS)

        file.visititems(visit)
    return [json.dumps([edit]).encode() for edit in found]


_ACTIONS = (
    ("all", -1),
    ("all", 10**6),
    ("one", 99),
    ("shorter", 1),
    ("kind", "S"),
    ("huge", 2**31),
)


def _edited(data: bytes, path: Path) -> None:
    path.write_bytes(data if data[:4] == b"\x89HDF" else posterior_file())
    # Whatever an edit could not do is left undone.
    with contextlib.suppress(Exception), h5py.File(path, "a") as file:
        for action, place, value in json.loads(data):
            with contextlib.suppress(Exception):
                _edit(file, str(action), str(place), value)


def _edit(file: h5py.File, action: str, place: str, value: Any) -> None:
    if action == "attr":
        file.attrs[place] = value if isinstance(value, str | int | float) else json.dumps(value)
    elif action == "no attr":
        del file.attrs[place]
    elif action == "delete":
        del file[place]
    elif action == "all":
        file[place][...] = value
    elif action == "one":
        file[place][(0,) * file[place].ndim] = value
    else:
        old = file[place][...]
        del file[place]
        if action == "shorter":
            file[place] = old[: len(old) - int(value)]
        elif action == "huge":
            file.create_dataset(place, shape=(min(int(value), 2**33),), dtype="f8", chunks=True,
                                compression="gzip")  # fmt: skip
        else:
            file[place] = np.array([str(v) for v in old.ravel()], dtype="S8")


def _read_posterior(data: bytes, folder: Path) -> None:
    _edited(data, folder / "p.nc")
    posterior = read_posterior(folder / "p.nc")
    _run(["diagnose", str(folder / "p.nc")])
    repr(posterior.design.responses)


def _posterior_bombs() -> list[bytes]:
    edit = [["huge", "core/weight", 2**33]]
    return [
        json.dumps(edit).encode(),
        json.dumps([["huge", "responses/item_trials", 2**31]]).encode(),
    ]


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder):
        yield


def _run(arguments: list[str]) -> None:
    """Run a command in process; raise `InputError` for exit code 2, fail for a code unknown."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
    words = err.getvalue()
    if code not in (0, 2, 3) or "Traceback" in words:
        raise AssertionError(f"exit code {code}: {words[-500:]}")
    if code == 2:
        last = [line for line in words.split("\n") if line][-1:]
        if not last or not last[0].startswith("bayes-lrmf: ") or not words.endswith("\n"):
            raise AssertionError(f"not one line: {words[-500:]!r}")
        raise InputError(last[0])


_LINES = (
    "fit r.csv --lineage l.csv --spec irt --method map --max-steps 1 -o q.nc",
    "diagnose p.nc", "diagnose p.nc --lineage -o d.csv", "predict p.nc -o t.csv --draws 5",
    "predict p.nc --level rank --models sim/base-0,sim/model-2 --draws 4 --ci-prob 0.8",
    "predict p.nc --level item --draws 3 -o t.parquet --seed 3", "predict p.nc --merge y.yml",
    "predict p.nc --models @names.txt", "add p.nc --responses r.csv -o q.nc",
    "add p.nc --lineage l.csv --aliases a.csv -o q.nc", "flag p.nc --top-k 2 -o f.csv",
    "flag p.nc --threshold 0.5", "flag p.nc --budget 2 --costs c.csv -o plan.csv --lm-eval x.json",
    "add p.nc --responses r.csv --guard plan.csv -o q.nc", "import lm-eval lm -o t.csv",
    "import lm-eval lm --metric acc --filter none --counts c2.csv --responses p.nc",
    "import lighteval lm -o t.csv", "import inspect lm", "import details lm --metric sums=acc",
    "import every-eval-ever lm", "import mergekit y.yml --child org/kid -o e.csv",
    "import leaderboard t.csv -o b.csv", "import hub org/a,org/b --cache . --offline -o e.csv",
    "evaluate r.csv --lineage l.csv --methods nope --shots 0,1 -o m.csv", "report p.nc -o r.txt",
    "simulate -o r.csv --models 4 --items 3", "fit r.csv --spec s.toml -o p.txt", "--help", "",
)  # fmt: skip


def _lines() -> list[bytes]:
    return [json.dumps(line.split()).encode() for line in _LINES]


def _read_command(data: bytes, folder: Path) -> None:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        given = data.decode("utf-8", "replace").split()
    words = [str(word)[:1000] for word in (given if isinstance(given, list) else [given])]
    # Nothing is written outside of the folder, and nothing asked of the Hub.
    words = [w for w in words if not w.startswith(("/", "~")) and ".." not in w and "=/" not in w]
    if "hub" in words:
        # Twice: an option before it may take the first for its value.
        words += ["--offline", "--offline"]
    lay_inputs(folder)
    environment = dict(os.environ)
    try:
        with _inside(folder):
            _run(words)
    finally:
        os.environ.clear()
        os.environ.update(environment)


def lay_inputs(folder: Path) -> None:
    """Write the good files that command lines of the fuzzing name."""
    good = {
        "r.csv": WIDE.replace(b"arc:1,arc:2,gsm8k:1", b"bench1:q1,bench2:q3,bench1:q2"),
        "l.csv": TREE,
        "a.csv": ALIASES,
        "s.toml": SPEC,
        "y.yml": RECIPES[0]
        .replace(b"org/a", b"sim/base-0")
        .replace(b"org/b@main+lora", b"sim/model-1"),
        "c.csv": b"benchmark,cost\nbench1,1\nbench2,2\n",
        "names.txt": b"sim/base-0\n",
        "p.nc": posterior_file(),
        "t.csv": leaderboard_seeds()[0],
        "org%2Fa.json": CARDS[0],
        "plan.csv": _PLAN.replace(b"m1,arc,1,", b"m1,bench1,q1,"),
    }
    for name, data in good.items():
        (folder / name).write_bytes(data)
    (folder / "lm").mkdir()
    for file in (DATA / "lm_eval/org__alpha").iterdir():
        shutil.copy(file, folder / "lm")


def _read_costs(data: bytes, folder: Path) -> None:
    (folder / "p.nc").write_bytes(posterior_file())
    (folder / "c.csv").write_bytes(data)
    with _inside(folder):
        _run(["flag", "p.nc", "--budget", "2", "--costs", "c.csv"])


def _read_plan(data: bytes, folder: Path) -> None:
    (folder / "plan.csv").write_bytes(data)
    from bayes_lrmf.commands.deciding import _table
    from bayes_lrmf.guard import at_random

    at_random(read_responses_of(WIDE, folder), _table(str(folder / "plan.csv"), "plan"))


def read_responses_of(data: bytes, folder: Path) -> Any:
    """Return responses from the bytes of a CSV file."""
    (folder / "r.csv").write_bytes(data)
    return read_responses(folder / "r.csv")


_COSTS = (
    b"benchmark,cost\nbench1,1\nbench2,2\n",
    b"model,cost\nsim/base-0,1\nsim/model-2,0.5\n",
    b"cost\n3\n",
)
_PLAN = (
    b"model,benchmark,item,gain,reason,rank\nm1,arc,1,0.1,%b,1\nm1,gsm8k,1,0.1,best,2\n"
    b"m2,arc,,0.3,%b,3\n" % ((b'"' + AT_RANDOM.encode() + b'"',) * 2)
)


READERS: dict[str, Reader] = {
    "posterior edited": Reader("json", _edits, _read_posterior, 0.15, _posterior_bombs),
    "posterior bytes": Reader("bytes", lambda: [posterior_file()], _read_posterior, 0.15),
    "costs": Reader("csv", listed(*_COSTS), _read_costs, 0.1),
    "plan": Reader("csv", listed(_PLAN), _read_plan, 0.5),
    "command line": Reader("json", _lines, _read_command, 0.2),
}
