"""Tests of equal-tailed intervals: by hand, and what they hold of further draws."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_lrmf.intervals import equal_tailed


def held(lower, upper, values):
    return float(((lower <= values) & (values <= upper)).mean())


def test_of_nineteen_draws_that_differ_the_ends_are_the_outermost_but_one(rng):
    draws = rng.permutation(19).astype(float)
    # One in twenty of further draws is below the least, as many above the greatest.
    assert equal_tailed(draws, 0.9) == (0, 18)
    assert equal_tailed(draws, 0.8) == (1, 17)
    assert equal_tailed(-draws, 0.8) == (-17, -1)


def test_a_value_belongs_if_half_of_it_and_all_beyond_make_a_tail():
    # Of 999: 40 + 80 / 2 is more than a tail of .05 of 1,000, 40 / 2 is not.
    draws = np.repeat([0.0, 0.1, 0.2, 0.3], [40, 80, 839, 40])
    assert equal_tailed(draws, 0.9) == (0.1, 0.2)
    # With 102 for 40 it is.
    draws = np.repeat([0.0, 0.1, 0.2, 0.3], [102, 80, 715, 102])
    assert equal_tailed(draws, 0.9) == (0.0, 0.3)


def test_what_is_certain_has_no_width_and_neighbours_share_an_interval():
    assert equal_tailed(np.full(200, 0.25), 0.5) == (0.25, 0.25)
    assert equal_tailed(np.repeat([0.25, 0.5], 100), 0.1) == (0.25, 0.5)
    assert equal_tailed(np.array([0.25]), 0.9) == (0.25, 0.25)


@pytest.mark.parametrize("ci_prob", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n_items", [20, 250, None])
def test_they_hold_what_they_state(rng, n_items, ci_prob):
    # More columns than a block has; a draw of each is what the others are to hold.
    p = rng.beta(20, 12, size=(201, 6000)) * rng.uniform(0.3, 1, size=6000)
    draws = p if n_items is None else (rng.binomial(n_items, p) / n_items).astype(np.float32)
    lower, upper = equal_tailed(draws[1:], ci_prob)
    assert lower.dtype == np.float64
    # Half a draw at either end is what whole draws of a whole grid are too wide by.
    assert ci_prob - 0.013 < held(lower, upper, draws[0]) < ci_prob + 0.016
    if n_items == 20:
        tail = (1 - ci_prob) / 2
        closed = np.quantile(draws[1:], [tail, 1 - tail], axis=0)
        assert held(*closed, draws[0]) > held(lower, upper, draws[0]) + 0.005
        assert (upper - lower).mean() < (closed[1] - closed[0]).mean()


def test_every_axis_but_the_first_stays(rng):
    draws = rng.normal(size=(50, 3, 4))
    lower, upper = equal_tailed(draws, 0.8)
    assert lower.shape == upper.shape == (3, 4)
    alone = equal_tailed(draws[:, 1, 2], 0.8)
    assert (lower[1, 2], upper[1, 2]) == alone
