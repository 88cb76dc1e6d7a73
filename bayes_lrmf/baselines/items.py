"""How often an item is solved, whoever tries it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bayes_lrmf.checks import positive
from bayes_lrmf.responses import Responses

__all__ = ["fractions", "item_mean", "item_rates"]


def item_mean(train: Responses, models: Sequence[str], *, pseudo_trials: float = 1.0) -> np.ndarray:
    """Predict each item's smoothed success rate for every model, known or not.

    Parameters
    ----------
    train : Responses
    models : sequence of str
        Those of `train` and others.
    pseudo_trials : float
        As for `item_rates`.

    Returns
    -------
    ndarray, shape (n_models, n_items)
        Probabilities of success.
    """
    return np.tile(item_rates(train, pseudo_trials=pseudo_trials), (len(models), 1))


def item_rates(train: Responses, *, pseudo_trials: float = 1.0) -> np.ndarray:
    """Return the success rate of each item, shape (n_items,), strictly between 0 and 1.

    ``(k_i + c r_b) / (n_i + c)``, where the benchmark's own rate ``r_b = (K_b + c/2) / (N_b + c)``
    is drawn to one half in the same way: an item that nobody tried has the rate of its benchmark.

    Parameters
    ----------
    train : Responses
    pseudo_trials : float
        The c above, in trials.

    Raises
    ------
    InputError
        If `pseudo_trials` is not above 0.
    """
    c = positive(pseudo_trials, name="pseudo_trials")
    cells = train.to_cells()
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials
    k = np.bincount(cells.cols, cells.successes, minlength=train.n_items)
    n = np.bincount(cells.cols, trials, minlength=train.n_items)
    bench = train.benchmark_index
    of_benchmark = (np.bincount(bench, k) + c / 2) / (np.bincount(bench, n) + c)
    return np.asarray((k + c * of_benchmark[bench]) / (n + c))


def fractions(train: Responses, models: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return fractions of success, 0 where not run, and whether a cell was run (0 or 1).

    Both are float32 of shape (n_models, n_items). A cell counts once, however many trials it has:
    the trials of a benchmark share the model that ran them.
    """
    successes, trials = train.matrices(models)
    return successes / np.maximum(trials, 1), (trials > 0).astype(np.float32)
