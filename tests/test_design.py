"""Rows, tables and graphs of a fit, worked out by hand on a small family."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bayes_lrmf import design as design_module
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.gmrf import LaplacianGraph
from bayes_lrmf.kernels import BinaryTable, CountTable, SparseTable
from bayes_lrmf.lineage import Lineage, lineage_from_frame
from bayes_lrmf.responses import Responses, responses_from_frame
from bayes_lrmf.sparse_binary import SparseBinaryTable
from bayes_lrmf.spec import read_spec

LRMF = dataclasses.replace(
    read_spec("laplacian"),
    relation_strength={
        "finetune": 1.0, "merge": 2.0, "adapter": 1.0, "quantized": 4.0, "ancestor": 0.5
    },
)  # fmt: skip
BERNOULLI = dataclasses.replace(LRMF, likelihood="bernoulli")

# base is unevaluated and joins a and b; top hangs loose above it; kid, grandkid and blend are
# unevaluated descendants, and foreign is no kin of any evaluated model.
FAMILY = """
base top finetune
a base finetune
b base finetune
merged a merge 3
merged b merge 1
small merged quantized
kid a adapter
grandkid kid finetune
blend merged merge 3
blend kid merge 1
blend foreign merge 4
"""
EVALUATED = ["small", "lone", "b", "a", "merged"]


def lineage_of(text=FAMILY):
    rows = [(*line.split(), "nan")[:4] for line in text.strip().splitlines()]
    frame = pd.DataFrame(rows, columns=["child", "parent", "relation", "weight"])
    return lineage_from_frame(frame.astype({"weight": float}))


def wide(values, columns, models=EVALUATED):
    return responses_from_frame(pd.DataFrame(values, index=models, columns=columns))


COLUMNS = ["arc:1", "solo:1", "arc:2", "pair:1", "pair:2", "alone:1"]


@pytest.fixture
def responses(rng):
    values = rng.choice([0.0, 1.0, np.nan], size=(5, 6), p=[0.4, 0.4, 0.2])
    values[0], values[:, 0] = 1.0, 0.0
    return wide(values, COLUMNS)


def counts(rng, density=1.0):
    """Return counts of benchmarks big (200 trials), mid (50) and one (1), partly missing."""
    rows = [
        (model, benchmark, float(rng.integers(full + 1)), full)
        for model in EVALUATED
        for benchmark, full in (("big", 200), ("mid", 50), ("one", 1))
        if rng.uniform() < density or (model, benchmark) == ("a", "big")
    ]
    return responses_from_frame(
        pd.DataFrame(rows, columns=["model", "benchmark", "successes", "trials"])
    )


def sparse_binary(rng):
    """Return 0/1 responses on a diagonal, too few for a dense table."""
    columns = [f"arc:{i}" for i in range(20)]
    values = np.full((10, 20), np.nan)
    values[np.repeat(np.arange(10), 2), np.arange(20)] = rng.integers(0, 2, 20)
    return wide(values, columns, [f"m{i}" for i in range(10)])


def cells_of(table):
    """Return {(row, column): (successes, trials)} of the observed cells of any kind of table."""
    if isinstance(table, BinaryTable):
        return {tuple(at): (table.values[*at], 1) for at in np.argwhere(table.values >= 0)}
    if isinstance(table, CountTable):
        seen = np.argwhere(table.trials > 0)
        return {tuple(at): (table.successes[*at], table.trials[*at]) for at in seen}
    if isinstance(table, SparseBinaryTable):
        side = table.by_model
        block, segment, place = np.nonzero(side.outcome >= 0)
        at = zip(side.owner[block, segment], side.other[block, segment, place], strict=True)
        return {
            (int(r), int(c)): (int(k), 1)
            for (r, c), k in zip(at, side.outcome[block, segment, place], strict=True)
        }
    blocks = (table.rows, table.cols, table.successes, table.trials)
    flat = zip(*(b.ravel().tolist() for b in blocks), strict=True)
    return {(r, c): (k, n) for r, c, k, n in flat if n > 0}


def cells_of_frame(responses):
    frame = responses.to_frame()
    rows = [EVALUATED.index(m) if m in EVALUATED else int(m[1:]) for m in frame["model"]]
    items = list(zip(responses.items["benchmark"], responses.items["item"], strict=True))
    cols = [items.index(i) for i in zip(frame["benchmark"], frame["item"], strict=True)]
    numbers = zip(frame["successes"], frame["trials"], strict=True)
    return dict(zip(zip(rows, cols, strict=True), numbers, strict=True))


def test_core_is_the_evaluated_models_then_the_ancestors_that_join_them(responses):
    design = make_design(responses, LRMF, lineage=lineage_of())
    assert list(design.core.nodes) == [*EVALUATED, "base"]
    assert (design.n_evaluated, design.n_core, design.n_items) == (5, 6, 6)
    small, _, b, a, merged, base = range(6)
    expected = np.zeros((6, 6))
    # Strength of the relation x share of the parent x number of parents.
    for i, j, weight in [
        (a, base, 1.0),
        (b, base, 1.0),
        (merged, a, 2.0 * 0.75 * 2),
        (merged, b, 2.0 * 0.25 * 2),
        (small, merged, 4.0),
    ]:
        expected[i, j] = expected[j, i] = weight
    laplacian = np.diag(expected.sum(1)) - expected
    graph = design.graph
    ours = np.diag(graph.degree)
    ours[graph.rows, graph.cols] = ours[graph.cols, graph.rows] = -graph.weights
    np.testing.assert_allclose(ours, laplacian)


def test_unevaluated_descendants_are_periphery_with_weighted_parents(responses):
    design = make_design(responses, LRMF, lineage=lineage_of())
    names = list(design.models)
    assert names[: design.n_core] == list(design.core.nodes)
    assert set(names[design.n_core :]) == {"kid", "grandkid", "blend"}
    edges = {(names[c], names[p]): w for c, p, w in zip(*design.parents(), strict=True)}
    assert edges == {
        ("kid", "a"): 1.0,
        ("grandkid", "kid"): 1.0,
        # Of blend's parents foreign is unknown; the shares of the others are 3 to 1.
        ("blend", "merged"): pytest.approx(2.0 * 0.75 * 2),
        ("blend", "kid"): pytest.approx(2.0 * 0.25 * 2),
    }
    assert names.index("kid") < min(names.index("grandkid"), names.index("blend"))


def test_adding_descendants_or_strangers_changes_nothing_that_is_learned(responses):
    before = make_design(responses, LRMF, lineage=lineage_of())
    more = FAMILY + "late small finetune\nlate b merge\nlater late finetune\nx y finetune\n"
    with_strangers = make_design(responses, LRMF, lineage=lineage_of(more), extra_models=["z"])
    assert {"late", "later", "z"} <= set(with_strangers.models)
    np.testing.assert_array_equal(before.core.nodes, with_strangers.core.nodes)
    for name in ("rows", "cols", "weights", "degree"):
        np.testing.assert_array_equal(
            getattr(before.graph, name), getattr(with_strangers.graph, name)
        )


def test_models_known_by_name_alone_are_predicted_once_each():
    responses = wide([[1.0, 0.0], [0.0, 1.0], [np.nan] * 2], ["arc:1", "arc:2"], ["a", "b", "mute"])
    design = make_design(
        responses, LRMF, lineage=lineage_of(), extra_models=["new", "kid", "a", "new", "mute"]
    )
    names = list(design.models)
    assert names[:3] == ["a", "b", "base"]
    assert sorted(names[3:]) == sorted(
        ["merged", "small", "kid", "grandkid", "blend", "mute", "new"]
    )
    child, _, _ = design.parents()
    assert not {names.index("mute"), names.index("new")} & set(child.tolist())


def test_without_a_lineage_every_model_stands_alone(responses):
    for design in (
        make_design(responses, LRMF),
        make_design(responses, LRMF, lineage=Lineage.empty()),
        make_design(responses, dataclasses.replace(LRMF, lineage="none"), lineage=lineage_of()),
    ):
        assert list(design.core.nodes) == EVALUATED
        assert len(design.graph.rows) == len(design.parents()[0]) == 0
    family = {"base", "top", "kid", "grandkid", "blend", "foreign"}
    assert set(design.models[5:]) == family


def test_paper_counts_every_edge_once(responses):
    design = make_design(responses, read_spec("paper"), lineage=lineage_of())
    assert design.strengths is None
    assert design.graph.weights.tolist() == [1.0] * 5
    assert design.parents()[2].tolist() == [1.0] * 4


def test_items_of_single_item_benchmarks_form_one_group(responses):
    design = make_design(responses, LRMF)
    labels = [
        f"{b}:{i}" for b, i in zip(design.items["benchmark"], design.items["item"], strict=True)
    ]
    groups = {}
    for label, group in zip(labels, design.item_groups.tolist(), strict=True):
        groups.setdefault(group, set()).add(label)
    wanted = [{"arc:1", "arc:2"}, {"pair:1", "pair:2"}, {"solo:1", "alone:1"}]
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, wanted))
    assert sorted(groups) == list(range(design.n_groups))
    assert set(design.benchmarks[design.effect_benchmarks]) == {"arc", "pair"}
    np.testing.assert_array_equal(
        design.benchmarks[design.benchmark_index], design.items["benchmark"]
    )


def test_groups_when_all_benchmarks_are_alike():
    values = np.array([[0.0, 1.0], [1.0, 0.0]])
    single = make_design(wide(values, ["p:1", "q:1"], ["a", "b"]), LRMF)
    assert (single.n_groups, len(single.effect_benchmarks)) == (1, 0)
    double = make_design(wide(values, ["p:1", "p:2"], ["a", "b"]), LRMF)
    assert (double.n_groups, double.effect_benchmarks.tolist()) == (1, [0])


def test_binary_responses_dense_and_sparse(responses, rng):
    design = make_design(responses, LRMF)
    assert isinstance(design.table, BinaryTable)
    assert cells_of(design.table) == cells_of_frame(responses)
    few = sparse_binary(rng)
    design_of_few = make_design(few, LRMF)
    assert isinstance(design_of_few.table, SparseBinaryTable)
    assert cells_of(design_of_few.table) == cells_of_frame(few)
    for d in (design, design_of_few):
        assert len(d.count_benchmarks) == 0
        assert d.precision == "float32"
        assert cells_of(d.once_per_cell().table) == cells_of(d.table)


@pytest.mark.parametrize("limit", ["_DENSE_COUNT_DENSITY", "_DENSE_COUNT_CELLS", None])
def test_counts_dense_and_sparse(limit, rng, monkeypatch):
    table_kind = CountTable if limit is None else SparseTable
    if limit:
        monkeypatch.setattr(design_module, limit, 0.99 if "DENSITY" in limit else 5)
    responses = counts(rng, density=0.6)
    design = make_design(responses, LRMF)
    assert isinstance(design.table, table_kind)
    assert cells_of(design.table) == cells_of_frame(responses)
    assert set(design.benchmarks[design.count_benchmarks]) == {"big", "mid"}
    assert design.precision == "float64"


def test_bernoulli_counts_every_cell_once_as_a_fraction(rng):
    responses = counts(rng)
    table = make_design(responses, BERNOULLI).table
    cells = cells_of(table)
    assert {n for _, n in cells.values()} == {1.0}
    for at, (k, n) in cells_of_frame(responses).items():
        assert cells.pop(at)[0] == pytest.approx(k / n, rel=1e-6)
    assert not cells


def dense_binary(rng):
    return wide(rng.integers(0, 2, (5, 6)).astype(float), COLUMNS)


@pytest.mark.parametrize("spec", [LRMF, BERNOULLI], ids=["counts", "fractions"])
@pytest.mark.parametrize("kind", [dense_binary, sparse_binary, counts])
def test_held_out_responses_never_enter(kind, spec, rng):
    responses = kind(rng)
    whole = responses.to_cells()
    held = rng.choice(len(whole.rows), len(whole.rows) // 3, replace=False)
    pairs = whole.rows[held], whole.cols[held]
    seen = cells_of(make_design(responses.hide(cells=pairs), spec).table)
    everything = cells_of(make_design(responses, spec).table)
    hidden = set(zip(*(p.tolist() for p in pairs), strict=True))
    assert seen == {at: value for at, value in everything.items() if at not in hidden}

    trials = np.ones(len(whole.rows)) if whole.trials is None else whole.trials
    other = whole.successes.copy()
    other[held] = trials[held] - other[held]
    if responses.dense is not None:
        dense = responses.dense.copy()
        dense[whole.rows, whole.cols] = other
        changed = dataclasses.replace(responses, dense=dense)
    else:
        changed = dataclasses.replace(responses, cells=dataclasses.replace(whole, successes=other))
    assert cells_of(make_design(changed, spec).table) != everything
    assert cells_of(make_design(changed.hide(cells=pairs), spec).table) == seen


def test_a_model_all_of_whose_responses_are_held_out_stays_a_row(responses):
    hidden: Responses = responses.hide(models=["b"])
    design = make_design(hidden, LRMF, lineage=lineage_of())
    assert list(design.core.nodes) == [*EVALUATED, "base"]
    assert (design.table.values[EVALUATED.index("b")] == -1).all()


def ring(n):
    half = sp.coo_array((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return sp.csr_array(half + half.T)


def test_item_graph_is_taken_only_where_the_spec_wants_one(responses):
    wants = dataclasses.replace(LRMF, item_prior="laplacian")
    design = make_design(responses, wants, item_adjacency=ring(6))
    assert isinstance(design.item_graph, LaplacianGraph)
    assert design.item_graph.degree.tolist() == [2.0] * 6
    assert design.notes == ()
    assert make_design(responses, LRMF, item_adjacency=ring(6)).item_graph is None
    without = make_design(responses, wants)
    assert without.item_graph is None
    assert "no item similarity" in without.notes[0]


def test_once_per_cell_keeps_graphs_and_notes(rng):
    wants = dataclasses.replace(BERNOULLI, item_prior="laplacian")
    responses = counts(rng)
    design = make_design(responses, wants, lineage=lineage_of(), item_adjacency=ring(3))
    assert list(design.core.nodes) == [*EVALUATED, "base"]
    assert design.item_graph.n_nodes == 3
    assert "no item similarity" in make_design(responses, wants).notes[0]


def test_item_graphs_that_do_not_fit_are_refused_in_one_line(responses):
    wants = dataclasses.replace(LRMF, item_prior="laplacian")
    with pytest.raises(InputError, match="item graph has 7 items, the table 6") as caught:
        make_design(responses, wants, item_adjacency=ring(7))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not symmetric"):
        make_design(responses, wants, item_adjacency=sp.csr_array(sp.triu(ring(6))))


@pytest.mark.parametrize("prior", ["directed", "laplacian"])
def test_merges_are_made_of_unknown_parents_too_under_a_directed_prior(prior):
    rows = {"model": ["a", "m"], "b:1": [1, 0], "b:2": [0, 1], "c:1": [1, 1]}
    edges = {
        "child": ["m", "m", "kid", "kid"],
        "parent": ["a", "lost", "a", "gone"],
        "relation": ["merge"] * 4,
        "weight": [0.2, 0.8, 0.3, 0.7],
    }
    design = make_design(
        responses_from_frame(pd.DataFrame(rows)),
        read_spec(prior),
        lineage=lineage_from_frame(pd.DataFrame(edges)),
    )
    core = [("a", 0.2), ("lost", 0.8)] if prior == "directed" else [("a", 1.0)]
    below = [("a", 0.3), ("gone", 0.7)] if prior == "directed" else [("a", 1.0)]
    for tree, wanted in ((design.core, core), (design.periphery, below)):
        found = zip(tree.nodes[tree.parent], tree.weight.round(12), strict=True)
        assert sorted(found) == wanted
