"""Features of models as numbers: by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.baselines.factors import encoded_features
from bayes_lrmf.checks import InputError

KNOWN = [f"m{i}" for i in range(12)]


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=KNOWN)


def test_numbers_are_standardised_over_the_known_models():
    values = np.linspace(-1, 3, 12)
    table = pd.concat([frame(x=values), pd.DataFrame({"x": [100.0, 2.0]}, index=["far", "new"])])
    rows = encoded_features(table, KNOWN, [*KNOWN, "far", "new"])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(
        rows[:, 0], np.append((values - 1) / values.std(), [4, 1 / values.std()]), rtol=1e-6
    )
    assert rows.shape == (14, 1)


def test_skewed_numbers_are_standardised_as_logarithms():
    values = 2.0 ** np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14])
    logs = np.log(values + 1)
    rows = encoded_features(frame(x=values), KNOWN, KNOWN)
    np.testing.assert_allclose(rows[:, 0], (logs - logs.mean()) / logs.std(), rtol=1e-6)
    negative = encoded_features(frame(x=values - 2), KNOWN, KNOWN)
    expected = np.minimum((values - values.mean()) / values.std(), 4)
    np.testing.assert_allclose(negative[:, 0], expected, rtol=1e-5)


def test_missing_numbers_and_unknown_models_are_marked():
    values = np.arange(12.0)
    values[3] = np.nan
    rows = encoded_features(frame(x=values), KNOWN, ["m3", "m0", "stranger"])
    assert rows[:, 1].tolist() == [1, 0, 1]
    assert rows[[0, 2], 0].tolist() == [0, 0]
    # A gap that only the wanted models have is marked as well.
    rows = encoded_features(frame(x=np.arange(12.0)), KNOWN, ["m0", "stranger"])
    assert rows[:, 1].tolist() == [0, 1]


def test_a_constant_number_says_nothing():
    assert (encoded_features(frame(x=7.0), KNOWN, ["m0", "m5"]) == 0).all()


def test_dates_count_as_days():
    dates = pd.date_range("2023-12-28", periods=12, freq="D", tz="UTC")
    rows = encoded_features(frame(date=dates), KNOWN, KNOWN)
    days = np.arange(12)
    np.testing.assert_allclose(rows[:, 0], (days - 5.5) / days.std(), rtol=1e-5)
    naive = encoded_features(frame(date=dates.tz_localize(None)), KNOWN, KNOWN)
    np.testing.assert_array_equal(naive, rows)


@pytest.mark.parametrize("dtype", ["object", "str", "category"])
def test_categories_are_one_hot_and_rare_ones_are_unknown(dtype):
    kinds = pd.Series(["chat"] * 5 + ["base"] * 5 + ["odd", None], dtype=dtype).to_numpy()
    rows = encoded_features(
        frame(kind=pd.Series(kinds, index=KNOWN, dtype=dtype)),
        KNOWN,
        ["m0", "m5", "m10", "m11", "new"],
    )
    assert rows.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_scales_and_categories_come_from_known_models_alone():
    kinds = ["chat"] * 5 + ["base"] * 7
    table = frame(x=np.arange(12.0), kind=kinds)
    rows = encoded_features(table, KNOWN[:5], KNOWN)
    np.testing.assert_allclose(rows[:, 0], np.minimum((np.arange(12) - 2) / np.sqrt(2), 4))
    assert rows[:, 1:].tolist() == [[1, 0]] * 5 + [[0, 1]] * 7


def test_mistakes_in_the_features_say_what_to_do():
    table = frame(x=np.arange(12.0))
    with pytest.raises(InputError, match="'m0' stands twice in the features; keep one line"):
        encoded_features(pd.concat([table, table]), KNOWN, KNOWN)
    with pytest.raises(InputError, match="know none of the models with responses"):
        encoded_features(table.reset_index(), KNOWN, KNOWN)
