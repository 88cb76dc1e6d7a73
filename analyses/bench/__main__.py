"""Run every contestant on every table; print and write times, memory, scores and ratios."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.bench.contestants import (
    CONTESTANTS,
    Contestant,
    Failed,
    missing,
    run,
    usable_cores,
    warm_up,
)
from analyses.bench.forecasts import forecast_of, point_design, point_of
from analyses.bench.machine import described
from analyses.bench.objective import constant_of, program_objective, summed_objective
from analyses.bench.report import ratios, readable, row, targets
from analyses.bench.tables import Table, point_spec, real_table, simulated_table
from bayes_lrmf.files import written_whole
from bayes_lrmf.holdouts import families
from bayes_lrmf.scoring import score

FOLDER = Path("build/bench")
_AGREEMENT = 1e-5
_TABLES = ("simulated", "v1", "paper-sized")


def main(given: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m analyses.bench", description=__doc__)
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--quick", action="store_true", help="one small simulated table")
    parser.add_argument("--repeats", type=int, default=1, help="medians over so many runs of each")
    parser.add_argument("--only", help=f"some contestants, by commas: {', '.join(names)}")
    parser.add_argument("--tables", help=f"some tables, by commas: {', '.join(_TABLES)}")
    parser.add_argument("--cores", type=int, default=usable_cores(), help="of each contestant")
    chosen = parser.parse_args(given)
    if not 1 <= chosen.cores <= usable_cores():
        parser.error(f"--cores is {chosen.cores}: give 1 to {usable_cores()}")
    if chosen.repeats < 1:
        parser.error(f"--repeats is {chosen.repeats}: give 1 or more")
    only = chosen.only.split(",") if chosen.only else names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"unknown contestant {unknown[0]!r}; choose among {', '.join(names)}")
    wanted = chosen.tables.split(",") if chosen.tables else ["simulated", "v1"]
    if unknown := sorted(set(wanted) - set(_TABLES)):
        parser.error(f"unknown table {unknown[0]!r}; choose among {', '.join(_TABLES)}")
    machine = described()
    print(
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']:.1f}; "
        f"float32 products: jax {machine['jax_gigaflops']:.0f}, "
        f"numpy {machine['numpy_gigaflops']:.0f} GFLOP/s"
    )
    entrants = [c for c in CONTESTANTS if c.name in only]
    tables: dict[str, Any] = {}
    for table in _tables(wanted, quick=chosen.quick):
        tables[table.name] = _compared(table, entrants, chosen.repeats, chosen.cores)
        # After each table, since the next may take long.
        _write(
            {"machine": machine, "repeats": chosen.repeats, "cores": chosen.cores, "tables": tables}
        )
    if not tables:
        raise SystemExit("no table: name the folder of real data in BAYES_LRMF_DATA")


def _tables(wanted: Sequence[str], *, quick: bool) -> list[Table]:
    found = []
    if "simulated" in wanted:
        name = "small" if quick else "v1-sized"
        found.append(simulated_table(name, FOLDER / name))
    if "paper-sized" in wanted and not quick:
        found.append(simulated_table("paper-sized", FOLDER / "paper-sized"))
    if "v1" in wanted and not quick:
        real = real_table(FOLDER / "v1")
        if real is None:
            print("v1 is left out: BAYES_LRMF_DATA does not name the folder of real tables")
        else:
            found.append(real)
    return found


def _compared(
    table: Table, entrants: Sequence[Contestant], repeats: int, cores: int
) -> dict[str, Any]:
    print(f"\n{table.name}: {table.split.train!r}, {len(table.split.models)} models hidden")
    absent = {c.title: why for c in entrants if (why := missing(c))}
    present = [c for c in entrants if c.title not in absent]
    by_family = families([*table.split.train.models, *table.split.models], table.lineage)
    runs: dict[str, list[dict[str, Any]]] = {}
    cold_compile = None
    # Repeats take turns, so that whatever else the machine does falls on all alike.
    for repeat in range(repeats):
        for contestant in present:
            folder = table.folder / contestant.name
            try:
                if contestant.needs == "torch" and cold_compile is None:
                    cold = warm_up(contestant, table.arrays, folder, cores=cores)
                    cold_compile = float(cold["compile_seconds"])
                result = run(contestant, table.arrays, folder, cores=cores)
            except Failed as failed:
                absent[contestant.title] = str(failed)
                continue
            forecast = forecast_of(contestant, table, folder)
            result["scores"] = score(forecast, table.split, by_family)
            if contestant.kind == "point":
                _check_objective(contestant, table, result)
            runs.setdefault(contestant.name, []).append(result)
            end = result["trajectory"][-1]["seconds"]
            print(f"  {contestant.title}, run {repeat + 1}: {end:.1f} s", file=sys.stderr)
    aim = targets(runs, [c.name for c in present if c.kind == "point"])
    rows = {name: row(results, aim) for name, results in runs.items()}
    titles = {c.name: c.title for c in CONTESTANTS}
    text = readable({titles[name]: values for name, values in rows.items()}, absent)
    compared = ratios(rows, runs)
    print(text)
    if cold_compile is not None:
        print(f"PyTorch compiles in {cold_compile:.1f} s where its cache is empty; here it is not")
    for name, value in compared.items():
        print(f"{name}: {value:.2f}")
    return {
        "targets": aim,
        "rows": rows,
        "ratios": compared,
        "missing": absent,
        "torch_cold_compile_seconds": cold_compile,
        "runs": runs,
        "text": text,
    }


def _check_objective(contestant: Contestant, table: Table, result: dict[str, Any]) -> None:
    """Stop if the objective that a contestant states is not that of its own point."""
    design, spec = point_design(table), point_spec()
    values = point_of(table.folder / contestant.name)
    program = program_objective(values, design, spec) - constant_of(design, spec)
    by_formula = summed_objective(values["factor"], values["loading"], design, spec)
    stated = result["trajectory"][-1]["objective"]
    for other in (program, by_formula):
        if abs(other - stated) > _AGREEMENT * abs(by_formula):
            raise SystemExit(
                f"{contestant.name} states the objective {stated:.6g}, which is {other:.6g}"
            )


def _without_nan(value: Any) -> Any:
    """Return `value` with null for what is not defined, since JSON knows no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(found: dict[str, Any]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with written_whole(FOLDER / "bench.json") as path:
        path.write_text(json.dumps(_without_nan(found), indent=1, allow_nan=False))
    with written_whole(FOLDER / "bench.md") as path:
        path.write_text("\n".join(f"{n}\n\n{t['text']}" for n, t in found["tables"].items()))
    print(f"wrote {FOLDER / 'bench.json'} and {FOLDER / 'bench.md'}")


if __name__ == "__main__":
    main()
