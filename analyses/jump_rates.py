"""Rates at which rule `jump` of `flag` marks simulated models: undisturbed, and contaminated.

Tables and fits are those of `analyses.robustness`, spec `lrmf` on counts, of more seeds; fits are
kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import jax
import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analyses.robustness import SIZES, Run, named
from bayes_lrmf.jumps import benchmark_steps, jumps, pulled

_EDGES = (0.0, 2.0, 4.0, 6.0, np.inf)


def of_seed(seed: int) -> pd.DataFrame:
    """Return a row for each model that is looked at: its kind, and whether it is marked."""
    rows = []
    for disturbance in ("none", "contaminated"):
        told, posterior = Run("lrmf", "counts", disturbance, seed).made(SIZES)
        steps = benchmark_steps(posterior, key=jax.random.key(0))
        found = jumps(steps)
        if disturbance == "none":
            marked = steps.groupby("model")["jumps"].any()
            rows += [("undisturbed children, a step beyond the bound", m) for m in marked]
            continue
        memorised = told.items["benchmark"].iloc[0]
        odd = named(told, "contaminated")
        hit = set(found.loc[found["benchmark"] == memorised, "model"])
        there = steps[(steps["benchmark"] == memorised) & steps["model"].isin(odd)]
        excess = there.set_index("model")["excess"].abs()
        for model in sorted(odd):
            kind = "not compared"
            if model in excess:
                at = int(np.searchsorted(_EDGES, excess[model], side="right")) - 1
                kind = f"{_EDGES[at]:g} to {_EDGES[at + 1]:g} log-odds from kin"
            rows.append((f"contaminated, {kind}", model in hit))
        leans = pulled(posterior, found)
        leaning = set(leans.loc[leans["benchmark"] == memorised, "model"])
        cold = named(told, "their kin") & {str(m) for m in told.models[told.cold]}
        rows += [("cold kin of contaminated models", model in leaning) for model in sorted(cold)]
    return pd.DataFrame(rows, columns=["models", "marked"])


def main() -> None:
    """Print how many of each kind are marked, with exact 95 % intervals."""
    parser = argparse.ArgumentParser(prog="python -m analyses.jump_rates", description=__doc__)
    parser.add_argument("--first", type=int, default=10, help="seed of the first table")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        seeds = range(given.first, given.first + given.seeds)
        table = pd.concat(pool.map(of_seed, seeds))
    for kind, marked in table.groupby("models", sort=True)["marked"]:
        n, k = len(marked), int(marked.sum())
        low, high = binomtest(k, n).proportion_ci(0.95, method="exact")
        print(f"{kind}: {k} of {n:,} marked, {k / n:.2%} ({low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
