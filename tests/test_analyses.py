"""The study, small and on simulated tables, gives the figures that are recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from analyses import __main__ as study
from analyses.coverage_simulated import results_drawn
from analyses.study import load
from bayes_lrmf.predict import predict_items

ROOT = Path(__file__).resolve().parent.parent


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BAYES_LRMF_DATA": str(folder / "none")}
    return subprocess.run(
        [sys.executable, "-m", "analyses", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_quick_study_is_as_expected(tmp_path):
    done = command(tmp_path, "--quick", "--check")
    assert done.returncode == 0, done.stderr
    assert "as expected, within tolerance" in done.stdout
    made = {path.name for path in (tmp_path / "build/analyses").iterdir()}
    for name in study.SCRIPTS:
        assert f"{name}.csv" in made
    pictures = {name for name in made if name.endswith(".png")}
    assert pictures == {
        "figure_coverage_simulated_items.png",
        "figure_family.png",
        "figure_shots.png",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure_budget", "table_flags", "coverage_simulated"])
def test_scripts_beside_the_study_run_on_simulated_tables(tmp_path, name):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"analyses.{name}", "--quick"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / f"build/analyses/{name}.csv")
    if name == "coverage_simulated":
        # The spec is true of this table; its models are few.
        assert (table["coverage"] - table["nominal"]).abs().max() < 0.08
    elif name == "figure_budget":
        error = table.set_index(["choice", "runs"])["mae"]
        assert error["plan", 20] < error["random", 20] < error["plain average of random runs", 20]
        assert table.loc[table["choice"] == "plan", "coverage_90"].between(0.83, 0.97).all()
    else:
        assert list(table["scores"]) == [
            "least uncertain third",
            "middle third",
            "flagged third",
        ]
        assert table["mae"].is_monotonic_increasing


def test_without_real_tables_the_full_study_says_so_and_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analyses"])
    monkeypatch.setenv("BAYES_LRMF_DATA", str(tmp_path / "none"))
    load.cache_clear()
    study.main()
    assert capsys.readouterr().out.count("skipped: no real data at") == len(study.SCRIPTS)


def test_unknown_scripts_are_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analyses", "--only", "table_setting"])
    with pytest.raises(SystemExit, match="2"):
        study.main()
    told = capsys.readouterr().err
    assert "unknown script 'table_setting'; choose among table_settings" in told


@pytest.fixture
def figures():
    line = {"study": "quick", "script": "s", "data": "d", "holdout": "cold", "method": "m"}
    return pd.DataFrame([{**line, "metric": k, "value": 0.5} for k in ("pearson", "log_loss")])


def test_record_and_check_agree(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "EXPECTED", tmp_path / "expected.csv")
    study.record(figures)
    assert study.differences(figures, pd.read_csv(study.EXPECTED)) == []
    # Another study is kept, the same one replaced.
    study.record(figures.assign(study="full", value=0.7))
    study.record(figures.assign(value=0.6))
    table = pd.read_csv(study.EXPECTED)
    assert sorted(table["value"]) == [0.6, 0.6, 0.7, 0.7]
    assert len(study.differences(figures, table)) == 2


def test_check_names_what_differs_is_missing_or_unknown(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "EXPECTED", tmp_path / "expected.csv")
    study.record(figures)
    expected = pd.read_csv(study.EXPECTED)
    near = figures.assign(value=[0.52, 0.5])
    assert study.differences(near, expected) == []
    [line] = study.differences(figures.assign(value=[0.54, 0.5]), expected)
    assert line == "quick s d cold m pearson: 0.5400, expected 0.5000 ± 0.03"
    assert "nan, expected 0.5" in study.differences(figures[:1], expected)[0]
    more = pd.concat([figures, figures[:1].assign(method="new")])
    assert "new pearson: not in expected.csv" in study.differences(more, expected)[0]
    [line] = study.differences(figures.assign(study="full"), expected)
    assert "record it with --record" in line


@pytest.mark.slow
def test_lineage_scale_runs_and_its_estimates_are_close_to_what_is_exact(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BAYES_LRMF_DATA": ""}
    command = [sys.executable, "-m", "analyses.lineage_scale", "--quick"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "log-log slopes" in done.stdout
    runs = json.loads((tmp_path / "build/bench/lineage_scale.json").read_text())["runs"]
    assert [run["facts"]["models"] for run in runs] == [1000, 10_000] * 4
    for run in runs:
        facts = run["facts"]
        if run["lineage"] != "any":
            assert facts["entries a node"] < 1.5
            continue
        error = facts["log determinant"] - facts["log determinant, exact"]
        assert abs(error) < 4 * facts["its standard error"]
        assert facts["relative error of variances, rms"] < 0.05


@pytest.mark.slow
def test_a_streamed_table_ends_near_the_one_in_memory(tmp_path):
    """Two per mille of the paper's cells; in a folder of its own, which is empty again after."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BAYES_LRMF_DATA": ""}
    command = [sys.executable, "-m", "analyses.out_of_memory", "--part", "0.002", "--batches", "4"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    gap = float(done.stdout.splitlines()[-1].split(": ")[1].split()[0])
    assert gap < 0.2
    assert not list((tmp_path / "build").iterdir())


@pytest.mark.slow
def test_quick_robustness_shows_errors_and_what_is_noticed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "analyses.robustness", "--quick"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "build/analyses/robustness.csv")
    error = table.set_index(["disturbance", "models"])["cell_mae"]
    assert error["rewired 50 %", "observed"] > error["none", "observed"]
    noticed = pd.read_csv(tmp_path / "build/analyses/robustness_notices.csv")
    noticed = noticed.set_index("disturbance")
    assert noticed.loc["rewired 50 %", "warned_parents"] == 1
    assert noticed.loc["none", "warned_parents"] == 0
    assert "| lrmf | counts | rewired 50 % |" in done.stdout


def test_tables_drawn_from_a_fit_have_its_cells_and_its_probabilities(kin_fit):
    table = kin_fit.design.responses
    keys = ["model", "benchmark", "item"]
    wanted = table.to_frame().set_index(keys)["trials"]
    n_drawn, total = 60, 0.0
    for seed in range(n_drawn):
        drawn = results_drawn(kin_fit, seed)
        assert drawn.is_binary
        frame = drawn.to_frame().set_index(keys)
        pd.testing.assert_series_equal(frame["trials"].loc[wanted.index], wanted)
        total = total + frame["successes"].loc[wanted.index]
    items = predict_items(kin_fit, key=jax.random.key(0), n_draws=400).set_index(keys)
    gap = total / n_drawn - items["mean"].loc[wanted.index]
    p = items["mean"].loc[wanted.index]
    z = gap / np.sqrt(p * (1 - p) / n_drawn)
    # Over tables, each with parameters of its own, a cell is Bernoulli at its mean probability.
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=0.15)
    assert results_drawn(kin_fit, 1).fingerprint() != results_drawn(kin_fit, 2).fingerprint()
