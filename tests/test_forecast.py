"""Forecasts by hand."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.forecast import point_forecast, posterior_forecast
from bayes_lrmf.inference import fit_map
from bayes_lrmf.predict import predict_benchmarks
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


def test_scores_of_a_point_count_what_was_seen():
    train = responses_from_frame(
        pd.DataFrame({"model": ["a", "b"], "x:1": [1, 0], "x:2": [None, 1], "y:1": [0, 1]})
    )
    forecast = point_forecast(np.full((2, 3), 0.25), train, ["a", "new"])
    np.testing.assert_allclose(forecast.means, [[(1 + 0.25) / 2, 0], [0.25, 0.25]])
    np.testing.assert_array_equal(forecast.scores.n_observed, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(forecast.scores.n_items, [[2, 1], [2, 1]])
    with pytest.raises(InputError, match="no intervals"):
        forecast.intervals(0.9)


def test_scores_of_counts():
    counts = pd.DataFrame(
        {"model": ["a", "b"], "benchmark": "x", "successes": [3, 8], "trials": [5, 20]}
    )
    forecast = point_forecast(np.array([[0.5]]), responses_from_frame(counts), ["a"])
    assert forecast.means[0, 0] == pytest.approx((3 + 0.5 * 15) / 20)


def test_posterior_and_its_table_say_the_same():
    spec = read_spec("laplacian")
    data = simulate(spec, key=jax.random.key(0), n_models=15, n_items=12, n_benchmarks=2)
    fitted = fit_map(make_design(data.responses, spec, lineage=data.lineage), spec,
                     key=jax.random.key(0), max_iterations=20)  # fmt: skip
    models = list(data.lineage.nodes[:5])
    forecast = posterior_forecast(fitted, models, key=jax.random.key(1))
    table = predict_benchmarks(fitted, key=jax.random.key(1), models=models)
    np.testing.assert_allclose(forecast.means.ravel(), table["mean"])
    # The probabilities alone give the same scores by another way.
    again = point_forecast(forecast.probabilities, data.responses, models)
    np.testing.assert_allclose(again.means, forecast.means, atol=1e-6)
