"""What is known of models beside their responses, as columns of a prior mean and kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError

__all__ = ["Covariates", "covariates"]

_FEWEST_OF_LEVEL = 10
_WIDE_SPAN = 20.0
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Covariates:
    """Columns and kinds of models, in the order of the models they were made for.

    Attributes
    ----------
    names : tuple of str
        Of the columns: ``intercept`` first.
    values : float array, shape (n_models, n_columns)
        Standardised but for the intercept; the mean, 0, where nothing is known.
    kinds : tuple of str
        Names of the kinds, ``unknown`` first.
    kind : int32 array, shape (n_models,)
        Index into `kinds`.
    """

    names: tuple[str, ...]
    values: np.ndarray
    kinds: tuple[str, ...]
    kind: np.ndarray

    def taken(self, at: np.ndarray) -> Covariates:
        """Return those of the models at these positions, or under this mask."""
        return replace(self, values=self.values[at], kind=self.kind[at])


def covariates(
    frame: pd.DataFrame | None, models: Sequence[str], *, features: Sequence[str], kind: str = ""
) -> tuple[Covariates, list[str]]:
    """Turn columns of a models table into a matrix.

    Numbers that are positive and span more than a factor of 20 enter as logarithms, dates as days,
    anything else as one indicator for each value that at least 10 of `models` have.

    Parameters
    ----------
    frame : DataFrame or None
        Indexed by model; it may lack some and know others.
    models : sequence of str
    features : sequence of str
        Columns, found without regard to case.
    kind : str
        Column of kinds, or empty.

    Returns
    -------
    covariates : Covariates
    notes : list of str
        Columns that the table lacks.

    Raises
    ------
    InputError
        If a model stands twice in the table.
    """
    ones = np.ones((len(models), 1))
    none = Covariates(("intercept",), ones, (UNKNOWN,), np.zeros(len(models), np.int32))
    wanted = [*features, *([kind] if kind else [])]
    if frame is None or not wanted:
        return none, []
    if not frame.index.is_unique:
        model = frame.index[frame.index.duplicated()][0]
        raise InputError(f"model {model!r} stands twice in the models table", fix="keep one line")
    column_of = {str(c).casefold(): c for c in frame.columns}
    lacking = [name for name in dict.fromkeys(wanted) if name.casefold() not in column_of]
    notes = [f"the models table has no column {name!r}: left out" for name in lacking]
    known = frame.reindex(list(models))
    names, columns = ["intercept"], [ones[:, 0]]
    for name in features:
        if name.casefold() in column_of:
            for label, column in _columns(known[column_of[name.casefold()]], name):
                names.append(label)
                columns.append(column)
    kinds, code = none.kinds, none.kind
    if kind and kind.casefold() in column_of:
        codes, levels = pd.factorize(known[column_of[kind.casefold()]], sort=True)
        kinds = (UNKNOWN, *(str(level) for level in levels))
        code = (codes + 1).astype(np.int32)
    return Covariates(tuple(names), np.stack(columns, axis=1), kinds, code), notes


def _columns(series: pd.Series, name: str) -> list[tuple[str, np.ndarray]]:
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        days = series.astype("int64").to_numpy(float)
        numbers = np.where(series.isna().to_numpy(), np.nan, days)
    elif pd.api.types.is_numeric_dtype(series.dtype) and series.dtype != bool:
        numbers = series.to_numpy(float, na_value=np.nan)
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        if np.nanmin(numbers, initial=np.inf) > 0 and (
            np.nanmax(numbers, initial=-np.inf) > _WIDE_SPAN * np.nanmin(numbers, initial=np.inf)
        ):
            numbers = np.log(numbers)
    else:
        counts = series.value_counts()
        levels = sorted(map(str, counts.index[counts >= _FEWEST_OF_LEVEL]))
        text = series.map(str, na_action="ignore")
        missing = series.isna().to_numpy()
        indicators = [
            (f"{name}={level}", np.where(missing, np.nan, (text == level).to_numpy(float)))
            for level in levels
        ]
        return [(label, column) for label, one in indicators if (column := _standard(one)).any()]
    column = _standard(numbers)
    return [(name, column)] if column.any() else []


def _standard(numbers: np.ndarray) -> np.ndarray:
    known = ~np.isnan(numbers)
    if not known.any():
        return np.zeros(len(numbers))
    spread = numbers[known].std()
    if not spread > 0:
        return np.zeros(len(numbers))
    return np.where(known, (numbers - numbers[known].mean()) / spread, 0.0)
