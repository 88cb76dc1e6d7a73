"""The scaling law: parameters recovered, the penalised fit against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from bayes_lrmf.baselines import fit_scaling_law, scaling_law
from bayes_lrmf.baselines.items import item_rates
from bayes_lrmf.baselines.levels import at_own_level
from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import responses_from_frame

INTERCEPT, SLOPE = np.array([-1.0, 0.5]), np.array([0.8, 0.3])


@pytest.fixture
def world(rng):
    """400 models of 20 families; sizes, family effects and 2,000 trials on two benchmarks."""
    names = np.array([f"m{u}" for u in range(400)])
    f = np.arange(400) % 20
    size = np.exp(rng.normal(1.5, 1, 400))
    effect = rng.normal(0, 0.5, (20, 2))
    effect -= effect.mean(0)
    p = expit(INTERCEPT + SLOPE * np.log(size)[:, None] + effect[f])
    counts = pd.DataFrame(
        {
            "model": names.repeat(2),
            "benchmark": np.tile(["x", "y"], 400),
            "successes": rng.binomial(2000, p).ravel(),
            "trials": 2000,
        }
    )
    features = pd.DataFrame({"params_b": size}, index=names)
    family = {name: f"f{k:02}" for name, k in zip(names, f, strict=True)}
    return responses_from_frame(counts), features, family, effect, p


def test_simulated_parameters_are_recovered(world):
    train, features, family, effect, _ = world
    law = fit_scaling_law(train, features, family, ridge=0.1)
    # 800,000 trials per benchmark: standard errors of slopes are about 0.003, of effects 0.015.
    np.testing.assert_allclose(law.slope, SLOPE, atol=0.015)
    np.testing.assert_allclose(law.intercept, INTERCEPT, atol=0.03)
    np.testing.assert_allclose(law.effect, effect, atol=0.07)


def test_penalised_fit_against_scikit_learn(world):
    train, features, family, _, _ = world
    few = train.select_models(train.models[:60])
    law = fit_scaling_law(few, features, family, ridge=2.0, overdispersion=0.1)
    successes, trials = few.totals()
    s, w = (successes + 0.5) / (trials + 1), trials / (1 + (trials - 1) * 0.1)
    x = np.log(features["params_b"].to_numpy()[:60])
    far = 1e4  # a column this long bears next to no penalty
    columns = np.column_stack([far * (x - x.mean()), np.eye(20)[np.arange(60) % 20]])
    sklearn = LogisticRegression(C=1 / 2.0, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    for b in range(2):
        weights = np.concatenate([w[:, b] * s[:, b], w[:, b] * (1 - s[:, b])])
        sklearn.fit(np.tile(columns, (2, 1)), np.repeat([1, 0], 60), sample_weight=weights)
        np.testing.assert_allclose(law.effect[:, b], sklearn.coef_[0, 1:], atol=1e-5)
        assert law.slope[b] == pytest.approx(far * sklearn.coef_[0, 0], abs=1e-5)
        at_mean = law.intercept[b] + law.slope[b] * x.mean()
        assert at_mean == pytest.approx(sklearn.intercept_[0], abs=1e-5)


def test_scores_of_unknown_size_and_family(world):
    train, features, family, _, _ = world
    law = fit_scaling_law(train, features, family)
    features = pd.DataFrame({"params_b": [np.nan, np.nan, 20, 0]}, index=["n1", "n2", "n3", "n4"])
    scores = law.scores(
        ["n1", "n2", "n3", "n4", "n5"], features, {"n1": "f03", "n3": "new", "n5": "f03"}
    )
    mean = law.mean_size[3]
    kin = expit(law.intercept + law.slope * mean + law.effect[3])
    nobody = expit(law.intercept + law.slope * law.overall_size)
    large = expit(law.intercept + law.slope * np.log(20))
    np.testing.assert_allclose(scores, [kin, nobody, large, nobody, kin])
    sizes = np.log(world[1]["params_b"].to_numpy())
    assert mean == pytest.approx(sizes[3::20].mean())
    assert law.overall_size == pytest.approx(sizes.mean())


@pytest.fixture
def small():
    return responses_from_frame(
        pd.DataFrame(
            {
                "model": ["a", "b", "c", "d"],
                "x:1": [1, 1, 1, 0],
                "x:2": [0, 1, None, 0],
                "x:3": [0, 0, 0, 0],
                "y:1": [1, 0, 1, None],
            }
        )
    )


def test_items_average_to_the_law(small):
    features = pd.DataFrame({"params_b": [1.0, 3, 7, 70]}, index=["a", "b", "c", "cold"])
    family = {"a": "a", "b": "b", "c": "a", "cold": "a"}
    p = scaling_law(small, ["cold", "a"], features, family)
    law = fit_scaling_law(small, features, family)
    expected = law.scores(["cold", "a"], features, family)
    np.testing.assert_allclose([p[0, :3].mean(), p[0, 3]], expected[0], rtol=1e-6)
    shift = logit(p[0, :3]) - logit(item_rates(small)[:3])
    np.testing.assert_allclose(shift, shift[0], rtol=1e-6)
    # A model with responses keeps that, moved to its own level.
    alike = features.assign(params_b=features["params_b"].where(features.index != "cold", 1.0))
    before = scaling_law(small, ["cold"], alike, family)
    own = [np.array([[1.0, 0, 0, 1]]), np.ones((1, 4))]
    np.testing.assert_allclose(
        p[1:], at_own_level(before, *own, small.benchmark_index, 1.0), atol=1e-6
    )
    assert ((p > 0) & (p < 1)).all()


def test_without_any_size_there_is_no_slope(small):
    law = fit_scaling_law(small, pd.DataFrame({"params_b": []}, dtype=float), {})
    np.testing.assert_array_equal(law.slope, 0)
    assert np.isfinite(law.effect).all()


def test_features_are_checked(small):
    with pytest.raises(InputError, match=r"unknown column 'params_b'; did you mean 'params'"):
        scaling_law(small, ["a"], pd.DataFrame({"params": [1.0]}, index=["a"]), {})
    twice = pd.DataFrame({"params_b": [1.0, 2.0]}, index=["a", "a"])
    with pytest.raises(InputError, match="model 'a' stands twice"):
        scaling_law(small, ["a"], twice, {})
    with pytest.raises(InputError, match="overdispersion is 2"):
        scaling_law(small, ["a"], twice[:1], {}, overdispersion=2)
