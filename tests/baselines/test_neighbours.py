"""Nearest models by hand, and against scikit-learn on a complete table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from bayes_lrmf.baselines import nearest_models
from bayes_lrmf.baselines.items import item_rates
from bayes_lrmf.responses import responses_from_frame


def table(values: np.ndarray):
    frame = pd.DataFrame(values, columns=[f"x:{i}" for i in range(values.shape[1])])
    frame.insert(0, "model", [f"m{u}" for u in range(len(values))])
    return responses_from_frame(frame)


def by_hand(y, u, rates, k, shrinkage, sharpness, pull):
    """Loops over pairs and the items both ran; y has NaN where an item was not run."""
    z = y - rates
    usual = np.nanmean(z**2)
    agreement = np.full(len(y), -np.inf)
    for v in range(len(y)):
        both = ~np.isnan(z[u] + z[v])
        if v != u:
            apart = ((z[u, both] - z[v, both]) ** 2).sum()
            size = (z[u, both] ** 2 + z[v, both] ** 2).sum()
            agreement[v] = (size - apart) / (size + 2 * shrinkage * usual)
    total, weight = pull * rates, np.full(y.shape[1], float(pull))
    for v in np.argsort(-agreement)[:k]:
        w = max(agreement[v], 0) ** sharpness
        run = ~np.isnan(y[v])
        total[run] += w * y[v, run]
        weight[run] += w
    return total / weight


@pytest.mark.parametrize("k", [3, 100])
def test_sparse_table_by_hand(rng, k):
    y = (rng.random((14, 30)) < rng.random((14, 1))).astype(float)
    y[rng.random(y.shape) < 0.4] = np.nan
    train = table(y)
    options = {"shrinkage": 2.0, "sharpness": 1.5, "pull": 0.7}
    got = nearest_models(train, ["m3", "new", "m0"], n_neighbours=k, **options)
    rates = item_rates(train)
    np.testing.assert_allclose(got[0], by_hand(y, 3, rates, k, **options), rtol=1e-5)
    np.testing.assert_allclose(got[2], by_hand(y, 0, rates, k, **options), rtol=1e-5)
    np.testing.assert_allclose(got[1], rates)


def test_complete_table_against_scikit_learn(rng):
    y = (rng.random((600, 40)) < rng.random((600, 1))).astype(float)  # more than one block
    train = table(y)
    z = y - item_rates(train)

    def distance(a, b):
        return ((a - b) ** 2).sum() / ((a**2).sum() + (b**2).sum() + 1e-12)

    some = np.array([0, 5, 511, 512, 599])
    search = NearestNeighbors(n_neighbors=5, metric=distance, algorithm="brute").fit(z)
    apart, nearest = search.kneighbors(z[some])
    weight = 1 - apart
    weight[nearest == some[:, None]] = 0
    expected = (weight[:, :, None] * y[nearest]).sum(1) / weight.sum(1, keepdims=True)
    # Twins tie with a model itself or one another, and their weights are alike.
    got = nearest_models(
        train,
        list(train.models),
        n_neighbours=4,
        shrinkage=1e-9,
        sharpness=1,
        pull=1e-9,
    )
    np.testing.assert_allclose(got[some], expected, atol=2e-6)


def test_few_shared_items_count_less():
    # m1 equals m0 on one item, m2 on four; both disagree with m0's rates about item 5.
    y = np.array(
        [[1, 1, 1, 1, 1, np.nan], [1] + [np.nan] * 4 + [1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    )
    weak = nearest_models(table(y), ["m0"], n_neighbours=3, shrinkage=5)
    strong = nearest_models(table(y), ["m0"], n_neighbours=3, shrinkage=1e-6)
    assert weak[0, 5] < strong[0, 5]


def test_counts_with_missing_cells(rng):
    n, k = rng.integers(50, 100, (6, 4)), rng.integers(0, 50, (6, 4))
    frame = pd.DataFrame(
        {
            "model": np.repeat([f"m{u}" for u in range(6)], 4),
            "benchmark": np.tile(list("abcd"), 6),
            "successes": k.ravel(),
            "trials": n.ravel(),
        }
    )
    train = responses_from_frame(frame.drop(index=[5, 10]))
    y = k / n
    y[1, 1] = y[2, 2] = np.nan
    options = {"shrinkage": 1.0, "sharpness": 1.0, "pull": 1.0}
    got = nearest_models(train, ["m1"], n_neighbours=2, **options)
    np.testing.assert_allclose(got[0], by_hand(y, 1, item_rates(train), 2, **options), rtol=1e-4)
    assert ((got > 0) & (got < 1)).all()


def test_unanimous_items_stay_inside():
    got = nearest_models(table(np.ones((5, 3))), ["m0", "new"], pull=1e-12)
    assert ((got > 0) & (got < 1)).all()
