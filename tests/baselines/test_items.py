"""Rates of items by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.baselines import item_mean
from bayes_lrmf.baselines.items import fractions
from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import responses_from_frame

TABLE = pd.DataFrame(
    {"model": ["a", "b", "c"], "x:1": [1, 1, 1], "x:2": [0, 1, None], "y:1": [0, 0, 0]}
)


def test_rates_are_drawn_to_their_benchmark():
    p = item_mean(responses_from_frame(TABLE), ["c", "new"], pseudo_trials=2)
    x, y = (4 + 1) / (5 + 2), 1 / (3 + 2)
    expected = [(3 + 2 * x) / (3 + 2), (1 + 2 * x) / (2 + 2), 2 * y / (3 + 2)]
    np.testing.assert_allclose(p, [expected, expected])
    assert p.dtype == np.float64


def test_an_item_nobody_ran_has_the_rate_of_its_benchmark():
    train = responses_from_frame(TABLE)
    train = train.hide(cells=np.array([[False, True, False]] * 3))
    x = (3 + 0.5) / (3 + 1)
    assert item_mean(train, ["a"])[0, 1] == pytest.approx(x)


def test_counts_are_pooled_and_fractions_are_not():
    counts = pd.DataFrame(
        {"model": ["a", "b"], "benchmark": "x", "successes": [3, 10], "trials": [5, 20]}
    )
    train = responses_from_frame(counts)
    r = (13 + 0.5) / (25 + 1)
    assert item_mean(train, ["b"])[0, 0] == pytest.approx((13 + r) / 26)
    y, run = fractions(train, ["b", "new", "a"])
    np.testing.assert_allclose(y, [[0.5], [0], [0.6]], rtol=1e-6)
    np.testing.assert_array_equal(run, [[1], [0], [1]])


def test_pseudo_trials_keep_rates_from_0_and_1():
    p = item_mean(responses_from_frame(TABLE), ["a"], pseudo_trials=1e-6)
    assert ((p > 0) & (p < 1)).all()
    with pytest.raises(InputError, match="pseudo_trials is 0"):
        item_mean(responses_from_frame(TABLE), ["a"], pseudo_trials=0)
