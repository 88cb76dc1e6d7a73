"""Choose hyper-parameters by the log loss of validation cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import xlog1py, xlogy

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import Responses

__all__ = ["choose"]


def choose(
    candidates: Sequence[Mapping[str, Any]],
    predict: Callable[[Mapping[str, Any]], np.ndarray],
    truth: Responses,
    models: Sequence[str],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the candidate with the least log loss, the first of equals, and a table of all.

    Parameters
    ----------
    candidates : sequence of mapping
        Hyper-parameters by name.
    predict : callable
        From a candidate to probabilities, shape (n_models, n_items of `truth`).
    truth : Responses
        Validation cells, none of which the predictions may have seen.
    models : sequence of str
        The rows of the predictions; those without a cell in `truth` do not count.

    Returns
    -------
    best : dict
    table : DataFrame
        One line per candidate, in order: its hyper-parameters and `log_loss`, in nats per trial.

    Raises
    ------
    InputError
        If there is no candidate, or `truth` has no cell of these models.
    ValueError
        If predictions are no probabilities, or have another shape.
    """
    if not candidates:
        raise InputError("no candidate to choose from", fix="give at least one value for each")
    successes, trials = truth.matrices(models)
    cells = np.nonzero(trials)
    if not len(cells[0]):
        raise InputError("no validation cell of these models", fix="hide some of their responses")
    k, n = successes[cells].astype(float), trials[cells].astype(float)
    losses = []
    for candidate in candidates:
        p = np.asarray(predict(candidate), dtype=np.float64)
        if p.shape != trials.shape:
            raise ValueError(f"predictions have shape {p.shape}, not {trials.shape}")
        p = p[cells]
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"predictions of {dict(candidate)} are not all in [0, 1]")
        losses.append(float(-(xlogy(k, p) + xlog1py(n - k, -p)).sum() / n.sum()))
    table = pd.DataFrame([dict(c) for c in candidates]).assign(log_loss=losses)
    return dict(candidates[int(np.argmin(losses))]), table
