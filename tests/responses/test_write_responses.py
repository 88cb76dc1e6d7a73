"""Tables written and read again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from response_tables import COUNTS, LONG_HEADER, WIDE, assert_same, assert_sound, contents, one_line

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import (
    Cells,
    Responses,
    read_responses,
    responses_from_frame,
    write_responses,
)

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


def test_a_zero_with_a_sign_is_the_same_result(tmp_path):
    frame = pd.DataFrame({"model": ["m", "n"], "a:1": [1.0, 0.5], "a:2": [1.0, -0.0]})
    table = responses_from_frame(frame)
    write_responses(table, tmp_path / "r.parquet")
    assert read_responses(tmp_path / "r.parquet").fingerprint() == table.fingerprint()
