"""Records of Every Eval Ever, as release 0.3.0 made them of runs of two harnesses, as tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.sources.every_eval_ever import read_every_eval_ever
from bayes_lrmf.sources.lm_eval import read_lm_eval

DATA = Path(__file__).parent / "data"
REAL = DATA / "every_eval_ever"


@pytest.fixture
def store(tmp_path) -> Path:
    """Return a folder of real records that a test may spoil."""
    return Path(shutil.copytree(REAL, tmp_path / "store"))


def file_of(store: Path, run: str, *, samples: bool) -> Path:
    [file] = (store / run).glob("*_samples.jsonl" if samples else "*[0-9a-f].json")
    return file


def change(file: Path, edit) -> None:
    """Edit each record or sample of a file in place; none is written where `edit` says False."""
    lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
    contents = [json.loads(line) for line in lines]
    kept = [content for content in contents if edit(content) is not False]
    file.write_text("".join(json.dumps(content) + "\n" for content in kept))


def scores(imported, model: str, benchmark: str) -> dict[str, float]:
    frame = imported.responses
    mine = frame[(frame["benchmark"] == benchmark) & (frame["model"] == model)]
    return dict(zip(mine["item"], mine["response"], strict=True))


def record(**given: object) -> dict:
    """Return a record with what the schema requires, as sources without samples have it."""
    result = {
        "evaluation_name": "sums",
        "source_data": {"dataset_name": "sums", "source_type": "url", "url": ["https://x.invalid"]},
        "metric_config": {"lower_is_better": False, "score_type": "continuous",
                          "min_score": 0, "max_score": 1, "metric_name": "accuracy"},
        "score_details": {"score": 0.75, "uncertainty": {"num_samples": 8}},
    }  # fmt: skip
    for part, values in given.pop("result", {}).items():
        result[part] = {**result[part], **values} if isinstance(values, dict) else values
    return {
        "schema_version": "0.2.2",
        "evaluation_id": "sums/org/new/1700000000",
        "retrieved_timestamp": "1700000000",
        "source_metadata": {"source_type": "documentation"},
        "eval_library": {"name": "unknown", "version": "unknown"},
        "model_info": {"id": "org/new", "name": "new"},
        "evaluation_results": [result],
        **given,
    }


def sample(**given: object) -> dict:
    return {
        "schema_version": "0.2.2",
        "evaluation_id": "sums/org/new/1700000000",
        "model_id": "org/new",
        "evaluation_name": "sums",
        "sample_id": "0",
        "interaction_type": "single_turn",
        "input": {"raw": "What is 1 plus 1?", "reference": ["2"]},
        "answer_attribution": [],
        "evaluation": {"score": 1.0, "is_correct": True},
        **given,
    }


@pytest.fixture
def read(tmp_path):
    def reader(records: list[dict], samples: list[dict] = (), **options):
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        for at, content in enumerate(records):
            (folder / f"{at}.json").write_text(json.dumps(content))
        if samples:
            lines = "".join(json.dumps(line) + "\n" for line in samples)
            (folder / "0_samples.jsonl").write_text(lines)
        return read_every_eval_ever(folder, **options)

    return reader


def test_what_was_converted_from_lm_eval_is_what_its_own_reader_says():
    mine, own = read_every_eval_ever(REAL), read_lm_eval(DATA / "lm_eval")
    for benchmark in ("sums", "sums_told"):
        assert scores(mine, "org/alpha", benchmark) == scores(own, "org/alpha", benchmark)
    assert "metric acc_norm, filter none: sums" in mine.notes
    assert "metric exact_match, filter strict-match: sums_told" in mine.notes
    # The schema has no place for the revision that the harness ran.
    counts = own.counts.assign(model="org/beta").sort_values("benchmark")
    pd.testing.assert_frame_equal(
        mine.counts.sort_values("benchmark").reset_index(drop=True),
        counts.reset_index(drop=True),
    )


def test_what_was_converted_from_inspect_is_what_its_records_report():
    imported = read_every_eval_ever(REAL)
    for run, model in (
        ("words/openai/openai_quiet", "openai/openai/quiet"),
        ("words/openai/openai_loud", "openai/openai/loud"),
        ("again/openai/openai_quiet", "openai/openai/quiet"),
    ):
        content = json.loads(file_of(REAL, run, samples=False).read_text())
        [reported] = [
            result["score_details"]["score"]
            for result in content["evaluation_results"]
            if result["evaluation_result_id"] == "includes:accuracy"
        ]
        found = scores(imported, model, run.partition("/")[0])
        assert sum(found.values()) / len(found) == reported
    assert sorted(scores(imported, "openai/openai/quiet", "words")) == ["w0", "w1", "w2", "w4"]
    assert "1 samples that ended in an error passed over" not in imported.notes
    assert "2 samples that ended in an error passed over" in imported.notes
    assert responses_from_frame(imported.responses).n_models == 3


def test_other_metrics_and_filters():
    acc = read_every_eval_ever(REAL, metric={"sums": "acc"})
    own = read_lm_eval(DATA / "lm_eval", metric={"sums": "acc"})
    assert scores(acc, "org/alpha", "sums") == scores(own, "org/alpha", "sums")
    exact = read_every_eval_ever(REAL, metric={"words": "mean"})
    assert set(scores(exact, "openai/openai/quiet", "words").values()) == {0}
    loose = read_every_eval_ever(REAL, filter_name="flexible-extract")
    own = read_lm_eval(DATA / "lm_eval", filter_name="flexible-extract")
    assert scores(loose, "org/alpha", "sums_told") == scores(own, "org/alpha", "sums_told")
    with pytest.raises(InputError, match="unknown metric 'acc_nrm'; did you mean 'acc_norm'"):
        read_every_eval_ever(REAL, metric="acc_nrm")


def test_epochs_are_averaged(store):
    file = file_of(store, "again/openai/openai_quiet", samples=True)

    def fail_once(content):
        if (content["sample_id"], content["metadata"]["epoch"]) == ("w0", "2"):
            content["evaluation"]["score"] = 0

    change(file, fail_once)
    found = scores(read_every_eval_ever(store), "openai/openai/quiet", "again")
    assert found == {"w0": 0.5, "w1": 1}


def test_samples_of_another_task_than_their_record_are_passed_over(store):
    """The release gives ``sums`` the samples of ``sums_told`` if both stand in one folder."""
    file = file_of(store, "sums/org/alpha", samples=True)
    change(file, lambda content: content.update(evaluation_result_id="exact_match:strict-match"))
    imported = read_every_eval_ever(store)
    assert "16 samples of scores that their record does not hold passed over" in imported.notes
    assert scores(imported, "org/alpha", "sums") == {}
    counts = imported.counts.query("model == 'org/alpha'")
    assert counts[["benchmark", "successes", "trials"]].to_numpy().tolist() == [["sums", 1, 8]]


def test_samples_without_their_record_name_their_score(store):
    file_of(store, "sums/org/alpha", samples=False).unlink()
    imported = read_every_eval_ever(store)
    assert scores(imported, "org/alpha", "sums") == scores(
        read_every_eval_ever(REAL), "org/alpha", "sums"
    )


def test_older_samples_name_no_score(read):
    """Version 0.2 joins by names alone."""
    imported = read([record()], [sample(), sample(sample_id="1", evaluation={"score": 0})])
    assert scores(imported, "org/new", "sums") == {"0": 1, "1": 0}
    assert imported.counts.empty
    assert imported.notes == ("metric accuracy: sums",)


def test_scores_under_other_names_than_the_samples_are_not_counted_twice(read):
    imported = read([record(result={"evaluation_name": "accuracy on sums"})], [sample()])
    assert set(imported.responses["benchmark"]) == {"sums"}
    assert imported.counts.empty


@pytest.mark.parametrize(
    ("result", "successes", "trials"),
    [
        ({}, 6, 8),
        ({"score_details": {"score": 75, "uncertainty": {"num_samples": 8}},
          "metric_config": {"max_score": 100}}, 6, 8),
        ({"score_details": {"score": 75, "uncertainty": {"num_samples": 8}},
          "metric_config": {"min_score": None, "max_score": None, "metric_unit": "percent"}}, 6, 8),
        ({"score_details": {"uncertainty": {}}, "source_data": {"samples_number": 16}}, 12, 16),
        ({"score_details": {"uncertainty": {"standard_error": {"value": (3 / 16 / 7) ** 0.5}}}},
         6, 8),
        ({"score_details": {"score": 75, "uncertainty":
                            {"standard_error": {"value": 100 * (3 / 16 / 7) ** 0.5}}},
          "metric_config": {"max_score": 100}}, 6, 8),
    ],
)  # fmt: skip
def test_scores_are_counts_of_successes(read, result, successes, trials):
    [count] = read([record(result=result)]).counts.to_dict("records")
    expected = {"model": "org/new", "benchmark": "sums", "successes": successes, "trials": trials}
    assert count == expected


def test_earlier_conversions_of_lm_eval_only_describe_their_metric(read):
    described = {
        "metric_name": None,
        "evaluation_description": "exact_match (filter: strict-match)",
    }
    result = {"evaluation_name": "gsm8k/strict-match", "metric_config": described}
    imported = read([record(result=result, eval_library={"name": "lm_eval", "version": "0.4.9"})])
    assert list(imported.counts["benchmark"]) == ["gsm8k"]
    assert imported.notes[0] == "metric exact_match, filter strict-match: gsm8k"


def test_the_latest_record_counts(read):
    later = record(retrieved_timestamp="1800000000", evaluation_timestamp="2027-01-15T08:00:00Z",
                   result={"score_details": {"score": 0.25}})  # fmt: skip
    assert list(read([later, record()]).counts["successes"]) == [2]


@pytest.mark.parametrize(
    ("result", "word"),
    [
        ({"score_details": {"uncertainty": {}}}, "neither samples nor scores from 0 to 1"),
        ({"metric_config": {"max_score": 10}}, "neither samples nor scores from 0 to 1"),
        ({"metric_config": {"lower_is_better": True}}, "neither samples nor scores from 0 to 1"),
        ({"score_details": {"score": None}}, "neither samples nor scores from 0 to 1"),
        ({"score_details": {"score": 7.5}}, r"accuracy of sums is 7.5, outside \[0, 1\]"),
        ({"score_details": {"score": 10**400}}, r"accuracy of sums is inf, outside \[0, 1\]"),
        ({"score_details": {"score": float("nan"), "uncertainty":
                            {"standard_error": {"value": 0.125}}}}, "is not a number"),
        ({"score_details": {"uncertainty": {"standard_error": {"value": 1e-200}}}},
         "neither samples nor scores"),
        ({"evaluation_name": None}, "evaluation_name is missing or no name"),
    ],
)  # fmt: skip
def test_scores_that_are_no_shares(read, result, word):
    with pytest.raises(InputError, match=word) as caught:
        read([record(result=result)])
    assert "\n" not in str(caught.value)


def test_a_score_on_another_scale_counts_as_correct_or_not(read):
    judged = record(result={"metric_config": {"min_score": 1, "max_score": 10}})
    lines = [
        sample(evaluation={"score": 9, "is_correct": True}),
        sample(sample_id="1", evaluation={"score": 2, "is_correct": False}),
    ]
    assert scores(read([judged], lines), "org/new", "sums") == {"0": 1, "1": 0}


def test_percents_of_samples_become_shares(read):
    percent = record(result={"metric_config": {"max_score": 100}})
    lines = [sample(evaluation={"score": s}, sample_id=str(s)) for s in (0, 40, 100)]
    found = scores(read([percent], lines), "org/new", "sums")
    assert found == {"0": 0, "40": 0.4, "100": 1}


def test_two_scorers_with_one_metric_are_told_apart_by_their_keys(read):
    content = record()
    [one] = content["evaluation_results"]
    content["evaluation_results"] = [
        one | {"evaluation_result_id": key} for key in ("loose:accuracy", "strict:accuracy")
    ]
    lines = [
        sample(evaluation_result_id="loose:accuracy"),
        sample(evaluation_result_id="strict:accuracy", evaluation={"score": 0}),
    ]
    assert scores(read([content], lines), "org/new", "sums") == {"0": 1}
    strict = read([content], lines, metric="strict:accuracy")
    assert scores(strict, "org/new", "sums") == {"0": 0}


def test_other_questions_under_one_key_are_told_apart(read):
    lines = [
        sample(),
        sample(model_id="org/b", input={"raw": "What is 2 plus 2?", "reference": ["4"]}),
        sample(model_id="org/c", input={"raw": "What is 1 plus 1?", "reference": ["2"]}),
    ]
    frame = read([], lines).responses.set_index("model")["item"]
    assert frame["org/new"] == frame["org/c"] != frame["org/b"]
    # A prompt that differs only by its template is the same document to the harness.
    for line, raw in zip(lines, ("Q: 1?", "<s>1?", "1?"), strict=True):
        line.update(metadata={"doc_hash": "c0ffee"}, input={"raw": raw, "reference": []})
    assert set(read([], lines).responses["item"]) == {"0"}


def test_records_as_lines_and_aliases(tmp_path):
    lines = [record(), record(model_info={"id": "org/other"}, evaluation_id="x")]
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    imported = read_every_eval_ever(tmp_path, aliases={"org/other": "org/one"})
    assert list(imported.counts["model"]) == ["org/new", "org/one"]
    assert imported.renamed == {"org/other": "org/one"}


def test_other_files_are_passed_over_in_a_folder_and_refused_alone(store):
    other = store / "report.json"
    other.write_text("[1, 2]")
    index = store / "index.jsonl"
    index.write_text('{"record_type": "aggregate"}\n')
    [note] = [n for n in read_every_eval_ever(store).notes if "of another kind passed over" in n]
    assert note.startswith("2 files")
    for file in (other, index):
        with pytest.raises(InputError, match="is neither a record nor a sample"):
            read_every_eval_ever(file)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b'{"model_info": {', "is not JSON, or cut short"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model_info": {}, "evaluation_results": 3}', "is no list of results"),
        (b'{"model_info": {}, "evaluation_results": []}', "model_info.id is missing"),
    ],
)
def test_broken_records_make_one_line(tmp_path, content, word):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=word) as caught:
        read_every_eval_ever(tmp_path)
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_lines_are_named(store, tmp_path):
    file = file_of(store, "sums/org/alpha", samples=True)
    lines = file.read_text().splitlines()
    for broken, word in [
        (lines[1][:200], "line 2: is not JSON, or cut short"),
        ('{"a": 1}', "line 2: is neither a record nor a sample"),
        (json.dumps(sample(sample_id=None)), "line 2: sample_id is missing or no name"),
    ]:
        file.write_text("\n".join([lines[0], broken, *lines[2:]]))
        with pytest.raises(InputError, match=word):
            read_every_eval_ever(store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no records of Every Eval Ever"):
        read_every_eval_ever(tmp_path / "empty")
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_every_eval_ever(tmp_path / "e.jsonl")
    with pytest.raises(InputError, match="no such file or folder"):
        read_every_eval_ever(tmp_path / "none")
