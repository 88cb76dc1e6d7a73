"""Means over kin by hand, and kin against networkx."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.baselines import item_mean, lineage_mean
from bayes_lrmf.baselines.items import item_rates
from bayes_lrmf.baselines.kin import kin_weights
from bayes_lrmf.baselines.levels import at_own_level
from bayes_lrmf.checks import InputError
from bayes_lrmf.lineage import Lineage, lineage_from_frame
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulated_lineage

# base (not run) -> a, b, cold; a -> a1. loner has no kin.
LINEAGE = lineage_from_frame(
    pd.DataFrame(
        {
            "child": ["a", "b", "cold", "a1"],
            "parent": ["base", "base", "base", "a"],
            "relation": "finetune",
        }
    )
)
TRAIN = responses_from_frame(
    pd.DataFrame(
        {
            "model": ["a", "b", "a1", "loner"],
            "x:1": [1, 0, 1, 0],
            "x:2": [0, None, 1, 0],
            "y:1": [None, None, 1, 0],
        }
    )
)


def test_mean_over_kin_by_hand():
    # From cold: a and b are 2 steps away through the unevaluated base, a1 is 3.
    r = item_rates(TRAIN)
    got = lineage_mean(TRAIN, ["cold"], LINEAGE, distance=3, decay=0.5, pull=2)
    expected = [
        (2 * r[0] + 0.25 * 1 + 0.25 * 0 + 0.125 * 1) / (2 + 0.625),
        (2 * r[1] + 0.25 * 0 + 0.125 * 1) / (2 + 0.375),
        (2 * r[2] + 0.125 * 1) / (2 + 0.125),
    ]
    np.testing.assert_allclose(got, [expected], rtol=1e-6)
    near = lineage_mean(TRAIN, ["cold"], LINEAGE, distance=2, decay=0.5, pull=2)
    assert near[0, 2] == pytest.approx(r[2])
    np.testing.assert_allclose(
        lineage_mean(TRAIN, ["cold"], LINEAGE, distance=1), item_mean(TRAIN, ["cold"])
    )


def test_own_responses_move_only_the_level():
    got = lineage_mean(TRAIN, ["b", "unknown"], LINEAGE, distance=2, decay=0.5, pull=2)
    r = item_rates(TRAIN)
    of_kin = np.array([[(2 * r[0] + 0.25) / 2.25, 2 * r[1] / 2.25, r[2]]])
    own = [np.array([[0, 0, 0]]), np.array([[1, 0, 0]])]
    np.testing.assert_allclose(
        got[:1], at_own_level(of_kin, *own, np.array([0, 0, 1]), 1.0), rtol=1e-6
    )
    assert (got[0] < of_kin).all()  # its one response is a failure
    np.testing.assert_allclose(got[1], r)


def test_kin_of_counts_weigh_alike():
    counts = pd.DataFrame(
        {"model": ["a", "a1"], "benchmark": "x", "successes": [1, 900], "trials": [10, 1000]}
    )
    train = responses_from_frame(counts)
    got = lineage_mean(train, ["base"], LINEAGE, distance=2, decay=1.0, pull=1)
    assert got[0, 0] == pytest.approx((item_rates(train)[0] + 0.1 + 0.9) / 3, rel=1e-6)


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_kin_against_breadth_first_search(rng, distance):
    lineage = simulated_lineage(600, rng=rng)  # more than one block of models
    names = list(lineage.nodes)
    evaluated = [*rng.permutation(names)[:250], "outsider"]
    train = responses_from_frame(pd.DataFrame({"model": evaluated, "x:1": 1}))
    weights = kin_weights(train, names, lineage, distance=distance, decay=0.5).toarray()
    core = lineage.core(list(dict.fromkeys([*evaluated, *names])))
    for row in rng.permutation(600)[:60]:
        expected = np.zeros(251)
        for steps in range(distance, 0, -1):
            expected[np.isin(train.models, core.kin_of(names[row], steps))] = 0.5**steps
        np.testing.assert_allclose(weights[row], expected)


def test_an_unevaluated_child_joins_nobody():
    merge = lineage_from_frame(
        pd.DataFrame({"child": "m", "parent": ["a", "b"], "relation": "merge"})
    )
    assert kin_weights(TRAIN, ["a", "b"], merge, distance=2, decay=1).nnz == 0
    # If the child is asked for, its parents are kin of one another.
    assert kin_weights(TRAIN, ["m", "b"], merge, distance=2, decay=1).nnz == 3


def test_without_lineage_the_rates_at_own_level():
    got = lineage_mean(TRAIN, ["loner", "new"], Lineage.empty())
    np.testing.assert_allclose(got[1], item_rates(TRAIN))
    assert ((got > 0) & (got < 1)).all()
    assert (got[0] < got[1]).all()
    assert lineage_mean(TRAIN, [], LINEAGE).shape == (0, 3)


def test_numbers_out_of_range():
    with pytest.raises(InputError, match="decay is 0"):
        lineage_mean(TRAIN, ["a"], LINEAGE, decay=0)
    with pytest.raises(InputError, match="distance is 0"):
        lineage_mean(TRAIN, ["a"], LINEAGE, distance=0)
