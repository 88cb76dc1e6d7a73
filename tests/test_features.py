"""The table of models: kinds of columns, empty cells, and the place of every mistake."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.features import features_from_frame, read_features

TABLE = """model,type,params_b,chat,date,Submission Date,last_modified
org/a,base,7,true,2024-03-21T06:05:50Z,2024-04-13,2024-09-27 15:52:33+02:00
org/b, chat ,,false,,,
NA,chat,0.5,,2023-12-31T23:00:00Z,2024-04-14,2025-06-18 23:49:51+00:00
"""


def read(tmp_path, text):
    path = tmp_path / "models.csv"
    path.write_text(text)
    return read_features(path)


def test_columns_are_numbers_categories_or_dates(tmp_path):
    features = read(tmp_path, TABLE)
    assert list(features.index) == ["org/a", "org/b", "NA"]
    assert features.index.name == "model"
    assert list(features["type"]) == ["base", "chat", "chat"]
    assert features["type"].dtype == "category"
    np.testing.assert_array_equal(features["params_b"], [7, np.nan, 0.5])
    np.testing.assert_array_equal(features["chat"], [1, 0, np.nan])
    utc = [pd.Timestamp("2024-03-21 06:05:50", tz="UTC"), pd.NaT]
    assert list(features["date"][:2]) == utc
    assert features["Submission Date"].iloc[2] == pd.Timestamp("2024-04-14", tz="UTC")
    assert features["last_modified"].iloc[0] == pd.Timestamp("2024-09-27 13:52:33", tz="UTC")


def test_parquet_and_frames_say_the_same(tmp_path):
    features = read(tmp_path, TABLE)
    features.to_parquet(tmp_path / "models.parquet")
    pd.testing.assert_frame_equal(read_features(tmp_path / "models.parquet"), features)
    pd.testing.assert_frame_equal(features_from_frame(features), features)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,params_b\na,7\n", r"no column 'model'; its columns are name, params_b"),
        ("models,params_b\na,7\n", r"no column 'model'; rename 'models'"),
        ("model\na\n", "no column of features"),
        ("model,n\na,1\n,2\n", r"line 3.*the model name is missing"),
        ("model,n\na,1\nb,2\na,3\n", r"line 4, model a: the model stands twice.*and line 2"),
        ("model,n\na,1\nb,2\nc,7B\n", r"column n, line 4, model c: '7B' is not a number"),
        ("model,n\na,1\nb,inf\n", r"column n, line 3, model b: inf is not finite"),
        ("model,date\na,2024-01-02\nb,soon\n", r"column date, line 3, model b: 'soon' is not a da"),
        ("model,date\na,2024\n", r"line 2, model a: '2024' is not a date; give dates such as"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as caught:
        read(tmp_path, text)
    assert "models.csv" in str(caught.value)


@pytest.mark.real
@pytest.mark.parametrize("folder", ["oll_v1", "subtasks"])
def test_real_tables_have_parameters_and_dates(data_dir, folder):
    features = read_features(data_dir / folder / "models.csv")
    [date] = [c for c in features if pd.api.types.is_datetime64_any_dtype(features[c])]
    assert features[date].notna().mean() > 0.9
    assert features["params_b"].dtype == np.float64
