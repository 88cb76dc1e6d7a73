"""Neural collaborative filtering, with or without features of the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.special

from bayes_lrmf.baselines.factors import encoded_features
from bayes_lrmf.cells import Cells
from bayes_lrmf.checks import InputError, one_of, positive, probability, whole_number
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses

__all__ = ["COLD_START", "NeuralConfig", "effective_trials", "neural_cf", "split_cells"]

_LARGEST_LOGIT = 15.0
_STEPS = 200  # an epoch has as many at least
_SMALLEST_BATCH = 64
_REFERENCE_CELLS = 1000.0
_MOST_DECAY = 5.0
_HELD_CELLS = (2_000, 200_000)
_MOST_HELD = 0.2


@dataclass(frozen=True)
class NeuralConfig:
    """Sizes of the network and settings of its training.

    Attributes
    ----------
    product_size, embedding_size : int
        Sizes of the embeddings of the product branch and of the perceptron branch.
    hidden_sizes : tuple of int
        Of the perceptron's layers, one at least.
    learning_rate : float
        Of AdamW at the start; it is cut to 30 % up to three times, from the best parameters on,
        when an epoch lowers the validation loss by less than 0.1 %.
    weight_decay : float
        Of AdamW, for tables of 1,000 observed cells per model; fewer raise it by their root, up to
        five times, as validation of real tables of 4 to 900 cells per model asked for.
    batch_size : int
        Largest number of cells in a step; small tables are cut into about 200 steps.
    max_epochs : int
    model_dropout : float
        Probability of treating a model as unknown in one step, by which the unknown model and, with
        features, what they say alone are learned.
    validation : {"cells", "models"}
        What decides when to stop: random cells of known models, or all cells of random models
        treated as unknown. It should be what is predicted: missing cells or cold models.
    validation_share : float
        Of cells or of models. Small tables give up to a fifth of the cells, to have 2,000.
    concentration : float
        A cell of n trials weighs n (1 + c) / (n + c), its effective trials under a Beta-Binomial of
        concentration c, since the successes of one cell are no independent evidence.
    """

    product_size: int = 16
    embedding_size: int = 16
    hidden_sizes: tuple[int, ...] = (32, 16)
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    batch_size: int = 8192
    max_epochs: int = 30
    model_dropout: float = 0.1
    validation: Literal["cells", "models"] = "cells"
    validation_share: float = 0.02
    concentration: float = 100.0

    def __post_init__(self) -> None:
        for name in ("product_size", "embedding_size", "batch_size", "max_epochs"):
            whole_number(getattr(self, name), name=name)
        if not self.hidden_sizes:
            raise InputError("hidden_sizes is empty", fix="give the size of one layer at least")
        for size in self.hidden_sizes:
            whole_number(size, name="hidden_sizes")
        for name in ("learning_rate", "concentration"):
            positive(getattr(self, name), name=name)
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay is {self.weight_decay!r}", fix="give 0 or more")
        for name in ("model_dropout", "validation_share"):
            probability(getattr(self, name), name=name)
        one_of(self.validation, ("cells", "models"), name="validation")


# For models without responses: more models are judged by, and the unknown one is seen more often.
COLD_START = NeuralConfig(validation="models", validation_share=0.05, model_dropout=0.4)


def neural_cf(
    train: Responses,
    models: Sequence[str],
    *,
    key: jax.Array,
    features: pd.DataFrame | None = None,
    config: NeuralConfig | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return probabilities of success by neural matrix factorisation (NeuMF, He et al. 2017).

    Parameters
    ----------
    train : Responses
    models : sequence of str
        Models to predict. One without responses in `train` is the unknown model, of which its
        features, if any, say more.
    key : jax key
    features : DataFrame, optional
        Indexed by model; numbers, dates and categories, any of them missing.
    config : NeuralConfig, optional
        The default is for missing cells of known models; for others take `COLD_START`.
    progress : Progress, optional

    Returns
    -------
    ndarray of float64, shape (n_models, n_items)
        Strictly between 0 and 1.

    Raises
    ------
    InputError
        If flax or optax is not installed, or `features` know no model of `train`.
    """
    try:
        from flax import nnx

        from bayes_lrmf.baselines import neumf
    except ImportError as error:
        raise InputError(
            "neural collaborative filtering needs flax and optax",
            fix="pip install 'bayes-lrmf[neural]'",
        ) from error
    config = config or NeuralConfig()
    cells = train.to_cells()
    if len(cells.rows) < 2:
        raise InputError("there are no responses to learn from", fix="give two cells at least")
    init_key, split_key, train_key = jax.random.split(key, 3)
    benchmark_index = train.benchmark_index
    known_features, wanted_features = _features(features, train, cells, models)
    network = neumf.NeuMF(
        train.n_models,
        train.n_items,
        len(train.benchmarks),
        known_features.shape[1],
        product_size=config.product_size,
        embedding_size=config.embedding_size,
        hidden_sizes=tuple(config.hidden_sizes),
        rngs=nnx.Rngs(init_key),
    )
    trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials.astype(float)
    network.item_bias[...] = jnp.asarray(_item_log_odds(cells, trials, train.n_items))
    weight = effective_trials(trials, config.concentration)
    scarcity = np.sqrt(_REFERENCE_CELLS * len(np.unique(cells.rows)) / len(cells.rows))
    learned, held = (
        neumf.Batch(
            jnp.asarray(cells.rows[at]),
            jnp.asarray(cells.cols[at]),
            jnp.asarray((cells.successes[at] / trials[at]).astype(np.float32)),
            jnp.asarray((weight[at] / weight.mean()).astype(np.float32)),
        )
        for at in split_cells(cells, config, split_key)
    )
    n_cells = len(learned.models)
    smallest = min(_SMALLEST_BATCH, n_cells)
    schedule = neumf.Schedule(
        batch_size=max(smallest, min(config.batch_size, n_cells // _STEPS)),
        fewest_steps=_STEPS,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay * float(np.clip(scarcity, 1.0, _MOST_DECAY)),
        model_dropout=config.model_dropout,
        max_epochs=config.max_epochs,
    )
    network = neumf.fit_network(
        network,
        learned,
        held,
        jnp.asarray(known_features),
        jnp.asarray(benchmark_index),
        schedule,
        held_known=config.validation == "cells",
        key=train_key,
        progress=progress or Progress("neural", enabled=False),
    )
    position = pd.Index(train.models).get_indexer(pd.Index(list(models), dtype=object))
    is_known = (position >= 0) & np.isin(position, cells.rows)
    logits = neumf.predicted_logits(
        network, np.where(is_known, position, 0), is_known, wanted_features, benchmark_index
    )
    bounded = np.clip(logits.astype(np.float64), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return np.asarray(scipy.special.expit(bounded))


def _features(
    features: pd.DataFrame | None, train: Responses, cells: Cells, models: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of features of the models of `train` and of `models`."""
    n = train.n_models
    if features is None:
        return np.zeros((n, 0), np.float32), np.zeros((len(models), 0), np.float32)
    known = train.models[np.unique(cells.rows)]
    rows = encoded_features(features, known, [*train.models, *models])
    return rows[:n], rows[n:]


def _item_log_odds(cells: Cells, trials: np.ndarray, n_items: int) -> np.ndarray:
    right = np.bincount(cells.cols, cells.successes, minlength=n_items) + 1.0
    run = np.bincount(cells.cols, trials, minlength=n_items) + 2.0
    return np.log(right / (run - right)).astype(np.float32)


def effective_trials(trials: np.ndarray, concentration: float) -> np.ndarray:
    """Return ``n (1 + c) / (n + c)``: how many independent trials tell as much about a mean.

    That is n times the variance of a Binomial share over that of a Beta-Binomial one.
    """
    return trials * (1 + concentration) / (trials + concentration)


def split_cells(
    cells: Cells, config: NeuralConfig, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of cells to learn from and of cells to judge by."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    n_cells = len(cells.rows)
    fewest, most = _HELD_CELLS
    if config.validation == "cells":
        n_held = max(config.validation_share * n_cells, min(fewest, _MOST_HELD * n_cells), 1)
        is_held = np.zeros(n_cells, dtype=bool)
        is_held[rng.choice(n_cells, int(min(n_held, n_cells - 1, most)), replace=False)] = True
    else:
        known = np.unique(cells.rows)
        if len(known) < 2:
            raise InputError("one model cannot be held out", fix="use validation='cells'")
        n_held = max(config.validation_share * len(known), min(20, _MOST_HELD * len(known)), 1)
        is_held = np.isin(cells.rows, rng.choice(known, int(n_held), replace=False))
    held = np.flatnonzero(is_held)
    if len(held) > most:
        held = np.sort(rng.choice(held, most, replace=False))
    return np.flatnonzero(~is_held), held
