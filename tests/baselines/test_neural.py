"""Neural collaborative filtering: the network by hand, simulated structure, cold models."""

from __future__ import annotations

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from scipy.special import expit

from bayes_lrmf.baselines import neural
from bayes_lrmf.baselines.neumf import Batch, NeuMF, Schedule, fit_network, predicted_logits
from bayes_lrmf.baselines.neural import NeuralConfig, neural_cf
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.forecast import posterior_forecast
from bayes_lrmf.inference import fit_map
from bayes_lrmf.metrics import log_loss
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses, read_responses, responses_from_frame
from bayes_lrmf.spec import read_spec

SMALL = NeuralConfig(product_size=4, embedding_size=4, hidden_sizes=(8, 4), learning_rate=0.01)


def binary(p: np.ndarray, rng: np.random.Generator) -> Responses:
    y = (rng.random(p.shape) < p).astype(float)
    half = p.shape[1] // 2
    names = [f"a:{i}" if i < half else f"b:{i}" for i in range(p.shape[1])]
    return responses_from_frame(
        pd.DataFrame(y, index=[f"m{i}" for i in range(len(p))], columns=names)
    )


def structured(rng: np.random.Generator, n_models: int = 150, n_items: int = 80) -> np.ndarray:
    factors = 1.5 * rng.standard_normal((n_models, 2))
    return expit(factors @ rng.standard_normal((2, n_items)) + rng.standard_normal(n_items))


def item_means(train: Responses) -> np.ndarray:
    successes, trials = train.matrices(train.models)
    mean = (successes.sum(0) + 1) / (trials.sum(0) + 2)
    return np.broadcast_to(mean, train.shape)


def relu(x):
    return np.maximum(x, 0)


def gelu(x):  # the tanh form
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("n_features", [0, 3])
def test_the_network_is_the_one_of_the_paper(n_features, key, rng):
    net = NeuMF(
        5, 4, 2, n_features,
        product_size=3, embedding_size=2, hidden_sizes=(6, 5, 4), rngs=nnx.Rngs(key),
    )  # fmt: skip
    net.unknown[...] = jnp.asarray(rng.standard_normal(6), jnp.float32)
    net.item_bias[...] = jnp.asarray(rng.standard_normal(4), jnp.float32)
    features = rng.standard_normal((5, n_features)).astype(np.float32)
    is_known = np.array([True, False, True, True, False])
    benchmark = np.array([0, 1, 1, 0])
    found = predicted_logits(net, np.arange(5), is_known, features, benchmark)

    def weights(layer):
        bias = 0 if layer.bias is None else np.asarray(layer.bias[...])
        return np.asarray(layer.kernel[...]), bias

    first = np.concatenate([weights(net.model_layer)[0], weights(net.item_layer)[0]])
    expected = np.zeros((5, 4))
    for u in range(5):
        row = np.array(net.unknown[...])
        if is_known[u]:
            row += np.asarray(net.deviation.embedding[u])
        bias, product, vector = row[0], row[1:4], row[4:]
        if n_features:
            kernel, shift = weights(net.factors)
            factors = gelu(features[u] @ kernel + shift)
            bias = bias + (factors @ weights(net.factor_bias)[0])[0]
            product = product + factors @ weights(net.factor_product)[0]
            vector = np.concatenate([vector, factors])
        for i in range(4):
            item = np.asarray(net.item.embedding[i])
            group = np.asarray(net.benchmark.embedding[benchmark[i]])
            hidden = relu(
                np.concatenate([vector, item[3:], group]) @ first + weights(net.item_layer)[1]
            )
            for layer in net.layers:
                kernel, shift = weights(layer)
                hidden = relu(hidden @ kernel + shift)
            joined = np.concatenate([product * item[:3], hidden]) @ weights(net.joint)[0]
            expected[u, i] = bias + np.asarray(net.item_bias[i]) + joined[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_hidden_cells_of_known_models_are_predicted(rng, key):
    p = structured(rng)
    table = binary(p, rng)
    hidden = rng.random(p.shape) < 0.2
    train = table.hide(cells=hidden)
    found = neural_cf(train, list(table.models), key=key, config=SMALL)
    assert found.dtype == np.float64
    assert found.shape == p.shape
    assert ((found > 0) & (found < 1)).all()

    def excess(q):  # expected log loss above that of the truth
        return np.mean((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))[hidden])

    assert excess(found) < 0.35 * excess(item_means(train))


def test_models_are_predicted_in_the_order_asked_for(rng, key):
    train = binary(structured(rng, 40, 20), rng)
    config = dataclasses.replace(SMALL, max_epochs=3)
    all_of_them = neural_cf(train, list(train.models), key=key, config=config)
    some = neural_cf(train, ["m7", "stranger", "m3"], key=key, config=config)
    np.testing.assert_allclose(some[[0, 2]], all_of_them[[7, 3]], rtol=1e-5)


def test_a_key_decides_everything(rng, key):
    train = binary(structured(rng, 40, 20), rng)
    config = dataclasses.replace(SMALL, max_epochs=3)
    first, again, other = (
        neural_cf(train, ["m0", "m1"], key=k, config=config)
        for k in (key, key, jax.random.fold_in(key, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("held_known", [True, False])
def test_the_parameters_kept_are_those_of_the_lowest_validation_loss(rng, key, held_known):
    class Record(Progress):
        losses: tuple[float, ...] = ()

        def update(self, completed, **figures):
            self.losses += (figures["validation_loss"],)

    cells = binary(structured(rng, 40, 20), rng).to_cells()
    rows, cols = cells.rows, cells.cols
    share = cells.successes.astype(np.float32)
    weight = rng.uniform(0.5, 2, 800).astype(np.float32)
    order = rng.permutation(800)
    learned, held = (
        Batch(*(jnp.asarray(column[at]) for column in (rows, cols, share, weight)))
        for at in (order[:600], np.sort(order[600:]))
    )
    sizes = {"product_size": 4, "embedding_size": 4, "hidden_sizes": (4,)}
    net = NeuMF(40, 20, 2, 0, **sizes, rngs=nnx.Rngs(key))
    features, benchmark = np.zeros((40, 0), np.float32), np.arange(20) % 2
    record = Record("neural", enabled=False)
    # Without decay and cuts the network soon learns by heart.
    schedule = Schedule(64, 20, 0.02, 0.0, 0.3, max_epochs=30, max_cuts=0)
    best = fit_network(
        net, learned, held, features, benchmark, schedule,
        held_known=held_known, key=key, progress=record,
    )  # fmt: skip
    known = np.full(40, held_known)
    q = expit(predicted_logits(best, np.arange(40), known, features, benchmark))
    q, y = q[held.models, held.items], np.asarray(held.share)
    losses = -(y * np.log(q) + (1 - y) * np.log1p(-q))
    kept = np.average(losses, weights=held.weight)
    assert kept == pytest.approx(min(record.losses), rel=1e-4)
    assert kept < record.losses[-1] * (1 - 1e-3)


@pytest.mark.parametrize("validation", ["cells", "models"])
def test_models_without_responses_are_one_unknown_model(rng, key, validation):
    table = binary(structured(rng, 60, 30), rng)
    train = table.hide(models=["m4"])
    config = dataclasses.replace(SMALL, validation=validation)
    found = neural_cf(train, ["new", "m4", "other", "m5"], key=key, config=config)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    if validation == "cells":  # unknown models are judged by the item means, and so are all
        assert np.abs(found[3] - found[0]).max() > 0.05
    # It is an average model: near the item means.
    assert np.abs(found[0] - item_means(train)[0]).mean() < 0.1


@pytest.mark.slow
def test_features_speak_for_cold_models(rng, key):
    kind = np.array(["chat", "base"])[np.arange(160) % 2]
    size = rng.standard_normal(160)
    direction = 1.5 * rng.standard_normal(60)
    logit = np.where(kind == "chat", 1.0, -1.0)[:, None] * direction + size[:, None]
    p = expit(logit + 0.3 * rng.standard_normal(logit.shape))
    table = binary(p, rng)
    cold = list(table.models[120:])
    train = table.select_models(table.models[:120])
    features = pd.DataFrame({"kind": kind, "size": size}, index=table.models)
    sizes = {name: getattr(SMALL, name) for name in ("product_size", "embedding_size")}
    config = dataclasses.replace(neural.COLD_START, **sizes, learning_rate=0.01)
    truth = table.dense[120:]
    without = log_loss(truth.ravel(), neural_cf(train, cold, key=key, config=config).ravel())
    found = neural_cf(train, cold, key=key, config=config, features=features)
    optimum = log_loss(truth.ravel(), p[120:].ravel())
    assert log_loss(truth.ravel(), found.ravel()) - optimum < 0.3 * (without - optimum)
    # A model that the features do not know gets neither kind nor size.
    strangers = neural_cf(train, ["x", "y"], key=key, config=config, features=features)
    np.testing.assert_array_equal(strangers[0], strangers[1])


def test_counts_are_learned_as_shares(rng, key):
    p = structured(rng, 80, 12)
    trials = rng.integers(20, 400, 12)
    successes = rng.binomial(trials, p)
    models = [f"m{u}" for u in range(80)]
    counts = pd.DataFrame(
        {
            "model": np.repeat(models, 12),
            "benchmark": np.tile([f"b{i}" for i in range(12)], 80),
            "successes": successes.ravel(),
            "trials": np.tile(trials, 80),
        }
    )
    hidden = rng.random(p.shape) < 0.15
    train = responses_from_frame(counts).hide(cells=hidden)
    config = dataclasses.replace(SMALL, max_epochs=60)
    found = neural_cf(train, models, key=key, config=config)
    assert np.abs(found - p)[hidden].mean() < 0.4 * np.abs(item_means(train) - p)[hidden].mean()


def test_a_cell_weighs_its_effective_trials():
    # n (1 + c) / (n + c) at c = 100: 1, 100 * 101 / 200 and nearly 101.
    found = neural.effective_trials(np.array([1.0, 100.0, 1e9]), 100.0)
    np.testing.assert_allclose(found, [1, 50.5, 101], rtol=1e-6)


def test_validation_holds_out_cells_or_whole_models(rng, key):
    cells = binary(structured(rng, 50, 20), rng).to_cells()
    for validation in ("cells", "models"):
        config = NeuralConfig(validation=validation, validation_share=0.1)
        learned, held = neural.split_cells(cells, config, key)
        assert sorted([*learned, *held]) == list(range(1000))
        shared = set(cells.rows[learned]) & set(cells.rows[held])
        if validation == "models":
            assert not shared
            assert len(set(cells.rows[held])) == 10  # a fifth, as there are few
        else:
            assert len(held) == 200
            assert len(shared) > 30


@pytest.mark.parametrize("library", ["flax", "optax"])
def test_a_missing_extra_is_named(monkeypatch, rng, key, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "bayes_lrmf.baselines.neumf")
    monkeypatch.delattr("bayes_lrmf.baselines.neumf")
    train = binary(structured(rng, 4, 4), rng)
    with pytest.raises(InputError, match=r"needs flax and optax; pip install 'bayes-lrmf\[neural]"):
        neural_cf(train, ["m0"], key=key)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden_sizes": ()}, "hidden_sizes is empty"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"model_dropout": 1.0}, "model_dropout is 1.0"),
        ({"validation": "cell"}, "did you mean 'cells'"),
    ],
)
def test_mistaken_settings_are_named(setting, message):
    with pytest.raises(InputError, match=message):
        NeuralConfig(**setting)


def test_one_model_cannot_be_held_out(rng, key):
    train = binary(structured(rng, 1, 30), rng)
    with pytest.raises(InputError, match="use validation='cells'"):
        neural_cf(train, ["m0"], key=key, config=NeuralConfig(validation="models"))


@pytest.mark.slow
@pytest.mark.real
def test_real_cells_are_predicted_as_well_as_by_matrix_factorisation(data_dir, rng, key):
    table = read_responses(data_dir / "oll_v1/responses.parquet")
    table = table.select_models(table.models[::5])
    hidden = (table.dense >= 0) & (rng.random(table.shape) < 0.1)
    train, spec = table.hide(cells=hidden), read_spec("mf")
    posterior = fit_map(make_design(train, spec, lineage=None), spec, key=key)
    mf = posterior_forecast(posterior, list(table.models), key=key).probabilities
    found = neural_cf(train, list(table.models), key=key)
    truth = table.dense[hidden]
    assert log_loss(truth, found[hidden]) < 1.02 * log_loss(truth, mf[hidden])
