"""Which models are copies of each other."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayes_lrmf import twins as module
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.twins import twins


def frame_of(values):
    columns = [f"b{i % 2}:{i}" for i in range(values.shape[1])]
    names = [f"m{i}" for i in range(len(values))]
    return pd.DataFrame(values, columns=columns).assign(model=names)


def test_twins_have_all_their_responses_in_common(rng):
    values = rng.integers(0, 2, (4, 12)).astype(float)
    values[2] = values[3] = values[0]
    values[3, 0] = np.nan
    # Eleven shared cells are too few to take two models for one.
    np.testing.assert_array_equal(twins(responses_from_frame(frame_of(values))), [0, 1, 0, 2])
    counts = pd.DataFrame(
        {"model": list("abc"), "benchmark": "x", "successes": [3, 3, 3], "trials": [9, 5, 9]}
    )
    np.testing.assert_array_equal(twins(responses_from_frame(counts)), [0, 1, 0])


def test_copies_of_other_coverage_are_twins(rng, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3)
    values = rng.integers(0, 2, (9, 300)).astype(float)
    values[4, :150] = values[1, :150]  # half of it alike, the other half not run
    values[4, 150:] = np.nan
    values[8] = values[4]  # on m4 alone it would be a twin of it
    values[8, 20:] = np.nan
    values[6] = values[2]
    values[6, 7] = 1 - values[2, 7]  # one response differs
    values[7, 150:] = values[1, 150:]
    values[7, :150] = np.nan  # shares nothing with m4, but both are twins of m1
    label = twins(responses_from_frame(frame_of(values)))
    assert label.tolist() == [0, 1, 2, 3, 1, 4, 5, 1, 6]
