"""Fit a simulated table of the paper's size that is never in memory as a whole.

The table is written to Parquet in row groups, streamed into a file, and fitted in batches of items;
beside it stands the same fit of the table in memory. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analyses.cell_scale import PAPER
from bayes_lrmf.cells import matrix_cells
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.layouts import long_columns
from bayes_lrmf.lineage import read_lineage, write_lineage
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses, read_responses
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.streaming import stream_responses

ROW_GROUP = 1_000_000
KINDS = ("in memory", "streamed")


class Memory(Progress):
    """Keeps the largest memory that no file stands behind, at each update."""

    def __init__(self) -> None:
        super().__init__("vb", enabled=False)
        self.most = 0.0

    def update(self, *_: Any, **__: Any) -> None:
        """Look at the memory."""
        self.most = max(self.most, anonymous_gigabytes())


def anonymous_gigabytes() -> float:
    """Return the resident memory of this process that the system cannot take back."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1e-6 * 1.024 * float(line.split()[1])
    raise SystemExit("memory is told apart on Linux alone")


def write_tables(folder: Path, part: float) -> None:
    """Simulate a complete table and its lineage, and write both."""
    n_models, n_items = (round(side * np.sqrt(part)) for side in PAPER)
    drawn = simulate(
        dataclasses.replace(read_spec("laplacian"), rank=8),
        key=jax.random.key(0), n_models=n_models, n_items=n_items, n_benchmarks=6, density=1,
        cold_share=0,
    )  # fmt: skip
    r = drawn.responses
    step = max(1, ROW_GROUP // r.n_items)
    blocks = [slice(start, start + step) for start in range(0, r.n_models, step)]
    with pq.ParquetWriter(folder / "responses.parquet", _rows(r, blocks[0]).schema) as writer:
        for block in blocks:
            writer.write_table(_rows(r, block))
    write_lineage(drawn.lineage, folder / "lineage.csv")


def _rows(responses: Responses, rows: slice) -> pa.Table:
    assert responses.dense is not None
    cells = matrix_cells(responses.dense[rows])
    long = long_columns(list(responses.models[rows]), responses.items, cells)
    names = {"model": "model", "benchmark": "benchmark", "item": "item", "successes": "response"}
    return pa.table({new: long[old] for old, new in names.items()})


def fitted(kind: str, folder: str, n_batches: int, n_epochs: int) -> dict[str, Any]:
    """Read and fit in this process."""
    started = time.perf_counter()
    path = Path(folder) / "responses.parquet"
    responses = stream_responses(path) if kind == "streamed" else read_responses(path)
    spec = dataclasses.replace(read_spec("lrmf"), rank=8)
    design = make_design(responses, spec, lineage=read_lineage(Path(folder) / "lineage.csv"))
    reading, memory = time.perf_counter() - started, Memory()
    batches = {"n_batches": n_batches, "n_epochs": n_epochs} if kind == "streamed" else {}
    started = time.perf_counter()
    posterior = fit_vb(design, spec, key=jax.random.key(1), progress=memory, **batches)
    return {
        "table": kind,
        "cells": responses.n_observed,
        "seconds to read": reading,
        "seconds to fit": time.perf_counter() - started,
        "anonymous GB": max(memory.most, anonymous_gigabytes()),
        "ELBO before the first sweep over all": -float(posterior.record.trace[0]),
        "ELBO at the end": -float(posterior.record.trace[-1]),
        "message": posterior.record.message,
    }


def main() -> None:
    """Write, fit both ways, print how the bounds compare."""
    parser = argparse.ArgumentParser(prog="python -m analyses.out_of_memory", description=__doc__)
    parser.add_argument("--part", type=float, default=1.0, help="of the cells of the paper's size")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(fitted(*json.loads(given.one))))
        return
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as folder:
        write_tables(Path(folder), given.part)
        rows = []
        for kind in KINDS:
            asked = json.dumps([kind, folder, given.batches, given.epochs])
            command = [sys.executable, "-m", "analyses.out_of_memory", "--one", asked]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            for name, value in rows[-1].items():
                print(f"{name}: {value:,.6g}" if isinstance(value, float) else f"{name}: {value}")
            print(flush=True)
    best = rows[0]["ELBO at the end"]
    for name in ("ELBO before the first sweep over all", "ELBO at the end"):
        gap = 100 * (best - rows[1][name]) / abs(best)
        print(f"streamed, {name}: {gap:.3f} % below that of the table in memory at the end")


if __name__ == "__main__":
    main()
