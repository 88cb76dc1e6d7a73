"""Tables read by row groups are those that are read whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import read_responses
from bayes_lrmf.streaming import stream_responses


def long_table(n_models=7, n_items=9, density=0.7, seed=0):
    rng = np.random.default_rng(seed)
    rows, cols = np.nonzero(rng.random((n_models, n_items)) < density)
    order = rng.permutation(len(rows))
    rows, cols = rows[order], cols[order]
    return pd.DataFrame(
        {
            "model": [f"org/m{r}" for r in rows],
            "benchmark": [f"b{c % 2}" for c in cols],
            "item": [f"q{c}" for c in cols],
            "response": rng.integers(0, 2, len(rows)),
        }
    )


def written(frame, path, rows=10):
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=rows)
    return path


def same(streamed, whole):
    assert list(streamed.models) == list(whole.models)
    pd.testing.assert_frame_equal(streamed.items, whole.items)
    np.testing.assert_array_equal(streamed.dense, whole.dense)
    assert streamed.unevaluated == whole.unevaluated
    assert streamed.notes == whole.notes
    assert streamed.fingerprint() == whole.fingerprint()
    np.testing.assert_array_equal(streamed.n_results_of_item, (whole.dense >= 0).sum(0))
    assert streamed.n_observed == whole.n_observed


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_long_table(tmp_path, rows):
    path = written(long_table(), tmp_path / "t.parquet", rows)
    same(stream_responses(path), read_responses(path))
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_wide_table(tmp_path):
    values = np.random.default_rng(1).integers(-1, 2, (8, 5)).astype(float)
    values[values < 0] = np.nan
    frame = pd.DataFrame(values, columns=[f"b:q{i}" for i in range(5)])
    frame.insert(0, "model", [f"m{i}" for i in range(8)])
    path = written(frame, tmp_path / "t.parquet", 3)
    same(stream_responses(path), read_responses(path))


def test_models_and_items_without_a_result(tmp_path):
    frame = long_table()
    frame["response"] = frame["response"].astype(float)
    empty = (frame["model"] == "org/m3") | (frame["item"] == "q4")
    frame.loc[empty, "response"] = np.nan
    path = written(frame, tmp_path / "t.parquet")
    streamed = stream_responses(path)
    same(streamed, read_responses(path))
    assert streamed.unevaluated == ("org/m3",)
    assert "q4" not in set(streamed.items["item"])


def test_a_result_repeated_in_another_row_group(tmp_path):
    frame = long_table()
    again = pd.concat([frame, frame.iloc[:3]])
    path = written(again, tmp_path / "t.parquet")
    np.testing.assert_array_equal(stream_responses(path).dense, read_responses(path).dense)
    for first in (0, 1):
        at = int((frame["response"] == first).argmax())
        differs = pd.concat([frame, frame.iloc[[at]].assign(response=1 - first)])
        path = written(differs, tmp_path / "u.parquet")
        with pytest.raises(InputError, match="disagree"):
            stream_responses(path)


def test_the_file_goes_where_it_is_told(tmp_path):
    path = written(long_table(), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no room"):
        stream_responses(path, folder=tmp_path / "nowhere")
    same(stream_responses(path, folder=tmp_path), read_responses(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(response=0.5), "other than 0 and 1"),
        (lambda f: f.assign(response=np.nan), "no result at all"),
        (lambda f: f.assign(response=3), "row group 1"),
        (lambda f: f.drop(columns="item"), "item"),
    ],
)
def test_what_is_no_table_of_zeros_and_ones(tmp_path, change, message):
    path = written(change(long_table()), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        stream_responses(path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_sparse_table_is_better_held_otherwise(tmp_path):
    frame = pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(100)],
            "benchmark": "b",
            "item": [f"q{i}" for i in range(100)],
            "response": 1,
        }
    )
    path = written(frame, tmp_path / "t.parquet", 100)
    with pytest.raises(InputError, match=r"1\.00% of the cells"):
        stream_responses(path)


def test_only_parquet_has_row_groups(tmp_path):
    long_table().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="Parquet"):
        stream_responses(tmp_path / "t.csv")
    with pytest.raises(InputError, match="not found"):
        stream_responses(tmp_path / "u.parquet")
    (tmp_path / "v.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(InputError, match="damaged"):
        stream_responses(tmp_path / "v.parquet")


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    import io
    import tempfile

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    path = written(long_table(), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="No space left"):
        stream_responses(path)
