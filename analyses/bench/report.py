"""Times to shared targets, their ratios, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.study import markdown

WITHIN = 1e-3
"""Of the best objective that any point estimate reached."""
HELD_OUT_WITHIN = 5e-3
"""Of the held-out log loss of the point estimate with the best objective."""

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def reached_after(
    trajectory: Sequence[Mapping[str, float]], name: str, target: float, clock: str = "seconds"
) -> float:
    """Return the time of the first point whose `name` is at most `target`; NaN if none is."""
    times = [point[clock] for point in trajectory if point.get(name, np.inf) <= target]
    return float(times[0]) if times else float("nan")


def targets(runs: Runs, points: Sequence[str]) -> dict[str, float]:
    """Return the objective and the held-out log loss whose first times are compared.

    Parameters
    ----------
    runs : mapping
        Results of each contestant, one a repeat.
    points : sequence of str
        Those that share the objective.
    """
    ends = [run["trajectory"][-1] for name in points for run in runs.get(name, ())]
    if not ends:
        return {"objective": float("nan"), "held_out": float("nan")}
    best = min(ends, key=lambda end: end["objective"])
    return {
        "best_objective": best["objective"],
        "objective": best["objective"] + WITHIN * abs(best["objective"]),
        "held_out": best["held_out"] * (1 + HELD_OUT_WITHIN),
    }


def row(runs: Sequence[Mapping[str, Any]], aim: Mapping[str, float]) -> dict[str, float]:
    """Return medians over repeats of the times, the memory and the scores of a contestant."""

    def median(values: list[float]) -> float:
        return float(np.median(values))

    def first(name: str, clock: str) -> float:
        return median([reached_after(r["trajectory"], name, aim[name], clock) for r in runs])

    found = {
        "seconds": median([r["trajectory"][-1]["seconds"] for r in runs]),
        "cpu_seconds": median([r["trajectory"][-1]["cpu_seconds"] for r in runs]),
        "compile": median([r["compile_seconds"] for r in runs]),
        "to_objective": first("objective", "seconds"),
        "to_objective_cpu": first("objective", "cpu_seconds"),
        "to_held_out": first("held_out", "seconds"),
        "held_out": median([r["trajectory"][-1]["held_out"] for r in runs]),
        "peak_gigabytes": median([r["peak_gigabytes"] for r in runs]),
        "load_before": max(r["load_before"] for r in runs),
    }
    for name in ("log_loss", "pearson", "coverage_90", "width_90"):
        found[name] = median([r["scores"][name] for r in runs])
    return found


_COLUMNS = {
    "seconds": ("whole, s", "{:.1f}"),
    "cpu_seconds": ("cpu s", "{:.1f}"),
    "compile": ("of it compiling, s", "{:.1f}"),
    "to_objective": ("to objective + 0.1 %, s", "{:.1f}"),
    "to_objective_cpu": ("the same, cpu s", "{:.1f}"),
    "to_held_out": ("to held-out loss, s", "{:.1f}"),
    "held_out": ("held-out loss", "{:.4f}"),
    "peak_gigabytes": ("peak, GB", "{:.2f}"),
    "log_loss": ("cold loss", "{:.4f}"),
    "pearson": ("cold r", "{:.3f}"),
    "coverage_90": ("90 % hold", "{:.1%}"),
    "width_90": ("mean width", "{:.3f}"),
}


def readable(rows: Mapping[str, Mapping[str, float]], absent: Mapping[str, str]) -> str:
    """Return the rows as Markdown by title; an empty cell is not defined, or never reached."""
    lines = []
    for title, values in rows.items():
        shown = {
            head: "" if np.isnan(values[name]) else form.format(values[name])
            for name, (head, form) in _COLUMNS.items()
        }
        lines.append({"contestant": title, **shown})
    notes = "".join(f"\nmissing: {title} ({why})\n" for title, why in absent.items())
    return markdown(pd.DataFrame(lines).fillna("")) + notes


def ratios(rows: Mapping[str, Mapping[str, float]], runs: Runs) -> dict[str, float]:
    """Return how many times longer a peer took, by name of the comparison; NaN if not known."""

    def of(name: str, key: str) -> float:
        return rows[name][key] if name in rows else float("nan")

    def without_compiling(name: str) -> float:
        return of(name, "to_objective") - of(name, "compile")

    draws = [run["twenty_draws"]["seconds"] for run in runs.get("smurff", ())]
    twenty = float(np.median(draws)) if draws else float("nan")
    lbfgs = "torch-lbfgs"
    return {
        "PyTorch L-BFGS / map, to objective + 0.1 %": of(lbfgs, "to_objective")
        / of("map", "to_objective"),
        "the same, processor seconds": of(lbfgs, "to_objective_cpu")
        / of("map", "to_objective_cpu"),
        "the same, without compiling": without_compiling(lbfgs) / without_compiling("map"),
        "NumPyro AutoNormal / vb, to a posterior": of("autonormal", "seconds")
        / of("vb", "seconds"),
        "20 draws of SMURFF / vb, to a posterior": twenty / of("vb", "seconds"),
    }
