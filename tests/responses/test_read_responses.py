"""Layouts, names and notes: what reading makes of a table."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from response_tables import COUNTS, LONG, WIDE, assert_same, assert_sound, contents

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import read_responses, responses_from_frame


def test_wide_is_a_dense_matrix(read):
    responses = read(WIDE)
    assert_sound(responses)
    assert list(responses.models) == ["m1", "m2"]
    np.testing.assert_array_equal(responses.dense, [[1, 0, -1], [-1, 1, 0]])
    assert responses.items.to_dict("list") == {
        "benchmark": ["arc", "arc", "gsm8k"],
        "item": ["1", "2", "1"],
        "trials": [1, 1, 1],
    }
    assert responses.is_binary
    assert responses.n_observed == 4
    assert responses.density == 4 / 6
    assert responses.notes == ()
    assert list(responses.benchmarks) == ["arc", "gsm8k"]
    assert responses.benchmark_index.tolist() == [0, 0, 1]
    assert responses.benchmark_index.dtype == np.int32
    assert repr(responses) == (
        "Responses(2 models x 3 items of 2 benchmarks, 0/1, 66.7% observed, dense)"
    )


def test_long_equals_wide(read):
    assert_same(read(LONG), read(WIDE))


def test_the_columns_of_a_long_table_may_stand_in_any_order(read):
    lines = [line.split(",") for line in LONG.splitlines()]
    turned = "\n".join(",".join([r, i, b, m]) for m, b, i, r in lines)
    assert_same(read(turned), read(WIDE))


def test_lines_may_stand_in_any_order(read):
    header, *lines = LONG.splitlines()
    assert contents(read("\n".join([header, *lines[::-1]]))) == contents(read(WIDE))


def test_counts_are_one_item_per_benchmark(read):
    responses = read(COUNTS)
    assert_sound(responses)
    assert responses.items.to_dict("list") == {
        "benchmark": ["arc", "gsm8k"],
        "item": ["all", "all"],
        "trials": [10, 5],
    }
    assert not responses.is_binary
    assert responses.cells.rows.tolist() == [0, 0, 1]
    assert responses.cells.cols.tolist() == [0, 1, 0]
    assert responses.cells.successes.tolist() == [3, 0, 10]
    assert responses.cells.trials.tolist() == [10, 5, 10]
    assert "counts" in repr(responses)


def test_counts_by_item(read):
    responses = read("model,benchmark,item,successes,trials\nm,a,q1,2,4\nm,a,q2,1,1\nn,a,q2,0,1\n")
    assert_sound(responses)
    assert contents(responses) == {
        ("m", "a", "q1"): (2, 4),
        ("m", "a", "q2"): (1, 1),
        ("n", "a", "q2"): (0, 1),
    }
    assert responses.items["trials"].tolist() == [4, 1]


def test_counts_of_one_trial_are_a_binary_table(read):
    responses = read("model,benchmark,successes,trials\nm,a,1,1\nm,b,0,1\n")
    assert_sound(responses)
    np.testing.assert_array_equal(responses.dense, [[1, 0]])


def test_full_trials_are_the_most_common_ones_and_the_larger_of_equals(read):
    rows = [("a", 7), ("a", 7), ("a", 9), ("b", 5), ("b", 6)]
    lines = "".join(f"m{i},{b},1,{n}\n" for i, (b, n) in enumerate(rows))
    responses = read("model,benchmark,successes,trials\n" + lines)
    assert responses.items["trials"].tolist() == [7, 6]
    assert responses.cells.trials.tolist() == [7, 7, 9, 5, 6]


def test_fractions_are_k_of_fraction_trials(read):
    text = "model,a:1,a:2,b:1\nm1,0.333,1,1\nm2,1,0,\nm3,0,,0.5\n"
    responses = read(text)
    assert_sound(responses)
    assert responses.items["trials"].tolist() == [100, 1, 100]
    assert contents(responses) == {
        ("m1", "a", "1"): (np.float32(33.3), 100),
        ("m1", "a", "2"): (1, 1),
        ("m1", "b", "1"): (100, 100),
        ("m2", "a", "1"): (100, 100),
        ("m2", "a", "2"): (0, 1),
        ("m3", "a", "1"): (0, 100),
        ("m3", "b", "1"): (50, 100),
    }
    assert responses.notes == (
        "2 items with fractions of unknown size, read as k of 100: a:1, b:1; "
        "the counts layout is better",
    )
    other = read(text, fraction_trials=10)
    assert contents(other)["m3", "b", "1"] == (5, 10)
    long = "model,benchmark,item,response\n" + (
        "m1,a,1,0.333\nm1,a,2,1\nm1,b,1,1\nm2,a,1,1\nm2,a,2,0\nm3,a,1,0\nm3,b,1,0.5\n"
    )
    assert_same(read(long), responses)
    assert read(long).notes == responses.notes


def test_fractions_of_one_trial_are_not_binary(read):
    responses = read("model,a:1\nm,0.5\nn,1\n", fraction_trials=1)
    assert_sound(responses)
    assert responses.cells.trials is None
    assert responses.cells.successes.tolist() == [0.5, 1]
    assert not responses.is_binary


@pytest.mark.parametrize("bad", [0, -3, 2.5, float("nan")])
def test_fraction_trials_is_a_whole_number(read, bad):
    with pytest.raises(InputError, match="fraction_trials"):
        read(WIDE, fraction_trials=bad)


@pytest.mark.parametrize(
    "values", ["True,False", "true,FALSE", "1,0", "1.0,0.0", " 1, 0 ", '"1","0"', "True,0.0"]
)
def test_what_passes_for_0_and_1(read, values):
    np.testing.assert_array_equal(read(f"model,a:1,a:2\nm,{values}\n").dense, [[1, 0]])
    one, zero = values.split(",")
    long = read(f"model,benchmark,item,response\nm,a,1,{one}\nm,a,2,{zero}\n")
    np.testing.assert_array_equal(long.dense, [[1, 0]])


def test_item_names_may_hold_colons(read):
    responses = read("model,arc:a:b,arc:c\nm,1,0\n")
    assert responses.items["item"].tolist() == ["a:b", "c"]
    assert responses.items["benchmark"].tolist() == ["arc", "arc"]


@pytest.mark.parametrize(
    "name", ["NA", "None", "nan", "null", "007", "1.10", "True", "1e5", "ü/木"]
)
def test_names_stay_as_they_are(read, name):
    text = f"model,benchmark,item,response\n{name},{name},{name},1\nother,x,y,0\n"
    responses = read(text)
    assert responses.models[0] == name
    assert responses.items.loc[0, ["benchmark", "item"]].tolist() == [name, name]
    assert read(f"model,a:1\n{name},1\n").models[0] == name


def test_ways_to_write_a_csv(read, tmp_path):
    plain = read(WIDE)
    assert_same(read("\ufeff" + WIDE), plain)
    assert_same(read(WIDE.replace("\n", "\r\n")), plain)
    assert_same(read(WIDE.rstrip("\n")), plain)
    assert_same(read(WIDE.replace("\n", "\n\n")), plain)
    assert_same(read(WIDE, "r.CSV"), plain)
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(WIDE.encode()))
    assert_same(read_responses(tmp_path / "r.csv.gz"), plain)
    assert_same(read_responses(str(tmp_path / "r.csv.gz")), plain)
    odd = read('model,"a:x, y"\n"one\ntwo, ""three""",1\n')
    assert odd.models[0] == 'one\ntwo, "three"'
    assert odd.items["item"][0] == "x, y"


def test_a_header_longer_than_a_block_of_the_reader(read):
    n = 2_000
    header = ",".join(f"a:{'x' * 9_000}{j}" for j in range(n))
    assert read(f"model,{header}\nm{',1' * n}\n").n_observed == n


def test_line_breaks_in_names_across_blocks_of_the_reader(read):
    names = [f"m\n{'x' * 9_000}{i}" for i in range(2_000)]
    responses = read("model,a:1\n" + "".join(f'"{name}",1\n' for name in names))
    assert list(responses.models) == names


def test_parquet_with_models_as_column_or_index(tmp_path):
    frame = pd.DataFrame({"a:1": [1, None], "a:2": [0.0, 1.0]}, index=["m", "n"]).astype("Int8")
    want = [[1, 0], [-1, 1]]
    variants = {
        "unnamed index": frame,
        "named index": frame.rename_axis("model"),
        "column": frame.rename_axis("model").reset_index(),
        "last column": frame.assign(model=frame.index).reset_index(drop=True),
        "column and an index of left-over numbers": frame.assign(model=frame.index).set_axis(
            [3, 9]
        ),
        "floats": frame.astype(float),
        "categories": frame.rename_axis("model").reset_index().astype({"model": "category"}),
    }
    for name, variant in variants.items():
        variant.to_parquet(tmp_path / "r.parquet")
        for responses in (read_responses(tmp_path / "r.parquet"), responses_from_frame(variant)):
            np.testing.assert_array_equal(responses.dense, want, err_msg=name)
            assert list(responses.models) == ["m", "n"], name
    (tmp_path / "r.parquet").rename(tmp_path / "r.pq")
    assert read_responses(tmp_path / "r.pq").shape == (2, 2)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, 0, None], dtype="Int8"),
        pd.Series([1, 0, None], dtype="float32"),
        pd.Series([True, False, None], dtype="boolean"),
        pd.Series([True, False, None], dtype=object),
        pd.Series(["1", "0", ""], dtype=object),
        pd.Series(["1", "0", None], dtype="str"),
        pd.Series([1, 0, None], dtype="int64[pyarrow]"),
        pd.Series([1, 0, None], dtype="double[pyarrow]"),
        pd.Series([1, 0, None], dtype="category"),
        pd.Series([True, False, None], dtype="bool[pyarrow]"),
    ],
    ids=lambda s: f"{s.dtype}-{s[0]!r}",
)
def test_frames_of_any_kind(values):
    wide = responses_from_frame(pd.DataFrame({"model": ["a", "b", "c"], "x:1": values}))
    long = responses_from_frame(
        pd.DataFrame({"model": ["a", "b", "c"], "benchmark": "x", "item": 1, "response": values})
    )
    for responses in (wide, long):
        assert contents(responses) == {("a", "x", "1"): (1, 1), ("b", "x", "1"): (0, 1)}
        assert responses.unevaluated == ("c",)


def test_reading_leaves_the_frame_alone():
    frame = pd.DataFrame({" model ": [" a "], "x:1": [0.25]})
    before = frame.copy()
    responses_from_frame(frame)
    pd.testing.assert_frame_equal(frame, before)


# What is merged, dropped and noted


def test_empty_rows_and_columns(read):
    responses = read("model,a:1,a:2,b:1,a:3\nm1,1,,,0\nghost,,,,\nm2,,,,1\nspook,,,,\n")
    assert_sound(responses)
    assert list(responses.models) == ["m1", "m2"]
    assert responses.unevaluated == ("ghost", "spook")
    assert responses.items["item"].tolist() == ["1", "3"]
    np.testing.assert_array_equal(responses.dense, [[1, 0], [-1, 1]])
    assert responses.notes == (
        "2 models without a result: ghost, spook",
        "2 items without a result dropped: a:2, b:1",
    )
    long = "model,benchmark,item,response\nm1,a,1,1\nghost,a,1,\nm2,b,1,\nm2,a,1,0\n"
    assert read(long).unevaluated == ("ghost",)
    assert read(long).notes == (
        "1 model without a result: ghost",
        "1 item without a result dropped: b:1",
    )
    counts = read(COUNTS + "ghost,arc,,\n")
    assert counts.unevaluated == ("ghost",)
    assert counts.n_observed == 3


def test_blanks_around_names(read):
    responses = read(" model, a:1 ,b: 2\n m1,1,0\nm2\t,0,1\n")
    assert list(responses.models) == ["m1", "m2"]
    assert responses.items["item"].tolist() == ["1", "2"]
    assert responses.notes == ("blanks around 5 names stripped: model, a:1, m1, ...",)
    long = read("model,benchmark,item,response\nm, a ,1,1\nm,a,2 ,0\n")
    assert long.items.to_dict("list") == {
        "benchmark": ["a", "a"],
        "item": ["1", "2"],
        "trials": [1, 1],
    }
    assert long.notes == ("blanks around 2 names stripped: a, 2",)


def test_rows_of_one_model_are_merged_where_they_agree(read):
    responses = read("model,a:1,a:2,a:3\nm,1,,0\nn,0,0,0\n m ,1,0,\nm,,,0\n")
    assert list(responses.models) == ["m", "n"]
    np.testing.assert_array_equal(responses.dense, [[1, 0, 0], [0, 0, 0]])
    assert responses.notes == (
        "blanks around 1 name stripped: m",
        "1 model with several rows that agree, merged: m",
    )
    fractions = read("model,a:1,a:2\nm,0.5,\nm,0.5,1\n")
    assert contents(fractions) == {("m", "a", "1"): (50, 100), ("m", "a", "2"): (1, 1)}


def test_repeated_results_are_merged_where_they_agree(read):
    responses = read(LONG + "m2,gsm8k,1,0\nm2,gsm8k,1,0\n m1,arc,1,1\n")
    assert_same(responses, read(WIDE))
    assert responses.notes == (
        "blanks around 1 name stripped: m1",
        "3 repeated results that agree merged, first model m1, arc:1",
    )
    counts = read(COUNTS + "m2,arc,10,10\n")
    assert_same(counts, read(COUNTS))
    assert len(counts.notes) == 1


def test_look_alikes_are_kept_apart_and_noted(read):
    responses = read("model,a:1\nOrg/M,1\norg/m,0\nx y,1\nx  y,0\nz,1\n")
    assert responses.n_models == 5
    assert responses.notes == (
        "2 groups of models differ only by case or blanks and are kept apart: "
        "Org/M and org/m, x y and x  y",
    )


def test_broken_successes_by_item_are_kept_and_noted(read):
    responses = read("model,benchmark,item,successes,trials\nm,a,q,33.3,100\n")
    assert contents(responses) == {("m", "a", "q"): (np.float32(33.3), 100)}
    assert responses.notes == ("1 item with broken successes kept: a:q",)


def test_notes_name_three_at_most(read):
    text = "model,a:1\nm,1\n" + "".join(f"ghost{i},\n" for i in range(1200))
    assert read(text).notes == ("1,200 models without a result: ghost0, ghost1, ghost2, ...",)
