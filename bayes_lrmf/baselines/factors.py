"""Model features as numbers for a network: scaled numerics, one-hot categories, unknowns marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

from bayes_lrmf.checks import InputError

__all__ = ["encoded_features"]

_FEWEST_MODELS = 5  # a rarer category says nothing that would not be learned by heart
_SKEWED = 2.0
_LIMIT = 4.0


def encoded_features(
    features: pd.DataFrame, known: Sequence[str], models: Sequence[str]
) -> np.ndarray:
    """Return one row of numbers per model.

    A numeric column or a date is centred and scaled to unit variance over the known models, after
    a logarithm where it has no negative values and a skewness above 2, and cut off at 4 standard
    deviations; where it misses values, a column that says so stands beside it. Any other column
    becomes one 0/1 column per category that at least 5 known models have, and one for all else.

    Parameters
    ----------
    features : DataFrame
        Indexed by model; models that it lacks have unknown features.
    known : sequence of str
        Models that categories and scales are taken from.
    models : sequence of str
        Models to encode.

    Returns
    -------
    ndarray of float32, shape (n_models, n_columns)

    Raises
    ------
    InputError
        If a model stands twice, or the table knows none of the known models.
    """
    if features.index.has_duplicates:
        name = features.index[features.index.duplicated()][0]
        raise InputError(f"model {name!r} stands twice in the features", fix="keep one line each")
    if not features.index.isin(list(known)).any():
        raise InputError(
            "the features know none of the models with responses", fix="index them by model"
        )
    rows = [features.reindex(list(names)) for names in (known, models)]
    parts = [_encoded(rows[0][column], rows[1][column]) for column in features.columns]
    return np.concatenate([np.zeros((len(models), 0), np.float32), *parts], axis=1)


def _encoded(known: pd.Series, wanted: pd.Series) -> np.ndarray:
    kind = known.dtype
    if pd.api.types.is_datetime64_any_dtype(kind):
        return _scaled(_days(known), _days(wanted))
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind):
        return _scaled(_numbers(known), _numbers(wanted))
    return _one_hot(known, wanted)


def _days(dates: pd.Series) -> np.ndarray:
    since = pd.to_datetime(dates, utc=True) - pd.Timestamp(0, tz="UTC")
    return np.asarray(since / pd.Timedelta(days=1), np.float64)


def _numbers(column: pd.Series) -> np.ndarray:
    values = column.to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _scaled(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    seen = known[np.isfinite(known)]
    if len(seen) == 0 or seen.min() == seen.max():
        scaled = np.zeros(len(wanted))
    else:
        if seen.min() >= 0 and scipy.stats.skew(seen) > _SKEWED:
            smallest = seen[seen > 0].min()
            seen = np.log(seen + smallest)
            # Another model may lie below every known one.
            wanted = np.log(np.maximum(wanted, 0) + smallest)
        scaled = np.clip((wanted - seen.mean()) / seen.std(), -_LIMIT, _LIMIT)
    unknown = np.isnan(wanted)
    columns = [np.where(unknown, 0.0, scaled)]
    if unknown.any() or np.isnan(known).any():
        columns.append(unknown)
    return np.stack(columns, axis=1).astype(np.float32)


def _one_hot(known: pd.Series, wanted: pd.Series) -> np.ndarray:
    counts = known.astype("string").value_counts()
    categories = sorted(counts.index[counts >= _FEWEST_MODELS])
    codes = pd.Index(categories).get_indexer(wanted.astype("string"))
    return np.eye(len(categories) + 1, dtype=np.float32)[codes]
