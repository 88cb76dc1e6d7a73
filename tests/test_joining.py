"""More responses for a table: places, repeats, kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.joining import joined, on_items_of
from bayes_lrmf.responses import responses_from_frame


def table(lines, **trials):
    frame = pd.DataFrame(lines, columns=["model", "benchmark", "item", "successes"])
    return responses_from_frame(frame.assign(trials=trials.get("trials", 1)))


OLD = [("a", "x", "1", 1), ("a", "x", "2", 0), ("a", "y", "1", 1), ("b", "x", "1", 0)]


@pytest.mark.parametrize("trials", [1, 5])
def test_rows_are_appended_and_cells_filled_in(trials):
    old = table(OLD, trials=trials)
    new = table([("c", "y", "1", 1), ("b", "y", "1", 0), ("b", "x", "2", 1)], trials=trials)
    both = joined(old, on_items_of(old, new))
    assert list(both.models) == ["a", "b", "c"]
    pd.testing.assert_frame_equal(both.items, old.items)
    expected = pd.concat([old.to_frame(), new.to_frame()])
    keys = ["model", "benchmark", "item"]
    left, right = (f.sort_values(keys).reset_index(drop=True) for f in (both.to_frame(), expected))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
    successes, seen = both.matrices(["b"])
    np.testing.assert_array_equal(seen, [[trials, trials, trials]])
    np.testing.assert_array_equal(successes, [[0, 1, 0]])


def test_models_are_no_longer_unevaluated():
    frame = pd.DataFrame({"model": ["a", "b"], "x:1": [1, None], "x:2": [0, None]})
    old = responses_from_frame(frame)
    assert old.unevaluated == ("b",)
    new = table([("b", "x", "2", 1)])
    assert joined(old, on_items_of(old, new)).unevaluated == ()


def test_a_repeated_cell_is_refused():
    old = table(OLD)
    new = on_items_of(old, table([("a", "y", "1", 0)]))
    with pytest.raises(InputError, match=r"model 'a' has a result of y:1 already"):
        joined(old, new)


def test_unknown_items_and_other_kinds_are_refused():
    old = table(OLD)
    with pytest.raises(InputError, match=r"item 'x:3'.*x:1|x:2"):
        on_items_of(old, table([("c", "x", "3", 1)]))
    with pytest.raises(InputError, match="are counts"):
        on_items_of(old, table([("c", "x", "1", 3)], trials=5))


def test_items_that_read_alike_with_their_benchmark_stay_apart():
    frame = pd.DataFrame(
        {
            "model": ["m", "m", "n"],
            "benchmark": ["a:b", "a", "a"],
            "item": ["c", "b:c", "b:c"],
            "response": [1, 0, 1],
        }
    )
    table = responses_from_frame(frame)
    new = responses_from_frame(frame[frame["model"] == "n"].assign(model="k"))
    placed = on_items_of(table, new)
    (cell,) = placed.to_frame()[["benchmark", "item"]].to_numpy().tolist()
    assert cell == ["a", "b:c"]
