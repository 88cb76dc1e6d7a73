"""Split-conformal intervals around a forecast, from its errors on models of known scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from bayes_lrmf.checks import InputError
from bayes_lrmf.forecast import Forecast
from bayes_lrmf.holdouts import Split
from bayes_lrmf.scoring import benchmark_scores

__all__ = ["conformal_forecast"]

_N_HALF = 500
_FEWEST_ERRORS = 20


def conformal_forecast(forecast: Forecast, known: Forecast, split: Split) -> Forecast:
    """Return a forecast with symmetric intervals as wide as its errors elsewhere were.

    The interval of probability q around a mean ends at the quantile ``q (1 + 1 / n)`` of the n
    absolute errors of the same benchmark, the largest where that exceeds one, within 0 and 1;
    errors of all benchmarks stand in where one has fewer than 20. It holds q of new scores if
    models are exchangeable with those of `split`.

    Parameters
    ----------
    forecast : Forecast
        Whose means are kept.
    known : Forecast
        By the same method, of the models of `split`.
    split : Split
        Drawn like the hold-out that `forecast` is for, out of its training table.

    Raises
    ------
    InputError
        If no score of `split` is known.

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), section 2.2.
    """
    errors = np.abs(np.subtract(*benchmark_scores(known, split)))
    pooled = errors[~np.isnan(errors)]
    if not len(pooled):
        raise InputError("no benchmark score to calibrate on", fix="hold out more models")
    mean = forecast.means
    probability = (np.arange(_N_HALF) + 0.5) / _N_HALF
    draws = np.empty((2 * _N_HALF, *mean.shape), np.float32)
    for b in range(mean.shape[1]):
        own = errors[~np.isnan(errors[:, b]), b]
        own = np.sort(own if len(own) >= _FEWEST_ERRORS else pooled)
        at = np.ceil(probability * (len(own) + 1)).astype(int) - 1
        half = own[np.minimum(at, len(own) - 1)][:, None]
        draws[:, :, b] = np.concatenate([mean[:, b] - half, mean[:, b] + half])
    scores = dataclasses.replace(forecast.scores, scores=np.clip(draws, 0, 1), kind="conformal")
    return dataclasses.replace(forecast, scores=scores)
