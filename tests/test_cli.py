"""The way of a user through the command line, on simulated data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.cli import main
from bayes_lrmf.plan import AT_RANDOM
from bayes_lrmf.storage import read_posterior


def run(*arguments: object) -> int:
    """Return the exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return caught.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a simulated family, a point and a Gaussian fitted to it."""
    made = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
        patch.chdir(made)
        assert run("simulate", "-o", ".", "--models", 24, "--items", 24, "--seed", 3) == 0
        fit = ("fit", "responses.parquet", "--lineage", "lineage.csv", "--num-chains", 1)
        assert run(*fit, "--method", "map", "-o", "map.nc") == 0
        assert run(*fit, "--method", "svi", "--max-steps", 400, "-o", "svi.nc") == 3
    return made


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))


def test_simulate_writes_what_fit_reads():
    truth = pd.read_parquet("truth.parquet")
    assert len(truth) == 24 * 24
    assert {"model", "benchmark", "item", "probability"} <= set(truth)
    assert list(pd.read_csv("lineage.csv")) == ["child", "parent", "relation", "weight"]


def test_without_a_spec_the_best_of_the_method_is_fitted(capsys):
    fit = ("fit", "responses.parquet", "--lineage", "lineage.csv", "--max-steps", 2)
    assert run(*fit, "--num-samples", 5, "-o", "best.nc") in (0, 3)
    said = capsys.readouterr().err
    assert "method vb, spec lrmf: chosen for this table" in said
    assert "note: --num-samples is for nuts; method vb does not use it" in said
    assert said.count("does not use it") == 1
    specs = {name: read_posterior(f"{name}.nc").spec.name for name in ("best", "map", "svi")}
    assert specs == {"best": "lrmf", "map": "laplacian", "svi": "laplacian"}


def test_fit_that_did_not_converge_is_written_and_says_so(capsys):
    assert Path("svi.nc").stat().st_size > 0
    assert run("diagnose", "svi.nc") == 3
    out = capsys.readouterr().out
    assert out.startswith("NOT CONVERGED: run longer: --max-steps")
    assert "factor_sd" in out


def test_diagnose_of_a_good_fit(capsys):
    assert run("diagnose", "map.nc") == 0
    assert capsys.readouterr().out.startswith("GOOD: map converged")


def test_diagnose_says_what_children_inherit(capsys):
    run("diagnose", "svi.nc")
    out = capsys.readouterr().out
    assert "children inherit:\n" in out
    assert "relation  n_children  inherited  lower  upper  median_child\n" in out
    run("diagnose", "map.nc")
    assert "inherit" not in capsys.readouterr().out


def test_lineage_quality_is_one_table(capsys):
    fit = ("fit", "responses.parquet", "--lineage", "lineage.csv", "--spec", "directed")
    assert run(*fit, "--max-steps", 2, "-o", "vb.nc") == 3
    assert run("diagnose", "vb.nc", "--lineage", "-o", "q.csv") == 3
    assert "`bayes-lrmf diagnose vb.nc` says what to do" in capsys.readouterr().err
    columns = "kind model other relation distance tail_probability n_shared agreement reason"
    assert list(pd.read_csv("q.csv")) == columns.split()
    run("diagnose", "vb.nc", "--lineage")
    assert capsys.readouterr().out.startswith(",".join(columns.split()))


def test_benchmark_table_holds_every_model_with_intervals(capsys):
    assert run("predict", "svi.nc", "-o", "b.csv") == 0
    assert "96 rows written to b.csv" in capsys.readouterr().err
    table = pd.read_csv("b.csv")
    columns = "model benchmark mean sd lower upper n_items n_observed kind"
    assert list(table) == columns.split()
    # Every model of the tree is in it, those without a single response too.
    assert set(table["model"]) == set(pd.read_parquet("truth.parquet")["model"])
    assert (table.groupby("model")["n_observed"].sum() == 0).any()
    assert (table["kind"] == "predictive").all()
    assert (table["lower"] <= table["mean"]).all()
    assert (table["mean"] <= table["upper"]).all()
    assert table["mean"].between(0, 1).all()


def test_point_has_empty_intervals_and_says_so(capsys):
    assert run("predict", "map.nc") == 0
    out, err = capsys.readouterr()
    assert "a point estimate has no intervals" in err
    header, first, *_ = out.splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert row["kind"] == "point"
    assert row["sd"] == row["lower"] == row["upper"] == ""


def test_item_and_rank_levels_of_chosen_models():
    models = list(pd.read_parquet("responses.parquet")["model"][:2])
    Path("some.txt").write_text("\n".join(models) + "\n")
    assert (
        run("predict", "svi.nc", "--level", "item", "--models", "@some.txt", "-o", "i.parquet") == 0
    )
    items = pd.read_parquet("i.parquet")
    columns = "model benchmark item mean sd lower upper observed kind"
    assert list(items) == columns.split()
    assert list(dict.fromkeys(items["model"])) == models
    assert len(items) == 2 * 24
    assert (
        run("predict", "svi.nc", "--level", "rank", "--models", ",".join(models), "-o", "r.csv")
        == 0
    )
    ranks = pd.read_csv("r.csv")
    both = ranks.groupby("benchmark")["mean"].sum()
    np.testing.assert_allclose(both, 3, rtol=1e-6)


def test_wider_intervals_at_higher_probability():
    for at in (0.5, 0.95):
        assert run("predict", "svi.nc", "--ci-prob", at, "-o", f"b{at}.csv") == 0
    narrow, wide = pd.read_csv("b0.5.csv"), pd.read_csv("b0.95.csv")
    np.testing.assert_array_equal(narrow["mean"], wide["mean"])
    assert (wide["upper"] - wide["lower"] >= narrow["upper"] - narrow["lower"]).all()


def test_same_seed_same_file():
    fit = ("fit", "responses.parquet", "--lineage", "lineage.csv", "--method", "map")
    assert run(*fit, "--num-chains", 1, "-o", "again.nc") == 0
    assert Path("again.nc").read_bytes() == Path("map.nc").read_bytes()


def test_models_and_results_are_added_without_a_refit(capsys):
    fit = ("fit", "responses.parquet", "--lineage", "lineage.csv", "--method", "vb")
    assert run(*fit, "-o", "vb.nc") in (0, 3)
    fitted = read_posterior("vb.nc")
    parent = fitted.design.responses.models[0]
    pd.DataFrame(
        {"child": ["me/new", "me/newer"], "parent": [parent, "me/new"], "relation": "finetune"}
    ).to_csv("more.csv", index=False)
    items = fitted.design.items.iloc[:6]
    more = items[["benchmark", "item"]].assign(model="me/new", response=1)
    more[["model", "benchmark", "item", "response"]].to_csv("results.csv", index=False)
    added = ("add", "vb.nc", "--lineage", "more.csv", "--responses", "results.csv")
    assert run(*added, "-o", "new.nc") == 0
    said = capsys.readouterr().err
    assert "2 models and 6 responses added, written to new.nc" in said
    assert "without a recorded parent" not in said
    assert run("predict", "new.nc", "--models", "me/new,me/newer", "-o", "new.csv") == 0
    table = pd.read_csv("new.csv").set_index(["model", "benchmark"])
    assert table.loc["me/new", "n_observed"].sum() == 6
    assert table.loc["me/newer", "n_observed"].sum() == 0
    assert run("diagnose", "new.nc") in (0, 3)
    assert run("add", "new.nc", "--responses", "results.csv", "-o", "refused.nc") == 2
    assert "already" in capsys.readouterr().err
    assert not Path("refused.nc").exists()
    more.assign(model=parent.upper())[["model", "benchmark", "item", "response"]].to_csv(
        "shouted.csv", index=False
    )
    assert run("add", "svi.nc", "--responses", "shouted.csv", "-o", "drawn.nc") == 0
    said = capsys.readouterr().err
    assert f"note: new, and without a recorded parent: {parent.upper()} (not {parent}?)" in said
    assert run("add", "svi.nc", "--responses", "results.csv", "-o", "drawn.nc") == 0
    assert "1 model and 6 responses added" in capsys.readouterr().err
    # Results in draws of a Gaussian: its own verdict stays.
    assert run("diagnose", "drawn.nc") == 3
    assert "the ELBO gained" in capsys.readouterr().out
    assert run("add", "vb.nc", "-o", "refused.nc") == 2


def test_flags_come_with_reasons(capsys):
    assert run("flag", "svi.nc", "--max-width", 0.2, "-o", "flags.csv") == 0
    table = pd.read_csv("flags.csv")
    assert {"model", "benchmark", "rule", "value", "reason"} <= set(table)
    assert (table.loc[table["rule"] == "width", "value"] > 0.2).all()
    assert "models flagged: " in capsys.readouterr().err
    assert run("flag", "svi.nc", "--max-width", 0.2, "--top-k", 3) == 2
    assert "give one of them" in capsys.readouterr().err
    assert run("flag", "map.nc", "--top-k", 3) == 2


def test_a_plan_is_made_run_and_added(capsys):
    """From a plan to the results of its runs, and scores from those at random beside the fit's."""
    fit = ("fit", "responses.parquet", "--lineage", "lineage.csv", "--method", "vb")
    assert run(*fit, "--max-steps", 8, "-o", "vb.nc") in (0, 3)
    table, truth = pd.read_parquet("responses.parquet"), pd.read_parquet("truth.parquet")
    cold = [m for m in truth["model"].unique() if m not in set(table["model"])]
    Path("cold.txt").write_text("\n".join(cold))
    plan = ("flag", "vb.nc", "--models", "@cold.txt", "--budget", 14, "--at-random", 0.5)
    capsys.readouterr()
    assert run(*plan, "-o", "plan.csv", "--inspect", "ids.txt") == 0
    assert "14 runs of" in capsys.readouterr().err
    planned = pd.read_csv("plan.csv")
    assert list(planned) == ["model", "benchmark", "item", "gain", "reason", "rank"]
    assert planned["rank"].tolist() == list(range(1, 15))
    written = "".join(p.read_text() for p in Path().glob("ids*.txt"))
    assert all(f"{b}:{i}" in written for b, i in zip(planned.benchmark, planned.item, strict=True))
    known = truth.set_index(["model", "benchmark", "item"])["probability"]
    keys = list(zip(planned["model"], planned["benchmark"], planned["item"], strict=True))
    results = planned[["model", "benchmark", "item"]].assign(
        response=(known.loc[keys].to_numpy() > 0.5).astype(int)
    )
    results.to_csv("results.csv", index=False)
    add = ("add", "vb.nc", "--responses", "results.csv", "-o", "more.nc")
    # What is refused is refused before anything is written.
    planned[planned["reason"] != AT_RANDOM].to_csv("chosen.csv", index=False)
    assert run(*add, "--guard", "chosen.csv") == 2
    assert run(*plan, "-o", "refused.csv", "--lm-eval", "ids.json") == 2
    assert not Path("more.nc").exists()
    assert not Path("refused.csv").exists()
    capsys.readouterr()
    assert run(*add, "--guard", "plan.csv") == 0
    out, err = capsys.readouterr()
    assert out.startswith("model,benchmark,n_random,mean,lower,upper,model_mean")
    assert "14 responses added" in err
    n = int(table.drop(columns="model").notna().to_numpy().sum())
    assert read_posterior("more.nc").design.responses.n_observed == 14 + n


def test_options_of_plans_need_a_budget(capsys):
    for option in (["--at-random", 0.5], ["--whole-benchmarks"], ["--lm-eval", "x.json"]):
        assert run("flag", "svi.nc", *option) == 2
        assert f"{option[0]}: only for a plan; add --budget" in capsys.readouterr().err
    assert run("add", "svi.nc", "--lineage", "lineage.csv", "--guard", "p.csv", "-o", "n.nc") == 2
    assert "--guard: a plan without results" in capsys.readouterr().err
    assert run("flag", "map.nc", "--budget", 3) == 2
    assert "a point estimate knows no uncertainty" in capsys.readouterr().err
    assert run("flag", "svi.nc", "--budget", 3, "--costs", "none.csv") == 2
    assert "table of costs not found" in capsys.readouterr().err
    assert run("flag", "svi.nc", "--budget", 3) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
