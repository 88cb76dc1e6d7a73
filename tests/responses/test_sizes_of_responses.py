"""Large tables and real ones."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from response_tables import assert_same, assert_sound

from bayes_lrmf.responses import read_responses, responses_from_frame, write_responses


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


@pytest.mark.real
@pytest.mark.slow
def test_open_llm_leaderboard_v1(data_dir, tmp_path):
    path = data_dir / "oll_v1" / "responses.parquet"
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


@pytest.mark.real
def test_subtask_counts(data_dir, tmp_path):
    path = data_dir / "subtasks" / "counts.csv"
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
