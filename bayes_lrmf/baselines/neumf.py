"""The NeuMF network of He et al. (2017) in flax, and its training with optax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bayes_lrmf.progress import Progress

__all__ = ["Batch", "NeuMF", "Schedule", "fit_network", "predicted_logits"]

_BLOCK = 64


class NeuMF(nnx.Module):
    """Log-odds from a product branch and a perceptron branch that meet in one linear layer.

    Each branch has embeddings of its own for models and items. A model's embedding is that of the
    unknown model plus a deviation, so that an unknown model is one whose deviation is dropped, and
    a model with few responses stays near it. Features of the model enter both branches, the
    benchmark of the item enters the perceptron.

    Parameters
    ----------
    n_models, n_items, n_benchmarks, n_features : int
    product_size, embedding_size : int
        Sizes of the embeddings of the product branch and of the perceptron branch.
    hidden_sizes : tuple of int
        Of the perceptron's layers.
    rngs : nnx.Rngs
    """

    def __init__(
        self,
        n_models: int,
        n_items: int,
        n_benchmarks: int,
        n_features: int,
        *,
        product_size: int,
        embedding_size: int,
        hidden_sizes: tuple[int, ...],
        rngs: nnx.Rngs,
    ) -> None:
        small = nnx.initializers.normal(0.1)
        row = 1 + product_size + embedding_size
        first, *later = hidden_sizes
        self.cuts = (1, 1 + product_size)
        self.deviation = nnx.Embed(n_models, row, embedding_init=small, rngs=rngs)
        self.unknown = nnx.Param(jnp.zeros(row))
        self.item = nnx.Embed(n_items, row - 1, embedding_init=small, rngs=rngs)
        self.item_bias = nnx.Param(jnp.zeros(n_items))
        self.benchmark = nnx.Embed(n_benchmarks, embedding_size, embedding_init=small, rngs=rngs)
        self.has_features = n_features > 0
        if self.has_features:
            self.factors = nnx.Linear(n_features, embedding_size, rngs=rngs)
            self.factor_bias = nnx.Linear(embedding_size, 1, use_bias=False, rngs=rngs)
            self.factor_product = nnx.Linear(
                embedding_size, product_size, use_bias=False, rngs=rngs
            )
        width = embedding_size * (1 + self.has_features)
        self.model_layer = nnx.Linear(width, first, use_bias=False, rngs=rngs)
        self.item_layer = nnx.Linear(2 * embedding_size, first, rngs=rngs)
        pairs = zip([first, *later], later, strict=False)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.joint = nnx.Linear(product_size + hidden_sizes[-1], 1, use_bias=False, rngs=rngs)

    def model_rows(self, index: jax.Array, features: jax.Array, is_known: jax.Array) -> jax.Array:
        """Return bias, product vector and share of the first layer of each model, in one row.

        Parameters
        ----------
        index : int array, shape (n,)
            Rows of the table of deviations.
        features : float array, shape (n, n_features)
        is_known : bool array, shape (n,)
            False drops the deviation.
        """
        row = self.unknown + is_known[:, None] * self.deviation(index)
        bias, product, embedding = jnp.split(row, self.cuts, axis=1)
        if self.has_features:
            factors = nnx.gelu(self.factors(features))
            bias += self.factor_bias(factors)
            product += self.factor_product(factors)
            embedding = jnp.concatenate([embedding, factors], axis=1)
        return jnp.concatenate([bias, product, self.model_layer(embedding)], axis=1)

    def item_rows(self, benchmark_index: jax.Array) -> jax.Array:
        """Return the same of every item."""
        product, embedding = jnp.split(self.item.embedding[...], [self.cuts[1] - 1], axis=1)
        embedding = jnp.concatenate([embedding, self.benchmark(benchmark_index)], axis=1)
        bias = self.item_bias[:, None]
        return jnp.concatenate([bias, product, self.item_layer(embedding)], axis=1)

    def logits(self, models: jax.Array, items: jax.Array) -> jax.Array:
        """Return log-odds of success of rows of models on rows of items, which broadcast.

        The first layer of the perceptron is linear in the model and in the item apart, so it has
        been applied to each row once instead of to each cell.
        """
        of_model, of_item = (jnp.split(rows, self.cuts, axis=-1) for rows in (models, items))
        hidden = nnx.relu(of_model[2] + of_item[2])
        for layer in self.layers:
            hidden = nnx.relu(layer(hidden))
        both = jnp.concatenate([of_model[1] * of_item[1], hidden], axis=-1)
        return (of_model[0] + of_item[0] + self.joint(both))[..., 0]


class Batch(NamedTuple):
    """Observed cells: models and items by index, share of successes, weight in the loss."""

    models: jax.Array
    items: jax.Array
    share: jax.Array
    weight: jax.Array


class Schedule(NamedTuple):
    """How to train: AdamW, whose rate is cut, from the best parameters on, when gains dry up."""

    batch_size: int
    fewest_steps: int
    learning_rate: float
    weight_decay: float
    model_dropout: float
    max_epochs: int
    max_cuts: int = 3
    cut: float = 0.3
    least_gain: float = 1e-3


def fit_network(
    network: NeuMF,
    cells: Batch,
    held: Batch,
    features: jax.Array,
    benchmark_index: jax.Array,
    schedule: Schedule,
    *,
    held_known: bool,
    key: jax.Array,
    progress: Progress,
) -> NeuMF:
    """Return the network with the parameters that predict held-out cells best.

    Parameters
    ----------
    network : NeuMF
    cells, held : Batch
        To learn from, and to judge each epoch by.
    features : float array, shape (n_models, n_features)
    benchmark_index : int array, shape (n_items,)
    schedule : Schedule
    held_known : bool
        Whether models of `held` are judged as known ones.
    key : jax key
    progress : Progress
    """
    graph, start = nnx.split(network, nnx.Param)
    n_models, n_cells = len(features), len(cells.models)
    rule = optax.chain(
        optax.scale_by_adam(),
        # Biases and what unknown models share are estimated from plenty.
        optax.add_decayed_weights(schedule.weight_decay, lambda tree: jax.tree.map(_is_wide, tree)),
    )

    def loss(params: Any, batch: Batch, is_known: jax.Array) -> jax.Array:
        net = nnx.merge(graph, params)
        models = net.model_rows(jnp.arange(n_models), features, is_known)
        logits = net.logits(models[batch.models], net.item_rows(benchmark_index)[batch.items])
        losses = optax.sigmoid_binary_cross_entropy(logits, batch.share)
        return (batch.weight * losses).sum() / batch.weight.sum()

    @jax.jit  # the cells are an argument, since constants of this size compile slowly
    def epoch(state: Any, cells: Batch, order: jax.Array, rate: jax.Array, key: jax.Array) -> Any:
        def step(state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            (params, moments), (at, key) = state, inputs
            is_known = ~jax.random.bernoulli(key, schedule.model_dropout, (n_models,))
            batch = Batch(*(column[at] for column in cells))
            gradient = jax.grad(loss)(params, batch, is_known)
            updates, moments = rule.update(gradient, moments, params)
            updates = jax.tree.map(lambda update: -rate * update, updates)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, state, (order, jax.random.split(key, len(order))))[0]

    judge = jax.jit(lambda params, held: loss(params, held, jnp.full(n_models, held_known)))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    # At least one pass; small tables are passed several times between two judgements.
    n_steps = max(schedule.fewest_steps, -(-n_cells // schedule.batch_size))
    n_passes = -(-n_steps * schedule.batch_size // n_cells)
    state = best = (start, rule.init(start))
    lowest, rate, n_cuts = float(judge(start, held)), schedule.learning_rate, 0
    for number in range(schedule.max_epochs):
        order = np.concatenate([rng.permutation(n_cells) for _ in range(n_passes)])
        order = order[: n_steps * schedule.batch_size].reshape(n_steps, -1)
        state = epoch(state, cells, order.astype(np.int32), rate, jax.random.fold_in(key, number))
        now = float(judge(state[0], held))
        progress.update(number + 1, validation_loss=now, rate=rate)
        has_gained = now < lowest * (1 - schedule.least_gain)
        if now < lowest:
            lowest, best = now, state
        if not has_gained:
            n_cuts += 1
            if n_cuts > schedule.max_cuts:
                break
            state, rate = best, rate * schedule.cut
    return nnx.merge(graph, best[0])


def _is_wide(parameter: jax.Array) -> bool:
    return parameter.ndim > 1


def predicted_logits(
    network: NeuMF,
    index: np.ndarray,
    is_known: np.ndarray,
    features: np.ndarray,
    benchmark_index: np.ndarray,
) -> np.ndarray:
    """Return log-odds of models on all items, float32 of shape (n_models, n_items)."""
    graph, params = nnx.split(network, nnx.Param)

    @jax.jit
    def run(params: Any) -> jax.Array:
        net = nnx.merge(graph, params)
        items = net.item_rows(jnp.asarray(benchmark_index))
        models = net.model_rows(jnp.asarray(index), jnp.asarray(features), jnp.asarray(is_known))
        return jax.lax.map(lambda row: net.logits(row, items), models, batch_size=_BLOCK)

    return np.asarray(run(params))
