"""The ledger: worst of each claim, what does not hold is told, calibrations that were run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats

from analyses import sbc, validation


def kept(measured=1e-9, p=0.4):
    claim = {
        "claim": "a gap", "reference": "by hand", "measured": measured, "tolerance": 1e-8,
        "bound": 1e-6, "cause": "", "date": "2026-01-02",
    }  # fmt: skip
    run = {
        "spec": "directed", "method": "nuts", "data sets": 100, "used": 60, "quantities": 39,
        "90 % intervals hold": 0.899, "p": p, "date": "2026-01-03",
    }  # fmt: skip
    return {"claims": [claim], "calibrations": [run]}


def test_page_says_what_holds():
    page = validation.page(kept())
    assert "| a gap | by hand | 1e-09 | 1e-08 | yes | 2026-01-02 |" in page
    assert "| directed | nuts | 100 | 60 | 39 | 89.9% | 0.400 | yes | 2026-01-03 |" in page
    assert "**no**" not in page
    assert "All hold." in page
    assert validation.page(kept(measured=1e-7)).count("**no**") == 1
    assert validation.page(kept(p=0.01)).count("**no**") == 1
    assert "Simulation" in validation.page(kept() | {"calibrations": []})


def test_page_says_why_a_claim_does_not_hold():
    told = kept(measured=1e-7)
    others = [told["claims"][0] | {"claim": name, "cause": "it is coarse"} for name in "bc"]
    page = validation.page(told | {"claims": [*told["claims"], *others, kept()["claims"][0]]})
    assert "3 of 4 do not hold:" in page
    assert "- cause not known: a gap (tests fail above 1e-06)." in page
    bounds = "b (tests fail above 1e-06); c (tests fail above 1e-06)"
    assert f"- it is coarse: {bounds}." in page


def test_shares_of_changes_have_exact_intervals():
    row = {
        "module": "m", "changes": 500, "seed": 1, "tried": 20, "noticed": 20, "explained": 0,
        "date": "2026-01-04",
    }  # fmt: skip
    some = row | {"module": "n", "noticed": 17, "explained": 2}
    page = validation.page(kept() | {"mutants": [row, some]})
    # Where all were noticed, the lower end is the 20th root of 2.5 %.
    low = 0.025 ** (1 / 20)
    assert f"| m | 500 | 1 | 20 | 20 | 100.0% | {low:.1%} to 100.0% | 0 | 2026-01-04 |" in page
    # Clopper and Pearson's, by quantiles of Betas.
    low, high = scipy.stats.beta.ppf([0.025, 0.975], [17, 18], [4, 3])
    assert f"| 85.0% | {low:.1%} to {high:.1%} | 2 |" in page


def test_coverage_is_that_of_the_report(tmp_path, monkeypatch):
    report = tmp_path / "coverage.json"
    totals = {
        "num_statements": 1400, "num_branches": 200, "percent_covered": 95.26,
        "percent_statements_covered": 96.0, "percent_branches_covered": 90.0,
    }  # fmt: skip
    report.write_text(json.dumps({"totals": totals}))
    assert "make coverage" not in validation.page(kept())
    monkeypatch.setattr(validation, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(validation, "PAGE", tmp_path / "page.md")
    (tmp_path / "kept.json").write_text(json.dumps(kept()))
    monkeypatch.setattr("sys.argv", ["validation", "--coverage", str(report)])
    validation.main()
    page = (tmp_path / "page.md").read_text()
    assert "run 96.0% of 1,400 lines of the package and 90.0% of 200 branches, 95.3%" in page


def test_claims_are_told_as_they_are_and_broken_ones_fail(claim, tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setenv("BAYES_LRMF_LEDGER", str(path))
    claim("small", "nothing", 0.5, 1.0)
    claim("short", "nothing", 1.5, 1.0, bound=2.0, cause="known")
    with pytest.raises(AssertionError, match=r"far: 2\.5 > 2\.0"):
        claim("far", "nothing", 2.5, 1.0, bound=2.0, cause="known")
    with pytest.raises(AssertionError, match=r"large: 2\.0 > 1\.0"):
        claim("large", "nothing", 2.0, 1.0)
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(t["claim"], t["measured"]) for t in told] == [
        ("small", 0.5), ("short", 1.5), ("far", 2.5), ("large", 2.0),
    ]  # fmt: skip
    (small, short, _, _) = validation.worst(told)
    assert (small["tolerance"], small["bound"], small["cause"]) == (1.0, 1.0, "")
    assert (short["tolerance"], short["bound"], short["cause"]) == (1.0, 2.0, "known")


def test_calibrations_are_of_the_sets_that_were_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sbc, "FOLDER", tmp_path)
    assert validation.calibrations() == []
    ranks = np.random.default_rng(0).integers(0, sbc.N_RANKED + 1, (60, 2))
    sets = [
        {
            "seed": at, "date": "2026-01-03", "converged": True, "said": "all, or nothing",
            "ess": 500.0 if at < 40 else 3.0, "rhat": 1.0, "ranks": {"a": int(a), "b": int(b)},
        }
        for at, (a, b) in enumerate(ranks)
    ]  # fmt: skip
    for one in reversed(sets):
        sbc.keep("directed", "nuts", one)
    assert sbc.kept("directed", "nuts") == sets
    (found,) = validation.calibrations()
    assert (found["data sets"], found["used"], found["quantities"]) == (60, 40, 2)
    assert found["p"] > 0.05
    assert found["date"] == "2026-01-03"
    # Ranks at one end are no chance.
    for one in sets:
        sbc.keep("laplacian", "vb", one | {"ranks": {"a": 0, "b": 50}})
    by = {(one["spec"], one["method"]): one for one in validation.calibrations()}
    assert by["laplacian", "vb"]["used"] == 60
    assert by["laplacian", "vb"]["p"] < 0.01


def test_the_page_is_of_what_is_kept():
    kept = json.loads(validation.KEPT.read_text(encoding="utf-8"))
    assert validation.PAGE.read_text(encoding="utf-8") == validation.page(kept)
