"""Time both lineage priors on simulated lineages of up to a million models, and on the real one."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.bench.clock import peak_gigabytes
from bayes_lrmf.directed import DirectedGraph
from bayes_lrmf.elimination import Elimination, eliminate
from bayes_lrmf.files import written_whole
from bayes_lrmf.gmrf import LaplacianGraph
from bayes_lrmf.lineage import Lineage, read_lineage, write_lineage
from bayes_lrmf.reduced import reduced_gaussian
from bayes_lrmf.simulate import grown_lineage

FOLDER = Path("build/bench")
KAPPA, SIZE, MAX_DEGREE, N_DRAWS = 0.1, 4, 16, 16
# Half of the nodes are observed, with noise of variance one half.
SHARE_SEEN, NOISE_PRECISION = 0.5, 2.0
# Name: second parent of a merge, models for each base.
LINEAGES = {
    "kin": ("kin", 12),
    "kin, large families": ("kin", 1000),
    "same base": ("family", 12),
    "any": ("any", 12),
}
LARGEST_EXACT_ANY = 10_000
PARTS = ("reading", "laplacian", "directed_1", f"directed_{SIZE}")
STEP_VARIANCES = np.array([1.0, 0.2, 0.3, 0.1, 0.05, 0.5])


class Clock:
    """Seconds, by the clock and of processors, by what was timed: the least of repetitions."""

    def __init__(self, n_repeats: int) -> None:
        self.n_repeats = n_repeats
        self.seconds: dict[str, float] = {}
        self.of_processors: dict[str, float] = {}

    def __call__(self, name: str, run: Callable[[], Any]) -> Any:
        """Time a function, and return what it returned last."""
        for _ in range(self.n_repeats):
            started, used = time.perf_counter(), time.process_time()
            out = run()
            used, taken = time.process_time() - used, time.perf_counter() - started
            self.seconds[name] = min(self.seconds.get(name, np.inf), taken)
            self.of_processors[name] = min(self.of_processors.get(name, np.inf), used)
        return out


def main() -> None:
    """Time what has not been timed yet, print and write."""
    parser = argparse.ArgumentParser(prog="python -m analyses.lineage_scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 10,000 models")
    parser.add_argument("--only", help=f"one of: {'; '.join(LINEAGES)}; real")
    parser.add_argument("--models", type=int, help="one size")
    parser.add_argument("--part", choices=PARTS, help="one part")
    given = parser.parse_args()
    if given.only is not None and given.only not in (*LINEAGES, "real"):
        parser.error(f"unknown lineage {given.only!r}; choose among {'; '.join(LINEAGES)}; real")
    sizes = [10**3, 10**4] if given.quick else [10**3, 10**4, 10**5, 10**6]
    runs = [(name, n) for name in LINEAGES for n in ([given.models] if given.models else sizes)]
    if os.environ.get("BAYES_LRMF_DATA"):
        runs.append(("real", 0))
    rows = []
    for name, n in runs:
        if given.only in (None, name):
            parts = PARTS if given.part is None else [given.part]
            rows.append({"lineage": name, "facts": {}, "seconds": {}, "of processors": {}})
            for part in parts:
                for key, values in timed(name, n, part).items():
                    rows[-1][key] |= values
            report(rows[-1])
    slopes = growth(rows)
    print("\nlog-log slopes of processor seconds over models, over all sizes / the last two:")
    print(slopes.to_string(float_format="{:.2f}".format))
    print(f"peak memory {peak_gigabytes():.2f} GB")
    with written_whole(FOLDER / "lineage_scale.json") as path:
        path.write_text(json.dumps({"runs": rows, "slopes": slopes.reset_index().to_dict()}))


def timed(name: str, n: int, part: str) -> dict[str, Any]:
    """Return what was measured of a part, kept from an earlier run or measured now."""
    kept = FOLDER / "parts" / f"lineage_scale {name} {n} {part}.json".replace(" ", "_")
    if kept.is_file():
        return json.loads(kept.read_text())
    if name == "real":
        lineage = read_lineage(Path(os.environ["BAYES_LRMF_DATA"]) / "lineage" / "edges.csv")
    else:
        partner, n_each = LINEAGES[name]
        rng = np.random.default_rng(0)
        lineage = grown_lineage(n, rng=rng, partner=partner, n_roots=max(1, n // n_each))
    found = measured(lineage, name == "any", part)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(kept) as path:
        path.write_text(json.dumps(found))
    return found


def report(row: dict[str, Any]) -> None:
    """Print what was measured of one lineage."""
    print(f"\n{row['lineage']}: " + ", ".join(f"{k} {v:,.6g}" for k, v in row["facts"].items()))
    print(f"  {'seconds':48} {'by the clock':>12} {'of processors':>14}")
    for name, seconds in row["seconds"].items():
        print(f"  {name:48} {seconds:12.4f} {row['of processors'][name]:14.4f}", flush=True)


def measured(lineage: Lineage, fills: bool, part: str) -> dict[str, Any]:
    """Return seconds by task, and facts about the lineage and the errors of estimates."""
    n = len(lineage.nodes)
    clock = Clock(3 if n <= 10**5 else 1)
    n_parents = np.bincount(lineage.child, minlength=n)
    facts: dict[str, float] = {
        "models": n,
        "edges": len(lineage.child),
        "merges of children": float((n_parents > 1).sum() / (n_parents > 0).sum()),
        "children of one model": int(np.bincount(lineage.parent).max()),
    }
    if part == "reading":
        reading(lineage, clock)
    elif part == "laplacian":
        laplacian(lineage, fills, clock, facts)
    else:
        directed(lineage, int(part.removeprefix("directed_")), fills, clock, facts)
    facts["peak memory, GB"] = peak_gigabytes()
    return {"facts": facts, "seconds": clock.seconds, "of processors": clock.of_processors}


def reading(lineage: Lineage, clock: Clock) -> None:
    """Time what is done to a lineage before any prior."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edges.csv"
        write_lineage(lineage, path)
        clock("lineage: read and check a CSV", lambda: read_lineage(path))

    def fresh() -> Lineage:
        return Lineage(
            lineage.nodes, lineage.child, lineage.parent, lineage.relation, lineage.weight
        )

    clock("lineage: topological order, depths", lambda: fresh().depth())
    clock("lineage: adjacency and components", lambda: fresh().components())
    clock("lineage: descendants of ten models", lambda: fresh().descendants(lineage.nodes[:10]))
    clock("lineage: core of every third model", lambda: fresh().core(list(lineage.nodes[::3])))


def evidence(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precisions and linear terms of noisy observations of some nodes."""
    rng = np.random.default_rng(1)
    seen = NOISE_PRECISION * (rng.random(n) < SHARE_SEEN)
    return seen, seen * rng.standard_normal(n)


def laplacian(lineage: Lineage, fills: bool, clock: Clock, facts: dict[str, float]) -> None:
    """Time the Laplacian prior."""
    adjacency = lineage.adjacency()
    graph = clock("laplacian: precision", lambda: LaplacianGraph(adjacency))
    n = graph.n_nodes
    seen, linear = evidence(n)
    rng = np.random.default_rng(2)

    def pattern(max_degree: int | None) -> tuple[Elimination, np.ndarray]:
        order = eliminate(n, graph.rows, graph.cols, max_degree=max_degree)
        off = np.zeros(order.n_entries)
        off[order.entry_of(graph.rows, graph.cols)] = -graph.weights
        return order, off

    def perturbation() -> np.ndarray:
        return graph.perturbation(KAPPA, rng=rng) + np.sqrt(seen) * rng.standard_normal(n)

    if not fills or n <= LARGEST_EXACT_ANY:
        order, off = clock("laplacian: order and pattern", lambda: pattern(None))
        facts["entries a node"] = order.n_entries / n
        facts["rounds"] = len(order.rounds)
        facts["largest column"] = int(np.bincount(order.owner).max())
        graph.__dict__["elimination"] = order
        value, *_ = clock(
            "laplacian: log determinant, gradient",
            lambda: graph.log_determinant_and_gradient(KAPPA),
        )
        clock(
            "laplacian: exact sample",
            lambda: order.solve_upper(graph.factor(KAPPA), rng.standard_normal(n)),
        )
        diagonal = graph.degree + KAPPA + seen
        mean = clock(
            "laplacian: conditional means",
            lambda: order.solve(order.factor(diagonal, off), linear),
        )
        variance, _ = clock(
            "laplacian: marginal variances",
            lambda: order.selected_inverse(order.factor(diagonal, off)),
        )
    if fills:
        order, off = clock("laplacian: order and pattern, in part", lambda: pattern(MAX_DEGREE))
        facts["nodes kept"] = len(order.kept)
        prior = reduced_gaussian(order, graph.degree + KAPPA, off)
        found = clock(
            "laplacian: log determinant, estimated", lambda: prior.log_determinant(rng=rng)
        )
        facts["log determinant"], facts["its standard error"] = found
        clock(
            "laplacian: exact sample, in part",
            lambda: prior.solve(graph.perturbation(KAPPA, rng=rng)),
        )
        given = clock(
            "laplacian: conditional, eliminated in part",
            lambda: reduced_gaussian(order, graph.degree + KAPPA + seen, off),
        )
        solution = clock("laplacian: conditional means, in part", lambda: given.solve(linear))
        estimate = clock(
            "laplacian: marginal variances, estimated",
            lambda: given.variances(perturbation() for _ in range(N_DRAWS)),
        )
        if n <= LARGEST_EXACT_ANY:
            facts["log determinant, exact"] = value
            facts["largest error of means"] = float(np.abs(solution - mean).max())
            error = estimate / variance - 1
            facts["relative error of variances, rms"] = float(np.sqrt((error**2).mean()))
            facts["relative error of variances, largest"] = float(np.abs(error).max())


def directed(
    lineage: Lineage, size: int, fills: bool, clock: Clock, facts: dict[str, float]
) -> None:
    """Time the directed prior, of a block of one size for each node."""
    n = len(lineage.nodes)
    seen, linear = evidence(n)
    rng = np.random.default_rng(3)
    graph = clock("directed: steps and pairs of parents", lambda: DirectedGraph(lineage))
    eye = np.eye(size) + 0.3 * (1 - np.eye(size))
    p = np.linalg.inv(STEP_VARIANCES[:, None, None] * eye)[graph.step]
    root = np.linalg.cholesky(STEP_VARIANCES[:, None, None] * eye)[graph.step]
    clock(
        f"directed {size}: log determinant, gradient",
        lambda: graph.log_determinant_and_gradient(p),
    )
    clock(
        f"directed {size}: exact sample",
        lambda: graph.values_of((root @ rng.standard_normal((n, size, 1)))[..., 0]),
    )
    if fills:
        if size == 1:
            directed_in_part(lineage, clock, facts)
        return
    clock("directed: order and pattern", lambda: DirectedGraph(lineage).blocks)
    centre = np.zeros((n, size))
    _ = graph.blocks
    diagonal, off, _ = clock(f"directed {size}: precision", lambda: graph.precision(p, centre))
    facts["entries a node, moral graph"] = graph.order.n_entries / n
    diagonal += seen[:, None, None] * np.eye(size)
    right = np.repeat(linear[:, None], size, axis=1)
    factor = clock(
        f"directed {size}: factor of the posterior", lambda: graph.blocks.factor(diagonal, off)
    )
    clock(f"directed {size}: means, given the factor", lambda: graph.blocks.solve(factor, right))
    clock(
        f"directed {size}: variances, given the factor",
        lambda: graph.blocks.selected_inverse(factor),
    )


def directed_in_part(lineage: Lineage, clock: Clock, facts: dict[str, float]) -> None:
    """Time the posterior of a scalar directed prior on a graph that fills in."""
    n = len(lineage.nodes)
    seen, linear = evidence(n)
    rng = np.random.default_rng(4)
    graph = DirectedGraph(lineage, max_degree=MAX_DEGREE)
    order = clock(
        "directed: order and pattern, in part",
        lambda: DirectedGraph(lineage, max_degree=MAX_DEGREE).order,
    )
    facts["nodes kept, moral graph"] = len(order.kept)
    p = 1 / STEP_VARIANCES[graph.step]
    diagonal, off, _ = graph.precision(p[:, None, None], np.zeros((n, 1)))
    diagonal, off = diagonal[:, 0, 0] + seen, off[:, 0, 0]
    given = clock(
        "directed 1: conditional, eliminated in part",
        lambda: reduced_gaussian(graph.order, diagonal, off),
    )
    clock("directed 1: conditional means, in part", lambda: given.solve(linear))

    def perturbation() -> np.ndarray:
        pulled = graph.pulls_of(np.sqrt(p) * rng.standard_normal(n))
        return pulled + np.sqrt(seen) * rng.standard_normal(n)

    estimate = clock(
        "directed 1: marginal variances, estimated",
        lambda: given.variances(perturbation() for _ in range(N_DRAWS)),
    )
    if n <= LARGEST_EXACT_ANY:
        exact = eliminate(n, order.owner, order.neighbour)
        entries = np.zeros(exact.n_entries)
        entries[exact.entry_of(order.owner, order.neighbour)] = off
        variance, _ = exact.selected_inverse(exact.factor(diagonal, entries))
        error = estimate / variance - 1
        facts["relative error of directed variances, rms"] = float(np.sqrt((error**2).mean()))


def growth(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return slopes of log processor seconds over log models, by task and lineage."""
    found: dict[str, dict[str, str]] = {}
    for name in LINEAGES:
        runs = [row for row in rows if row["lineage"] == name]
        if len(runs) < 2:
            continue
        for task in runs[0]["seconds"]:
            points = [
                (np.log(r["facts"]["models"]), np.log(r["of processors"][task]))
                for r in runs
                if task in r["seconds"]
            ]
            if len(points) < 2:
                continue
            whole = np.polyfit(*zip(*points, strict=True), 1)[0]
            last = np.polyfit(*zip(*points[-2:], strict=True), 1)[0]
            found.setdefault(task, {})[name] = f"{whole:.2f} / {last:.2f}"
    return pd.DataFrame.from_dict(found, orient="index").fillna("")


if __name__ == "__main__":
    main()
