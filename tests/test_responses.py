"""Tests of the table of responses: layouts, broken files, notes, methods and round trips."""

from __future__ import annotations

import gzip
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import (
    Cells,
    Responses,
    read_responses,
    responses_from_frame,
    write_responses,
)

DATA = Path(
    os.environ.get("BAYES_LRMF_DATA", Path(__file__).parent.parent.parent / "shared" / "data")
)
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"real data absent: {DATA} (set BAYES_LRMF_DATA)"
)

WIDE = "model,arc:1,arc:2,gsm8k:1\nm1,1,0,\nm2,,1,0\n"
LONG = (
    "model,benchmark,item,response\nm1,arc,1,1\nm1,arc,2,0\nm2,arc,2,1\nm2,gsm8k,1,0\nm1,gsm8k,1,\n"
)
COUNTS = "model,benchmark,successes,trials\nm1,arc,3,10\nm1,gsm8k,0,5\nm2,arc,10,10\n"


@pytest.fixture
def read(tmp_path):
    """Return a function that writes text to a CSV and reads it as responses."""

    def write_and_read(text: str, name: str = "r.csv", **options) -> Responses:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return read_responses(path, **options)

    return write_and_read


def contents(responses: Responses) -> dict:
    """Return {(model, benchmark, item): (successes, trials)}."""
    frame = responses.to_frame()
    keys = zip(frame["model"], frame["benchmark"], frame["item"], strict=True)
    values = zip(frame["successes"].tolist(), frame["trials"].tolist(), strict=True)
    result = dict(zip(keys, values, strict=True))
    assert len(result) == len(frame) == responses.n_observed
    return result


def assert_same(a: Responses, b: Responses) -> None:
    assert list(a.models) == list(b.models)
    pd.testing.assert_frame_equal(a.items, b.items)
    assert a.unevaluated == b.unevaluated
    assert (a.dense is None) == (b.dense is None)
    left, right = a.to_cells(), b.to_cells()
    for name in ("rows", "cols", "successes", "trials"):
        x, y = getattr(left, name), getattr(right, name)
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    assert a.fingerprint() == b.fingerprint()


def assert_sound(responses: Responses) -> None:
    """Check what every table promises, whatever it holds."""
    assert (responses.dense is None) != (responses.cells is None)
    assert responses.models.dtype == object
    assert list(responses.items.columns) == ["benchmark", "item", "trials"]
    assert responses.items["trials"].dtype == np.int64
    assert isinstance(responses.items.index, pd.RangeIndex)
    assert responses.density == responses.n_observed / max(np.prod(responses.shape), 1)
    if responses.dense is not None:
        assert responses.dense.dtype == np.int8
        assert responses.dense.shape == responses.shape
        assert responses.dense.flags.c_contiguous
        assert responses.is_binary
        assert responses.density >= 0.2
    cells = responses.to_cells()
    assert cells.rows.dtype == cells.cols.dtype == np.int32
    flat = cells.rows.astype(int) * responses.n_items + cells.cols
    assert (np.diff(flat) > 0).all()
    if responses.is_binary:
        assert cells.successes.dtype == np.int8
        assert cells.trials is None
        assert set(cells.successes.tolist()) <= {0, 1}
        assert responses.dense is not None or responses.density < 0.2
    else:
        assert cells.successes.dtype == np.float32
        trials = 1 if cells.trials is None else cells.trials
        assert (cells.successes <= trials).all()
        if cells.trials is not None:
            assert cells.trials.dtype == np.float32
            assert (cells.trials != 1).any()


def random_table(density: float, n_models: int = 30, n_items: int = 20) -> Responses:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 2, (n_models, n_items)).astype(float)
    values[rng.random(values.shape) > density] = np.nan
    values[np.arange(n_models), np.arange(n_models) % n_items] = 1
    columns = [f"b{j % 3}:q{j}" for j in range(n_items)]
    return responses_from_frame(
        pd.DataFrame(values, columns=columns).assign(model=[f"m{i}" for i in range(n_models)])
    )


def random_counts() -> Responses:
    rng = np.random.default_rng(8)
    trials = rng.integers(1, 50, 60)
    frame = pd.DataFrame(
        {
            "model": np.repeat([f"m{i}" for i in range(20)], 3),
            "benchmark": np.tile(["x", "y", "z"], 20),
            "successes": rng.integers(0, trials + 1),
            "trials": trials,
        }
    )
    return responses_from_frame(frame.sample(frac=0.8, random_state=1))


# Layouts


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


# Broken files

LONG_HEADER = "model,benchmark,item,response\n"
COUNTS_HEADER = "model,benchmark,successes,trials\n"
BROKEN = {
    "empty file": (b"", ["empty"]),
    "blank file": (b"\n \n", ["empty"]),
    "binary": (bytes(range(256)) * 8, ["UTF-8"]),
    "zeros": (b"\0" * 64, ["not CSV text"]),
    "parquet inside": (b"PAR1 and so on\n", ["not CSV text"]),
    "utf-16": (WIDE.encode("utf-16"), ["UTF-8"]),
    "latin-1 header": ("modèl,a:1\nm,1\n".encode("latin-1"), ["UTF-8"]),
    "latin-1 model": ("model,a:1\nmé,1\n".encode("latin-1"), ["UTF-8"]),
    "semicolons": (WIDE.replace(",", ";").encode(), ["semicolons", "commas"]),
    "tabs": (WIDE.replace(",", "\t").encode(), ["tabs", "commas"]),
    "header only": (b"model,a:1\n", ["header", "no rows"]),
    "short row": (b"model,a:1,a:2\nm,1,0\n\nn,1\n", ["line 4", "2 cells", "3 columns"]),
    "long row": (b"model,a:1\nm,1,0\n", ["line 2", "3 cells", "2 columns"]),
    "open quote": (b'model,a:1\n"m,1\n', ["1 cells", "2 columns"]),
    "no model column": (b"name,a:1\nm,1\n", ["no column 'model'", "name the column"]),
    "model column by another name": (b"Model,a:1\nm,1\n", ["no column 'model'", "'Model'"]),
    "model column misspelt": (b"modle,a:1\nm,1\n", ["no column 'model'", "'modle'"]),
    "model column with a prefix": (b"model_name,a:1\nm,1\n", ["'model'", "'model_name'"]),
    "no column like model": (b"MoE,moderate:1\nm,1\n", ["no column 'model'", "name the column"]),
    "columns like model": (
        b"Base Model,Model sha\nm,1\n",
        ["no column 'model'", "name the column"],
    ),
    "index without a name": (b",a:1\nm,1\n", ["no column 'model'", "name the column"]),
    "only models": (b"model\nm\n", ["no column but 'model'", "benchmark:item"]),
    "wide column without colon": (b"model,arc:1,arc2\nm,1,0\n", ["'arc2'", "'arc:1'"]),
    "scores without colon": (b"model,arc,gsm8k\nm,.1,.2\n", ["'arc'", "model, benchmark, succ"]),
    "wide column without item": (b"model,arc:\nm,1\n", ["'arc:'", "benchmark:item"]),
    "wide column without benchmark": (b"model,:1\nm,1\n", ["':1'", "benchmark:item"]),
    "wide column without name": (b"model,a:1,\nm,1,0\n", ["''", "benchmark:item", "delete"]),
    "numbers of the rows": (b",model,a:1\n0,m,1\n", ["column ''", "delete it"]),
    "column twice": (b"model,a:1,a:2,a:1\nm,1,0,1\n", ["2 columns are named 'a:1'"]),
    "model column twice": (b"model,a:1, model\nm,1,m\n", ["2 columns are named 'model'"]),
    "column twice but for blanks": (b"model,a:1,a: 1\nm,1,1\n", ["'a:1' and 'a: 1'", "same"]),
    "misspelt response": (
        b"model,benchmark,item,respnse\nm,a,1,1\n",
        ["unknown column 'respnse'", "'response'"],
    ),
    "misspelt trials": (
        b"model,benchmark,successes,trails\nm,a,1,2\n",
        ["unknown column 'trails'", "'trials'"],
    ),
    "unknown long column": (
        b"model,benchmark,item,response,date\nm,a,1,1,x\n",
        ["unknown column 'date'", "valid: model, benchmark, item, response"],
    ),
    "response and successes": (
        b"model,benchmark,item,response,successes\nm,a,1,1,1\n",
        ["unknown column 'successes'"],
    ),
    "no trials": (b"model,benchmark,successes\nm,a,1\n", ["no column 'trials'", "counts"]),
    "no item": (b"model,benchmark,response\nm,a,1\n", ["no column 'item'", "long"]),
    "no benchmark": (b"model,item,response\nm,a,1\n", ["no column 'benchmark'", "long"]),
    "no model name, wide": (b"model,a:1\nm,1\n,0\n", ["model name is missing", "line 3"]),
    "blank model name": (b"model,a:1\nm,1\n  ,0\n", ["model name is missing", "line 3"]),
    "no benchmark name": (LONG_HEADER + "m,,1,1\n", ["benchmark name is missing", "line 2"]),
    "no item name": (LONG_HEADER + "m,a,1,1\nm,a,,1\n", ["item name is missing", "line 3"]),
    "word": (b"model,a:1\nm,1\nn,yes\n", ["'yes'", "column a:1", "line 3", "model n", "empty"]),
    "word, long": (LONG_HEADER + "m,a,1,1\nm,a,2,x\n", ["'x'", "column response", "line 3"]),
    "dash": (b"model,a:1\nm,1\nn,-\n", ["'-'", "column a:1", "line 3"]),
    "nan": (b"model,a:1\nm,1\nn,nan\n", ["'nan'", "column a:1", "line 3", "model n", "empty"]),
    "NaN beside fractions": (b"model,a:1\nm,\nn,NaN\no,.5\n", ["'nan'", "line 3", "model n"]),
    "NA": (b"model,a:1\nm,1\nn,NA\n", ["'NA'", "column a:1", "line 3"]),
    "nan, long": (LONG_HEADER + "m,a,1,nan\n", ["'nan'", "column response", "line 2"]),
    "inf": (b"model,a:1\nm,1\nn,inf\n", ["response inf", "outside [0, 1]", "line 3"]),
    "date": (b"model,a:1\nm,2024-01-01\n", ["'2024-01-01'", "not a number"]),
    "negative": (b"model,a:1\nm,-1\n", ["response -1", "outside [0, 1]", "column a:1"]),
    "a little negative": (b"model,a:1\nm,-0.001\n", ["outside [0, 1]"]),
    "a little above 1": (b"model,a:1\nm,1.0001\n", ["outside [0, 1]"]),
    "percentage": (b"model,a:1\nm,53.2\n", ["response 53.2", "percentages by 100"]),
    "two": (LONG_HEADER + "m,a,1,2\n", ["response 2", "column response", "line 2", "model m"]),
    "k above n": (
        COUNTS_HEADER + "m,a,1,2\nm,b,5,4\n",
        ["successes 5 exceed", "line 3", "model m"],
    ),
    "negative k": (COUNTS_HEADER + "m,a,-1,4\n", ["successes -1 are negative", "column succ"]),
    "no k": (COUNTS_HEADER + "m,a,,4\nm,b,1,2\n", ["successes are missing", "line 2"]),
    "no n": (COUNTS_HEADER + "m,b,1,2\nm,a,3,\n", ["trials are missing", "line 3"]),
    "zero trials": (COUNTS_HEADER + "m,a,0,0\n", ["trials 0 are below 1", "column trials"]),
    "negative trials": (COUNTS_HEADER + "m,a,0,-3\n", ["trials -3 are below 1"]),
    "broken trials": (COUNTS_HEADER + "m,a,1,4.5\n", ["trials 4.5 are not whole"]),
    "broken successes": (COUNTS_HEADER + "m,a,0.53,100\n", ["successes 0.53 are not whole"]),
    "infinite trials": (COUNTS_HEADER + "m,a,1,inf\n", ["trials are infinite"]),
    "infinite successes": (COUNTS_HEADER + "m,a,inf,3\n", ["successes inf exceed"]),
    "nan trials": (COUNTS_HEADER + "m,a,1,nan\n", ["'nan'", "column trials"]),
    "word for trials": (COUNTS_HEADER + "m,a,1,many\n", ["'many'", "column trials", "a count"]),
    "k above n by item": (
        "model,benchmark,item,successes,trials\nm,a,q,3,2\n",
        ["successes 3 exceed"],
    ),
    "rows that differ": (
        b"model,a:1,a:2\nm,1,0\nn,1,1\nm,1,1\n",
        ["model m", "a:2", "line 2 and line 4", "keep one"],
    ),
    "cells that differ": (
        LONG_HEADER + "m,a,1,1\nn,a,1,0\nm,a,1,0\n",
        ["model m", "a:1", "line 2 and line 4", "keep one"],
    ),
    "cells that differ in trials only": (
        COUNTS_HEADER + "m,a,2,4\nm,a,2,5\n",
        ["model m", "a:all", "line 2 and line 3"],
    ),
    "cells that differ after stripping": (
        LONG_HEADER + "m,a,1,1\n m,a,1,0\n",
        ["model m", "line 2 and line 3"],
    ),
    "no result, wide": (b"model,a:1\nm,\nn,\n", ["no result"]),
    "no result, long": (LONG_HEADER + "m,a,1,\n", ["no result"]),
    "no result, counts": (COUNTS_HEADER + "m,a,,\n", ["no result"]),
}


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


@pytest.mark.parametrize("case", BROKEN)
def test_broken_csv(tmp_path, case):
    content, words = BROKEN[case]
    path = tmp_path / "broken.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_responses(path)
    line = one_line(error)
    for word in [*words, str(path)]:
        assert word in line, f"{word!r} not in {line!r}"
    assert error.value.fix


def test_broken_paths(tmp_path):
    cases = {
        "nowhere.csv": ["not found"],
        "folder.csv": ["folder"],
        "table.xlsx": [".xlsx", ".parquet"],
        "table": ["''", ".csv.gz"],
        "text.parquet": ["not a Parquet file"],
        "cut.parquet": ["not a Parquet file"],
        "plain.csv.gz": ["gzip"],
        "cut.csv.gz": ["gzip"],
        "packed.csv": ["UTF-8"],
    }
    (tmp_path / "folder.csv").mkdir()
    for name in ("table.xlsx", "table", "text.parquet", "plain.csv.gz"):
        (tmp_path / name).write_text(WIDE)
    random_table(0.5).to_frame().to_parquet(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    packed = gzip.compress(WIDE.encode() * 1000)
    (tmp_path / "packed.csv").write_bytes(packed)
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-30])
    for name, words in cases.items():
        with pytest.raises(InputError) as error:
            read_responses(tmp_path / name)
        for word in [*words, name]:
            assert word in one_line(error)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"model": [], "a:1": []}), ["no rows"]),
        (
            pd.DataFrame({"model": ["m"], "a:1": ["yes"]}),
            ["my frame, column a:1, row 1", "model m"],
        ),
        (pd.DataFrame({"model": ["m", None], "a:1": [1, 1]}), ["row 2", "model name is missing"]),
        (pd.DataFrame([["m", 1, 1]], columns=["model", "a:1", "a:1"]), ["2 columns"]),
        (pd.DataFrame({"a:1": [1, 0]}), ["no column 'model'"]),
        (pd.DataFrame({"model": ["m"], 3: [1]}), ["'3'", "benchmark:item"]),
        (pd.DataFrame({"model": ["m"], "a:1": [np.inf]}), ["inf", "outside"]),
        (pd.DataFrame({"model": ["m"], "a:1": [[1]]}), ["'[1]'", "not a number"]),
        (pd.DataFrame({"model": ["m"], "a:1": ["nan"]}), ["'nan'", "not a number"]),
        (pd.DataFrame({"model": ["m"], "a:1": [1j]}), ["1j", "not a number"]),
    ],
)
def test_broken_frames(frame, words):
    with pytest.raises(InputError) as error:
        responses_from_frame(frame, where="my frame")
    for word in [*words, "my frame"]:
        assert word in one_line(error)
    with pytest.raises(InputError):
        responses_from_frame(frame)


def test_broken_parquet_names_its_row(tmp_path):
    frame = pd.DataFrame({"model": ["m", "n"], "a:1": [1, 7]})
    frame.to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"r\.parquet, column a:1, row 2, model n: response 7 is"):
        read_responses(tmp_path / "r.parquet")


# Methods

TABLES = {
    "dense": lambda: random_table(0.6),
    "sparse": lambda: random_table(0.05),
    "counts": random_counts,
}


@pytest.fixture(params=TABLES)
def table(request):
    return TABLES[request.param]()


def test_the_tables_of_these_tests_are_of_three_kinds():
    assert random_table(0.6).dense is not None
    assert random_table(0.05).cells.successes.dtype == np.int8
    assert random_counts().cells.trials is not None


def test_select_models(table):
    names = list(table.models[[7, 2, 11]])
    chosen = table.select_models(names)
    assert_sound(chosen)
    assert list(chosen.models) == names
    pd.testing.assert_frame_equal(chosen.items, table.items)
    assert contents(chosen) == {k: v for k, v in contents(table).items() if k[0] in names}
    with pytest.raises(InputError, match="unknown model 'm77'"):
        table.select_models(["m77"])
    with pytest.raises(InputError, match="'m3' is selected twice"):
        table.select_models(["m3", "m1", "m3"])
    assert table.select_models([]).shape == (0, table.n_items)


def test_select_items(table):
    index = np.array([2, 0])
    chosen = table.select_items(index)
    assert_sound(chosen)
    assert list(chosen.models) == list(table.models)
    kept = list(zip(table.items["benchmark"][index], table.items["item"][index], strict=True))
    assert list(zip(chosen.items["benchmark"], chosen.items["item"], strict=True)) == kept
    assert contents(chosen) == {k: v for k, v in contents(table).items() if k[1:] in kept}
    mask = np.isin(np.arange(table.n_items), index)
    assert_same(table.select_items(mask), table.select_items(np.sort(index)))
    for bad, words in [
        (mask[:-1], "mask has shape"),
        ([table.n_items], f"give 0 to {table.n_items - 1}"),
        ([-1], "item index -1"),
        ([1, 1], "selected twice"),
        ([0.5], "whole numbers"),
    ]:
        with pytest.raises(InputError, match=words):
            table.select_items(bad)
    assert table.select_items([]).shape == (table.n_models, 0)


def test_hide_models(table):
    hidden = table.hide(models=["m3", "m5"])
    assert_sound(hidden)
    assert hidden.shape == table.shape
    assert list(hidden.models) == list(table.models)
    pd.testing.assert_frame_equal(hidden.items, table.items)
    assert contents(hidden) == {
        k: v for k, v in contents(table).items() if k[0] not in ("m3", "m5")
    }
    with pytest.raises(InputError, match="unknown model 'M3'; did you mean 'm3'"):
        table.hide(models=["M3"])


def test_hide_cells(table):
    before = table.fingerprint()
    mask = np.random.default_rng(3).random(table.shape) < 0.5
    hidden = table.hide(cells=mask)
    assert_sound(hidden)
    cells = table.to_cells()
    kept = ~mask[cells.rows, cells.cols]
    np.testing.assert_array_equal(hidden.to_cells().rows, cells.rows[kept])
    np.testing.assert_array_equal(hidden.to_cells().cols, cells.cols[kept])
    np.testing.assert_array_equal(hidden.to_cells().successes, cells.successes[kept])
    assert_same(table.hide(cells=np.nonzero(mask)), hidden)
    both = table.hide(["m1"], (cells.rows[:2], cells.cols[:2]))
    gone = set(contents(table)) - set(contents(both))
    assert {k for k in contents(table) if k[0] == "m1"} <= gone
    assert len(gone) == 2 + sum(table.models[r] == "m1" for r in cells.rows[2:])
    assert_same(table.hide(), table)
    assert table.fingerprint() == before
    for bad, words in [
        (mask[:-1], "give booleans of shape"),
        (mask.astype(int), "give booleans of shape"),
        (([0], [0, 1]), "as many rows as columns"),
        (([0], [table.n_items]), "column index"),
        (([-1], [0]), "row index -1"),
    ]:
        with pytest.raises(InputError, match=words):
            table.hide(cells=bad)


def test_hiding_everything_keeps_the_kind(table):
    empty = table.hide(models=table.models)
    assert empty.n_observed == 0
    assert empty.shape == table.shape
    assert empty.is_binary == table.is_binary


def test_totals(table):
    successes, trials = table.totals()
    assert successes.dtype == trials.dtype == np.float64
    frame = table.to_frame().assign(
        model=lambda f: pd.Categorical(f["model"], table.models),
        benchmark=lambda f: pd.Categorical(f["benchmark"], table.benchmarks),
    )
    for name, values in (("successes", successes), ("trials", trials)):
        want = frame.pivot_table(
            index="model", columns="benchmark", values=name, aggfunc="sum", observed=False
        )
        np.testing.assert_array_equal(values, want.fillna(0))


def test_totals_of_an_empty_table(table):
    successes, trials = table.hide(models=table.models).totals()
    assert successes.shape == trials.shape == (table.n_models, len(table.benchmarks))
    assert not successes.any()
    assert trials.dtype == np.float64


def test_frame_and_back(table):
    frame = table.to_frame()
    assert list(frame.columns) == ["model", "benchmark", "item", "successes", "trials"]
    assert contents(responses_from_frame(frame)) == contents(table)


def test_fingerprint_sees_every_change(table):
    seen = {table.fingerprint()}
    cells = table.to_cells()
    flipped = cells.successes.copy()
    flipped[0] = 1 - flipped[0]
    changed = Cells(cells.rows, cells.cols, flipped, cells.trials)
    swapped = table.models.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        table.hide(cells=(cells.rows[:1], cells.cols[:1])),
        Responses(table.models, table.items, None, changed),
        Responses(swapped, table.items, table.dense, table.cells),
        table.select_models(table.models[::-1]),
        table.select_items(np.arange(table.n_items)[::-1]),
        Responses(table.models, table.items, table.dense, table.cells, unevaluated=("ghost",)),
        Responses(table.models, table.items.assign(trials=77), table.dense, table.cells),
    ]
    if cells.trials is not None:
        more = Cells(cells.rows, cells.cols, cells.successes, cells.trials + 1)
        others.append(Responses(table.models, table.items, None, more))
    for other in others:
        assert other.fingerprint() not in seen
        seen.add(other.fingerprint())


def test_fingerprint_is_of_content_not_of_holding_or_notes():
    dense = random_table(0.6, n_models=2_500)
    sparse = Responses(dense.models, dense.items, None, dense.to_cells(), notes=("note",))
    assert sparse.fingerprint() == dense.fingerprint()
    assert len(dense.fingerprint()) == 64


def test_a_dense_and_a_sparse_holding_answer_alike():
    dense = random_table(0.6)
    sparse = Responses(dense.models, dense.items, None, dense.to_cells())
    mask = np.random.default_rng(4).random(dense.shape) < 0.3
    assert sparse.is_binary
    assert sparse.n_observed == dense.n_observed
    np.testing.assert_array_equal(sparse.totals(), dense.totals())
    assert_same(sparse.select_models(["m4", "m1"]), dense.select_models(["m4", "m1"]))
    assert_same(sparse.select_items([5, 1, 3]), dense.select_items([5, 1, 3]))
    assert_same(sparse.hide(["m2"], mask), dense.hide(["m2"], mask))


def test_a_fifth_observed_is_dense():
    values = np.full((10, 10), np.nan)
    values[0] = 1
    values[:, 0] = 0
    frame = pd.DataFrame(values, columns=[f"a:{j}" for j in range(10)], index=list("abcdefghij"))
    below = responses_from_frame(frame)
    assert below.density == 0.19
    assert below.dense is None
    assert_sound(below)
    frame.iloc[5, 5] = 1
    assert responses_from_frame(frame).density == 0.2
    assert responses_from_frame(frame).dense is not None
    assert_same(responses_from_frame(frame).hide(cells=([5], [5])), below)


def test_selecting_the_binary_part_of_a_mixed_table(read):
    text = "model,benchmark,item,successes,trials\nm,a,1,1,1\nm,b,all,7,9\nn,a,1,0,1\n"
    part = read(text).select_items([0])
    assert_sound(part)
    np.testing.assert_array_equal(part.dense, [[1], [0]])


def test_a_table_is_a_value(table):
    arrays = [table.models, table.to_cells().rows if table.dense is None else table.dense]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(AttributeError):
        table.dense = None


def test_exactly_one_holding():
    dense = random_table(0.6)
    with pytest.raises(ValueError, match="exactly one"):
        Responses(dense.models, dense.items, None, None)
    with pytest.raises(ValueError, match="exactly one"):
        Responses(dense.models, dense.items, dense.dense, dense.to_cells())
    with pytest.raises(ValueError, match="shape"):
        Responses(dense.models, dense.items, dense.dense[1:], None)


# Writing

SUFFIXES = [".csv", ".csv.gz", ".parquet", ".pq"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layouts_written(read, tmp_path, suffix):
    by_item = "model,benchmark,item,successes,trials\n"
    cases = {
        WIDE: ["model", "arc:1", "arc:2", "gsm8k:1"],
        COUNTS: ["model", "benchmark", "successes", "trials"],
        by_item + "m,a,1,2,3\n": ["model", "benchmark", "item", "successes", "trials"],
        by_item + "m,a,all,2.5,3\n": ["model", "benchmark", "item", "successes", "trials"],
        by_item + "m,a,all,2,3\nm,a,1,2,3\n": by_item.strip().split(","),
        LONG_HEADER + "m,a:b,c,1\n": by_item.strip().split(","),
        "model,a:1,a:2\nm,0.5,1\n": by_item.strip().split(","),
    }
    path = tmp_path / f"out{suffix}"
    for text, columns in cases.items():
        responses = read(text)
        write_responses(responses, path)
        frame = pd.read_csv(path) if "csv" in suffix else pd.read_parquet(path)
        assert list(frame.columns) == columns
        assert_same(read_responses(path), responses)


def test_csv_written_is_plain(read, tmp_path):
    path = tmp_path / "out.csv"
    for text in (WIDE, COUNTS):
        write_responses(read(text), path)
        assert path.read_text() == text
    write_responses(read('model,"a:x, y"\n"one, ""two""",1\n'), path)
    assert path.read_text() == 'model,"a:x, y"\n"one, ""two""",1\n'


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(table, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_responses(table, path)
    assert_same(read_responses(path), table)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_order_survives_where_first_appearances_would_not_keep_it(read, tmp_path, suffix):
    text = "model,benchmark,successes,trials\nm,a,1,2\nn,b,1,2\nn,a,1,2\n"
    turned = read(text).select_items([1, 0])
    assert list(turned.benchmarks) == ["b", "a"]
    path = tmp_path / f"out{suffix}"
    write_responses(turned, path)
    assert_same(read_responses(path), turned)
    frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert not frame.duplicated(["model", "benchmark"]).any()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_models_that_became_empty_are_read_as_unevaluated(table, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_responses(table.hide(models=["m0", "m4"]), path)
    again = read_responses(path)
    assert again.unevaluated == ("m0", "m4")
    assert contents(again) == contents(table.hide(models=["m0", "m4"]))


def test_a_huge_sparse_table_is_written_long(tmp_path):
    n = 4_000
    models = np.array([f"m{i}" for i in range(n)], dtype=object)
    items = pd.DataFrame({"benchmark": "b", "item": [f"q{i}" for i in range(n)], "trials": 1})
    items = items.astype({"benchmark": "str", "item": "str"})
    diagonal = np.arange(n, dtype=np.int32)
    cells = Cells(diagonal, diagonal, np.ones(n, dtype=np.int8), None)
    responses = Responses(models, items, None, cells)
    write_responses(responses, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").stat().st_size < 100_000
    assert_same(read_responses(tmp_path / "out.csv"), responses)


def test_a_failed_write_leaves_nothing(table, tmp_path):
    for name, words in (("out.txt", ".txt"), ("no/out.csv", "cannot write"), ("", "unknown kind")):
        with pytest.raises(InputError, match=words) as error:
            write_responses(table, tmp_path / name)
        one_line(error)
    assert list(tmp_path.iterdir()) == []


# Properties

names = (
    st.text(st.sampled_from("aB1é木,;:\"'\n\r\t /-."), min_size=1, max_size=5)
    .map(str.strip)
    .filter(bool)
)


@st.composite
def long_frames(draw):
    """Draw lines of a long table of any kind, and what they hold."""
    kind = draw(st.sampled_from(["response", "fraction", "counts", "by item"]))
    models = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    labels = draw(st.lists(st.tuples(names, names), min_size=1, max_size=5, unique=True))
    if kind == "counts":
        labels = list({benchmark: (benchmark, "all") for benchmark, _ in labels}.values())
    chosen = draw(st.lists(st.tuples(st.sampled_from(models), st.sampled_from(labels)), min_size=1))
    lines, held = [], {}
    for model, (benchmark, item) in dict.fromkeys(chosen):
        line = {"model": model, "benchmark": benchmark, "item": item}
        if kind in ("response", "fraction"):
            value = draw(st.sampled_from([0, 1, None] + [0.25, 0.1] * (kind == "fraction")))
            line["response"] = value
            held[model, benchmark, item] = None if value is None else (value, 1)
        else:
            n = draw(st.integers(1, 9))
            k = draw(st.one_of(st.none(), st.integers(0, n)))
            line |= {"successes": k, "trials": n if k is not None else None}
            held[model, benchmark, item] = None if k is None else (k, n)
        lines.append(line)
    frame = pd.DataFrame(lines)
    return frame.drop(columns="item") if kind == "counts" else frame, held


@settings(deadline=None, max_examples=150)
@given(long_frames(), st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_any_table_is_read_as_it_is_and_survives_a_round_trip(drawn, suffix):
    frame, held = drawn
    results = {key: value for key, value in held.items() if value is not None}
    if not results:
        with pytest.raises(InputError, match="no result"):
            responses_from_frame(frame)
        return
    responses = responses_from_frame(frame)
    assert_sound(responses)
    if "response" in frame:
        broken = {key[1:] for key, (value, _) in results.items() if 0 < value < 1}
        results = {
            key: (np.float32(value * 100), 100) if key[1:] in broken else (value, 1)
            for key, (value, _) in results.items()
        }
    assert contents(responses) == results
    assert list(responses.models) == [
        m for m in dict.fromkeys(k[0] for k in held) if any(key[0] == m for key in results)
    ]
    silent = [m for m in dict.fromkeys(k[0] for k in held) if m not in responses.models]
    assert list(responses.unevaluated) == silent
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"out{suffix}"
        write_responses(responses, path)
        assert_same(read_responses(path), responses)
        turned = responses.select_models(responses.models[::-1]).select_items(
            np.arange(responses.n_items)[::-1]
        )
        write_responses(turned, path)
        assert_same(read_responses(path), turned)


@settings(deadline=None, max_examples=60)
@given(long_frames())
def test_hidden_results_are_gone_and_the_others_stay(drawn):
    frame, held = drawn
    if all(value is None for value in held.values()):
        return
    responses = responses_from_frame(frame)
    cells = responses.to_cells()
    half = responses.hide(cells=(cells.rows[::2], cells.cols[::2]))
    assert_sound(half)
    assert list(contents(half).items()) == list(contents(responses).items())[1::2]


# Size


def test_reading_a_wide_table_takes_little_memory(tmp_path):
    rng = np.random.default_rng(5)
    shape = (4_000, 500)
    values = rng.integers(-1, 2, shape).astype(np.int8)
    columns = {f"a:{j}": pd.array(values[:, j], dtype="Int8") for j in range(shape[1])}
    for array in columns.values():
        array[array == -1] = pd.NA
    frame = pd.DataFrame(columns, index=[f"m{i}" for i in range(shape[0])])
    frame.to_parquet(tmp_path / "r.parquet")
    tracemalloc.start()
    responses = read_responses(tmp_path / "r.parquet")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(responses.dense, values)
    assert peak < 4 * values.size  # bytes; a float64 copy alone would take 8


def test_a_long_table_of_a_million_cells():
    rng = np.random.default_rng(6)
    values = rng.integers(0, 2, (2_000, 500)).astype(np.int8)
    order = rng.permutation(values.size)
    rows, cols = np.divmod(order, values.shape[1])
    frame = pd.DataFrame(
        {
            "model": pd.Categorical.from_codes(rows, [f"m{i}" for i in range(values.shape[0])]),
            "benchmark": "b",
            "item": pd.Categorical.from_codes(cols, [f"q{i}" for i in range(values.shape[1])]),
            "response": values[rows, cols],
        }
    )
    responses = responses_from_frame(frame)
    models = [f"m{i}" for i in range(values.shape[0])]
    items = [responses.items["item"].tolist().index(f"q{j}") for j in range(values.shape[1])]
    back = responses.select_models(models).select_items(items)
    np.testing.assert_array_equal(back.dense, values)


# Real data


@needs_data
@pytest.mark.slow
def test_open_llm_leaderboard_v1(tmp_path):
    path = DATA / "oll_v1" / "responses.parquet"
    responses = read_responses(path)
    assert_sound(responses)
    assert responses.shape == (6650, 1480)
    counts = responses.items["benchmark"].value_counts().to_dict()
    assert counts == {
        "gsm8k": 552, "arc": 317, "truthfulqa": 216, "winogrande": 196, "mmlu": 102, "hellaswag": 97
    }  # fmt: skip
    frame = pd.read_parquet(path)
    np.testing.assert_array_equal(responses.dense, frame.fillna(-1).to_numpy(np.int8))
    assert list(responses.models) == list(frame.index)
    write_responses(responses, tmp_path / "again.parquet")
    assert_same(read_responses(tmp_path / "again.parquet"), responses)


@needs_data
def test_subtask_counts(tmp_path):
    path = DATA / "subtasks" / "counts.csv"
    responses = read_responses(path)
    assert_sound(responses)
    assert responses.shape == (2450, 40)
    assert responses.density == 1
    assert responses.notes == ()
    successes, trials = responses.totals()
    frame = pd.read_csv(path)
    assert successes.sum() == frame["successes"].sum()
    assert trials.sum() == frame["trials"].sum()
    row = frame.iloc[54_321]
    at = (
        list(responses.models).index(row["model"]),
        list(responses.benchmarks).index(row["benchmark"]),
    )
    assert (successes[at], trials[at]) == (row["successes"], row["trials"])
    write_responses(responses, tmp_path / "again.csv")
    assert_same(read_responses(tmp_path / "again.csv"), responses)
