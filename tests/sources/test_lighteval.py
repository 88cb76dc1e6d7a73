"""Output of LightEval, of the real release 0.13.0 and in the layouts of earlier ones, as tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.sources.lighteval import read_lighteval

DATA = Path(__file__).parent / "data" / "lighteval"
DATE = "2026-11-26T16-31-29.609391"
LATER = "2026-11-27T09-00-00.000001"
TASKS = ("sums", "sums_told")


def place(out: Path, model: str, date: str, *, tasks: tuple[str, ...] = TASKS) -> Path:
    """Lay real files where LightEval writes them; their names hold a | ."""
    folder = out / "details" / model / date
    folder.mkdir(parents=True)
    for task in tasks:
        shutil.copy(DATA / f"{task}.parquet", folder / f"details_{task}|0_{date}.parquet")
    results = out / "results" / model
    results.mkdir(parents=True, exist_ok=True)
    content = json.loads((DATA / "results_alpha.json").read_text())
    content["config_general"]["model_name"] = model
    (results / f"results_{date}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    """Return an output_dir of LightEval with one run, which a test may spoil."""
    place(tmp_path / "out", "org/alpha", DATE)
    return tmp_path / "out"


@pytest.fixture
def sums(out) -> Path:
    return out / "details" / "org" / "alpha" / DATE / f"details_sums|0_{DATE}.parquet"


@pytest.fixture
def beta(out) -> Path:
    """Return real results of a run without details."""
    folder = out / "results" / "org" / "beta"
    folder.mkdir(parents=True)
    return Path(shutil.copy(DATA / "results_beta.json", folder / f"results_{LATER}.json"))


def rows_of(file: Path) -> list[dict]:
    return pq.read_table(file).to_pylist()


def write(rows: list[dict], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def scores(imported, benchmark: str, model: str = "org/alpha") -> dict[str, float]:
    frame = imported.responses
    mine = frame[(frame["benchmark"] == benchmark) & (frame["model"] == model)]
    return dict(zip(mine["item"], mine["response"], strict=True))


def test_means_are_those_lighteval_reports(out):
    imported = read_lighteval(out)
    reported = json.loads((DATA / "results_alpha.json").read_text())["results"]
    means = imported.responses.groupby("benchmark")["response"].mean()
    assert means["sums"] == reported["sums|0"]["acc"]
    assert means["sums_told"] == reported["sums_told|0"]["em"]
    assert set(imported.responses["model"]) == {"org/alpha"}
    assert imported.counts.empty
    assert set(imported.notes) == {"metric acc: sums", "metric em: sums_told"}
    responses = responses_from_frame(imported.responses)
    assert responses.shape == (1, 16)


def test_items_are_keys_of_the_dataset_and_not_rows(out, sums):
    rows = rows_of(sums)
    assert [row["doc"]["id"] for row in rows] != [str(i) for i in range(8)]
    expected = {row["doc"]["id"]: row["metric"]["acc"] for row in rows}
    assert scores(read_lighteval(out), "sums") == expected


def test_results_without_details_are_counts(out, beta):
    imported = read_lighteval(out)
    reported = json.loads(beta.read_text())["results"]
    counts = imported.counts.set_index("benchmark")
    assert set(imported.counts["model"]) == {"org/beta"}
    assert set(counts.index) == set(TASKS)
    assert (counts["trials"] == 8).all()
    assert counts["successes"]["sums"] == 8 * reported["sums|0"]["acc"]
    assert counts["successes"]["sums_told"] == 8 * reported["sums_told|0"]["em"]
    assert any("worked out from the standard error: sums" in note for note in imported.notes)


def test_a_recorded_number_of_documents_goes_before_the_standard_error(tmp_path):
    """Releases to 0.9 name tasks with their suite and count documents, as their docs show."""
    content = {
        "config_general": {"model_name": "org/old", "lighteval_sha": "2030"},
        "results": {
            "lighteval|gsm8k|5": {"qem": 0.25, "qem_stderr": 0.9, "ppl": 12.5},
            "lighteval|mmlu:law|5": {"acc": 0.5},
            "lighteval|mmlu:_average|5": {"acc": 0.5},
            "all": {"acc": 0.5, "qem": 0.25},
        },
        "versions": {"lighteval|gsm8k|5": 0},
        "config_tasks": {"lighteval|gsm8k": {"effective_num_docs": 40}},
    }
    (tmp_path / f"results_{DATE}.json").write_text(json.dumps(content))
    imported = read_lighteval(tmp_path)
    assert imported.counts.to_dict("records") == [
        {"model": "org/old", "benchmark": "gsm8k", "successes": 10, "trials": 40}
    ]
    assert "neither samples nor their number, passed over: mmlu:law" in imported.notes


def test_a_metric_where_less_is_better_is_no_default(out, sums):
    [file] = (out / "results").rglob("*.json")
    content = json.loads(file.read_text())
    content["config_tasks"]["sums|0"]["metrics"] = [
        {"metric_name": ["apart"], "higher_is_better": {"apart": False}},
        {"metric_name": "far", "higher_is_better": False},
    ]
    file.write_text(json.dumps(content))
    rows = [row | {"metric": {"apart": 0.5, "far": 0.5, "near": 1.0}} for row in rows_of(sums)]
    write(rows, sums)
    assert "metric near: sums" in read_lighteval(out).notes
    assert "metric apart: sums" in read_lighteval(out, metric={"sums": "apart"}).notes


def old_rows(file: Path) -> list[dict]:
    """Return the rows of a file as releases 0.8 to 0.10 wrote them: columns of their own."""
    return [
        {
            "choices": row["doc"]["choices"],
            "example": row["doc"]["query"],
            "full_prompt": "Two shots.\n" + row["doc"]["query"],
            "gold_index": [row["doc"]["gold_index"]],
            "input_tokens": [[1, 2]],
            "metrics": row["metric"],
            "num_asked_few_shots": 0,
            "specifics": None,
        }
        for row in rows_of(file)
    ]


def test_earlier_layouts_hold_the_same_questions(out, sums):
    """To 0.7 every cell was the text of a Python value, then values; none had a key."""
    new = read_lighteval(out, metric="acc")
    by_layout = []
    for write_cell in (lambda v: v, str):
        rows = [{k: write_cell(v) for k, v in row.items()} for row in old_rows(sums)]
        folder = out.parent / f"old-{len(by_layout)}"
        date = f"2024-09-0{1 + len(by_layout)}T10-00-00.5"
        name = f"details_custom|sums|0_{date}.parquet"
        write(rows, folder / "details" / "org" / "alpha" / date / name)
        by_layout.append(read_lighteval(folder))
    first, second = (scores(imported, "sums") for imported in by_layout)
    assert first == second
    assert all(len(item) == 16 for item in first)
    assert sum(first.values()) == sum(scores(new, "sums").values())
    # Together with a release that has keys, all are named by their question.
    both = read_lighteval([out, out.parent / "old-0"], metric={"sums": "acc"})
    assert scores(both, "sums") == first
    assert any("runs differ in their setting (0-shot, custom 0-shot)" in n for n in both.notes)


def test_nan_in_the_text_of_old_metrics_is_no_value(tmp_path):
    rows = [
        {"example": "A?", "metrics": "{'acc': 1, 'ppl': nan}"},
        {"example": "B?", "metrics": "{'acc': nan, 'ppl': nan}"},
    ]
    write(rows, tmp_path / f"details_x|t|0_{DATE}.parquet")
    imported = read_lighteval(tmp_path)
    assert list(imported.responses["response"]) == [1]
    assert "1 samples without the metric passed over" in imported.notes


def test_the_same_question_twice_stays_two_items(tmp_path):
    rows = [
        {"example": "A?", "choices": ["1", "2"], "metrics": {"acc": 1}},
        {"example": "A? ", "choices": [" 1", "2"], "metrics": {"acc": 0}},
        {"example": "A?", "choices": ["1", "3"], "metrics": {"acc": 0}},
    ]
    write(rows, tmp_path / "org__m" / f"details_t|0_{DATE}.parquet")
    found = scores(read_lighteval(tmp_path), "t", "org/m")
    assert list(found.values()) == [1, 0, 0]
    first, second, _ = found
    assert second == f"{first}-2"


def test_keys_that_repeat_are_no_names_of_items(out, sums):
    rows = rows_of(sums)
    for row in rows[4:]:
        row["doc"]["id"] = rows[0]["doc"]["id"]
    write(rows, sums)
    found = scores(read_lighteval(out), "sums")
    assert len(found) == 8
    assert all(len(item) == 16 for item in found)


def test_the_latest_of_repeated_runs_wins(out):
    later = place(out, "org/alpha", LATER, tasks=("sums",)) / f"details_sums|0_{LATER}.parquet"
    rows = rows_of(later)
    write([row | {"metric": {"acc": 1}} for row in rows[:3]], later)
    imported = read_lighteval(out, metric={"sums": "acc"})
    found = scores(imported, "sums")
    assert len(found) == 8
    assert {found[row["doc"]["id"]] for row in rows[:3]} == {1}
    assert any("the latest wins on 3 overlapping items" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("folder", "model"),
    [
        (f"out/details/org/alpha/{DATE}", "org/alpha"),
        ("details_org__alpha_private/2023-07-19T15:58:12.174583", "org/alpha"),
        (f"hub/datasets--me--details_gpt2/snapshots/c0ffee/{DATE}", "gpt2"),
        ("some__where", "some/where"),
        (f"details/org__alpha/{DATE}", "org/alpha"),
        (f"details/gpt2/{DATE}", "gpt2"),
    ],
)  # fmt: skip
def test_without_results_the_path_names_the_model(tmp_path, folder, model):
    (tmp_path / folder).mkdir(parents=True)
    shutil.copy(DATA / "sums.parquet", tmp_path / folder / f"details_sums|0_{DATE}.parquet")
    imported = read_lighteval(tmp_path)
    assert set(imported.responses["model"]) == {model}
    assert read_lighteval(tmp_path, aliases={model: "new"}).renamed == {model: "new"}


def test_a_branch_is_part_of_the_name_and_a_commit_is_not(out):
    [file] = (out / "results").rglob("*.json")
    content = json.loads(file.read_text())
    for revision, name in (("step10", "org/alpha@step10"), ("a" * 40, "org/alpha")):
        content["config_general"]["model_config"]["revision"] = revision
        file.write_text(json.dumps(content))
        assert set(read_lighteval(out).responses["model"]) == {name}


def test_broken_files_make_one_line(out, sums):
    real = sums.read_bytes()
    for content in (b"", b"PAR1", b"{}", real[: len(real) // 2]):
        sums.write_bytes(content)
        with pytest.raises(InputError, match="is not a Parquet file, or is damaged") as caught:
            read_lighteval(out)
        assert sums.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"doc": {"query": "A?"}}], ("no column 'metric' (it has doc)", "as LightEval writes")),
        ([{"metric": {"acc": 1}, "more": 2}], ("no column 'doc' (it has metric, more)",)),
        ([{"example": "A?", "metrics": "much"}], ("row 1: the metrics are no mapping",)),
        ([{"example": "A?", "metrics": {"acc": 7.5}}], ("row 1: acc of t is 7.5, outside [0, 1]",)),
        ([{"example": "A?", "metrics": {"acc": float("nan")}}], ("acc of t is not a number",)),
        ([{"example": "A?", "metrics": {"acc": "good"}}], ("neither details nor results",)),
    ],
)
def test_strange_rows_make_one_line(tmp_path, rows, words):
    write(rows, tmp_path / f"details_t|0_{DATE}.parquet")
    with pytest.raises(InputError) as caught:
        read_lighteval(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_text_that_is_not_utf8(tmp_path):
    bad = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"example": bad, "acc": [1]})
    pq.write_table(table, tmp_path / f"details_t|0_{DATE}.parquet")
    with pytest.raises(InputError, match="is not a Parquet file, or is damaged"):
        read_lighteval(tmp_path)


def test_details_without_rows(tmp_path):
    empty = pa.table({"example": pa.array([], pa.string()), "acc": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / f"details_t|0_{DATE}.parquet")
    with pytest.raises(InputError, match="holds no details; delete it"):
        read_lighteval(tmp_path)


def test_missing_paths_empty_folders_and_other_files(tmp_path):
    (tmp_path / "empty").mkdir()
    other = write([{"a": 1}], tmp_path / "table.parquet")
    (tmp_path / f"results_{DATE}.json").write_text('{"results": {"t": {"acc,none": 1}}}')
    deep = tmp_path / "deep" / f"results_{DATE}.json"
    deep.parent.mkdir()
    deep.write_text("[" * 100_000)
    for place, word in [
        (tmp_path / "none", "no such file or folder; check the path"),
        (tmp_path / "empty", "no output of LightEval; give its output_dir"),
        (other, "the task of these details is unknown; keep its name"),
        (tmp_path / f"results_{DATE}.json", "holds no results of LightEval"),
        (deep, "nested too deeply|not JSON"),
    ]:
        with pytest.raises(InputError, match=word):
            read_lighteval(place)
    write([{"example": "A?", "acc": 1}], tmp_path / "good" / f"details_t|0_{DATE}.parquet")
    with pytest.raises(InputError, match="unknown metric 'acs'; did you mean 'acc'"):
        read_lighteval(tmp_path / "good", metric="acs")
