"""Choose hyper-parameters by the log loss of validation cells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import xlog1py, xlogy

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import Responses

__all__ = ["choose", "tuned"]


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


def tuned(
    method: Callable[..., np.ndarray],
    grid: Mapping[str, Sequence[Any]],
    train: Responses,
    validation: Responses,
    **fixed: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Choose the hyper-parameters of a baseline among all combinations of a grid.

    Parameters
    ----------
    method : callable
        ``method(train, models, **fixed, **candidate)``, such as `lineage_mean`.
    grid : mapping of str to sequence
        Values to try, by hyper-parameter.
    train : Responses
        What the method may see.
    validation : Responses
        Cells it must predict: same items, and none of the responses of `train`.
    **fixed
        Further arguments, such as the lineage.

    Returns
    -------
    best, table
        As from `choose`.

    Raises
    ------
    InputError
        If the tables have other items, or share a response.
    """
    names = ["benchmark", "item"]
    if not train.items[names].equals(validation.items[names]):
        raise InputError("train and validation have other items", fix="split one table by hide")
    models = list(validation.models)
    if np.any((train.matrices(models)[1] > 0) & (validation.matrices(models)[1] > 0)):
        raise InputError(
            "some validation cells are in train too", fix="hide them there, or they choose in vain"
        )
    candidates = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    return choose(candidates, lambda c: method(train, models, **fixed, **c), validation, models)
