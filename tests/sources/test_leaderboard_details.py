"""Details of the Open LLM Leaderboards as tables: real samples of lm-eval laid out as v2 keeps
them, and made-up rows in the three layouts of v1 that its published readers tell apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.sources.leaderboard_details import read_leaderboard_details
from bayes_lrmf.sources.lm_eval import read_lm_eval

DATA = Path(__file__).parent / "data"
DATE = "2026-11-26T12-15-05.349374"
V1_DATE = "2023-09-18T03-05-58.053951"
COMMIT = "50f5173d932e8e61f858120bcb800b97af589f46"
QUESTIONS = ["Which sinks?", "Which floats?", "Which burns?", "Which melts?"]
CHOICES = ["wood", "iron", "wax", "ice"]


def write(rows: list[dict], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def scores(imported, benchmark: str, model: str) -> dict[str, float]:
    frame = imported.responses
    mine = frame[(frame["benchmark"] == benchmark) & (frame["model"] == model)]
    return dict(zip(mine["item"], mine["response"], strict=True))


@pytest.fixture
def v2(tmp_path) -> Path:
    """Return real samples and results as ``open-llm-leaderboard/org__alpha-details`` keeps them.

    The folder of the model holds samples of each task; results name the commit that was run.
    """
    folder = tmp_path / "v2" / "org__alpha"
    folder.mkdir(parents=True)
    for task in ("sums", "sums_told"):
        name = f"samples_{task}_{DATE}.jsonl"
        shutil.copy(
            DATA / "lm_eval" / "org__alpha" / name,
            folder / name.replace("_sums", "_leaderboard_sums"),
        )
    text = (DATA / "lm_eval" / "org__alpha" / f"results_{DATE}.json").read_text()
    content = json.loads(text.replace('"sums', '"leaderboard_sums'))
    content["config"]["model_args"] = f"pretrained=org/alpha,revision={COMMIT},dtype=bfloat16"
    (folder / f"results_{DATE}.json").write_text(json.dumps(content))
    return tmp_path / "v2"


def samples_of(v2: Path) -> list[dict]:
    [file] = v2.rglob("samples_leaderboard_sums_2*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def v1_rows(right: list[int]) -> list[dict]:
    return [
        {
            "example": question,
            "choices": CHOICES,
            "full_prompt": "Many shots. " + question,
            "predictions": [-1.0, -2.0, -3.0, -4.0],
            "gold": 1,
            "hash": "c0ffee",
            "metrics": {"acc": one, "acc_norm": 1 - one},
        }
        for question, one in zip(QUESTIONS, right, strict=True)
    ]


def flat(rows: list[dict], prefix: str) -> list[dict]:
    return [
        {k: v for k, v in row.items() if k != "metrics"}
        | {prefix + k: v for k, v in row["metrics"].items()}
        for row in rows
    ]


@pytest.fixture
def v1(tmp_path):
    """Return a function that lays a file where a dataset ``details_<org>__<model>`` has it."""

    def lay(
        rows: list[dict], model: str, task: str = "arc:challenge|25", date: str = V1_DATE
    ) -> Path:
        folder = tmp_path / "v1" / f"details_{model}" / date
        return write(rows, folder / f"details_harness|{task}_{date}.parquet")

    return lay


def test_v2_is_what_the_harness_wrote_under_the_name_of_the_hub(v2):
    imported = read_leaderboard_details(v2)
    own = read_lm_eval(DATA / "lm_eval")
    for task in ("sums", "sums_told"):
        assert scores(imported, f"leaderboard_{task}", "org/alpha") == scores(
            own, task, "org/alpha"
        )
    assert set(imported.responses["model"]) == {"org/alpha"}
    # The reader of the harness keeps the commit, since there it was somebody's choice.
    assert set(read_lm_eval(v2).responses["model"]) == {f"org/alpha@{COMMIT}"}
    loose = read_leaderboard_details(v2, filter_name="flexible-extract")
    assert any("filter flexible-extract: leaderboard_sums_told" in n for n in loose.notes)


def test_v2_results_alone_are_counts(v2):
    for file in v2.rglob("samples_*"):
        file.unlink()
    imported = read_leaderboard_details(v2)
    assert imported.responses.empty
    assert imported.counts["trials"].tolist() == [8, 8]
    assert set(imported.counts["model"]) == {"org/alpha"}


@pytest.mark.parametrize(
    "places",
    [
        ["org__alpha/samples_leaderboard_sums_{date}.parquet"],
        ["org__alpha__leaderboard_sums/{split}/0000.parquet"],
        ["org__alpha__leaderboard_sums/{split}/0000.parquet",
         "org__alpha__leaderboard_sums/latest/0000.parquet"],
        ["org__alpha__leaderboard_sums/latest/0000.parquet"],
        ["datasets--open-llm-leaderboard--org__alpha-details/snapshots/c0ffee/"
         "org__alpha__leaderboard_sums/partial-{split}/0000.parquet"],
    ],
)  # fmt: skip
def test_v2_as_parquet_is_the_same(v2, tmp_path, places):
    """Both as named by the harness, and as the Hub converts: a folder a task, one a run."""
    rows = samples_of(v2)
    for place in places:
        split = DATE.replace("-", "_")
        write(rows, tmp_path / "made" / place.format(date=DATE, split=split))
    imported = read_leaderboard_details(tmp_path / "made")
    expected = scores(read_leaderboard_details(v2), "leaderboard_sums", "org/alpha")
    assert scores(imported, "leaderboard_sums", "org/alpha") == expected
    assert not any("repeated" in note for note in imported.notes)


def test_links_of_the_cache_of_the_hub_are_followed(v2, tmp_path):
    cache = tmp_path / "datasets--open-llm-leaderboard--org__alpha-details"
    snapshot = cache / "snapshots" / "c0ffee" / "org__alpha"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for at, file in enumerate(sorted((v2 / "org__alpha").iterdir())):
        blob = cache / "blobs" / f"{at:040d}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    assert len(read_leaderboard_details(cache).responses) == 16


def test_the_layouts_of_v1_are_one_table(v1, tmp_path):
    rows = v1_rows([1, 0, 0, 1])
    v1(rows, "org__struct")
    v1(flat(rows, "metrics."), "org__flat", date="2023-12-01T00:00:00.5")
    first = [
        {k: v for k, v in row.items() if k != "example"}
        | {
            "query": row["example"],
            "example": f"Mercury_{at}",
            "choices": [" " + c for c in CHOICES],
        }
        for at, row in enumerate(flat(rows, ""))
    ]
    # Rows of v1 are shuffled.
    v1(first[::-1], "org__first", date="2023-07-19T15:58:12.174583")
    imported = read_leaderboard_details(tmp_path / "v1")
    found = [scores(imported, "arc:challenge", f"org/{m}") for m in ("struct", "flat", "first")]
    assert found[0] == found[1] == found[2]
    assert sorted(found[0].values()) == [0, 0, 1, 1]
    assert list(found[0].values()) == [0, 1, 1, 0]  # acc_norm, of the questions in order
    assert imported.notes == ("metric acc_norm: arc:challenge",)
    acc = read_leaderboard_details(tmp_path / "v1", metric="acc")
    assert list(scores(acc, "arc:challenge", "org/flat").values()) == [1, 0, 0, 1]


def test_mmlu_of_v1_counts_as_its_leaderboard_counted_it(v1, tmp_path):
    v1(v1_rows([1, 1, 0, 1]), "gpt2", "hendrycksTest-virology|5")
    imported = read_leaderboard_details(tmp_path)
    assert list(scores(imported, "hendrycksTest-virology", "gpt2").values()) == [1, 1, 0, 1]


def test_results_of_v1_name_the_model_and_count_tasks_without_details(v1, tmp_path):
    file = v1(v1_rows([1, 0, 0, 1]), "org__model")
    content = {
        "results": {
            "all": {"acc": 0.5},
            "harness|arc:challenge|25": {"acc": 0.5, "acc_norm": 0.5},
            "harness|gsm8k|5": {"acc": 0.25, "acc_stderr": (3 / 16 / 1319) ** 0.5},
        },
        "versions": {"all": 0},
        "config_general": {"model_name": "org/Model", "model_sha": COMMIT},
        "config_tasks": {"harness|gsm8k": "LM Harness task"},
    }
    results = file.parent.parent / f"results_{V1_DATE.replace('-05-58', ':05:58')}.json"
    results.write_text(json.dumps(content))
    imported = read_leaderboard_details(tmp_path)
    assert set(imported.responses["model"]) == {"org/Model"}
    assert imported.counts.to_dict("records") == [
        {"model": "org/Model", "benchmark": "gsm8k", "successes": 330, "trials": 1320}
    ]


def test_both_leaderboards_and_repeated_runs_are_one_table(v1, v2, tmp_path):
    v1(v1_rows([1, 0, 0, 1]), "org__alpha", date="2023-01-01T00:00:00")
    v1(v1_rows([0, 0, 0, 0])[:2], "org__alpha")
    imported = read_leaderboard_details(tmp_path, metric={"arc:challenge": "acc"})
    assert list(scores(imported, "arc:challenge", "org/alpha").values()) == [0, 0, 0, 1]
    assert len(imported.responses) == 16 + 4
    assert any("the latest wins on 2 overlapping items" in note for note in imported.notes)
    renamed = read_leaderboard_details(tmp_path, aliases={"org/alpha": "a"}).renamed
    assert renamed == {"org/alpha": "a"}


def test_broken_files_make_one_line(v1, v2, tmp_path):
    made = v1(v1_rows([1, 0, 0, 1]), "org__alpha")
    made.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="is not a Parquet file, or is damaged") as caught:
        read_leaderboard_details(tmp_path)
    assert "\n" not in str(caught.value)
    write([{"prompt": "?"}], made)
    with pytest.raises(InputError, match=r"no column 'metric' \(it has prompt\)"):
        read_leaderboard_details(tmp_path)
    write([{"acc": 1}], v2 / "org__alpha" / f"samples_leaderboard_x_{DATE}.parquet")
    with pytest.raises(InputError, match="row 1: is no sample with a doc_id"):
        read_leaderboard_details(v2)
    for place, word in [
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "v1" / "details_org__alpha" / "empty", "no details of the leaderboard"),
    ]:
        if place.name == "empty":
            place.mkdir()
        with pytest.raises(InputError, match=word):
            read_leaderboard_details(place)


def test_values_that_are_no_share(v1, tmp_path):
    rows = v1_rows([1, 0, 0, 1])
    rows[2]["metrics"]["acc_norm"] = float("nan")
    v1([row | {"metrics": {k: float(v) for k, v in row["metrics"].items()}} for row in rows], "m")
    with pytest.raises(InputError, match="row 3: acc_norm of arc:challenge is not a number"):
        read_leaderboard_details(tmp_path)
    with pytest.raises(InputError, match="unknown metric 'acc_nrm'; did you mean 'acc_norm'"):
        read_leaderboard_details(tmp_path, metric="acc_nrm")
