"""Tests of the table of the Open LLM Leaderboard v2, on a made-up one and on the real one."""

from __future__ import annotations

import click
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.commands.importing_lineage import leaderboard
from bayes_lrmf.features import features_from_frame
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.sources.leaderboard import BENCHMARKS, read_leaderboard

BBH_TASKS = [250] * 21 + [187, 178, 146]


def full_run(seed: int) -> dict[str, float]:
    """Return the shares of a full run, made of right answers as the leaderboard makes them."""
    rng = np.random.default_rng(seed)
    prompts, instructions = rng.integers(541), rng.integers(834)
    return {
        "IFEval Raw": (prompts / 541 + instructions / 834) / 2,
        "BBH Raw": float(np.mean([rng.integers(n) / n for n in BBH_TASKS])),
        "MATH Lvl 5 Raw": rng.integers(1324) / 1324,
        "GPQA Raw": rng.integers(1192) / 1192,
        "MUSR Raw": float(np.mean([rng.integers(n) / n for n in (250, 256, 250)])),
        "MMLU-PRO Raw": rng.integers(12032) / 12032,
    }


def row(name: str, seed: int = 0, **given: object) -> dict[str, object]:
    return {
        "fullname": name,
        "Precision": "bfloat16",
        "Type": "🔶 fine-tuned on domain-specific datasets",
        "Architecture": "LlamaForCausalLM",
        "#Params (B)": 7.2,
        "Available on the hub": True,
        "Flagged": False,
        "Merged": False,
        "Upload To Hub Date": "2024-04-13",
        "Base Model": name,
        **full_run(seed),
        **given,
    }


@pytest.fixture
def read(tmp_path):
    def reader(*rows: dict[str, object], **options: bool):
        path = tmp_path / "leaderboard.csv"
        pd.DataFrame(list(rows)).to_csv(path, index=False)
        return read_leaderboard(path, **options)

    return reader


def cell(found, model: str, benchmark: str) -> tuple[int, int]:
    rows = found.responses
    [at] = rows[(rows["model"] == model) & (rows["benchmark"] == benchmark)].to_dict("records")
    return at["successes"], at["trials"]


def test_counts_are_the_right_answers(read):
    shares = {
        "IFEval Raw": (100 / 541 + 400 / 834) / 2,
        "MATH Lvl 5 Raw": 331 / 1324,
        "GPQA Raw": 300 / 1192,
        "MUSR Raw": (100 / 250 + 64 / 256 + 50 / 250) / 3,
        "MMLU-PRO Raw": 9999 / 12032,
        "BBH Raw": (21 * 0.5 + 3 * 0) / 24,
    }
    found = read(row("o/a", **shares), row("o/b", 1))
    # 541 (100/541 + 400/834) / 2 = 179.7 and 756 * 0.85 / 3 = 214.2 and 5761 * 0.4375 = 2520.4
    assert cell(found, "o/a", "IFEval") == (180, 541)
    assert cell(found, "o/a", "MUSR") == (214, 756)
    assert cell(found, "o/a", "BBH") == (2520, 5761)
    assert cell(found, "o/a", "MATH Lvl 5") == (331, 1324)
    assert cell(found, "o/a", "GPQA") == (300, 1192)
    assert cell(found, "o/a", "MMLU-PRO") == (9999, 12032)
    assert len(found.responses) == 12
    assert any("IFEval is the mean of prompts and instructions" in note for note in found.notes)
    responses = responses_from_frame(found.responses)
    assert responses.shape == (2, 6)


def test_questions_are_those_of_the_tasks():
    assert sum(BBH_TASKS) == BENCHMARKS["BBH"].questions
    assert len(BBH_TASKS) * np.lcm.reduce(BBH_TASKS) == BENCHMARKS["BBH"].steps
    assert BENCHMARKS["MUSR"].questions == 250 + 256 + 250
    assert 3 * np.lcm(250, 256) == BENCHMARKS["MUSR"].steps


def test_a_run_on_some_questions_is_left_out(read):
    limited = {"MATH Lvl 5 Raw": 3 / 10, "GPQA Raw": 1 / 7, "MMLU-PRO Raw": 1 / 10}
    found = read(row("o/a"), row("o/part", 1, **limited), row("o/cell", 2, **{"GPQA Raw": 1 / 7}))
    assert set(found.responses["model"]) == {"o/a", "o/cell"}
    cells = found.responses[found.responses["model"] == "o/cell"]
    assert set(cells["benchmark"]) == set(BENCHMARKS) - {"GPQA"}
    assert any("several such shares" in note and "o/part" in note for note in found.notes)
    assert any("1 row with a share" in note and "o/cell" in note for note in found.notes)


def test_of_several_rows_the_fullest_then_bfloat16_then_float16_then_the_first(read):
    found = read(
        row("o/a", 1, Precision="4bit"),
        row("o/a", 2, Precision="float16"),
        row("o/a", 3),
        row("o/a", 4),
        row("o/b", 5, **{"GPQA Raw": None}),
        row("o/b", 6, Precision="float16"),
    )
    assert cell(found, "o/a", "GPQA")[0] == round(full_run(3)["GPQA Raw"] * 1192)
    assert cell(found, "o/b", "GPQA")[0] == round(full_run(6)["GPQA Raw"] * 1192)
    assert list(found.models["precision"]) == ["bfloat16", "float16"]
    assert any(note.startswith("4 further rows") for note in found.notes)


def test_flagged_rows_are_left_out_unless_asked_for(read):
    rows = (row("o/a"), row("o/f", 1, Flagged=True))
    found = read(*rows)
    assert set(found.responses["model"]) == {"o/a"}
    assert any("1 row flagged" in note and "o/f" in note for note in found.notes)
    assert set(read(*rows, keep_flagged=True).responses["model"]) == {"o/a", "o/f"}


def test_missing_cells_are_left_out_and_removed_models_kept(read):
    found = read(
        row("o/a", **{"BBH Raw": None}),
        row("o/gone", 1, **{"Available on the hub": False}),
        row("o/none", 2, **{f"{b} Raw": None for b in BENCHMARKS}),
    )
    assert set(found.responses["model"]) == {"o/a", "o/gone"}
    assert len(found.responses) == 11
    assert "7 shares are missing" in found.notes


def test_roots_are_ancestors(read):
    found = read(
        row("o/own"),
        row("o/kid", 1, **{"Base Model": "o/root"}),
        row("o/merge", 2, **{"Base Model": "o/merge (Merge)", "Merged": True}),
        row("o/of-merge", 3, **{"Base Model": "o/merge (Merge)"}),
        row("o/lost", 4, **{"Base Model": "Removed"}),
        row("o/blank", 5, **{"Base Model": None}),
        row("o/flag", 6, Flagged=True, **{"Base Model": "o/root"}),
        row("o/Case", 7, **{"Base Model": "o/case"}),
    )
    assert found.lineage.to_dict("records") == [
        {"child": "o/kid", "parent": "o/root", "relation": "ancestor"},
        {"child": "o/of-merge", "parent": "o/merge", "relation": "ancestor"},
    ]
    assert lineage_from_frame(found.lineage).parents_of("o/kid") == ["o/root"]
    assert any(note == "merges whose parents the table does not name: 2" for note in found.notes)
    assert any(note == "base models that were removed from the Hub: 1" for note in found.notes)


def test_models_are_features(read):
    found = read(row("o/a"), row("o/b", 1, **{"#Params (B)": -1, "Upload To Hub Date": None}))
    table = features_from_frame(found.models)
    assert table.loc["o/a", "params_b"] == 7.2
    assert np.isnan(table.loc["o/b", "params_b"])
    assert table.loc["o/a", "type"] == "fine-tuned on domain-specific datasets"
    assert table.loc["o/a", "date"] == pd.Timestamp("2024-04-13", tz="UTC")
    assert pd.isna(table.loc["o/b", "date"])


def test_a_table_of_results_alone(tmp_path):
    frame = pd.DataFrame([{"fullname": "o/a", **full_run(0)}])
    frame.to_parquet(tmp_path / "l.parquet")
    found = read_leaderboard(tmp_path / "l.parquet")
    assert len(found.responses) == 6
    assert len(found.lineage) == 0
    assert list(found.models.columns) == ["model"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"GPQA Raw": 31.2}, ("column GPQA Raw, line 2, fullname o/a", "31.2 is outside [0, 1]")),
        ({"BBH Raw": -0.1}, ("-0.1 is outside",)),
        ({"MUSR Raw": "much"}, ("'much' is not a number", "a share from 0 to 1")),
        ({"fullname": None}, ("fullname name is missing",)),
        ({f"{b} Raw": 0.1234 for b in BENCHMARKS}, ("no row holds a full run", "unrounded")),
        ({f"{b} Raw": None for b in BENCHMARKS}, ("no row holds a full run",)),
        ({"Flagged": "maybe"}, ("'maybe' is not a number", "True or False")),
    ],
)
def test_mistakes_make_one_line(change, words, read):
    with pytest.raises(InputError) as caught:
        read({**row("o/a"), **change})
    for word in (*words, "leaderboard.csv"):
        assert word in str(caught.value)


def test_a_missing_column_names_the_nearest(tmp_path):
    frame = pd.DataFrame([row("o/a")]).rename(columns={"GPQA Raw": "GPQA raw"})
    frame.to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(InputError, match="no column 'GPQA Raw'; rename 'GPQA raw'"):
        read_leaderboard(tmp_path / "l.csv")


def run(command: click.Command, *arguments: object) -> None:
    command.main([str(a) for a in arguments], standalone_mode=False)


def test_command_writes_three_tables(tmp_path, capsys):
    pd.DataFrame([row("o/a"), row("o/b", 1, **{"Base Model": "o/a"})]).to_csv(
        tmp_path / "l.csv", index=False
    )
    counts, models, edges = (tmp_path / name for name in ("c.csv", "m.csv", "e.csv"))
    run(
        leaderboard, tmp_path / "l.csv", "-o", counts, "--models-out", models,
        "--lineage-out", edges,
    )  # fmt: skip
    assert len(pd.read_csv(counts)) == 12
    assert list(pd.read_csv(models)["model"]) == ["o/a", "o/b"]
    assert pd.read_csv(edges)["parent"].tolist() == ["o/a"]
    assert "note: IFEval is the mean" in capsys.readouterr().err
    with pytest.raises(InputError, match="--models-out and -o are one file"):
        run(leaderboard, tmp_path / "l.csv", "-o", counts, "--models-out", counts)


def test_aliases_rename_models_and_base_models(tmp_path):
    rows = [row("o/a", Precision="4bit"), row("o/A", 1), row("o/b", 2, **{"Base Model": "o/A"})]
    pd.DataFrame(rows).to_csv(tmp_path / "l.csv", index=False)
    found = read_leaderboard(tmp_path / "l.csv", aliases={"o/A": "o/a", "o/zzz": "o/y"})
    assert found.renamed == {"o/A": "o/a"}
    assert list(found.models["model"]) == ["o/a", "o/b"]
    assert cell(found, "o/a", "GPQA")[0] == round(full_run(1)["GPQA Raw"] * 1192)
    assert found.lineage["parent"].tolist() == ["o/a"]


def test_command_says_how_the_table_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [row("o/a"), row("o/b", 1, **{"Base Model": "o/a"}), row("o/c", 2)]
    pd.DataFrame(rows).to_csv("l.csv", index=False)
    run(leaderboard, "l.csv", "-o", "c.csv")
    lines = capsys.readouterr().err.splitlines()
    assert "3 models, 6 benchmarks, 0 responses on 0 items, 18 counts of whole benchmarks" in lines
    assert "by base model: 1 of 3 models have a recorded parent; 2 are connected" in lines
    (tmp_path / "r.csv").write_text(
        "model,benchmark,successes,trials\no/x,GPQA,1,2\no/b,Gpqa,1,2\n"
    )
    (tmp_path / "e.csv").write_text("child,parent,relation\no/c,o/root,finetune\n")
    (tmp_path / "a.csv").write_text("alias,name\no/a,o/x\n")
    run(leaderboard, "l.csv", "-o", "c.csv", "--responses", "r.csv", "--lineage", "e.csv",
        "--aliases", "a.csv")  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert "1 model renamed by the alias table: o/a -> o/x" in lines
    assert "3 of 3 models known" in lines
    assert "1 of 6 benchmarks known" in lines
    assert "unknown benchmark IFEval" in lines
    assert "1 of 3 models have a recorded parent; 0 are connected" in lines
    assert not any(line.startswith("by base model") for line in lines)


@pytest.mark.real
def test_the_real_table(data_dir):
    found = read_leaderboard(data_dir / "oll_v2" / "leaderboard.csv")
    responses = responses_from_frame(found.responses)
    # 3,753 names, of which one is flagged; a run of gpt2 on 120 questions has a full twin.
    assert responses.n_models == 3752
    assert responses.n_items == 6
    assert len(found.responses) == 3752 * 6 - 1
    published = pd.read_csv(data_dir / "oll_v2" / "leaderboard.csv").set_index("fullname")
    once = published[~published.index.duplicated(keep=False)]
    for name, benchmark in BENCHMARKS.items():
        rows = found.responses[found.responses["benchmark"] == name].set_index("model")
        both = once.index.intersection(rows.index)
        share = rows.loc[both, "successes"] / rows.loc[both, "trials"]
        assert (share - once.loc[both, f"{name} Raw"]).abs().max() <= 0.5 / benchmark.questions
    lineage = lineage_from_frame(found.lineage)
    assert set(lineage.relation) == {"ancestor"}
    assert len(lineage.child) == 624
    assert len(features_from_frame(found.models)) == 3752
