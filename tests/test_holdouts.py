"""Hold-out designs: nothing leaks, twins stay together, and each design hides what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.holdouts import (
    Split,
    families,
    hold_out_cells,
    hold_out_cold,
    hold_out_later,
    hold_out_roots,
    hold_out_shots,
)
from bayes_lrmf.lineage import Lineage, lineage_from_frame, read_lineage
from bayes_lrmf.responses import Responses, read_responses, responses_from_frame
from bayes_lrmf.twins import twins

BASES = [f"base{i}" for i in range(4)]
LEAVES = [f"leaf{i}" for i in range(24)]
LONE = [f"lone{i}" for i in range(16)]
MODELS = [*BASES, *LEAVES, *LONE]
TWINS = [("leaf2", "leaf9"), ("leaf3", "base0"), ("lone1", "lone5"), ("lone2", "leaf6")]


def family(edges):
    rows = [dict(zip(("child", "parent", "relation"), edge.split(), strict=True)) for edge in edges]
    return lineage_from_frame(pd.DataFrame(rows))


def table(models, rng, n_items=12):
    values = rng.integers(0, 2, (len(models), n_items)).astype(float)
    frame = pd.DataFrame(values, columns=[f"b{i % 2}:{i}" for i in range(n_items)])
    return frame.assign(model=models)[["model", *frame.columns]]


def kind_of_table(kind, rng):
    """Return a table of MODELS in which the pairs of TWINS have identical responses."""
    row = {model: i for i, model in enumerate(MODELS)}
    if kind == "counts":
        trials = np.tile(rng.integers(30, 60, 20), (len(MODELS), 1))
        trials[rng.random(trials.shape) < 0.2] = 0
        right = rng.binomial(trials, 0.4)
        for a, b in TWINS:
            trials[row[b]], right[row[b]] = trials[row[a]], right[row[a]]
        model, item = np.nonzero(trials)
        return responses_from_frame(
            pd.DataFrame(
                {
                    "model": np.array(MODELS, object)[model],
                    "benchmark": [f"task{i}" for i in item],
                    "successes": right[model, item],
                    "trials": trials[model, item],
                }
            )
        )
    values = rng.integers(0, 2, (len(MODELS), 40)).astype(float)
    values[rng.random(values.shape) > (0.9 if kind == "dense" else 0.15)] = np.nan
    values[np.arange(len(MODELS)), np.arange(len(MODELS)) % 40] = 1
    for a, b in TWINS:
        values[row[b]] = values[row[a]]
    frame = pd.DataFrame(values, columns=[f"b{i % 3}:{i}" for i in range(40)])
    return responses_from_frame(frame.assign(model=MODELS).set_index("model"))


def lineage_of_leaves():
    return family([f"{leaf} {BASES[i % 4]} finetune" for i, leaf in enumerate(LEAVES)])


DATES = pd.Series(
    pd.date_range("2024-01-01", periods=len(MODELS), tz="UTC"), index=[*LEAVES, *BASES, *LONE]
).drop(["leaf5", "lone3"])

DESIGNS = {
    "cold": (hold_out_cold, {}),
    "roots": (hold_out_roots, {}),
    "later": (hold_out_later, {"dates": DATES, "share": 0.5}),
    "shots": (hold_out_shots, {"k": 3}),
    "no shots": (hold_out_shots, {"k": 0}),
    "cells": (hold_out_cells, {"density": 0.05}),
    "few cells": (hold_out_cells, {"density": 0.02, "at_most": 30}),
}


def keys(responses: Responses) -> set[tuple[str, str, str]]:
    frame = responses.to_frame()
    return set(zip(frame["model"], frame["benchmark"], frame["item"], strict=True))


@pytest.mark.parametrize("kind", ["dense", "sparse", "counts"])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_leaks(kind, design, seed, rng):
    responses = kind_of_table(kind, rng)
    hold_out, options = DESIGNS[design]
    split = hold_out(responses, lineage_of_leaves(), seed=seed, **options)
    train, test, truth = keys(split.train), keys(split.test), keys(split.truth)
    assert train
    assert test
    assert not train & test
    assert test <= truth <= keys(responses)
    assert {model for model, *_ in test} == set(split.models) == set(split.truth.models)
    # Values are those of the table.
    whole = responses.to_frame().set_index(["model", "benchmark", "item"])
    for part in (split.train, split.test, split.truth):
        part = part.to_frame().set_index(["model", "benchmark", "item"])
        pd.testing.assert_frame_equal(part, whole.loc[part.index], check_dtype=False)
    for part in (split.train, split.test, split.truth):
        pd.testing.assert_frame_equal(part.items, responses.items)
    # What a method sees of one twin never tells a held-out cell of another.
    names = dict(zip(responses.models, twins(responses), strict=True))
    assert not {(names[m], *c) for m, *c in train} & {(names[m], *c) for m, *c in test}
    # A method knows every model that it is to predict, by name at least.
    assert set(split.models) <= {*split.train.models, *split.train.unevaluated}
    assert not set(split.train.models) & set(split.train.unevaluated)
    again = hold_out(responses, lineage_of_leaves(), seed=seed, **options)
    assert split.test.fingerprint() == again.test.fingerprint()


def test_a_split_that_leaks_is_refused(rng):
    responses = responses_from_frame(table(["a", "b"], rng))
    one = responses.select_models(["a"])
    with pytest.raises(ValueError, match="were held out"):
        Split("false", 0, responses, one, one)


def test_half_of_the_leaf_children_lose_every_cell(rng):
    leaves = [f"leaf{i}" for i in range(10)]
    edges = [f"{leaf} base finetune" for leaf in leaves]
    edges += ["base root finetune", "far base ancestor", "gone base finetune", "orphan lost merge"]
    responses = responses_from_frame(table(["root", "base", "far", "orphan", *leaves], rng))
    split = hold_out_cold(responses, family(edges), seed=0)
    assert len(split.models) == 5
    assert set(split.models) <= set(leaves)
    assert set(split.train.models) == set(responses.models) - set(split.models)
    assert split.train.n_observed == 12 * len(split.train.models)
    assert split.test.fingerprint() == split.truth.fingerprint()
    assert hold_out_cold(responses, family(edges), seed=1).models != split.models


def test_twins_go_together_or_stay(rng):
    frame = table(["base", "a", "b", "copy"], rng)
    cells = frame.columns[1:]
    frame.loc[2, cells] = frame.loc[1, cells].to_numpy()
    frame.loc[3, cells] = frame.loc[0, cells].to_numpy()
    edges = [f"{child} base finetune" for child in ("a", "b", "copy")]
    responses = responses_from_frame(frame)
    for seed in range(4):
        # "copy" has the responses of its own parent, which stays.
        assert hold_out_cold(responses, family(edges), seed=seed).models == ("a", "b")


def test_shots_are_nested_and_as_many_as_said(rng):
    responses, lineage = kind_of_table("dense", rng), lineage_of_leaves()
    cold = hold_out_cold(responses, lineage, seed=3)
    previous: set[tuple[str, str, str]] = set()
    for k in (0, 1, 5, 20):
        split = hold_out_shots(responses, lineage, seed=3, k=k)
        assert split.models == cold.models
        shots = {key for key in keys(split.train) if key[0] in cold.models}
        assert len(shots) == k * len(cold.models)
        assert previous <= shots
        assert shots | keys(split.test) == keys(cold.test)
        previous = shots


def test_each_model_keeps_its_own_shots(rng):
    responses = responses_from_frame(table(MODELS, rng, n_items=40))
    split = hold_out_shots(responses, lineage_of_leaves(), seed=0, k=1)
    shots = [key for key in keys(split.train) if key[0] in split.models]
    # Twelve models draw one of 40 items each: fewer than six different ones have a chance of 1e-5.
    assert len(shots) == 12
    assert len({item for *_, item in shots}) >= 6


def test_models_with_no_more_than_the_shots_are_not_held_out(rng):
    frame = table(["base", "a", "b"], rng)
    frame.iloc[2, 4:] = np.nan
    responses = responses_from_frame(frame)
    lineage = family(["a base finetune", "b base finetune"])
    split = hold_out_shots(responses, lineage, seed=0, k=3, share=0.9)
    assert split.models == ("a",)
    assert split.train.n_observed == 12 + 3 + 3
    with pytest.raises(InputError, match="12 shots are all that any hidden model has; give fewer"):
        hold_out_shots(responses, lineage, seed=0, k=12)


@pytest.mark.parametrize("kind", ["dense", "sparse", "counts"])
def test_cells_stay_at_the_density_and_are_nested(kind, rng):
    responses = kind_of_table(kind, rng)
    distinct = len(set(twins(responses)))
    previous, scored = set(), []
    for density in (0.01, 0.05, 0.1):
        split = hold_out_cells(responses, Lineage.empty(), seed=2, density=density, at_most=50)
        stay = keys(split.train)
        assert len(stay) == round(density * distinct * responses.n_items)
        assert previous <= stay
        previous = stay
        scored.append(keys(split.test))
        assert len(scored[-1]) == 50
        # All is known of the models that are scored, not just the sample.
        assert split.truth.n_observed == sum(m in split.models for m, *_ in keys(responses))
        assert "4 models with responses identical" in split.train.notes[-1]
    assert scored[0] == scored[1] == scored[2]
    every = hold_out_cells(responses, Lineage.empty(), seed=2, density=0.1)
    assert every.test.n_observed + every.train.n_observed == every.truth.n_observed


def test_cells_need_more_than_stay(rng):
    responses = kind_of_table("sparse", rng)
    with pytest.raises(InputError, match=r"density is 0\.5, which leaves .* give a density below"):
        hold_out_cells(responses, Lineage.empty(), seed=0, density=0.5)


def test_later_models_are_hidden(rng):
    models = ["a", "b", "c", "d", "e", "undated", "copy of e", "copy of a"]
    frame = table(models, rng)
    cells = frame.columns[1:]
    frame.loc[6, cells] = frame.loc[4, cells].to_numpy()
    frame.loc[7, cells] = frame.loc[0, cells].to_numpy()
    days = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "copy of e": 6, "copy of a": 7, "stranger": 9}
    dates = pd.to_datetime(pd.Series(days).map("2024-01-{:02d}".format))
    responses = responses_from_frame(frame)
    split = hold_out_later(responses, Lineage.empty(), seed=0, dates=dates, share=0.5)
    # The fourth of seven dates is the border; the copy of the earliest model is no news.
    assert split.models == ("copy of e", "e")
    assert split.name == "later:2024-01-04"
    without = dates.drop("copy of e")
    with pytest.raises(InputError, match="no model is later than 2024-01-05"):
        hold_out_later(responses, Lineage.empty(), seed=0, dates=without, share=0.2)


def test_dates_are_checked(rng):
    responses = responses_from_frame(table(["a", "b"], rng))
    dates = pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"]), index=["a", "a"])
    for wrong, says in (
        (dates, "dates name 'a' twice"),
        (pd.Series(["soon"], index=["a"]), "give a column of dates"),
        (dates.set_axis(["x", "y"]), "no model of the table has a date"),
    ):
        with pytest.raises(InputError, match=says):
            hold_out_later(responses, Lineage.empty(), seed=0, dates=wrong)


def test_families_are_joined_by_unevaluated_kin(rng):
    edges = ["a hidden finetune", "b hidden merge", "c b finetune", "d alone adapter"]
    edges += ["e left finetune", "e right merge", "left top finetune", "right top finetune"]
    responses = responses_from_frame(table(list("abcdef"), rng))
    label = families(list(responses.models), family(edges))
    assert list(label.index) == list("abcdef")
    assert label["a"] == label["b"] == label["c"]
    assert label[["a", "d", "e", "f"]].nunique() == 4
    # No kin of d, e and f is in the table.
    split = hold_out_roots(responses, family(edges), seed=0, share=0.99)
    assert split.models == ("d", "e", "f")


def test_roots_are_at_most_so_many(rng):
    responses, lineage = kind_of_table("dense", rng), lineage_of_leaves()
    # The twin of lone2 has kin and stays.
    alone = set(LONE) - {"lone2"}
    half = hold_out_roots(responses, lineage, seed=0).models
    assert 8 <= len(half) <= 9
    assert set(half) <= alone
    assert 3 <= len(hold_out_roots(responses, lineage, seed=0, at_most=3).models) <= 4


def test_designs_without_candidates_are_refused(rng):
    responses = responses_from_frame(table(["a", "b"], rng))
    with pytest.raises(InputError, match="no leaf child"):
        hold_out_cold(responses, family(["a base finetune"]), seed=0)
    with pytest.raises(InputError, match="every model has recorded kin"):
        hold_out_roots(responses, family(["a b finetune"]), seed=0)
    with pytest.raises(InputError, match="roots: no model would stay"):
        hold_out_roots(responses, Lineage.empty(), seed=0, share=0.99)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("path", ["oll_v1/responses.parquet", "subtasks/counts.csv"])
def test_real_tables_do_not_leak(data_dir, path):
    responses = read_responses(data_dir / path)
    lineage = read_lineage(data_dir / "lineage/edges.csv")
    label = pd.Series(twins(responses), index=responses.models)
    for hold_out in (hold_out_cold, hold_out_roots):
        split = hold_out(responses, lineage, seed=0)
        assert not set(label[list(split.models)]) & set(label[split.train.models])
        assert split.test.n_observed + split.train.n_observed == responses.n_observed
    for density in (0.005, 0.02, 0.1, 0.5):
        split = hold_out_cells(responses, lineage, seed=0, density=density)
        n_models = len(label.unique())
        assert split.train.n_observed == round(density * n_models * responses.n_items)
        left = responses.select_models(split.truth.models).n_observed
        assert split.test.n_observed <= min(200_000, left)
