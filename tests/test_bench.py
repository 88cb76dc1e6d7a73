"""The benchmark times the same objective for everyone, and its targets mean what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.special

from analyses.bench import contestants, report, tables
from analyses.bench.__main__ import main
from analyses.bench.clock import Clock
from analyses.bench.objective import constant_of, program_objective, summed_objective
from bayes_lrmf.design import make_design
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.responses import read_responses, responses_from_frame

ROOT = Path(__file__).resolve().parent.parent


def trajectory(*objectives: float) -> list[dict[str, float]]:
    return [
        {"seconds": 2.0 * at, "cpu_seconds": 3.0 * at, "objective": value, "held_out": value / 100}
        for at, value in enumerate(objectives)
    ]


def test_the_program_is_the_formula_but_for_a_constant():
    spec = tables.point_spec()
    rng = np.random.default_rng(1)
    names = np.array([f"m{i}" for i in range(6)], dtype=object)
    table = pd.DataFrame(rng.integers(0, 2, (6, 8)).astype(float))
    table = table.mask(rng.random((6, 8)) < 0.25).add_prefix("bench:q").assign(model=names)
    child, parent = np.array([1, 2, 3, 4], np.int32), np.array([0, 0, 1, 1], np.int32)
    relation = np.array(["finetune"] * 4, dtype=object)
    lineage = Lineage(names, child, parent, relation, np.ones(4))
    design = make_design(responses_from_frame(table), spec, lineage=lineage)
    assert len(design.graph.rows)
    values = {
        "factor": rng.standard_normal((spec.rank, design.n_core)),
        "loading": rng.standard_normal((spec.rank, design.n_items)),
    }
    stated = program_objective(values, design, spec) - constant_of(design, spec)
    assert stated == pytest.approx(summed_objective(**values, design=design, spec=spec), rel=1e-9)
    # Cell by cell and by the Laplacian itself.
    table, penalty = design.responses.dense, spec.penalty
    p = scipy.special.expit(values["factor"].T @ values["loading"])[: design.n_evaluated]
    expected = -np.log(np.where(table == 1, p, 1 - p))[table >= 0].sum()
    adjacency = np.zeros((design.n_core, design.n_core))
    adjacency[design.graph.rows, design.graph.cols] = design.graph.weights
    adjacency += adjacency.T
    laplacian = np.diag(adjacency.sum(0)) - adjacency
    expected += penalty.models * np.trace(values["factor"] @ laplacian @ values["factor"].T)
    expected += penalty.ridge * sum((v**2).sum() for v in values.values())
    assert stated == pytest.approx(expected, rel=1e-9)


def test_kinship_reaches_every_shared_ancestor():
    # d comes from b, b and c from a; e comes from x, whose only descendant it is.
    lineage = Lineage(
        np.array(["a", "b", "c", "d", "x", "e"], dtype=object),
        np.array([1, 2, 3, 5], np.int32),
        np.array([0, 0, 1, 4], np.int32),
        np.array(["finetune"] * 4, dtype=object),
        np.ones(4),
    )
    kin = tables.kinship(["d", "c", "b", "a", "e"], lineage).toarray()
    assert kin.tolist() == [[1, 1], [1, 0], [1, 1], [1, 0], [0, 0]]


def test_a_simulated_table_hides_cells_and_keeps_the_truth_of_hidden_models(tmp_path, monkeypatch):
    monkeypatch.setitem(tables.SIMULATED, "tiny", (60, 20, 2, 0.5, 0.68))
    table = tables.simulated_table("tiny", tmp_path)
    train, split = table.split.train, table.split
    assert train.density == pytest.approx(0.68 * 0.98, abs=0.03)
    assert (split.truth.dense >= 0).all()
    with np.load(table.arrays) as found:
        assert (found["responses"] == train.dense).all()
        rows, cols, y = (found[f"held_{name}"] for name in ("rows", "cols", "y"))
        assert (found["responses"][rows, cols] == -1).all()
        assert set(np.unique(y)) == {0, 1}
        assert list(found["cold_models"]) == list(split.models)
        assert len(found["kin_indptr"]) == len(train.models) + len(split.models) + 1
    assert not set(split.models) & set(train.models)
    read = read_responses(tmp_path / "train.parquet")
    assert list(read.models) == list(train.models)
    assert (read.dense == train.dense).all()


def test_targets_are_of_the_best_point_and_times_the_first_within():
    runs = {
        "map": [{"trajectory": trajectory(5000.0, 1001.5, 1000.5, 1000.0)}],
        "torch-lbfgs": [{"trajectory": trajectory(5000.0, 1100.0, 1002.0)}],
        "vb": [{"trajectory": trajectory(1.0)}],
    }
    aim = report.targets(runs, ["map", "torch-lbfgs"])
    assert aim == pytest.approx(
        {"best_objective": 1000.0, "objective": 1001.0, "held_out": 10.0 * 1.005}
    )
    ours = runs["map"][0]["trajectory"]
    assert report.reached_after(ours, "objective", aim["objective"]) == 4.0
    assert report.reached_after(ours, "objective", aim["objective"], "cpu_seconds") == 6.0
    assert report.reached_after(ours, "held_out", aim["held_out"]) == 2.0
    other = runs["torch-lbfgs"][0]["trajectory"]
    assert np.isnan(report.reached_after(other, "objective", aim["objective"]))


def test_a_ratio_without_its_peer_is_no_number():
    row = {"to_objective": 2.0, "to_objective_cpu": 3.0, "compile": 1.0, "seconds": 4.0}
    peer = {"to_objective": 8.0, "to_objective_cpu": 6.0, "compile": 5.0, "seconds": 9.0}
    found = report.ratios({"map": row, "torch-lbfgs": peer, "vb": row}, {})
    assert list(found.values())[:3] == [4.0, 2.0, 3.0]
    assert np.isnan(list(found.values())[3:]).all()


def test_the_clock_stands_still_while_paused():
    clock = Clock()
    with clock.paused():
        time.sleep(0.05)
    assert clock.now()[0] < 0.05
    time.sleep(0.02)
    assert clock.note(objective=1)["seconds"] >= 0.02


def test_missing_peers_are_said(monkeypatch, tmp_path):
    monkeypatch.setenv("BAYES_LRMF_PEERS", str(tmp_path))
    said = {c.name: contestants.missing(c) for c in contestants.CONTESTANTS}
    assert said["map"] is None
    assert said["vb"] is None
    assert said["torch-lbfgs"] == said["smurff"] == "no peers' environment: make peers"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "smurf"], "unknown contestant 'smurf'; choose among map,"),
        (["--tables", "v3"], "unknown table 'v3'; choose among simulated, v1, paper-sized"),
        (["--repeats", "0"], "--repeats is 0: give 1 or more"),
        (["--cores", "0"], "--cores is 0: give 1 to "),
    ],
)
def test_wrong_arguments_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_quick_bench_runs_without_peers(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BAYES_LRMF_PEERS": str(tmp_path / "none"),
    }
    command = [sys.executable, "-m", "analyses.bench", "--quick"]
    done = subprocess.run(
        [*command, "--only", "map,vb,torch-lbfgs"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "missing: PyTorch L-BFGS, compiled (no peers' environment: make peers)" in done.stdout
    found = json.loads((tmp_path / "build/bench/bench.json").read_text())
    [table] = found["tables"].values()
    ours, vb = table["rows"]["map"], table["rows"]["vb"]
    assert 0 < ours["to_objective"] < ours["seconds"]
    assert 0 < ours["compile"] < ours["seconds"]
    assert vb["to_objective"] is None
    # The posterior knows of its own doubt, the point does not.
    assert vb["held_out"] < ours["held_out"]
    assert 0.75 < vb["coverage_90"] < 1
    assert found["machine"]["jax_gigaflops"] > 0
