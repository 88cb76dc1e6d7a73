"""`bayes-lrmf import`: tables to files, what was chosen to standard error, mistakes to one line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bayes_lrmf.cli import main
from bayes_lrmf.responses import read_responses
from bayes_lrmf.sources.lm_eval import read_lm_eval

DATA = Path(__file__).parent / "data"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["import", *map(str, arguments)])
    return caught.value.code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DATA / "lm_eval", "out")
    Path("l.csv").write_text("child,parent,relation\norg/alpha,org/base,finetune\n")
    Path("a.csv").write_text("alias,name\norg/beta@step10,org/beta\n")
    Path("r.csv").write_text("model,sums:0,sums:9\norg/alpha,1,0\n")
    return tmp_path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_the_table_is_what_read_responses_reads(folder, name, capsys):
    assert run("lm-eval", "out", "-o", name) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"16 rows written to {name}" in err
    assert "note: metric acc_norm, filter none: sums\n" in err
    assert "note: counts of whole benchmarks were not written; write them with --counts" in err
    imported = read_lm_eval("out").responses
    responses = read_responses(name)
    assert list(responses.models) == ["org/alpha"]
    frame = responses.to_frame().astype({"successes": "int64"})
    assert list(frame["successes"]) == list(imported["response"])
    assert list(frame["item"]) == list(imported["item"])


def test_standard_output_holds_the_table_alone(folder, capsys):
    assert run("lm-eval", "out") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(table.columns) == ["model", "benchmark", "item", "response"]
    assert len(table) == 16


def test_how_it_fits_what_is_at_hand(folder, capsys):
    run("lm-eval", "out", "--lineage", "l.csv", "--responses", "r.csv", "--aliases", "a.csv",
        "-o", "t.csv", "--counts", "c.csv")  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert "1 model renamed by the alias table: org/beta@step10 -> org/beta" in lines
    assert "1 of 2 models known" in lines
    assert any(line.startswith("unknown model org/beta") for line in lines)
    assert "1 of 16 items known, 15 new" in lines
    assert "1 of 2 models have a recorded parent; 0 are connected" in lines
    assert list(pd.read_csv("c.csv")["model"]) == ["org/beta", "org/beta"]


def test_counts_alone_are_the_table(folder):
    shutil.rmtree("out/org__alpha")
    assert run("lm-eval", "out", "-o", "t.csv") == 0
    table = pd.read_csv("t.csv")
    assert list(table.columns) == ["model", "benchmark", "successes", "trials"]
    assert read_responses("t.csv").n_observed == 2
    assert run("lm-eval", "out", "-o", "t2.csv", "--counts", "c.csv") == 0
    assert Path("c.csv").read_bytes() == Path("t.csv").read_bytes()
    assert not Path("t2.csv").exists()


def test_metrics_and_filters_of_the_command_line(folder, capsys):
    metric = "sums=acc,sums_told=exact_match"
    run("lm-eval", "out", "--metric", metric, "--filter", "flexible-extract", "-o", "t.csv")
    err = capsys.readouterr().err
    assert "note: metric acc, filter none: sums\n" in err
    assert "note: metric exact_match, filter flexible-extract: sums_told\n" in err
    expected = read_lm_eval("out", metric={"sums": "acc"}, filter_name="flexible-extract")
    assert list(pd.read_csv("t.csv")["response"]) == list(expected.responses["response"])


def test_inspect_logs(folder, capsys):
    pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")
    assert run("inspect", DATA / "inspect", "-o", "t.csv", "--metric", "includes") == 0
    err = capsys.readouterr().err
    assert "note: 2 samples that ended in an error passed over" in err
    assert sorted(read_responses("t.csv").models) == ["toy/loud", "toy/quiet"]


def test_the_other_readers(folder, capsys):
    details = folder / "details_org__alpha"
    details.mkdir()
    date = "2026-11-26T16-31-29.609391"
    shutil.copy(DATA / "lighteval" / "sums.parquet", details / f"details_sums|0_{date}.parquet")
    for command, place, n_items, model in (
        ("lighteval", details, 8, "org/alpha"),
        ("details", folder, 16, "org/alpha"),
        ("every-eval-ever", DATA / "every_eval_ever" / "sums" / "org" / "alpha", 8, "org/alpha"),
    ):
        assert run(command, place, "-o", "t.parquet", "--lineage", "l.csv") == 0
        err = capsys.readouterr().err
        assert f"{n_items} rows written to t.parquet" in err
        assert f"{n_items} responses on {n_items} items" in err
        assert "models have a recorded parent" in err
        assert list(read_responses("t.parquet").models) == [model]
        assert run(command, place, "--metric", "acc_nrm") == 2
        assert "unknown metric 'acc_nrm'; did you mean 'acc" in capsys.readouterr().err


MISTAKES = {
    "no source": ([], ("no command given", "--help")),
    "unknown source": (["lm-evl", "out"], ("unknown command 'lm-evl'", "'lm-eval'")),
    "no path": (["lm-eval"], ("Missing argument 'PATH...'", "--help")),
    "unknown option": (["lm-eval", "out", "--filtr", "x"], ("'--filtr'", "--filter")),
    "missing path": (["lm-eval", "none"], ("none: no such file or folder", "check the path")),
    "nothing there": (["lm-eval", "empty"], ("empty: no output of lm-evaluation-harness",)),
    "output of another kind": (["lm-eval", "out", "-o", "t.xlsx"], ("t.xlsx", "end it in .csv")),
    "counts of another kind": (
        ["lm-eval", "out", "--counts", "t.json"],
        ("t.json", "end it in .csv"),
    ),
    "filter": (["lm-eval", "out", "--filter", "strict"], ("unknown filter 'strict'", "match'?")),
    "metric": (["lm-eval", "out", "--metric", "acc_nrm"], ("'acc_nrm'", "'acc_norm'")),
    "metric of a task": (
        ["lm-eval", "out", "--metric", "sms=acc"],
        ("unknown task 'sms'", "'sums'"),
    ),
    "metrics without tasks": (
        ["lm-eval", "out", "--metric", "acc,f1"],
        ("--metric: 'acc' is no TASK=METRIC", "give one name"),
    ),
    "task twice": (["lm-eval", "out", "--metric", "a=b,a=c"], ("'a=c' is named twice",)),
    "lineage": (["lm-eval", "out", "--lineage", "x.csv"], ("x.csv", "not found", "check the path")),
    "aliases": (["lm-eval", "out", "--aliases", "l.csv"], ("l.csv", "no column 'alias'")),
    "responses": (["lm-eval", "out", "--responses", "l.csv"], ("l.csv", "no column 'model'")),
    "logs": (["inspect", "empty"], ("empty: no logs of Inspect", "give its log folder")),
    "lighteval": (["lighteval", "empty"], ("empty: no output of LightEval", "give its output_dir")),
    "lighteval, other output": (["lighteval", "out"], ("out: no output of LightEval",)),
    "details": (["details", "empty"], ("empty: no details of the leaderboard", "from the Hub")),
    "details, filter": (["details", "out", "--filter", "strict"], ("'strict'", "'strict-match'?")),
    "records": (["every-eval-ever", "empty"], ("empty: no records of Every Eval Ever",)),
    "records, other files": (["every-eval-ever", "out"], ("out: no records of Every Eval Ever",)),
    "records, none": (["every-eval-ever", "r.json"], ("r.json: no such file or folder",)),
    "inspect, metric": (["inspect", "out", "--metric", ","], ("--metric: nothing named",)),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes(folder, arguments, words, capsys):
    Path("empty").mkdir()
    before = sorted(folder.rglob("*"))
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("bayes-lrmf: ")
    assert len(line.rpartition("; ")[0]) > len("bayes-lrmf: ")
    for word in words:
        assert word in line
    assert sorted(folder.rglob("*")) == before


def test_a_broken_value_leaves_the_old_table_alone(folder, capsys):
    Path("t.csv").write_text("the old one")
    [file] = Path("out").rglob("samples_sums_2*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["acc_norm"] = float("nan")
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert run("lm-eval", "out", "-o", "t.csv") == 2
    assert "line 1: acc_norm of sums is not a number" in capsys.readouterr().err
    assert Path("t.csv").read_text() == "the old one"
