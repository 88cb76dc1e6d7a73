"""Methods of a table of responses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from response_tables import assert_same, assert_sound, contents, random_counts, random_table

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import Cells, Responses, responses_from_frame


def test_the_tables_of_these_tests_are_of_three_kinds():
    assert random_table(0.6).dense is not None
    assert random_table(0.05).cells.successes.dtype == np.int8
    assert random_counts().cells.trials is not None


def test_select_models(table):
    names = list(table.models[[7, 2, 11]])
    chosen = table.select_models(names)
    assert_sound(chosen)
    assert list(chosen.models) == names
    pd.testing.assert_frame_equal(chosen.items, table.items)
    assert contents(chosen) == {k: v for k, v in contents(table).items() if k[0] in names}
    with pytest.raises(InputError, match="unknown model 'm77'"):
        table.select_models(["m77"])
    with pytest.raises(InputError, match="'m3' is selected twice"):
        table.select_models(["m3", "m1", "m3"])
    assert table.select_models([]).shape == (0, table.n_items)


def test_select_items(table):
    index = np.array([2, 0])
    chosen = table.select_items(index)
    assert_sound(chosen)
    assert list(chosen.models) == list(table.models)
    kept = list(zip(table.items["benchmark"][index], table.items["item"][index], strict=True))
    assert list(zip(chosen.items["benchmark"], chosen.items["item"], strict=True)) == kept
    assert contents(chosen) == {k: v for k, v in contents(table).items() if k[1:] in kept}
    mask = np.isin(np.arange(table.n_items), index)
    assert_same(table.select_items(mask), table.select_items(np.sort(index)))
    for bad, words in [
        (mask[:-1], "mask has shape"),
        ([table.n_items], f"give 0 to {table.n_items - 1}"),
        ([-1], "item index -1"),
        ([1, 1], "selected twice"),
        ([0.5], "whole numbers"),
    ]:
        with pytest.raises(InputError, match=words):
            table.select_items(bad)
    assert table.select_items([]).shape == (table.n_models, 0)


def test_hide_models(table):
    hidden = table.hide(models=["m3", "m5"])
    assert_sound(hidden)
    assert hidden.shape == table.shape
    assert list(hidden.models) == list(table.models)
    pd.testing.assert_frame_equal(hidden.items, table.items)
    assert contents(hidden) == {
        k: v for k, v in contents(table).items() if k[0] not in ("m3", "m5")
    }
    with pytest.raises(InputError, match="unknown model 'M3'; did you mean 'm3'"):
        table.hide(models=["M3"])


def test_hide_cells(table):
    before = table.fingerprint()
    mask = np.random.default_rng(3).random(table.shape) < 0.5
    hidden = table.hide(cells=mask)
    assert_sound(hidden)
    cells = table.to_cells()
    kept = ~mask[cells.rows, cells.cols]
    np.testing.assert_array_equal(hidden.to_cells().rows, cells.rows[kept])
    np.testing.assert_array_equal(hidden.to_cells().cols, cells.cols[kept])
    np.testing.assert_array_equal(hidden.to_cells().successes, cells.successes[kept])
    assert_same(table.hide(cells=np.nonzero(mask)), hidden)
    both = table.hide(["m1"], (cells.rows[:2], cells.cols[:2]))
    gone = set(contents(table)) - set(contents(both))
    assert {k for k in contents(table) if k[0] == "m1"} <= gone
    assert len(gone) == 2 + sum(table.models[r] == "m1" for r in cells.rows[2:])
    assert_same(table.hide(), table)
    assert table.fingerprint() == before
    for bad, words in [
        (mask[:-1], "give booleans of shape"),
        (mask.astype(int), "give booleans of shape"),
        (([0], [0, 1]), "as many rows as columns"),
        (([0], [table.n_items]), "column index"),
        (([-1], [0]), "row index -1"),
    ]:
        with pytest.raises(InputError, match=words):
            table.hide(cells=bad)


def test_hiding_everything_keeps_the_kind(table):
    empty = table.hide(models=table.models)
    assert empty.n_observed == 0
    assert empty.shape == table.shape
    assert empty.is_binary == table.is_binary


def test_totals(table):
    successes, trials = table.totals()
    assert successes.dtype == trials.dtype == np.float64
    frame = table.to_frame().assign(
        model=lambda f: pd.Categorical(f["model"], table.models),
        benchmark=lambda f: pd.Categorical(f["benchmark"], table.benchmarks),
    )
    for name, values in (("successes", successes), ("trials", trials)):
        want = frame.pivot_table(
            index="model", columns="benchmark", values=name, aggfunc="sum", observed=False
        )
        np.testing.assert_array_equal(values, want.fillna(0))


def test_totals_of_an_empty_table(table):
    successes, trials = table.hide(models=table.models).totals()
    assert successes.shape == trials.shape == (table.n_models, len(table.benchmarks))
    assert not successes.any()
    assert trials.dtype == np.float64


def test_frame_and_back(table):
    frame = table.to_frame()
    assert list(frame.columns) == ["model", "benchmark", "item", "successes", "trials"]
    assert contents(responses_from_frame(frame)) == contents(table)


def test_fingerprint_sees_every_change(table):
    seen = {table.fingerprint()}
    cells = table.to_cells()
    flipped = cells.successes.copy()
    flipped[0] = 1 - flipped[0]
    changed = Cells(cells.rows, cells.cols, flipped, cells.trials)
    swapped = table.models.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        table.hide(cells=(cells.rows[:1], cells.cols[:1])),
        Responses(table.models, table.items, None, changed),
        Responses(swapped, table.items, table.dense, table.cells),
        table.select_models(table.models[::-1]),
        table.select_items(np.arange(table.n_items)[::-1]),
        Responses(table.models, table.items, table.dense, table.cells, unevaluated=("ghost",)),
        Responses(table.models, table.items.assign(trials=77), table.dense, table.cells),
    ]
    if cells.trials is not None:
        more = Cells(cells.rows, cells.cols, cells.successes, cells.trials + 1)
        others.append(Responses(table.models, table.items, None, more))
    for other in others:
        assert other.fingerprint() not in seen
        seen.add(other.fingerprint())


def test_fingerprint_is_of_content_not_of_holding_or_notes():
    dense = random_table(0.6, n_models=2_500)
    sparse = Responses(dense.models, dense.items, None, dense.to_cells(), notes=("note",))
    assert sparse.fingerprint() == dense.fingerprint()
    assert len(dense.fingerprint()) == 64


def test_a_dense_and_a_sparse_holding_answer_alike():
    dense = random_table(0.6)
    sparse = Responses(dense.models, dense.items, None, dense.to_cells())
    mask = np.random.default_rng(4).random(dense.shape) < 0.3
    assert sparse.is_binary
    assert sparse.n_observed == dense.n_observed
    np.testing.assert_array_equal(sparse.totals(), dense.totals())
    assert_same(sparse.select_models(["m4", "m1"]), dense.select_models(["m4", "m1"]))
    assert_same(sparse.select_items([5, 1, 3]), dense.select_items([5, 1, 3]))
    assert_same(sparse.hide(["m2"], mask), dense.hide(["m2"], mask))


def test_a_fifth_observed_is_dense():
    values = np.full((10, 10), np.nan)
    values[0] = 1
    values[:, 0] = 0
    frame = pd.DataFrame(values, columns=[f"a:{j}" for j in range(10)], index=list("abcdefghij"))
    below = responses_from_frame(frame)
    assert below.density == 0.19
    assert below.dense is None
    assert_sound(below)
    frame.iloc[5, 5] = 1
    assert responses_from_frame(frame).density == 0.2
    assert responses_from_frame(frame).dense is not None
    assert_same(responses_from_frame(frame).hide(cells=([5], [5])), below)


def test_selecting_the_binary_part_of_a_mixed_table(read):
    text = "model,benchmark,item,successes,trials\nm,a,1,1,1\nm,b,all,7,9\nn,a,1,0,1\n"
    part = read(text).select_items([0])
    assert_sound(part)
    np.testing.assert_array_equal(part.dense, [[1], [0]])


def test_a_table_is_a_value(table):
    arrays = [table.models, table.to_cells().rows if table.dense is None else table.dense]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(AttributeError):
        table.dense = None


def test_exactly_one_holding():
    dense = random_table(0.6)
    with pytest.raises(ValueError, match="exactly one"):
        Responses(dense.models, dense.items, None, None)
    with pytest.raises(ValueError, match="exactly one"):
        Responses(dense.models, dense.items, dense.dense, dense.to_cells())
    with pytest.raises(ValueError, match="shape"):
        Responses(dense.models, dense.items, dense.dense[1:], None)
