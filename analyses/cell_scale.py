"""Time fits of large simulated tables: the paper's size, sparse ones, and growth with cells.

The table of the paper's size is complete, 2,934 models by 21,606 items. Each fit runs in a process
of its own, whose memory is the peak that is printed, table and all.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from analyses.bench.clock import peak_gigabytes
from analyses.bench.machine import described
from bayes_lrmf.cells import Cells
from bayes_lrmf.design import Design, make_design
from bayes_lrmf.files import written_whole
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_items import ItemGaussians
from bayes_lrmf.inference.vb_local import local_maps, model_moments
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses
from bayes_lrmf.simulate import grown_lineage, simulate
from bayes_lrmf.spec import read_spec

FOLDER = Path("build/bench")
PAPER, SPARSE, CELLS_EACH = (2934, 21606), (50_000, 20_000), 200
PARTS = (1 / 16, 1 / 4, 1.0)
METHODS = ("map", "vb")


def shape_of(part: float, kind: str) -> tuple[int, int]:
    """Return models and items of a table with this part of the cells of the whole.

    Of a sparse table both shrink with the cells, so that models keep theirs; the rectangle shrinks
    with the square.
    """
    whole, side = (SPARSE, part) if kind == "sparse" else (PAPER, np.sqrt(part))
    return round(whole[0] * side), round(whole[1] * side)


def dense_design(part: float, rank: int, spec_name: str) -> Design:
    """Return a complete simulated table, its lineage with merges, for one spec."""
    n_models, n_items = shape_of(part, "dense")
    drawn = simulate(
        dataclasses.replace(read_spec("laplacian"), rank=rank),
        key=jax.random.key(0),
        n_models=n_models,
        n_items=n_items,
        n_benchmarks=6,
        density=1,
        cold_share=0,
    )
    spec = dataclasses.replace(read_spec(spec_name), rank=rank)
    return make_design(drawn.responses, spec, lineage=drawn.lineage)


def sparse_design(part: float, rank: int, spec_name: str) -> Design:
    """Return simulated results of random cells, 200 for each model on average."""
    n_models, n_items = shape_of(part, "sparse")
    rng = np.random.default_rng(0)
    lineage = grown_lineage(n_models, rng=rng, partner="kin")
    flat = np.unique(rng.integers(0, n_models * n_items, n_models * CELLS_EACH))
    rows, cols = np.divmod(flat, n_items)
    ability, level = rng.standard_normal(n_models), rng.standard_normal(n_items)
    factors = rng.standard_normal((2, n_models)), rng.standard_normal((2, n_items))
    psi = (
        ability[rows]
        + level[cols]
        + 0.5 * sum(m[rows] * x[cols] for m, x in zip(*factors, strict=True))
    )
    right = rng.random(len(flat)) < 1 / (1 + np.exp(-psi))
    items = pd.DataFrame(
        {
            "benchmark": [f"bench{b + 1}" for b in np.sort(np.arange(n_items) % 6)],
            "item": [f"q{i + 1}" for i in range(n_items)],
            "trials": 1,
        }
    )
    cells = Cells(rows.astype(np.int32), cols.astype(np.int32), right.astype(np.int8), None)
    responses = Responses(lineage.nodes, items, None, cells)
    spec = dataclasses.replace(read_spec(spec_name), rank=rank)
    return make_design(responses, spec, lineage=lineage)


class Clock(Progress):
    """Note the processor seconds of each sweep or iteration."""

    def __init__(self, method: str) -> None:
        super().__init__("", enabled=False)
        self.figure = {"map": "objective", "vb": "elbo"}[method]
        self.seen: list[float] = []

    def update(self, completed: int, **figures: float | str) -> None:
        """Note the time where a step of the search proper ends."""
        if self.figure in figures and "stage" not in figures:
            self.seen.append(time.process_time())

    @property
    def median(self) -> float:
        """Median seconds from one step to the next, in which compiling has no part."""
        return float(np.median(np.diff(self.seen))) if len(self.seen) > 1 else float("nan")


def measured(kind: str, method: str, rank: int, part: float) -> dict[str, Any]:
    """Fit one table in this process."""
    spec_name = "laplacian" if method == "map" else "lrmf"
    design = (sparse_design if kind == "sparse" else dense_design)(part, rank, spec_name)
    before = peak_gigabytes()
    fit = fit_map if method == "map" else fit_vb
    spec = dataclasses.replace(read_spec(spec_name), rank=rank)
    started, used = time.perf_counter(), time.process_time()
    clock = Clock(method)
    posterior = fit(design, spec, key=jax.random.key(1), progress=clock)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return {
        "table": kind,
        "models": design.responses.n_models,
        "items": design.n_items,
        "cells": design.responses.n_observed,
        "method": method,
        "rank": rank,
        "seconds": seconds,
        "processor seconds": used,
        "of a round": clock.median,
        "rounds": len(posterior.record.trace),
        "peak GB": peak_gigabytes(),
        "peak GB before": before,
        "converged": bool(posterior.record.converged),
        "message": posterior.record.message,
    }


def kernel(rank: int) -> dict[str, float]:
    """Return seconds and GFLOP/s of the passes of a sweep over a table of the paper's size."""
    spec = dataclasses.replace(read_spec("lrmf"), rank=rank)
    n_models, n_items = PAPER
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, PAPER).astype(np.int8)
    names = np.array([f"sim/model-{i}" for i in range(n_models)], dtype=object)
    bench = np.sort(np.arange(n_items) % 6)
    items = pd.DataFrame({"benchmark": bench.astype(str), "item": range(n_items), "trials": 1})
    design = make_design(Responses(names, items.astype({"item": str}), values, None), spec)
    maps, panel = local_maps(design, spec)
    size = rank + 2
    table = CellTable(design, spec, panel, size)

    n_factors = rank + int(spec.ability) + len(design.effect_benchmarks)
    models = model_moments(
        maps,
        0.3 * rng.standard_normal((n_models, n_factors)),
        np.tile(0.1 * np.eye(n_factors), (n_models, 1, 1)),
        rank,
    )
    loading, intercept = 0.3 * rng.standard_normal((rank, n_items)), rng.standard_normal(n_items)
    of_items = ItemGaussians.start(design, spec, loading, intercept).local()
    rows, cols = (rng.standard_normal((size, n)).astype(np.float32) for n in PAPER)
    value_and_slopes = jax.jit(jax.value_and_grad(design.table.log_likelihood, argnums=(0, 1)))
    found = {"bandwidth: GB/s": bandwidth()}
    # Two products with each packed second moment, and the linear terms; of map three products.
    flops = {"vb": 4 * size * (size + 1) / 2 + 2 * size, "map": 6 * size}
    for name, run in (
        ("vb, items", lambda: table.about_items(models, of_items)),
        ("vb, models", lambda: table.about_models(models, of_items)),
        ("map", lambda: jax.block_until_ready(value_and_slopes(rows, cols, None))),
    ):
        seconds = []
        for _ in range(6):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        found[f"{name}: seconds"] = float(np.median(seconds[1:]))
        each = flops[name[: name.find(",")] if "," in name else name]
        found[f"{name}: GFLOP/s"] = 1e-9 * values.size * each / found[f"{name}: seconds"]
        # A byte of the table for each cell; all else stays in the caches.
        found[f"{name}: FLOP a byte"] = each
    return found


def bandwidth() -> float:
    """Return GB/s between memory and processor, of copies of half a gigabyte."""
    copy, array = jax.jit(lambda x: x + 1), jax.numpy.zeros(2**27, jax.numpy.float32)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(copy(array))
        seconds.append(time.perf_counter() - started)
    return 2e-9 * array.nbytes / float(np.median(seconds[1:]))


def in_a_process(*given: Any) -> dict[str, Any]:
    """Return what `measured` finds in a process of its own."""
    command = [sys.executable, "-m", "analyses.cell_scale", "--one", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Time the fits, print and write."""
    parser = argparse.ArgumentParser(prog="python -m analyses.cell_scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tables of a 64th of the cells")
    parser.add_argument("--repeats", type=int, default=1, help="medians over so many runs of each")
    parser.add_argument("--only", choices=("dense", "sparse", "kernel"))
    parser.add_argument("--ranks", default="8,16", help="of the dense tables, by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="to time, by commas")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(*json.loads(given.one))))
        return
    machine = described()
    print(
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']:.1f}; "
        f"float32 products: {machine['jax_gigaflops']:.0f} GFLOP/s"
    )
    parts = (1 / 256, 1 / 64) if given.quick else PARTS
    ranks = [int(rank) for rank in given.ranks.split(",")]
    runs = [
        ("dense", method, rank, part)
        for rank in ranks
        for method in METHODS
        for part in (parts if rank == ranks[0] else parts[-1:])
    ]
    runs += [("sparse", method, 8, part) for method in METHODS for part in parts]
    rows = []
    for run in runs:
        if given.only in (None, run[0]) and run[1] in given.methods.split(","):
            rows.append(median([in_a_process(*run) for _ in range(given.repeats)]))
            print(", ".join(f"{k} {shown(v)}" for k, v in rows[-1].items()), flush=True)
    kernels = {} if given.only not in (None, "kernel") or given.quick else kernel(8)
    for name, value in kernels.items():
        print(f"pass over the paper's size, rank 8, {name} {value:.3g}")
    slopes = growth(rows)
    for name, slope in slopes.items():
        print(f"log-log slope of processor seconds over cells, {name}: {slope:.2f}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    whole = {"machine": machine, "runs": rows, "kernel": kernels, "slopes": slopes}
    with written_whole(FOLDER / "cell_scale.json") as path:
        path.write_text(json.dumps(whole, indent=1))
    if rows or kernels:
        picture(rows, kernels, machine["jax_gigaflops"])


def shown(value: Any) -> str:
    """Return a number in few digits."""
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run whose seconds are the median, and the largest memory of all."""
    ordered = sorted(rows, key=lambda row: row["seconds"])
    return ordered[len(rows) // 2] | {"peak GB": max(row["peak GB"] for row in rows)}


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return slopes of log processor seconds over log cells: of a whole fit, and of one round."""
    table = pd.DataFrame(rows)
    found = {}
    if not len(table):
        return found
    for (kind, method, rank), part in table.groupby(["table", "method", "rank"]):
        if len(part) > 1:
            for name, of in (("processor seconds", "a fit"), ("of a round", "a round")):
                slope = np.polyfit(np.log(part["cells"]), np.log(part[name]), 1)[0]
                found[f"{of}, {kind}, {method}, rank {rank}"] = float(slope)
    return found


def picture(rows: list[dict[str, Any]], kernels: dict[str, float], gigaflops: float) -> None:
    """Draw seconds against cells, and the rates of kernels under their roof."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    if rows:
        for (kind, method, rank), part in pd.DataFrame(rows).groupby(["table", "method", "rank"]):
            part = part.sort_values("cells")
            label = f"{kind}, {method}, rank {rank}"
            left.plot(part["cells"], part["seconds"], marker="o", label=label)
        left.set(xscale="log", yscale="log", xlabel="observed cells")
        left.set_ylabel("seconds to the end of a fit")
        left.legend()
    if kernels:
        intensity = np.geomspace(0.5, 1000, 200)
        roof = np.minimum(kernels["bandwidth: GB/s"] * intensity, gigaflops)
        right.plot(intensity, roof, color="black", label="memory, then products of matrices")
        for name in sorted({n.split(":")[0] for n in kernels} - {"bandwidth"}):
            at = kernels[f"{name}: FLOP a byte"], kernels[f"{name}: GFLOP/s"]
            right.plot(*at, "o", label=f"{name}: {at[1]:.0f} GFLOP/s")
        right.set(xscale="log", yscale="log", xlabel="FLOP a byte of memory", ylabel="GFLOP/s")
        right.legend()
    figure.savefig(FOLDER / "cell_scale.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
