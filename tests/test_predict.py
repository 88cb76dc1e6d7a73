"""Predictions: finite-population scores, joint draws, cold starts, and the fixed columns."""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats

from bayes_lrmf import predict as predictions
from bayes_lrmf.cell_draws import cell_probabilities
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.draws import rows_and_columns
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.svi import fit_svi
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.posterior import DrawsState
from bayes_lrmf.predict import (
    ScoreDraws,
    _moments,
    predict,
    predict_benchmarks,
    predict_items,
    predict_ranks,
    score_draws,
    summarised,
)
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

KEY = jax.random.key(11)


# Four draws of three models on two benchmarks, with ties; means over benchmarks are exact.
FOUR = ScoreDraws(
    models=np.array(["a", "b", "c"], dtype=object),
    benchmarks=np.array(["x", "y"], dtype=object),
    scores=np.array(
        [
            [[0.5, 0.25], [0.5, 0.75], [0.25, 0.0]],
            [[0.75, 0.5], [0.5, 0.5], [0.25, 1.0]],
            [[0.25, 0.5], [0.5, 0.25], [0.0, 0.25]],
            [[1.0, 0.75], [0.25, 0.25], [0.5, 0.5]],
        ],
        np.float32,
    ),
    n_items=np.full((3, 2), 4),
    n_observed=np.array([[4, 0], [1, 2], [0, 0]]),
    kind="predictive",
)


def test_probabilities_of_four_draws_by_hand():
    # a against b: x is tied, won, lost, won; y is lost, tied, won, won.
    assert list(FOUR.probability_greater("a", "b")) == [2.5 / 4, 2.5 / 4]
    assert list(FOUR.probability_greater("b", "a")) == [1.5 / 4, 1.5 / 4]
    # Above is strictly above.
    assert list(FOUR.probability_above("a", 0.5)) == [0.5, 0.25]
    assert list(FOUR.probability_above("c", 0.25)) == [0.25, 0.5]
    # Who is best with others shares that with them.
    assert list(FOUR.probability_best("a", ["b", "c"])) == [2.5 / 4, 0.5]
    assert list(FOUR.probability_best("b", ["a", "c"])) == [1.5 / 4, 0.25]
    assert list(FOUR.probability_best("a", ["a", "a"])) == [1 / 3, 1 / 3]
    assert list(FOUR.probability_best("a", ["b"]).index) == ["x", "y"]
    np.testing.assert_array_equal(FOUR.of("b")[:, 1], [0.75, 0.5, 0.25, 0.25])


def test_ranks_of_four_draws_by_hand(monkeypatch):
    scores, names = FOUR.with_average()
    assert list(names) == ["x", "y", "average"]
    np.testing.assert_array_equal(scores[0, :, 2], [0.375, 0.625, 0.125])
    expected = np.array([scipy.stats.rankdata(-draw, axis=0) for draw in scores])
    np.testing.assert_array_equal(FOUR.ranks(), expected)
    np.testing.assert_array_equal(FOUR.ranks()[0, :, 0], [1.5, 1.5, 3])
    monkeypatch.setattr(predictions, "score_draws", lambda *_, **__: FOUR)
    table = predict_ranks(SimpleNamespace(is_point=False), key=KEY, ci_prob=0.5)
    assert list(table) == [
        "model", "benchmark", "mean", "sd", "lower", "upper", "probability_first", "n_models",
        "kind",
    ]  # fmt: skip
    assert list(table["model"]) == [m for m in "abc" for _ in range(3)]
    assert list(table["benchmark"]) == ["x", "y", "average"] * 3
    first = table.set_index(["model", "benchmark"])["probability_first"]
    # On x draw one is shared by a and b; so are draws two and three of the average.
    assert list(first["a"]) == [2.5 / 4, 0.5, 0.5]
    assert list(first["b"]) == [1.5 / 4, 0.25, 1.5 / 4]
    assert list(first["c"]) == [0.0, 0.25, 0.5 / 4]
    np.testing.assert_allclose(table["mean"], expected.mean(0).ravel())
    np.testing.assert_allclose(table["lower"], equal_tailed(expected, 0.5)[0].ravel())
    assert set(table["n_models"]) == {3}


def test_benchmark_table_of_four_draws_by_hand(monkeypatch):
    monkeypatch.setattr(predictions, "score_draws", lambda *_, **__: FOUR)
    table = predict_benchmarks(SimpleNamespace(is_point=False), key=KEY, ci_prob=0.5)
    assert list(table["model"]) == ["a", "a", "b", "b", "c", "c"]
    assert list(table["benchmark"]) == ["x", "y"] * 3
    np.testing.assert_allclose(table["mean"][:2], [0.625, 0.5])
    np.testing.assert_allclose(table["sd"][:2], scipy.stats.tstd(FOUR.scores[:, 0], axis=0))
    np.testing.assert_allclose(table["upper"][:2], equal_tailed(FOUR.scores[:, 0], 0.5)[1])
    assert list(table["n_observed"]) == [4, 0, 1, 2, 0, 0]
    assert set(table["n_items"]) == {4}


def test_ends_of_intervals_are_fractions_of_items():
    scores = np.array([1 / 3, 0.96, 0.1234567], np.float32)[None, None].repeat(5, axis=0)
    counted = np.array([[3, 50, 7]])
    draws = ScoreDraws(
        np.array(["a"], object), np.array(["x", "y", "z"], object), scores, counted, 0 * counted,
        "predictive",
    )  # fmt: skip
    for end in draws.intervals(0.9):
        # No draw of the third is one: expectations and averages stay as they are.
        assert list(end[0]) == [1 / 3, 0.96, float(np.float32(0.1234567))]


def test_ends_that_are_promised_hold_both():
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    scores = np.repeat(values, [5, 25, 70, 70, 25, 5])[:, None, None]
    counted = np.array([[10]])
    one = ScoreDraws(
        np.array(["a"], object), np.array(["x"], object), scores, counted, 0 * counted, "conformal"
    )
    np.testing.assert_allclose(np.ravel(one.intervals(0.8)), [0.1, 0.4])
    other = dataclasses.replace(one, kind="predictive")
    np.testing.assert_allclose(np.ravel(other.intervals(0.8)), [0.2, 0.3])


def test_summary_of_draws_and_of_a_point():
    draws = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [6.0, 5.0]], np.float32)
    summary = summarised(draws, 0.8, is_point=False)
    np.testing.assert_allclose(summary["mean"], [3, 5])
    np.testing.assert_allclose(summary["sd"], [(14 / 3) ** 0.5, 0])
    # Of four draws the outermost leave a fifth of further ones at either side.
    np.testing.assert_array_equal(summary["lower"], [1, 5])
    np.testing.assert_array_equal(summary["upper"], [6, 5])
    assert all(value.dtype == np.float64 for value in summary.values())
    point = summarised(draws[:1], 0.8, is_point=True)
    np.testing.assert_array_equal(point["mean"], [1, 5])
    assert all(np.isnan(point[name]).all() for name in ("sd", "lower", "upper"))


def test_moments_of_trials_left_are_those_of_beta_binomials():
    rng = np.random.default_rng(3)
    rows, cols = rng.normal(size=(2, 1, 3)), rng.normal(size=(2, 1, 4))
    left = np.array([[0, 1, 7, 2], [3, 1, 0, 12], [1, 1, 1, 1]], float)
    seen, trials = np.array([[[0, 3, 0, 1]], [[2, 5, 0, 1]]], float)
    concentration = np.array([[9.0, 0.5, 2.0, 30.0], [1.0, 1.0, 4.0, 8.0]])
    noise = rng.normal(size=(2, 3, 4))
    mean, variance = _moments(rows, cols, seen, trials, left, 1 / (1 + concentration), noise)
    p = 1 / (1 + np.exp(-(rows[:, 0, :, None] * cols[:, 0, None, :] + noise)))
    c = np.broadcast_to(concentration[:, None], p.shape)
    # Beta and Binomial are conjugate.
    counts = scipy.stats.betabinom(left.astype(int), p * c + seen, (1 - p) * c + trials - seen)
    np.testing.assert_allclose(mean, counts.mean().sum(-1), rtol=1e-5)
    np.testing.assert_allclose(variance, counts.var().sum(-1), rtol=1e-5)


@pytest.fixture(scope="module")
def data():
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    return spec, simulate(spec, key=jax.random.key(2), n_models=24, n_items=40, n_benchmarks=2)


@pytest.fixture(scope="module")
def design(data):
    return make_design(data[1].responses, data[0], lineage=data[1].lineage)


@pytest.fixture(scope="module")
def gaussian(data, design):
    return fit_svi(design, data[0], key=KEY, max_steps=450)


@pytest.fixture(scope="module")
def point(data, design):
    return fit_map(design, data[0], key=KEY)


def test_columns_and_bounds_of_benchmark_table(gaussian, design):
    table = predict_benchmarks(gaussian, key=KEY, ci_prob=0.8)
    assert list(table) == [
        "model", "benchmark", "mean", "sd", "lower", "upper", "n_items", "n_observed", "kind",
    ]  # fmt: skip
    assert len(table) == len(design.models) * 2
    assert (table["kind"] == "predictive").all()
    assert (table["lower"] <= table["mean"]).all()
    assert (table["mean"] <= table["upper"]).all()
    assert table[["lower", "upper"]].min().min() >= 0
    assert table[["lower", "upper"]].max().max() <= 1
    cold = set(design.models) - set(design.responses.models)
    assert cold
    assert (table[table["model"].isin(cold)]["n_observed"] == 0).all()


def test_point_has_no_interval(point):
    table = predict(point, "benchmark", key=KEY)
    assert (table["kind"] == "point").all()
    assert table[["sd", "lower", "upper"]].isna().all().all()
    items = predict(point, "item", key=KEY)
    # The score's expectation: observed responses as they are, probabilities for the rest.
    items["value"] = items["observed"].fillna(items["mean"])
    by_hand = items.groupby(["model", "benchmark"], sort=False)["value"].mean()
    np.testing.assert_allclose(table["mean"], by_hand.to_numpy(), atol=1e-5)


def test_fully_observed_score_is_known_exactly(data, gaussian):
    spec, simulation = data
    truth = simulation.truth
    model = simulation.responses.models[0]
    whole = truth[truth["model"] == model]
    rest = simulation.responses.to_frame()
    frame = pd.concat(
        [rest[rest["model"] != model], whole.drop(columns="probability")], ignore_index=True
    )
    from bayes_lrmf.responses import responses_from_frame

    full = make_design(responses_from_frame(frame), spec, lineage=simulation.lineage)
    # Whatever the draws are.
    values = {name: v[None] for name, v in gaussian.draws(50, key=KEY).items()}
    drawn = dataclasses.replace(gaussian, design=full, state=DrawsState(values))
    table = predict_benchmarks(drawn, key=KEY, models=[model])
    score = whole.groupby("benchmark", sort=False)["successes"].mean()
    np.testing.assert_allclose(table["lower"], score.to_numpy(), atol=1e-6)
    np.testing.assert_allclose(table["upper"], score.to_numpy(), atol=1e-6)
    assert (table["n_observed"] == table["n_items"]).all()


def test_scores_agree_with_drawing_every_response(gaussian, design):
    model = design.models[-1]
    n_draws = 2000
    scores = score_draws(gaussian, key=KEY, models=[model], n_draws=n_draws).scores[:, 0]
    rng = np.random.default_rng(0)
    values = gaussian.draws(n_draws, key=KEY)
    rows, cols = rows_and_columns(gaussian, values, rng=rng)
    psi = np.einsum("dc,dci->di", rows[:, :, list(design.models).index(model)], cols)
    drawn = rng.random(psi.shape) < 1 / (1 + np.exp(-psi))
    for b in range(2):
        reference = drawn[:, design.benchmark_index == b].mean(1)
        assert scores[:, b].mean() == pytest.approx(reference.mean(), abs=0.02)
        assert scores[:, b].std() == pytest.approx(reference.std(), rel=0.1)
        for q in (0.05, 0.25, 0.75, 0.95):
            assert np.quantile(scores[:, b], q) == pytest.approx(
                np.quantile(reference, q), abs=0.051
            )


@pytest.fixture
def by_hand(monkeypatch):
    """Return a posterior of four draws for two models, on counts of two benchmarks, and its parts.

    The first model ran some of the trials, the second none.
    """
    rng = np.random.default_rng(7)
    successes = np.array([[1, 2, 0, 5, 0], [0] * 5], float)
    trials = np.array([[1, 3, 0, 8, 0], [0] * 5], float)
    items = pd.DataFrame(
        {"benchmark": list("xxxyy"), "item": list("abcde"), "trials": [1, 6, 2, 8, 9]}
    )
    models = np.array(["m", "n"], dtype=object)
    design = SimpleNamespace(
        models=models, items=items, n_items=5, benchmarks=np.array(["x", "y"], dtype=object),
        benchmark_index=np.array([0, 0, 0, 1, 1]),
        responses=SimpleNamespace(
            matrices=lambda names: [
                part[[list(models).index(name) for name in names]] for part in (successes, trials)
            ]
        ),
    )  # fmt: skip
    rows, cols = (rng.normal(size=(4, 2, n)).astype(np.float32) for n in (2, 5))
    parts = SimpleNamespace(
        successes=successes, trials=trials, full=items["trials"].to_numpy(float),
        psi=np.einsum("dcm,dci->dmi", rows, cols), values={}, noise_sd=None,
    )  # fmt: skip
    monkeypatch.setattr(
        predictions,
        "_prepared",
        lambda *_: (np.arange(2), rows, cols, parts.values, np.random.default_rng(5)),
    )
    monkeypatch.setattr(predictions, "noise_sd_of", lambda *_: parts.noise_sd)
    return SimpleNamespace(design=design, is_point=False, kind="predictive"), parts


def test_the_last_items_of_a_long_benchmark_are_drawn_one_by_one(monkeypatch):
    """An easy one and a hard one: .954 squared and .046 squared for one right."""
    n_draws, n_items = 4000, 80
    k = np.ones((1, n_items))
    k[0, -2:] = 0
    design = SimpleNamespace(
        models=np.array(["m"], object), n_items=n_items, benchmarks=np.array(["x"], object),
        items=pd.DataFrame({"benchmark": "x", "item": range(n_items), "trials": 1}),
        benchmark_index=np.zeros(n_items, int),
        responses=SimpleNamespace(matrices=lambda _: (k, k)),
    )  # fmt: skip
    cols = np.zeros((n_draws, 1, n_items), np.float32)
    cols[:, 0, -2:] = 3.0, -3.0
    rows = np.ones((n_draws, 1, 1), np.float32)
    told = np.arange(1), rows, cols, {}, np.random.default_rng(5)
    monkeypatch.setattr(predictions, "_prepared", lambda *_: told)
    monkeypatch.setattr(predictions, "noise_sd_of", lambda *_: None)
    posterior = SimpleNamespace(design=design, is_point=False, kind="predictive")
    right = np.rint(score_draws(posterior, key=KEY).scores.ravel() * n_items) - 78
    p = scipy.special.expit(3.0)
    expected = [p * (1 - p), p**2 + (1 - p) ** 2, p * (1 - p)]
    np.testing.assert_allclose([(right == n).mean() for n in range(3)], expected, atol=0.015)


def test_scores_are_what_was_seen_and_counts_of_what_is_left(by_hand, monkeypatch):
    posterior, parts = by_hand
    concentration = np.array([[9.0, 2.0], [1.0, 30.0], [4.0, 8.0], [0.5, 5.0]])
    parts.values = {"concentration": concentration}
    told = []

    def counts(mean, variance, n, rng):
        told.append((mean, variance, n))
        return np.full(mean.shape, 0.5, np.float32) * n

    monkeypatch.setattr(predictions, "successes_left", counts)
    monkeypatch.setattr(predictions, "_FEW_ITEMS", 0)
    # Four draws of three items: one model at once.
    monkeypatch.setattr(predictions, "_BLOCK_VALUES", 14)
    seen = []
    found = score_draws(posterior, key=KEY, progress=SimpleNamespace(update=seen.append))
    assert seen == [1, 2, 3, 4]
    left = parts.full - parts.trials
    calls = iter(told)
    for b, items in enumerate(([0, 1, 2], [3, 4])):
        for u in range(2):
            mean, variance, n = next(calls)
            p = scipy.special.expit(parts.psi[:, u, items])
            # A single trial has no over-dispersion.
            c = np.where(parts.full[items] > 1, concentration[:, b, None], 1e9)
            k, n_seen = parts.successes[u, items], parts.trials[u, items]
            drawn = scipy.stats.betabinom(
                left[u, items].astype(int), p * c + k, (1 - p) * c + n_seen - k
            )
            np.testing.assert_allclose(mean[:, 0], drawn.mean().sum(1), rtol=1e-5)
            np.testing.assert_allclose(variance[:, 0], drawn.var().sum(1), rtol=1e-5)
            assert n == left[u, items].sum()
            total = parts.full[items].sum()
            score = (parts.successes[u, items].sum() + 0.5 * n) / total
            np.testing.assert_allclose(found.scores[:, u, b], score[0], rtol=1e-6)
            assert found.n_items[u, b] == total
            assert found.n_observed[u, b] == parts.trials[u, items].sum()
    assert list(found.models) == ["m", "n"]
    assert found.kind == "predictive"


def test_more_trials_than_a_full_run_leave_none_of_the_item(by_hand, monkeypatch):
    posterior, parts = by_hand
    # Of the second item, which has 6 in full.
    parts.successes[0, 1], parts.trials[0, 1] = 7, 8
    left = []
    monkeypatch.setattr(predictions, "_FEW_ITEMS", 0)
    monkeypatch.setattr(
        predictions,
        "successes_left",
        lambda mean, _, n, __: left.append(n.tolist()) or np.zeros(mean.shape, np.float32),
    )
    found = score_draws(posterior, key=KEY)
    assert left[0] == [2, 9]
    np.testing.assert_allclose(found.scores[:, 0, 0], (1 + 7) / (1 + 8 + 2))
    assert (found.n_items[0, 0], found.n_observed[0, 0]) == (11, 9)


@pytest.mark.parametrize("few", [0, 1, 64])
@pytest.mark.parametrize("likelihood", ["binomial", "beta_binomial", "logit_normal"])
def test_scores_of_many_draws_have_the_moments_of_what_is_left(
    by_hand, monkeypatch, few, likelihood
):
    posterior, parts = by_hand
    n_draws = 20_000
    _, rows, cols, _, rng = predictions._prepared()
    many = [np.tile(part[:1], (n_draws, 1, 1)) for part in (rows, cols)]
    values = {}
    if likelihood == "beta_binomial":
        values["concentration"] = np.tile([[4.0, 9.0]], (n_draws, 1))
    if likelihood == "logit_normal":
        parts.noise_sd = np.tile(np.float32([[0, 0.6, 0.8, 0.5, 0.9]]), (n_draws, 1))
    monkeypatch.setattr(predictions, "_prepared", lambda *_: (np.arange(2), *many, values, rng))
    monkeypatch.setattr(predictions, "_FEW_ITEMS", few)
    found = score_draws(posterior, key=KEY).scores
    grid = np.linspace(-6, 6, 2001)
    for b, items in enumerate(([0, 1, 2], [3, 4])):
        for u in range(2):
            mean = parts.successes[u, items].sum()
            variance = 0.0
            for i in items:
                k, n, left = parts.successes[u, i], parts.trials[u, i], parts.full[i]
                left, p = left - n, scipy.special.expit(parts.psi[0, u, i])
                if left == 0:
                    continue
                if likelihood == "beta_binomial" and parts.full[i] > 1:
                    c = values["concentration"][0, b]
                    count = scipy.stats.betabinom(int(left), c * p + k, c * (1 - p) + n - k)
                    mean, variance = mean + count.mean(), variance + count.var()
                    continue
                noise = 0.0 if likelihood != "logit_normal" else parts.noise_sd[0, i] * grid
                at = scipy.special.expit(parts.psi[0, u, i] + noise)
                weight = np.exp(-(grid**2) / 2) * at**k * (1 - at) ** (n - k)
                weight /= weight.sum()
                first, second = (weight * at).sum(), (weight * at**2).sum()
                mean += left * first
                variance += left * (first - second) + left**2 * (second - first**2)
            total = parts.full[items].sum()
            own = found[:, u, b].astype(float) * total
            error = np.sqrt(variance / n_draws)
            assert own.mean() == pytest.approx(mean, abs=4 * error + 0.01 * np.sqrt(variance))
            assert own.std() == pytest.approx(np.sqrt(variance), rel=0.05, abs=1e-6)
            if few == 64:
                # Cells of many trials and noise are normal around a mode, the others are exact.
                assert own.std() == pytest.approx(np.sqrt(variance), rel=0.02, abs=1e-6)


def test_probabilities_of_items_know_what_their_cells_showed(by_hand):
    posterior, parts = by_hand
    parts.noise_sd = np.random.default_rng(8).uniform(0.5, 2, (4, 5)).astype(np.float32)
    rng = np.random.default_rng(5)
    p = cell_probabilities(parts.psi, parts.successes, parts.trials, parts.noise_sd, None, rng)
    table = predict_items(posterior, key=KEY, ci_prob=0.5)
    np.testing.assert_allclose(table["mean"], p.mean(0).ravel(), rtol=1e-5)
    np.testing.assert_allclose(table["upper"], equal_tailed(p, 0.5)[1].ravel(), rtol=1e-5)
    assert list(table["model"]) == ["m"] * 5 + ["n"] * 5
    assert list(table["item"]) == list("abcde") * 2
    assert set(table["kind"]) == {"credible"}
    np.testing.assert_allclose(table["observed"], [1, 2 / 3, np.nan, 5 / 8, *[np.nan] * 6])


def test_probabilities_of_items_vary_as_counts_are_over_dispersed(by_hand, monkeypatch):
    posterior, parts = by_hand
    _, rows, cols, _, rng = predictions._prepared()
    many = [np.tile(part[:1], (20_000, 1, 1)) for part in (rows, cols)]
    values = {"concentration": np.tile([[4.0, 9.0]], (20_000, 1))}
    monkeypatch.setattr(predictions, "_prepared", lambda *_: (np.arange(2), *many, values, rng))
    table = predict_items(posterior, key=KEY)
    p = scipy.special.expit(parts.psi[0]).ravel()
    k, n = parts.successes.ravel(), parts.trials.ravel()
    c = np.tile([np.inf, 4, 4, 9, 9], 2)
    for i in range(10):
        if np.isinf(c[i]):
            assert table["sd"][i] == pytest.approx(0, abs=1e-6)
            continue
        beta = scipy.stats.beta(c[i] * p[i] + k[i], c[i] * (1 - p[i]) + n[i] - k[i])
        assert table["mean"][i] == pytest.approx(beta.mean(), abs=0.01)
        assert table["sd"][i] == pytest.approx(beta.std(), rel=0.03)
    posterior.is_point = True
    point = predict_items(posterior, key=KEY)
    np.testing.assert_allclose(point["mean"], p, rtol=1e-5)


def test_predictions_are_silent_unless_asked_to_tell(by_hand, capsys):
    posterior, _ = by_hand
    predict_benchmarks(posterior, key=KEY)
    predict_items(posterior, key=KEY)
    assert capsys.readouterr().err == ""


def test_blocks_of_items_are_of_as_many_models_as_values_allow(by_hand, monkeypatch):
    posterior, _ = by_hand
    # Four draws of five items a model.
    for values, told in ((39, [1, 2]), (40, [2])):
        monkeypatch.setattr(predictions, "_BLOCK_VALUES", values)
        seen = []
        progress = SimpleNamespace(update=seen.append)
        predict_items(posterior, key=KEY, progress=progress)
        assert seen == told


def test_draws_do_not_change_and_are_themselves_alone():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FOUR.kind = "point"
    assert dataclasses.replace(FOUR) != FOUR


def test_children_without_results_lie_around_their_parents(gaussian, design):
    child, parent, strength = design.parents()
    assert len(child)
    values = gaussian.draws(4000, key=KEY)
    rows, _ = rows_and_columns(gaussian, values, rng=np.random.default_rng(1))
    node = child[0]
    mine = child == node
    total = strength[mine].sum()
    kappa = values["kappa"]
    expected = (rows[:, 0][:, parent[mine]] * strength[mine]).sum(1) / (total + kappa)
    residual = rows[:, 0, node] - expected
    log_scale = np.asarray(design.graph.log_determinant_and_scale(kappa)[1])
    spread = values["factor_sd"] / np.sqrt(np.exp(log_scale) * (total + kappa))
    standard = residual / spread
    assert abs(standard.mean()) < 0.06
    assert standard.std() == pytest.approx(1, abs=0.05)


def test_adding_an_unevaluated_child_changes_no_other_prediction(data, point):
    from bayes_lrmf.lineage import lineage_from_frame

    spec, simulation = data
    lineage = simulation.lineage
    edges = pd.DataFrame(
        {"child": lineage.nodes[lineage.child], "parent": lineage.nodes[lineage.parent],
         "relation": lineage.relation, "weight": lineage.weight}
    )  # fmt: skip
    new = {"child": "new", "parent": lineage.nodes[0], "relation": "finetune", "weight": 1.0}
    larger = lineage_from_frame(pd.concat([edges, pd.DataFrame([new])], ignore_index=True))
    again = fit_map(make_design(simulation.responses, spec, lineage=larger), spec, key=KEY)
    before = predict_benchmarks(point, key=KEY).set_index(["model", "benchmark"])["mean"]
    after = predict_benchmarks(again, key=KEY).set_index(["model", "benchmark"])["mean"]
    assert "new" in after.index.get_level_values(0)
    np.testing.assert_allclose(before, after.loc[before.index], atol=2e-3)


def test_ranks_are_ranks(gaussian, design):
    table = predict_ranks(gaussian, key=KEY)
    n = len(design.models)
    assert table["mean"].between(1, n).all()
    by_benchmark = table.groupby("benchmark")["mean"].mean()
    np.testing.assert_allclose(by_benchmark, (n + 1) / 2, rtol=1e-6)
    assert (table.groupby("benchmark")["probability_first"].sum() >= 1 - 1e-9).all()


def test_probabilities_from_joint_draws(gaussian, design):
    draws = score_draws(gaussian, key=KEY)
    a, b = design.models[:2]
    greater = draws.probability_greater(a, b)
    np.testing.assert_allclose(greater + draws.probability_greater(b, a), 1)
    assert (draws.probability_best(a, [b]) <= greater).all()
    assert (draws.probability_above(a, 0.0) >= draws.probability_above(a, 0.9)).all()
    np.testing.assert_array_equal(draws.probability_above(a, 1.0), 0)


def test_unknown_model_gets_the_nearest_name(point, design):
    with pytest.raises(InputError, match="did you mean"):
        predict_benchmarks(point, key=KEY, models=[design.models[0] + "x"])


def test_file_round_trip_gives_the_same_predictions(gaussian, point, tmp_path):
    for fitted in (gaussian, point):
        path = tmp_path / "post.nc"
        write_posterior(dataclasses.replace(fitted, seed=3), path)
        first = path.read_bytes()
        again = read_posterior(path)
        assert again.seed == 3
        assert again.record.message == fitted.record.message
        a, b = (predict_items(p, key=KEY, models=None) for p in (fitted, again))
        pd.testing.assert_frame_equal(a, b, atol=1e-5, check_exact=False)
        write_posterior(again, path)
        assert len(path.read_bytes()) == len(first)


def test_same_fit_gives_the_same_bytes(point, tmp_path):
    for name in ("a.nc", "b.nc"):
        write_posterior(point, tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_arviz_reads_the_file(gaussian, tmp_path):
    import arviz as az
    import xarray as xr

    write_posterior(gaussian, tmp_path / "post.nc")
    with xr.open_datatree(tmp_path / "post.nc", engine="h5netcdf") as tree:
        summary = az.summary(tree, var_names=["factor_sd", "kappa"])
        assert set(summary.index) == {"factor_sd", "kappa"}
        drawn = az.plot_trace(tree, var_names=["factor_sd", "kappa"], backend="none")
        assert {"factor_sd", "kappa"} <= set(drawn.viz["trace"].data_vars)
        with warnings.catch_warnings():
            # A few cells carry much of what is known of their model, and LOO says so.
            warnings.filterwarnings("ignore", message="Estimated shape parameter")
            loo = az.loo(tree)
        assert np.isfinite(loo.elpd)
    items = predict_items(gaussian, key=KEY)
    seen = items["observed"].notna()
    y, p = items["observed"][seen], items["mean"][seen]
    in_sample = (y * np.log(p) + (1 - y) * np.log(1 - p)).sum()
    # Leaving cells out costs something, but not everything.
    assert 2 * in_sample < loo.elpd < in_sample


def test_blocks_of_models_change_nothing(point, monkeypatch):
    seen = []
    progress = SimpleNamespace(update=seen.append)
    scores = predict_benchmarks(point, key=KEY, progress=progress)
    items = predict_items(point, key=KEY, progress=progress)
    n_models = len(point.design.models)
    assert seen == [n_models, 2 * n_models, n_models]
    # One draw of 20 items a benchmark, 40 in all: three models at once, then one.
    monkeypatch.setattr(predictions, "_BLOCK_VALUES", 79)
    seen.clear()
    pd.testing.assert_frame_equal(predict_benchmarks(point, key=KEY, progress=progress), scores)
    assert len(seen) == 2 * -(-n_models // 3)
    assert seen == sorted(seen)
    seen.clear()
    pd.testing.assert_frame_equal(predict_items(point, key=KEY, progress=progress), items)
    assert seen == list(range(1, n_models + 1))
    monkeypatch.setattr(predictions, "_BLOCK_VALUES", 1)
    pd.testing.assert_frame_equal(predict_items(point, key=KEY), items)


def test_item_tables_have_a_greatest_size(point, monkeypatch):
    models = list(point.design.models[:3])
    monkeypatch.setattr(predictions, "_chosen", lambda *_: range(20_000_001))
    single = SimpleNamespace(design=SimpleNamespace(items=["one"]))
    with pytest.raises(InputError, match="20,000,001 item predictions"):
        predict_items(single, key=KEY)
    monkeypatch.undo()
    monkeypatch.setattr(predictions, "_MOST_ITEM_ROWS", 120)
    assert len(predict_items(point, key=KEY, models=models)) == 120
    monkeypatch.setattr(predictions, "_MOST_ITEM_ROWS", 119)
    with pytest.raises(InputError, match="120 item predictions") as caught:
        predict_items(point, key=KEY, models=models)
    assert "--models" in str(caught.value)


def test_a_point_of_noisy_counts_has_no_luck_in_it():
    spec = dataclasses.replace(read_spec("laplacian"), likelihood="logit_normal", rank=1)
    data = simulate(spec, key=KEY, n_models=15, n_items=8, n_benchmarks=2, trials=40, density=0.6)
    design = make_design(data.responses, spec, lineage=data.lineage)
    point = fit_map(design, spec, key=KEY, max_iterations=40)
    for predicted in (predict_items, predict_benchmarks):
        a, b = (predicted(point, key=jax.random.key(seed)) for seed in (0, 1))
        np.testing.assert_array_equal(a["mean"], b["mean"])
