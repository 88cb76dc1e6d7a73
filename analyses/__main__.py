"""Run every script of the study, and compare key figures with the expected ones."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

import pandas as pd

from analyses.study import DataAbsent

SCRIPTS = (
    "table_settings",
    "figure_shots",
    "figure_coverage",
    "table_graph_control",
    "table_scaling",
    "figure_family",
)
EXPECTED = Path(__file__).with_name("expected.csv")
KEY = ["study", "script", "data", "holdout", "method", "metric"]
# What another machine or a newer release of a library may move a figure by.
TOLERANCE = {
    "log_loss": 0.01,
    "pearson": 0.03,
    "mae": 0.005,
    "coverage_90": 0.05,
    "width_90": 0.02,
    "n_models": 0.0,
}


def main() -> None:
    """Run, then record or check."""
    parser = argparse.ArgumentParser(prog="python -m analyses", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small simulated tables, one seed")
    parser.add_argument("--only", help=f"comma-separated: {', '.join(SCRIPTS)}")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--check", action="store_true", help=f"compare with {EXPECTED.name}")
    after.add_argument("--record", action="store_true", help=f"write {EXPECTED.name}")
    given = parser.parse_args()
    names = SCRIPTS if given.only is None else tuple(given.only.split(","))
    for name in names:
        if name not in SCRIPTS:
            parser.error(f"unknown script {name!r}; choose among {', '.join(SCRIPTS)}")
    found = []
    for name in names:
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        try:
            table = import_module(f"analyses.{name}").script(given.quick)
        except DataAbsent as absent:
            print(f"skipped: {absent}")
            continue
        found.append(table.assign(study="quick" if given.quick else "full", script=name))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    if not found:
        return
    figures = pd.concat(found)[[*KEY, "value"]]
    if given.record:
        record(figures)
    if given.check and (wrong := differences(figures, pd.read_csv(EXPECTED))):
        print("\n".join(wrong), file=sys.stderr)
        raise SystemExit(1)
    if given.check:
        print(f"as expected, within tolerance: {len(figures)} figures of {EXPECTED.name}")


def record(figures: pd.DataFrame) -> None:
    """Write figures with their tolerances over those of the same study and scripts."""
    new = figures.assign(tolerance=figures["metric"].map(TOLERANCE)).round({"value": 4})
    if EXPECTED.is_file():
        old = pd.read_csv(EXPECTED)
        again = old.set_index(KEY[:2]).index.isin(new.set_index(KEY[:2]).index)
        new = pd.concat([old[~again], new])
    new.to_csv(EXPECTED, index=False)
    print(f"wrote {len(figures)} figures to {EXPECTED}")


def differences(figures: pd.DataFrame, expected: pd.DataFrame) -> list[str]:
    """Return a line for every figure that is not as expected, or not there."""
    run = expected.set_index(KEY[:2]).index.isin(figures.set_index(KEY[:2]).index)
    if not run.any():
        return [f"{EXPECTED.name} holds nothing of this study: record it with --record"]
    both = expected[run].merge(figures, on=KEY, how="outer", suffixes=("_expected", ""))
    wrong = []
    for row in both.to_dict("records"):
        name = " ".join(str(row[k]) for k in KEY)
        if pd.isna(row["value_expected"]):
            wrong.append(f"{name}: not in {EXPECTED.name}; record it with --record")
        elif not abs(row["value"] - row["value_expected"]) <= row["tolerance"] + 1e-4:
            wrong.append(
                f"{name}: {row['value']:.4f}, expected {row['value_expected']:.4f} "
                f"± {row['tolerance']:g}"
            )
    return wrong


if __name__ == "__main__":
    main()
