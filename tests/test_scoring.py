"""Scores of forecasts: sums by hand, scikit-learn, scoringrules and the tables of predictions."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import scoringrules
import sklearn.metrics

from bayes_lrmf import metrics
from bayes_lrmf.checks import InputError
from bayes_lrmf.comparison import bootstrap_difference, paired_difference
from bayes_lrmf.design import make_design
from bayes_lrmf.forecast import Forecast, point_forecast, posterior_forecast
from bayes_lrmf.holdouts import Split, families, hold_out_cells, hold_out_cold
from bayes_lrmf.inference import fit_map, fit_svi
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.predict import ScoreDraws, predict_benchmarks, predict_items
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.scoring import benchmark_scores, mean_over_benchmarks, per_model, score
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

INTERVALS = [f"{what}_{q}" for q in (50, 80, 90, 95) for what in ("coverage", "width")]
INTERVALS += ["crps", "interval_score_90"]


def binary_table(rng, n_models=30, n_items=80, density=0.9):
    """Return a 0/1 table of two benchmarks, `x` with three quarters of the items."""
    values = (rng.random((n_models, n_items)) < rng.uniform(0.2, 0.8, (n_models, 1))) * 1.0
    values[rng.random(values.shape) > density] = np.nan
    columns = [f"{'x' if i < 0.75 * n_items else 'y'}:{i}" for i in range(n_items)]
    return responses_from_frame(
        pd.DataFrame(values, columns=columns).assign(model=[f"m{i:02}" for i in range(n_models)])
    )


def count_table(rng, n_models=12):
    trials = np.tile([40, 25, 300], (n_models, 1))
    right = rng.binomial(trials, rng.uniform(0.2, 0.8, (n_models, 1)))
    return responses_from_frame(
        pd.DataFrame(
            {
                "model": np.repeat([f"m{i:02}" for i in range(n_models)], 3),
                "benchmark": ["x", "y", "z"] * n_models,
                "successes": right.ravel(),
                "trials": trials.ravel(),
            }
        )
    )


def guess(split, rng):
    p = rng.uniform(0.05, 0.95, (len(split.models), split.train.n_items))
    return point_forecast(p, split.train, split.models), p


def drawn(split, p, rng, n_draws=60):
    """Return a forecast with draws around the point forecast of `p`."""
    point = point_forecast(p, split.train, split.models)
    noise = rng.normal(0, 0.1, (n_draws, *point.means.shape))
    old = point.scores
    draws = ScoreDraws(
        old.models,
        old.benchmarks,
        np.clip(point.means + noise, 0, 1).astype(np.float32),
        old.n_items,
        old.n_observed,
        "predictive",
    )
    return Forecast(point.items, p, draws)


def own_family(split):
    return {model: i for i, model in enumerate(split.models)}


def test_scores_of_answers_equal_scikit_learn(rng):
    split = hold_out_cells(binary_table(rng), Lineage.empty(), seed=0, density=0.4)
    forecast, p = guess(split, rng)
    found = score(forecast, split, own_family(split))
    frame = split.test.to_frame()
    row = frame["model"].map({m: i for i, m in enumerate(split.models)})
    col = frame["item"].astype(int)
    y, q = frame["successes"].to_numpy(), p[row, col]
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, q))
    assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(y, q))
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, q))
    assert found["accuracy"] == sklearn.metrics.accuracy_score(y, q >= 0.5)
    assert found["ece"] == pytest.approx(metrics.ece(y, q))
    assert all(np.isnan(found[name]) for name in INTERVALS)


def test_counts_score_as_their_trials(rng):
    split = hold_out_cells(count_table(rng), Lineage.empty(), seed=0, density=0.4)
    forecast, p = guess(split, rng)
    found = score(forecast, split, own_family(split))
    frame = split.test.to_frame()
    row = frame["model"].map({m: i for i, m in enumerate(split.models)})
    q = p[row, frame["benchmark"].map({"x": 0, "y": 1, "z": 2})]
    k, n = frame["successes"].to_numpy(int), frame["trials"].to_numpy(int)
    y = np.concatenate([np.r_[np.ones(a), np.zeros(b - a)] for a, b in zip(k, n, strict=True)])
    q = np.repeat(q, n)
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, q))
    assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(y, q))
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, q))
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, q >= 0.5))
    assert found["ece"] == pytest.approx(metrics.ece(y, q))


def pairs_by_hand(split, forecast):
    """Return one line per scored pair: the observed score over all responses, and the guess."""
    frame = split.truth.to_frame().groupby(["model", "benchmark"])[["successes", "trials"]].sum()
    train = split.train.to_frame().groupby(["model", "benchmark"])["trials"].sum()
    frame["seen"] = train.reindex(frame.index).fillna(0)
    names = [list(forecast.models), split.test.benchmarks]
    means = pd.Series(forecast.means.ravel(), index=pd.MultiIndex.from_product(names))
    frame["guess"] = means.reindex(frame.index)
    frame = frame[(frame["trials"] >= 20) & (frame["seen"] < frame["trials"])]
    frame["score"] = frame["successes"] / frame["trials"]
    return frame.reset_index()


@pytest.mark.parametrize("make", [binary_table, count_table])
@pytest.mark.parametrize("density", [0.1, 0.4])
def test_benchmark_scores_by_hand(make, density, rng):
    # At most 30 cells are scored as responses, but benchmark scores count all that is known.
    split = hold_out_cells(make(rng), Lineage.empty(), seed=0, density=density, at_most=30)
    forecast, _ = guess(split, rng)
    kin = pd.Series(np.arange(len(split.models)) // 3, index=list(split.models))
    found = score(forecast, split, kin)
    pairs = pairs_by_hand(split, forecast)
    by_benchmark = [part for _, part in pairs.groupby("benchmark")]
    assert len(by_benchmark) > 1
    assert all(len(part) >= 3 for part in by_benchmark)
    r = [scipy.stats.pearsonr(part["score"], part["guess"])[0] for part in by_benchmark]
    rank = [scipy.stats.spearmanr(part["score"], part["guess"])[0] for part in by_benchmark]
    within = []
    for part in by_benchmark:
        group = part.groupby(part["model"].map(kin))
        part = part[group["model"].transform("size") > 1]
        group = part.groupby(part["model"].map(kin))[["score", "guess"]]
        within.append((part[["score", "guess"]] - group.transform("mean")).corr().iloc[0, 1])
    assert found["pearson"] == pytest.approx(np.mean(r), abs=1e-5)
    assert found["pearson_within"] == pytest.approx(np.mean(within), abs=1e-5)
    assert found["spearman"] == pytest.approx(np.mean(rank), abs=1e-5)
    pooled = scipy.stats.pearsonr(pairs["score"], pairs["guess"])[0]
    assert found["pearson_pooled"] == pytest.approx(pooled, abs=1e-5)
    assert found["mae"] == pytest.approx((pairs["score"] - pairs["guess"]).abs().mean(), abs=1e-6)


def test_pairs_that_are_known_or_small_are_not_scored(rng):
    responses = count_table(rng)
    # All of y and, but for two models, of z are known; x has fewer than 20 trials in one.
    cells = responses.to_cells()
    small = responses_from_frame(
        responses.to_frame().assign(
            successes=np.where(cells.rows * 3 + cells.cols == 0, 5, cells.successes),
            trials=np.where(cells.rows * 3 + cells.cols == 0, 19, cells.trials),
        )
    )
    held = (cells.cols == 0) | ((cells.cols == 2) & (cells.rows < 2))
    split = Split(
        "by hand",
        0,
        small.hide(cells=(cells.rows[held], cells.cols[held])),
        small.hide(cells=(cells.rows[~held], cells.cols[~held])),
        small,
    )
    forecast, _ = guess(split, rng)
    observed, predicted = benchmark_scores(forecast, split)
    scored = ~np.isnan(observed)
    np.testing.assert_array_equal(scored, ~np.isnan(predicted))
    np.testing.assert_array_equal(scored[:, 0], [False] + [True] * 11)
    assert not scored[:, 1:].any()
    whole = drawn(split, forecast.probabilities, rng)
    # One pair is held out and run in full but small, one is not run in full.
    lower, upper = whole.intervals(0.9)
    y = (small.totals()[0] / small.totals()[1]).astype(np.float32)
    pairs = [(u, 0) for u in range(1, 12)] + [(0, 2), (1, 2)]
    inside = [lower[u, b] <= y[u, b] <= upper[u, b] for u, b in pairs]
    assert score(whole, split, own_family(split))["coverage_90"] == np.mean(inside)


def test_constant_forecasts_have_no_correlation(rng):
    split = hold_out_cells(binary_table(rng), Lineage.empty(), seed=0, density=0.1)
    p = np.full((len(split.models), split.train.n_items), 0.3)
    nothing = split.train.hide(models=split.train.models)
    forecast = point_forecast(p, nothing, split.models)
    found = score(forecast, split, own_family(split))
    for name in ("pearson", "pearson_within", "spearman"):
        assert np.isnan(found[name])
    # Rounding of float32 is no order.
    jitter = rng.choice([-1e-8, 0, 1e-8], forecast.scores.scores.shape)
    object.__setattr__(forecast.scores, "scores", forecast.scores.scores + jitter)
    assert np.isnan(score(forecast, split, own_family(split))["spearman"])


@pytest.mark.parametrize("make", [binary_table, count_table])
def test_interval_scores_by_hand_and_by_scoringrules(make, rng):
    responses = make(rng, density=1.0) if make is binary_table else make(rng)
    split = hold_out_cells(responses, Lineage.empty(), seed=0, density=0.3)
    p = rng.uniform(0.1, 0.9, (len(split.models), split.train.n_items))
    forecast = drawn(split, p, rng)
    found = score(forecast, split, own_family(split))
    frame = pairs_by_hand(split, forecast)
    row = frame["model"].map({m: i for i, m in enumerate(forecast.models)}).to_numpy()
    col = frame["benchmark"].map({b: i for i, b in enumerate(split.test.benchmarks)}).to_numpy()
    y, draws = frame["score"].to_numpy(), forecast.scores.scores[:, row, col].astype(float)
    for q in (0.5, 0.8, 0.9, 0.95):
        lower, upper = equal_tailed(draws, q)
        assert found[f"coverage_{100 * q:.0f}"] == np.mean((lower <= y) & (y <= upper))
        assert found[f"width_{100 * q:.0f}"] == pytest.approx(np.mean(upper - lower), rel=1e-5)
        if q == 0.9:
            expected = scoringrules.interval_score(y, lower, upper, 0.1).mean()
            assert found["interval_score_90"] == pytest.approx(expected, rel=1e-5)
    expected = scoringrules.crps_ensemble(y, draws, m_axis=0, estimator="fair").mean()
    assert found["crps"] == pytest.approx(expected, rel=1e-5)


def test_an_interval_that_ends_at_the_score_holds_it(rng):
    # 1/3 and the like are no float32: each is below or above its double.
    split = hold_out_cells(binary_table(rng, density=1.0), Lineage.empty(), seed=0, density=0.1)
    successes, trials = split.truth.totals()
    sure = ScoreDraws(
        np.array(split.models, object),
        split.test.benchmarks,
        np.repeat((successes / trials)[None].astype(np.float32), 5, axis=0),
        trials.astype(np.int64),
        np.zeros_like(trials, np.int64),
        "predictive",
    )
    p = np.full((len(split.models), split.test.n_items), 0.5)
    found = score(Forecast(split.test.items, p, sure), split, own_family(split))
    assert found["coverage_50"] == 1
    assert found["crps"] == found["interval_score_90"] == 0


def test_per_model_losses_add_up_to_the_scores(rng):
    for make in (binary_table, count_table):
        split = hold_out_cells(make(rng), Lineage.empty(), seed=0, density=0.2)
        forecast, _ = guess(split, rng)
        found, table = score(forecast, split, own_family(split)), per_model(forecast, split)
        assert list(table.index) == list(split.models)
        for name in ("log_loss", "brier"):
            mean = np.average(table[name], weights=table["trials"])
            assert mean == pytest.approx(found[name])
        errors = table.filter(like="abs_error:")
        assert list(errors.columns) == [f"abs_error:{b}" for b in split.test.benchmarks]
        assert np.nanmean(errors) == pytest.approx(found["mae"])
        pd.testing.assert_series_equal(table["abs_error"], errors.mean(axis=1), check_names=False)
        total = split.test.to_frame().groupby("model")["trials"].sum()
        np.testing.assert_array_equal(table["trials"], total[list(split.models)])


def test_the_better_of_two_methods_is_found(rng):
    spec = read_spec("laplacian")
    data = simulate(spec, key=jax.random.key(2), n_models=80, n_items=80, density=1.0)
    split = hold_out_cells(data.responses, data.lineage, seed=0, density=0.3)
    truth = data.truth.pivot_table("probability", "model", ["benchmark", "item"], sort=False)
    items = pd.MultiIndex.from_frame(split.train.items[["benchmark", "item"]])
    good = truth.loc[list(split.models), items].to_numpy()
    methods = [
        point_forecast(p, split.train, split.models)
        for p in (good, np.clip(good + rng.normal(0, 0.3, good.shape), 0.01, 0.99))
    ]
    label = families(list(data.responses.models), data.lineage)[list(split.models)]
    good_losses, bad_losses = (per_model(m, split)["log_loss"] for m in methods)
    # All simulated models may be of one family: then models are the groups.
    groups = np.arange(len(label)) if label.nunique() < 5 else label
    assert paired_difference(good_losses, bad_losses, groups, seed=0).upper < 0
    good_scores, bad_scores = (benchmark_scores(m, split) for m in methods)
    found = bootstrap_difference(
        lambda y, p: mean_over_benchmarks(metrics.pearson, y, p),
        good_scores,
        bad_scores,
        groups,
        seed=0,
        n_boot=200,
    )
    both = [score(m, split, label)["pearson"] for m in methods]
    assert found.estimate == pytest.approx(both[0] - both[1])


def test_what_does_not_fit_the_split_is_refused(rng):
    split = hold_out_cells(binary_table(rng), Lineage.empty(), seed=0, density=0.2)
    forecast, p = guess(split, rng)
    known = own_family(split)
    less = point_forecast(p[1:], split.train, split.models[1:])
    with pytest.raises(InputError, match="lacks 1 models, such as 'm00'"):
        score(less, split, known)
    other = point_forecast(p[:, ::-1], split.train.select_items(range(80)[::-1]), split.models)
    with pytest.raises(InputError, match="about other items"):
        per_model(other, split)
    with pytest.raises(InputError, match="'m29' has no family"):
        score(forecast, split, dict.fromkeys(split.models[:-1], 0))
    # Others, and another order, do no harm.
    order = [*split.models[::-1], "other"]
    shuffled = point_forecast(np.vstack([p[::-1], p[:1]]), split.train, order)
    assert score(shuffled, split, known) == pytest.approx(
        score(forecast, split, known), nan_ok=True
    )


def cold_fit(fit, key, **options):
    spec = read_spec("laplacian")
    data = simulate(
        spec, key=key, n_models=30, n_items=60, n_benchmarks=2, density=1.0, cold_share=0.0
    )
    split = hold_out_cold(data.responses, data.lineage, seed=0)
    design = make_design(split.train, spec, lineage=data.lineage)
    assert not set(split.models) & set(design.responses.models)
    return data, split, fit(design, spec, key=key, **options)


def test_scores_of_a_fit_are_those_of_its_tables(key):
    data, split, fitted = cold_fit(fit_map, key, max_iterations=30)
    models = list(split.models)
    forecast = posterior_forecast(fitted, models, key=key)
    found = score(forecast, split, families(list(data.responses.models), data.lineage))
    y = split.test.dense.astype(float)
    p = predict_items(fitted, key=key, models=models)["mean"].to_numpy().reshape(y.shape)
    assert found["log_loss"] == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))
    means = predict_benchmarks(fitted, key=key, models=models)["mean"].to_numpy().reshape(-1, 2)
    at = data.responses.benchmark_index
    scores = np.stack([y[:, at == b].mean(1) for b in (0, 1)], axis=1)
    r = [np.corrcoef(scores[:, b], means[:, b])[0, 1] for b in (0, 1)]
    assert found["pearson"] == pytest.approx(np.mean(r), abs=1e-5)
    assert found["mae"] == pytest.approx(np.abs(scores - means).mean(), abs=1e-6)
    assert np.isnan(found["coverage_90"])


@pytest.mark.slow
def test_coverage_counts_scores_inside(key):
    data, split, fitted = cold_fit(fit_svi, key, max_steps=400)
    models = list(split.models)
    forecast = posterior_forecast(fitted, models, key=key, n_draws=100)
    found = score(forecast, split, families(list(data.responses.models), data.lineage))
    y = pd.DataFrame(split.test.dense).T.groupby(data.responses.benchmark_index).mean().T
    y = y.to_numpy().ravel()
    for ci_prob in (0.5, 0.9):
        rows = predict_benchmarks(fitted, key=key, models=models, ci_prob=ci_prob, n_draws=100)
        inside = (rows["lower"] <= y) & (y <= rows["upper"])
        assert found[f"coverage_{100 * ci_prob:.0f}"] == pytest.approx(inside.mean(), abs=1e-6)
    assert found["width_50"] < found["width_90"] < found["width_95"]
