"""The choice of hyper-parameters by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.baselines import choose
from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import responses_from_frame

TABLE = responses_from_frame(
    pd.DataFrame({"model": ["a", "b", "c"], "x:1": [1, 0, 1], "x:2": [1, None, 0]})
)


def test_the_least_log_loss_per_trial_wins():
    counts = responses_from_frame(
        pd.DataFrame(
            {"model": ["a", "b"], "benchmark": "x", "successes": [3, 1], "trials": [4, 16]}
        )
    )
    candidates = [{"p": 0.5}, {"p": 0.2}, {"p": 0.19}]
    best, table = choose(
        candidates, lambda c: np.full((3, 1), c["p"]), counts, ["b", "unknown", "a"]
    )
    expected = [-(4 * np.log(p) + 16 * np.log(1 - p)) / 20 for p in (0.5, 0.2, 0.19)]
    np.testing.assert_allclose(table["log_loss"], expected)
    assert list(table["p"]) == [0.5, 0.2, 0.19]
    assert best == {"p": 0.2}


def test_a_certain_mistake_loses_and_certainty_that_is_right_does_not():
    truth = TABLE.select_models(["a"])
    best, table = choose([{"p": 0.0}, {"p": 1.0}], lambda c: np.full((1, 2), c["p"]), truth, ["a"])
    assert list(table["log_loss"]) == [np.inf, 0]
    assert best == {"p": 1.0}


def test_mistakes_are_told():
    with pytest.raises(InputError, match="no candidate"):
        choose([], lambda c: np.ones((1, 2)), TABLE, ["a"])
    with pytest.raises(InputError, match="no validation cell"):
        choose([{}], lambda c: np.ones((1, 2)), TABLE, ["new"])
    with pytest.raises(ValueError, match="shape"):
        choose([{}], lambda c: np.ones((2, 2)), TABLE, ["a"])
    with pytest.raises(ValueError, match="not all in"):
        choose([{"q": 1}], lambda c: np.full((1, 2), np.nan), TABLE, ["a"])
