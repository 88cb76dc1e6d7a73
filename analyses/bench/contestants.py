"""Who takes part, in which environment, and one run of one of them in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Contestant:
    """A fit to time.

    Attributes
    ----------
    name : str
        As the module takes it.
    title : str
        As tables show it.
    module : str
        Of this package, run with ``-m``.
    needs : str or None
        What the peers' environment must be able to import; None runs here.
    kind : {"point", "posterior"}
        Points share one objective.
    """

    name: str
    title: str
    module: str
    needs: str | None
    kind: str


CONTESTANTS = (
    Contestant("map", "bayes-lrmf map", "ours", None, "point"),
    Contestant("torch-lbfgs", "PyTorch L-BFGS, compiled", "torch_peer", "torch", "point"),
    Contestant("torch-adam", "PyTorch Adam, compiled", "torch_peer", "torch", "point"),
    Contestant("torch-minibatch", "PyTorch Adam, mini-batches", "torch_peer", "torch", "point"),
    Contestant("vb", "bayes-lrmf vb", "ours", None, "posterior"),
    Contestant("svi", "bayes-lrmf svi", "ours", None, "posterior"),
    Contestant("autonormal", "NumPyro AutoNormal SVI", "ours", None, "posterior"),
    Contestant("smurff", "SMURFF Macau, Gibbs", "smurff_peer", "smurff", "posterior"),
)


class Failed(Exception):
    """A contestant ended without a result."""


def peers_python() -> Path | None:
    """Return the Python of the peers' environment, which `make peers` builds, if it is there."""
    folder = os.environ.get("BAYES_LRMF_PEERS", str(ROOT / ".venv/peers"))
    found = Path(folder) / "bin/python"
    return found if found.exists() else None


def missing(contestant: Contestant) -> str | None:
    """Return why a contestant cannot run, or None if it can."""
    if contestant.needs is None:
        return None
    python = peers_python()
    if python is None:
        return "no peers' environment: make peers"
    # Importing PyTorch only to know that it is there takes seconds.
    asked = (
        f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({contestant.needs!r}))"
    )
    done = subprocess.run([python, "-c", asked], capture_output=True, check=False)
    return None if done.returncode == 0 else f"{python} has no {contestant.needs}: make peers"


def run(contestant: Contestant, arrays: Path, folder: Path, *, cores: int) -> dict[str, Any]:
    """Run one contestant and return its ``result.json``, with the load of the machine before.

    Parameters
    ----------
    contestant : Contestant
    arrays : Path
        Of the table.
    folder : Path
        For what it writes.
    cores : int
        It runs on so many of those that this process may use, with as many threads.

    Raises
    ------
    Failed
        With the last line that the process wrote to standard error.
    """
    return _run(contestant, contestant.name, arrays, folder, cores)


def warm_up(contestant: Contestant, arrays: Path, folder: Path, *, cores: int) -> dict[str, Any]:
    """Compile once with an empty cache, so that timed runs find it as they do in daily use."""
    return _run(contestant, "compile", arrays, folder, cores)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(
    contestant: Contestant, name: str, arrays: Path, folder: Path, cores: int
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    python = Path(sys.executable) if contestant.needs is None else peers_python()
    cache = folder.parent / "torch-cache"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(cores),
        "TORCHINDUCTOR_CACHE_DIR": str(cache.resolve()),
    }
    load = os.getloadavg()[0]
    command: list[str | Path] = [str(python), "-m", f"analyses.bench.{contestant.module}"]
    if cores < usable_cores() and hasattr(os, "sched_setaffinity"):
        # XLA takes as many threads as it may use cores, and no word about fewer.
        pinned = (
            "import os, runpy, sys; "
            f"os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}]); "
            "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
        )
        command = [str(python), "-c", pinned, f"analyses.bench.{contestant.module}"]
    done = subprocess.run(
        [*command, name, arrays, folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not result.is_file():
        lines = done.stderr.strip().splitlines() or ["no word of why"]
        raise Failed(f"{contestant.name} ended with code {done.returncode}: {lines[-1]}")
    return {**json.loads(result.read_text()), "load_before": load}
