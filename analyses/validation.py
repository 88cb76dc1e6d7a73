"""The ledger of evidence: what is claimed, against what, how close it came, and when.

Tests marked `ledger` state claims; this runs them and writes ``docs/validation.md``. Claims that
were not measured this time, such as those of slow tests, keep what was measured before. Rows of
simulation-based calibration are those of `analyses.sbc`, from the data sets that it has kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import scipy.stats

from analyses import sbc, study
from bayes_lrmf.files import written_whole

KEPT, PAGE = Path("docs/validation.json"), Path("docs/validation.md")
_LEAST_SETS = 30
_ALPHA = 0.05


def measured(*, slow: bool) -> tuple[list[dict[str, Any]], bool]:
    """Run the tests that state claims; return a row a claim, its worst, and whether all passed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        marks = "ledger" if slow else "ledger and not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-m", marks, "tests"]
        given = os.environ | {"BAYES_LRMF_LEDGER": str(path)}
        passed = subprocess.run(command, env=given, check=False).returncode == 0
        if not path.exists():
            raise SystemExit("no test stated a claim: nothing was written")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return worst(rows), passed


def worst(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a claim, of those that tests told; a gap that is no number is the worst."""
    by = ["claim", "reference", "tolerance", "bound", "cause"]
    groups = pd.DataFrame(rows).groupby(by, sort=False)["measured"]
    table = groups.agg(lambda gaps: gaps.max(skipna=False)).reset_index()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return table.assign(date=today).to_dict("records")


def calibrations() -> list[dict[str, Any]]:
    """Return rows of the simulation-based calibrations that were run."""
    rows = []
    for spec in sbc.SPECS:
        for method in sbc.METHODS:
            found = sbc.kept(spec, method)
            good = sbc.well_mixed(found) if method == "nuts" else found
            if len(good) < _LEAST_SETS:
                continue
            table = sbc.summary(good)
            least = sbc.adjusted(table[["p", "p held"]].to_numpy().ravel()).min()
            rows.append(
                {
                    "spec": spec,
                    "method": method,
                    "data sets": len(found),
                    "used": len(good),
                    "quantities": len(table),
                    "90 % intervals hold": float(table["held"].mean()),
                    "p": float(least),
                    "date": max(one["date"] for one in found),
                }
            )
    return rows


_PAGE = f"""# Validation

What the package claims of its numbers, what each claim was held against, and how close it came.
Written by `python -m analyses.validation` (`--slow` measures the claims of slow tests too); CI
runs the same tests.

{{claims}}

{{shortfalls}}

## Simulation-based calibration

Families of {sbc.SIZE[0]} models x {sbc.SIZE[1]} counts are drawn from a spec, hyper-parameters
from their priors, and fitted: `python -m analyses.sbc --spec directed --method nuts`, and so on.
Where a method is exact, the rank of the truth among posterior draws is uniform. Ranked are psi of
cells with results and without, benchmark scores and hyper-parameters; the ranks of every data set
stand in `docs/calibration`. p is the least of all quantities, of ranks and of what 90 % intervals
hold, adjusted for the number of both: "yes" means that it is not below {_ALPHA:g}, and that nothing
speaks against uniform ranks, which so few data sets would of gross errors only. Data sets on which
a chain of `nuts` mixed badly are left out. Given the data, whether it did has nothing to do with
the truth; where those left are draws from the posterior, ranks are uniform among them.

{{calibrations}}

`svi` and `vb` are approximations: models and items are independent under both, and scales are
points under `vb`. On so few models and items that shows; on tables of ordinary size what they make
of it stands beside `nuts` in `analyses/README.md`.

## Changes of the code

Would tests notice a mistake? Modules are changed in one place at a time (another operator, another
number, a condition turned round), and the fast tests of the module run: `make mutation`. Tried is a
random part of all changes, by a seed that tests were not written after, though they were written
with the list of all changes at hand; the interval is the exact binomial one of Clopper and Pearson.
"explained" are those that may pass unnoticed, as they change nothing that is promised, each with
its reason in `analyses/mutation_survivors.csv`. One change of `flag` passed until the tests of its
rule `jump`, which stand apart, ran too; one of `predict` has a test since, and counts as unnoticed.

{{mutants}}

{{coverage}}
"""


def page(kept: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page, Markdown."""
    claims = pd.DataFrame(kept["claims"])
    claims["holds"] = _verdict(claims["measured"] <= claims["tolerance"])
    shortfalls = _shortfalls(claims)
    claims["measured"] = claims["measured"].clip(lower=0).map("{:.2g}".format)
    claims["tolerance"] = claims["tolerance"].map("{:g}".format)
    columns = ["claim", "reference", "measured", "tolerance", "holds", "date"]
    runs = pd.DataFrame(kept["calibrations"])
    if len(runs):
        runs["not rejected"] = _verdict(runs["p"] > _ALPHA)
        runs["p"] = runs["p"].map("{:.3f}".format)
        runs["90 % intervals hold"] = runs["90 % intervals hold"].map("{:.1%}".format)
        runs = runs[[*runs.columns.drop("date"), "date"]]
    changes = pd.DataFrame(kept.get("mutants", []))
    if len(changes):
        at = changes.columns.get_loc("explained")
        changes.insert(at, "share", (changes["noticed"] / changes["tried"]).map("{:.1%}".format))
        ends = map(_interval, changes["noticed"], changes["tried"])
        changes.insert(at + 1, "95 % interval", [f"{low:.1%} to {high:.1%}" for low, high in ends])
    return _PAGE.format(
        claims=study.markdown(claims[columns]),
        shortfalls=shortfalls,
        calibrations=study.markdown(runs),
        mutants=study.markdown(changes),
        coverage=_of_coverage(kept.get("coverage", [])),
    )


def _shortfalls(claims: pd.DataFrame) -> str:
    """Say why some claims do not hold, and to what tests hold them instead."""
    failing = claims[claims["measured"] > claims["tolerance"]]
    if failing.empty:
        return "All hold."
    lines = [f"{len(failing)} of {len(claims)} do not hold:", ""]
    for cause, rows in failing.groupby("cause", sort=False):
        held = [f"{row['claim']} (tests fail above {row['bound']:g})" for _, row in rows.iterrows()]
        lines.append(f"- {cause or 'cause not known'}: {'; '.join(held)}.")
    return "\n".join(lines)


def _of_coverage(found: list[dict[str, Any]]) -> str:
    """Say which share of lines and branches the fast tests run."""
    if not found:
        return ""
    (of,) = found
    return (
        f"The fast tests run {of['of lines']:.1%} of {of['lines']:,} lines of the package and "
        f"{of['of branches']:.1%} of {of['branches']:,} branches, {of['share']:.1%} of both "
        f"together (`make coverage`, {of['date']}); most of the other lines are those of `nuts`, "
        "which slow tests run."
    )


def coverage(report: Path) -> dict[str, Any]:
    """Return the share of lines and branches that were run, of a JSON report of coverage.py."""
    totals = json.loads(report.read_text(encoding="utf-8"))["totals"]
    return {
        "part": "package",
        "lines": totals["num_statements"],
        "branches": totals["num_branches"],
        "share": totals["percent_covered"] / 100,
        "of lines": totals["percent_statements_covered"] / 100,
        "of branches": totals["percent_branches_covered"] / 100,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _interval(k: int, n: int) -> tuple[float, float]:
    """Return the exact binomial 95 % interval of a share (Clopper and Pearson, 1934)."""
    low, high = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    return float(low), float(high)


def _verdict(holds: pd.Series) -> pd.Series:
    # `study.markdown` makes what ends with a star bold.
    return holds.map({True: "yes", False: "no*"})


def _read() -> dict[str, list[dict[str, Any]]]:
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def _write(kept: dict[str, list[dict[str, Any]]]) -> None:
    for path, text in ((KEPT, json.dumps(kept, indent=1) + "\n"), (PAGE, page(kept))):
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


def keep(part: str, by: str, rows: list[dict[str, Any]]) -> None:
    """Put rows that another command measured into a part of the page, in place of older ones."""
    kept = _read()
    known = {row[by]: row for row in kept.get(part, [])} | {row[by]: row for row in rows}
    _write(kept | {part: list(known.values())})


def main() -> None:
    """Measure what is asked for, and write the page; exit code 1 if a test fails."""
    parser = argparse.ArgumentParser(prog="python -m analyses.validation", description=__doc__)
    parser.add_argument("--slow", action="store_true", help="claims of slow tests as well")
    parser.add_argument("--coverage", type=Path, help="only take it from this report, JSON")
    given = parser.parse_args()
    if given.coverage is not None:
        keep("coverage", "part", [coverage(given.coverage)])
        return
    kept = _read()
    claims, passed = measured(slow=given.slow)
    # Where all claims were measured, one that is missing is stated no more.
    known = {} if given.slow else {row["claim"]: row for row in kept.get("claims", [])}
    known |= {row["claim"]: row for row in claims}
    runs = {(row["spec"], row["method"]): row for row in kept.get("calibrations", [])}
    for row in calibrations():
        # What is kept may have been begun again.
        if row["data sets"] >= runs.get((row["spec"], row["method"]), row)["data sets"]:
            runs[row["spec"], row["method"]] = row
    _write(kept | {"claims": list(known.values()), "calibrations": list(runs.values())})
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
