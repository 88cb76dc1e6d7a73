"""Agreement of pairs: a loop over cells, and responses drawn anew."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from bayes_lrmf.agreement import agreement, expected_agreement
from bayes_lrmf.item_space import CoreDraws
from bayes_lrmf.responses import responses_from_frame

LEFT, RIGHT = np.array([0, 1, 3, 3]), np.array([1, 2, 0, 4])


def table(rng, trials):
    """Five models, the last with no item in common with the others."""
    cells = [(u, i) for u in range(4) for i in range(15) if rng.random() < 0.7]
    cells += [(4, i) for i in range(15, 18)]
    rows, cols = np.array(cells).T
    frame = pd.DataFrame(
        {
            "model": [f"m{u}" for u in rows],
            "benchmark": "b",
            "item": [f"q{i:02}" for i in cols],
            "successes": rng.binomial(trials, 0.6, len(rows)),
            "trials": trials,
        }
    )
    return responses_from_frame(frame)


@pytest.mark.parametrize("trials", [1, 12])
def test_agreement_is_that_of_a_loop(trials, rng):
    responses = table(rng, trials)
    seen = {}
    for line in responses.to_frame().itertuples():
        seen.setdefault(line.model, {})[line.item] = line.successes / line.trials
    n_shared, found = agreement(responses, LEFT, RIGHT)
    for u, v, n, value in zip(LEFT, RIGHT, n_shared, found, strict=True):
        a, b = seen[f"m{u}"], seen[f"m{v}"]
        apart = [abs(a[i] - b[i]) for i in a.keys() & b.keys()]
        assert n == len(apart)
        np.testing.assert_allclose(value, 1 - np.mean(apart) if apart else np.nan, rtol=1e-6)
    assert n_shared[-1] == 0


@pytest.mark.parametrize(("trials", "noise"), [(1, 0.0), (12, 0.0), (12, 0.7)])
def test_expected_agreement_is_that_of_responses_drawn_anew(trials, noise, rng):
    responses = table(rng, trials)
    n_draws = 8 if trials == 1 else 2000
    rows = np.repeat(rng.normal(size=(1, 2, 5)), n_draws, axis=0).astype(np.float32)
    cols = np.repeat(rng.normal(size=(1, 2, 18)), n_draws, axis=0).astype(np.float32)
    intercept = np.repeat(rng.normal(size=(1, 18)), n_draws, axis=0).astype(np.float32)
    sd = np.full((n_draws, 18), noise) if noise else None
    drawn = CoreDraws(rows, cols, intercept, sd)
    psi = rows[0].T @ cols[0] + intercept[0]
    noisy = psi + noise * rng.standard_normal((20_000, *psi.shape))
    y = rng.binomial(trials, expit(noisy)) / trials
    shown = responses.matrices(responses.models)[1] > 0
    calls = 1 if trials == 1 else 300
    # Counts are drawn 8 times a call: the mean of 300 calls is known to about 0.003.
    found, error = np.mean(
        [expected_agreement(responses, drawn, LEFT, RIGHT, rng=rng) for _ in range(calls)], axis=0
    )
    for u, v, value, wide in zip(LEFT, RIGHT, found, error, strict=True):
        both = shown[u] & shown[v]
        if not both.any():
            assert np.isnan(value)
            assert np.isnan(wide)
            continue
        apart = np.abs(y[:, u, both] - y[:, v, both])
        assert value == pytest.approx(1 - apart.mean(), abs=0.01)
        assert wide == pytest.approx(apart.std() / np.sqrt(both.sum()), abs=0.01)
