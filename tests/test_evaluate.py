"""Evaluations: cells run once, no held-out response reaches a method, the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf import evaluate as study
from bayes_lrmf.checks import InputError
from bayes_lrmf.cli import main
from bayes_lrmf.evaluate import Setting, evaluate
from bayes_lrmf.forecast import point_forecast
from bayes_lrmf.holdouts import families, hold_out_cold
from bayes_lrmf.lineage import write_lineage
from bayes_lrmf.methods import METHODS, Background, Method
from bayes_lrmf.responses import write_responses
from bayes_lrmf.scoring import benchmark_scores, per_model, score
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

COLD = Setting("cold")


@pytest.fixture(scope="module")
def data():
    return simulate(
        read_spec("mf"),
        key=jax.random.key(4),
        n_models=60,
        n_items=80,
        n_benchmarks=3,
        density=0.9,
        merge_share=0,
        cold_share=0,
    )


@pytest.fixture(scope="module")
def background(data):
    return Background(data.lineage)


@pytest.fixture
def calls(monkeypatch):
    """Add a method of two settings that records what it was given."""
    seen = []

    def predict(split, background, settings, key):
        seen.append((split, background, settings))
        p = np.full((len(split.models), split.train.n_items), settings["level"])
        return point_forecast(p, split.train, split.models)

    grid = [{"level": 0.3}, {"level": 0.6}]
    monkeypatch.setitem(METHODS, "level", Method(predict, grid, "the same everywhere"))
    return seen


def cells_of(table) -> set:
    frame = table.to_frame()
    return set(zip(frame["model"], frame["benchmark"], frame["item"], strict=True))


def test_tables_are_those_of_the_scores(data, background):
    found = evaluate(data.responses, background, [COLD], ["item_mean", "lineage_mean"], tune=False)
    split = hold_out_cold(data.responses, data.lineage, seed=0)
    family = families(list(data.responses.models), data.lineage)
    for name in ("item_mean", "lineage_mean"):
        forecast = METHODS[name].predict(split, background, METHODS[name].grid[0], None)
        metrics = found.metrics[found.metrics["method"] == name].set_index("metric")["value"]
        for metric, value in score(forecast, split, family).items():
            assert metrics[metric] == pytest.approx(value, nan_ok=True)
        assert metrics["n_models"] == len(split.models)
        assert metrics["seconds"] > 0
        losses = found.losses[found.losses["method"] == name].set_index("model")
        by_hand = per_model(forecast, split)
        pd.testing.assert_series_equal(losses["log_loss"], by_hand["log_loss"])
        assert (losses["family"] == family[losses.index]).all()
        scores = found.scores[found.scores["method"] == name]
        observed, predicted = benchmark_scores(forecast, split)
        wide = scores.pivot_table("predicted", "model", "benchmark").loc[list(split.models)]
        np.testing.assert_allclose(wide[list(split.test.benchmarks)], predicted)
        wide = scores.pivot_table("observed", "model", "benchmark").loc[list(split.models)]
        np.testing.assert_allclose(wide[list(split.test.benchmarks)], observed, atol=1e-6)


def test_settings_are_chosen_on_the_training_table_alone(data, calls):
    dated = pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=60, tz="UTC")}, index=data.responses.models
    )
    background = Background(data.lineage, dated)
    settings = [COLD, Setting("cold", 10), Setting("cells", 0.3), Setting("time")]
    evaluate(data.responses, background, settings, ["level"], seeds=[3])
    assert len(calls) == 3 * len(settings)
    for i, setting in enumerate(settings):
        first, second, last = calls[3 * i : 3 * i + 3]
        split, validation = last[0], first[0]
        assert second[0] is validation
        hidden = cells_of(setting.split(data.responses, background, seed=3).test)
        assert cells_of(split.test) == hidden
        assert hidden.isdisjoint(cells_of(split.train))
        known = cells_of(split.train)
        for seen in (validation.train, validation.test, validation.truth):
            assert cells_of(seen) <= known
        assert cells_of(validation.test).isdisjoint(cells_of(validation.train))


def test_finished_cells_are_not_run_again(data, background, calls, tmp_path):
    run = {"seeds": [0, 1], "folder": tmp_path / "parts"}
    first = evaluate(data.responses, background, [COLD], ["level", "item_mean"], **run)
    n = len(calls)
    assert n == 6
    again = evaluate(data.responses, background, [COLD], ["level", "item_mean"], **run)
    assert len(calls) == n
    for name in ("metrics", "losses", "scores", "settings"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    # One part lost: that cell alone runs.
    next(iter(sorted((tmp_path / "parts").iterdir(), key=_is_level, reverse=True))).unlink()
    evaluate(data.responses, background, [COLD], ["level", "item_mean"], **run)
    assert len(calls) == n + 3


def _is_level(path: Path) -> bool:
    return "level" in str(study._read_part(path)["settings"])


def test_other_data_settings_or_grids_are_other_cells(data, background, calls, tmp_path):
    run = {"folder": tmp_path, "tune": False}
    evaluate(data.responses, background, [COLD], ["level"], **run)
    evaluate(data.responses, background, [Setting("cold", 10)], ["level"], **run)
    evaluate(data.responses, background, [COLD], ["level"], seeds=[1], **run)
    fewer = data.responses.select_models(data.responses.models[:50])
    evaluate(fewer, background, [COLD], ["level"], **run)
    features = pd.DataFrame({"params_b": 1.0}, index=data.responses.models)
    evaluate(data.responses, Background(data.lineage, features), [COLD], ["level"], **run)
    assert len(calls) == 5
    evaluate(data.responses, background, [COLD], ["level"], folder=tmp_path)
    assert len(calls) == 5 + 3
    old = METHODS["level"]
    METHODS["level"] = Method(old.predict, [{"level": 0.4}], old.summary)  # restored by `calls`
    evaluate(data.responses, background, [COLD], ["level"], **run)
    assert len(calls) == 9


def test_a_control_is_told_another_lineage_and_hides_by_the_true_one(
    data, background, calls, tmp_path
):
    told = data.lineage.shuffled(np.random.default_rng(0))
    run = {"folder": tmp_path, "tune": False}
    true = evaluate(data.responses, background, [COLD], ["level"], **run)
    control = evaluate(data.responses, background, [COLD], ["level"], told=told, **run)
    assert [c[1].lineage is told for c in calls] == [False, True]
    assert calls[0][0].models == calls[1][0].models
    pd.testing.assert_frame_equal(true.losses, control.losses)
    # The true lineage told is the same cell.
    evaluate(data.responses, background, [COLD], ["level"], told=data.lineage, **run)
    assert len(calls) == 2


def test_lineage_told_wrong_predicts_worse(data, background):
    told = data.lineage.of_relations([])
    run = {"tune": False, "seeds": [0, 1]}
    one = evaluate(data.responses, background, [COLD], ["lineage_mean"], **run)
    none = evaluate(data.responses, background, [COLD], ["lineage_mean"], told=told, **run)
    bare = evaluate(data.responses, background, [COLD], ["item_mean"], **run)
    r = [f.metrics.set_index("metric").loc["log_loss", "value"].mean() for f in (one, none, bare)]
    assert r[1] == pytest.approx(r[2], abs=1e-3)
    assert r[0] != pytest.approx(r[2], abs=1e-3)


def test_time_needs_dates(data, background):
    with pytest.raises(InputError, match="needs dates of models"):
        evaluate(data.responses, background, [Setting("time")], ["item_mean"])
    dated = pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=60, tz="UTC")}, index=data.responses.models
    )
    known = Background(data.lineage, dated)
    found = evaluate(data.responses, known, [Setting("time")], ["item_mean"])
    late = set(dated.index[-12:])
    assert set(found.losses["model"]) <= late
    assert found.losses["holdout"].unique() == ["time"]


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    made = tmp_path_factory.mktemp("evaluate")
    write_responses(data.responses, made / "responses.csv")
    write_lineage(data.lineage, made / "lineage.csv")
    return made


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Return a function that runs the verb and returns exit code, stdout and stderr."""
    monkeypatch.chdir(folder)

    def verb(*arguments: object):
        command = ("evaluate", "responses.csv", "--lineage", "lineage.csv", *map(str, arguments))
        with pytest.raises(SystemExit) as caught:
            main(list(command))
        return caught.value.code, *capsys.readouterr()

    return verb


def test_command_writes_the_long_table_and_prints_a_readable_one(run):
    options = ("--methods", "item_mean,lineage_mean", "--shots", "0,10", "--seeds", "0,1,0")
    code, out, err = run(*options, "--density", "0.3", "-o", "metrics.csv")
    assert code == 0
    assert "note: --density is for --holdout cells; hold-out cold does not use it" in err
    assert "Differences weigh each hidden model alike" in out
    table = pd.read_csv("metrics.csv")
    assert list(table) == ["holdout", "seed", "method", "metric", "value"]
    assert set(table["holdout"]) == {"cold", "shots:10"}
    assert set(table["seed"]) == {0, 1}
    assert "cold, seeds 0,1; * best" in out
    # Points have no intervals.
    assert "note: no coverage of intervals" in err
    assert "log_loss - best" in out
    assert not Path("metrics.csv.parts").exists()


def test_a_folder_of_parts_keeps_what_is_not_of_this_run(run):
    Path("again.csv.parts").mkdir()
    Path("again.csv.parts/mine.txt").write_text("kept")
    code, _, _ = run("--methods", "item_mean,item_mean", "--seeds", "0,0", "-o", "again.csv")
    assert code == 0
    assert [p.name for p in Path("again.csv.parts").iterdir()] == ["mine.txt"]
    # What is named twice is run once.
    table = pd.read_csv("again.csv")
    assert not table.duplicated(["holdout", "seed", "method", "metric"]).any()


def test_after_ctrl_c_parts_stay_and_are_spoken_of(run, calls):
    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "level", dataclasses.replace(METHODS["level"], predict=stopped))
        code, _, err = run("--methods", "item_mean,level", "-o", "stopped.csv")
    assert code == 130
    assert "finished parts are in stopped.csv.parts; the same command goes on from there" in err
    assert err.endswith("bayes-lrmf: interrupted; no output was written\n")
    assert len(list(Path("stopped.csv.parts").iterdir())) == 1


def test_conformal_intervals_need_no_tuning():
    whole = simulate(
        read_spec("mf"), key=jax.random.key(4), n_models=150, n_items=160, density=1, cold_share=0
    )
    about = Background(whole.lineage)
    found = evaluate(whole.responses, about, [COLD], ["lineage_mean_conformal"], tune=False)
    value = found.metrics.set_index("metric")["value"]
    assert 0.5 < value["coverage_90"] <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "lrmf_best"), "unknown method 'lrmf_best'; choose among item_mean,"),
        (("--holdout", "warm"), "unknown holdout 'warm'"),
        (("--shots", "many"), "'many' is no list of numbers"),
        (("--methods", ","), "nothing named"),
        (("--methods", "scaling"), "method scaling needs features of models; give --models-table"),
        (("--holdout", "time", "--methods", "item_mean"), "needs dates of models"),
        (("--holdout", "cells", "--density", "2"), "density is 2"),
        (("--shots", "5000", "--methods", "item_mean"), "5,000 shots are all that any hidden"),
        # Refused before the first of them is run.
        (("--shots", "0,5000", "--methods", "item_mean"), "5,000 shots are all that any hidden"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(run, options, words):
    code, _, err = run(*options, "-o", "out.csv")
    assert code == 2
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not Path("out.csv").exists()
    assert not Path("out.csv.parts").exists()
