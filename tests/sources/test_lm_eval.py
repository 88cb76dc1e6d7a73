"""Output of lm-evaluation-harness, as real releases wrote it, as tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.sources.lm_eval import read_lm_eval

DATA = Path(__file__).parent / "data"
NEW, OLD = DATA / "lm_eval", DATA / "lm_eval_0.4.2"
DATE = "2026-11-26T12-15-05.349374"
LATER = "2026-11-27T09-00-00.000001"


def table(imported) -> dict[tuple[str, str, str], float]:
    frame = imported.responses
    return {(r.model, r.benchmark, r.item): r.response for r in frame.itertuples()}


def change(file: Path, edit, to: Path | None = None) -> Path:
    """Write the samples of a file, each edited, to another."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        edit(line)
    to = to or file
    to.parent.mkdir(exist_ok=True)
    to.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return to


@pytest.fixture
def out(tmp_path) -> Path:
    """Return a folder of real output that a test may spoil."""
    return Path(shutil.copytree(NEW, tmp_path / "out"))


@pytest.fixture
def sums(out) -> Path:
    return out / "org__alpha" / f"samples_sums_{DATE}.jsonl"


@pytest.mark.parametrize(
    ("folder", "model", "results"),
    [(NEW, "org/alpha", f"org__alpha/results_{DATE}.json"), (OLD, "org/old", "results.json")],
)
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_means_are_those_the_harness_reports(folder, model, results, metric):
    imported = read_lm_eval(folder, metric={"sums": metric})
    reported = json.loads((folder / results).read_text())["results"]
    mine = imported.responses[imported.responses["model"] == model]
    means = mine.groupby("benchmark")["response"].mean()
    assert means["sums"] == pytest.approx(reported["sums"][f"{metric},none"])
    assert means["sums_told"] == reported["sums_told"]["exact_match,strict-match"]
    assert set(mine["item"]) == {str(i) for i in range(8)}
    assert len(mine) == 16


@pytest.mark.parametrize("folder", [NEW, OLD])
def test_filters_are_told_apart_and_the_choice_is_named(folder):
    strict = read_lm_eval(folder)
    assert "metric exact_match, filter strict-match: sums_told" in strict.notes
    loose = read_lm_eval(folder, filter_name="flexible-extract")
    assert "metric exact_match, filter flexible-extract: sums_told" in loose.notes
    assert "metric acc_norm, filter none: sums" in loose.notes
    reported = json.loads(next(folder.rglob("results*.json")).read_text())["results"]["sums_told"]
    told = loose.responses[loose.responses["benchmark"] == "sums_told"]
    assert told["response"].mean() == reported["exact_match,flexible-extract"]


def test_results_alone_are_counts():
    imported = read_lm_eval(NEW)
    assert set(imported.responses["model"]) == {"org/alpha"}
    [file] = (NEW / "org__beta").glob("results*.json")
    content = json.loads(file.read_text())
    expected = [
        (
            "org/beta@step10",
            task,
            round(content["results"][task][key] * content["n-samples"][task]["effective"]),
            content["n-samples"][task]["effective"],
        )
        for task, key in [("sums", "acc_norm,none"), ("sums_told", "exact_match,strict-match")]
    ]
    assert [tuple(row) for row in imported.counts.to_numpy()] == expected
    assert any(note.startswith("no samples, counts") for note in imported.notes)


def test_old_results_alone_have_their_size_from_the_standard_error(tmp_path):
    shutil.copy(OLD / "results.json", tmp_path)
    imported = read_lm_eval(tmp_path)
    share = json.loads((OLD / "results.json").read_text())["results"]["sums"]["acc_norm,none"]
    assert imported.counts.to_numpy().tolist() == [["org/old", "sums", round(8 * share), 8]]
    assert "number of samples worked out from the standard error: sums" in imported.notes
    assert "neither samples nor their number, passed over: sums_told" in imported.notes


def test_both_layouts_are_one_table_that_the_reader_takes():
    imported = read_lm_eval([NEW, OLD])
    responses = responses_from_frame(imported.responses)
    assert sorted(responses.models) == ["org/alpha", "org/old"]
    assert responses.shape == (2, 16)
    assert responses.density == 1
    assert responses_from_frame(imported.counts).n_observed == 2


def test_a_file_named_alone_finds_its_model(sums):
    imported = read_lm_eval(sums)
    assert set(imported.responses["model"]) == {"org/alpha"}
    assert set(imported.responses["benchmark"]) == {"sums"}
    assert imported.counts.empty


def test_without_results_the_folder_names_the_model(out, sums):
    for file in out.rglob("results*.json"):
        file.unlink()
    assert set(read_lm_eval(out).responses["model"]) == {"org/alpha"}


def test_old_samples_of_a_model_whose_results_were_overwritten(tmp_path):
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    here = tmp_path / "pretrained__org__old,dtype__float16_sums.jsonl"
    shutil.copy(here, tmp_path / "pretrained__my_lab__first,revision__v2_sums.jsonl")
    models = read_lm_eval(tmp_path).responses["model"]
    assert set(models) == {"org/old", "my_lab/first@v2"}


def test_aliases_rename():
    imported = read_lm_eval(NEW, aliases={"org/alpha": "hub/alpha", "org/none": "x"})
    assert set(imported.responses["model"]) == {"hub/alpha"}
    assert imported.renamed == {"org/alpha": "hub/alpha"}


def test_the_latest_of_repeated_runs_wins(sums):
    first = table(read_lm_eval(sums.parent))

    def turn(line):
        line["acc_norm"] = 1 - line["acc_norm"]

    again = change(sums, turn, sums.with_name(f"samples_sums_{LATER}.jsonl"))
    kept = again.read_text().splitlines()[2:5]
    again.write_text("\n".join(kept) + "\n")
    shutil.copy(sums.with_name(f"results_{DATE}.json"), again.with_name(f"results_{LATER}.json"))
    imported = read_lm_eval(sums.parent)
    second = table(imported)
    changed = {key for key in first if first[key] != second[key]}
    assert changed == {("org/alpha", "sums", str(i)) for i in (2, 3, 4)}
    [note] = [note for note in imported.notes if "repeated" in note]
    assert "org/alpha" in note
    assert "3 overlapping items" in note


def test_runs_with_other_shots_are_named(out, sums):
    results = sums.with_name(f"results_{DATE}.json")
    content = json.loads(results.read_text())
    content["n-shot"]["sums"] = 5
    content["model_name"] = "org/gamma"
    other = out / "org__gamma"
    other.mkdir()
    (other / results.name).write_text(json.dumps(content))
    shutil.copy(sums, other)
    assert "sums: runs differ in their setting (0-shot, 5-shot)" in read_lm_eval(out).notes


def test_shuffled_choices_are_the_same_question(out, sums):
    def shuffle(line):
        line["doc"]["choices"] = line["doc"]["choices"][::-1]
        line["doc"]["answer"] = 2
        line["doc_hash"] = "another"

    change(sums, shuffle, out / "org__gamma" / sums.name)
    imported = read_lm_eval(out)
    items = imported.responses.query("benchmark == 'sums'")
    assert set(items["item"]) == {str(i) for i in range(8)}
    assert set(items["model"]) == {"org/alpha", "org/gamma"}
    assert not any("different questions" in note for note in imported.notes)


def test_other_questions_under_one_doc_id_are_told_apart(out, sums):
    lines = sums.read_text().splitlines()
    docs = [json.loads(line)["doc"] for line in lines]
    order = [1, 0, 2, 3, 4, 5, 6, 7]

    def move(line):
        line["doc"] = docs[order[line["doc_id"]]]

    change(sums, move, out / "org__gamma" / sums.name)
    imported = read_lm_eval(out)
    [note] = [note for note in imported.notes if "different questions" in note]
    assert note.startswith("sums: 2 of 8 items")
    wide = imported.responses.query("benchmark == 'sums'").pivot_table(
        index="model", columns="item", values="response"
    )
    assert wide.shape == (2, 8)
    assert wide.notna().all(axis=None)
    # The same answers to other documents: the table by question is that of one run, moved.
    given = [json.loads(line)["acc_norm"] for line in lines]
    told = imported.responses.query("benchmark == 'sums_told'")
    assert set(told["item"]) == {str(i) for i in range(8)}
    mine = imported.responses.query("benchmark == 'sums' and model == 'org/alpha'")
    other = imported.responses.query("benchmark == 'sums' and model == 'org/gamma'")
    question = dict(zip(range(8), mine["item"], strict=True))
    assert list(mine["response"]) == given
    assert dict(zip(other["item"], other["response"], strict=True)) == {
        question[order[i]]: given[i] for i in range(8)
    }


def test_the_same_question_twice_stays_two_items(out, sums):
    def repeat(line):
        line["doc"] = {"question": f"q{line['doc_id'] // 2}"}

    change(sums, repeat, out / "org__gamma" / sums.name)
    items = read_lm_eval(out).responses.query("model == 'org/gamma'")["item"]
    assert items.is_unique
    assert items.str.endswith("-2").sum() == 4


def test_lists_and_bounded_numbers_become_fractions(sums):
    def edit(line):
        line["metrics"] = ["inst_level_strict_acc", "mcc", "prompt_level_strict_acc"]
        line["inst_level_strict_acc"] = [True, False, True]
        line["prompt_level_strict_acc"] = False
        line["mcc"] = [0, 1]

    change(sums, edit)
    lists = read_lm_eval(sums, metric="inst_level_strict_acc")
    assert set(lists.responses["response"]) == {2 / 3}
    default = read_lm_eval(sums)
    assert set(default.responses["response"]) == {0}
    assert "metric prompt_level_strict_acc, filter none: sums" in default.notes
    with pytest.raises(InputError, match="unknown metric 'mcc'"):
        read_lm_eval(sums, metric="mcc")
    f1 = change(sums, lambda line: line.update(metrics=["f1"], f1=0.25))
    assert set(read_lm_eval(f1).responses["response"]) == {0.25}


def test_a_metric_that_is_text_somewhere_is_no_choice(sums):
    def edit(line):
        if line["doc_id"] == 4:
            line["acc_norm"] = "none"

    change(sums, edit)
    imported = read_lm_eval(sums)
    assert "metric acc, filter none: sums" in imported.notes
    assert len(imported.responses) == 8


def test_samples_named_json_as_the_open_leaderboard_keeps_them(sums):
    before = table(read_lm_eval(sums))
    renamed = sums.rename(sums.with_suffix(".json"))
    assert table(read_lm_eval(renamed)) == before
    assert table(read_lm_eval(renamed.parent)).items() >= before.items()


def test_samples_without_a_metric_are_counted(sums):
    def drop(line):
        if line["doc_id"] < 3:
            line["metrics"].remove("acc_norm")
            del line["acc_norm"]

    change(sums, drop)
    imported = read_lm_eval(sums)
    assert len(imported.responses) == 5
    assert "3 samples without the metric passed over" in imported.notes


def test_a_metric_where_less_is_better_is_no_default(sums):
    change(sums, lambda line: line.update(metrics=["brier", "hits"], brier=0.1, hits=1))
    results = sums.with_name(f"results_{DATE}.json")
    content = json.loads(results.read_text())
    content["higher_is_better"]["sums"] = {"brier": False, "hits": True}
    results.write_text(json.dumps(content))
    assert "metric hits, filter none: sums" in read_lm_eval(sums).notes


def test_groups_of_tasks_are_no_benchmarks(tmp_path):
    [file] = (NEW / "org__beta").glob("results*.json")
    content = json.loads(file.read_text())
    content["results"]["all_sums"] = content["results"]["sums"]
    content["group_subtasks"] = {"all_sums": ["sums", "sums_told"]}
    (tmp_path / file.name).write_text(json.dumps(content))
    assert list(read_lm_eval(tmp_path).counts["benchmark"]) == ["sums", "sums_told"]


def test_other_files_are_passed_over(out):
    (out / "notes.json").write_text("{not json")
    (out / "more.json").write_text('{"results": 3}')
    (out / "strange.jsonl").write_text('{"a": 1}\n')
    imported = read_lm_eval(out)
    pd.testing.assert_frame_equal(imported.responses, read_lm_eval(NEW).responses)
    assert any("1 file of unknown tasks" in note for note in imported.notes)


# --- mistakes ---


def refused(what: str, *words: str, **options) -> None:
    with pytest.raises(InputError) as caught:
        read_lm_eval(what, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "; " in line
    for word in words:
        assert word in line, line


def test_truncated_lines(sums):
    sums.write_bytes(sums.read_bytes()[:-40])
    refused(sums, f"{sums}, line 8", "cut short", "copy the file anew")


def test_truncated_array_of_an_old_release(tmp_path):
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "pretrained__org__old,dtype__float16_sums.jsonl"
    file.write_text(file.read_text()[:-30])
    refused(tmp_path, str(file), "cut short")


def test_truncated_results(out):
    file = next(out.rglob("results*.json"))
    file.write_text(file.read_text()[:200])
    refused(out, str(file), "cut short")


def test_empty_folder_and_missing_path(tmp_path):
    refused(tmp_path, str(tmp_path), "no output of lm-evaluation-harness")
    refused(tmp_path / "none", "no such file or folder", "check the path")


def test_empty_samples_and_lines_that_are_no_samples(sums):
    sums.write_text("")
    refused(sums, str(sums), "holds no samples")
    sums.write_text("[1]\n")
    refused(sums, f"{sums}, line 1", "no sample")
    sums.write_text('\n{"a": 1}\n')
    refused(sums, f"{sums}, line 2", "no sample")


def test_not_utf8(out, sums):
    text = sums.read_bytes()
    sums.write_bytes(text.replace(b"What", b"\xff\xfe", 1))
    refused(sums, str(sums), "UTF-8")
    sums.write_bytes(text)
    results = sums.with_name(f"results_{DATE}.json")
    results.write_bytes(b"\xff" + results.read_bytes())
    refused(out, str(results), "UTF-8")


@pytest.mark.parametrize(
    ("value", "word"),
    [("NaN", "not a number"), ("1.5", "1.5, outside [0, 1]"), ("-2", "-2, outside")],
)
def test_values_that_are_no_share(sums, value, word):
    lines = sums.read_text().splitlines()
    lines[3] = lines[3].replace('"acc_norm": 0.0', f'"acc_norm": {value}')
    assert value in lines[3]
    sums.write_text("\n".join(lines))
    refused(sums, f"{sums}, line 4", f"acc_norm of sums is {word}", "such as 'acc'")
    assert len(read_lm_eval(sums, metric="acc").responses) == 8


def test_a_task_without_a_share_is_refused_alone_and_passed_over_among_others(out, sums):
    change(sums, lambda line: line.update(metrics=["perplexity"], perplexity=12.5))
    refused(sums, "perplexity of sums is 12.5", "leave this task out")
    imported = read_lm_eval(sums.parent)
    assert set(imported.responses["benchmark"]) == {"sums_told"}
    assert "no metric from 0 to 1, passed over: sums" in imported.notes


def test_wrong_names(out):
    refused(out, "unknown filter 'strict_match'", "'strict-match'", filter_name="strict_match")
    refused(out, "unknown metric 'ac'", "'acc'", metric="ac")
    refused(out, "unknown task 'sum'", "'sums'", metric={"sum": "acc"})
    refused(out, "task sums", "unknown metric 'exact_match'", metric={"sums": "exact_match"})


def test_old_samples_need_their_results(tmp_path):
    file = shutil.copy(OLD / "pretrained__org__old,dtype__float16_sums.jsonl", tmp_path)
    refused(file, str(file), "task of these samples is unknown", "results.json")
