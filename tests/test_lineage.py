"""The lineage graph: small graphs by hand, random ones against brute force, broken files."""

from __future__ import annotations

import gzip
from itertools import pairwise

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_lrmf.checks import InputError
from bayes_lrmf.lineage import RELATIONS, Lineage, lineage_from_frame, read_lineage, write_lineage
from bayes_lrmf.simulate import simulated_lineage

STRENGTHS = {"finetune": 1.0, "merge": 2.0, "adapter": 1.0, "quantized": 4.0, "ancestor": 0.5}


def tree(text: str, **options) -> Lineage:
    """Return the lineage of lines ``child parent [relation [weight]]``; finetune by default."""
    rows = [line.split() for line in text.strip().splitlines()]
    rows = [[*row, "finetune"] if len(row) == 2 else row for row in rows]
    frame = pd.DataFrame(
        {
            "child": [row[0] for row in rows],
            "parent": [row[1] for row in rows],
            "relation": [row[2] for row in rows],
            "weight": [float(row[3]) if len(row) > 3 else np.nan for row in rows],
        }
    )
    return lineage_from_frame(frame, **options)


def edges_of(lineage: Lineage) -> dict:
    """Return {(child, parent): (relation, weight)}."""
    columns = (lineage.child, lineage.parent, lineage.relation, lineage.weight)
    found = {
        (lineage.nodes[c], lineage.nodes[p]): (relation, pytest.approx(weight))
        for c, p, relation, weight in zip(*columns, strict=True)
    }
    assert len(found) == len(lineage.child)
    return found


def weights_of(lineage: Lineage) -> dict:
    return {pair: weight for pair, (_, weight) in edges_of(lineage).items()}


def dense(matrix, lineage: Lineage, names) -> np.ndarray:
    """Return a matrix over nodes with rows and columns in the order of `names`."""
    at = [lineage.index[name] for name in names]
    assert len(at) == len(lineage.nodes)
    return matrix.toarray()[np.ix_(at, at)]


@pytest.fixture
def diamond():
    """Base a; b and c are made from it; d merges them 3 to 1."""
    return tree("b a\nc a quantized\nd b merge 3\nd c merge 1")


# --- weights, strengths, Laplacian ---


def test_diamond_is_refused_where_weights_are_given_for_some_parents_only():
    with pytest.raises(InputError, match="some parents of d have a weight and some have none"):
        tree("d b merge 3\nd c merge")


def test_weights_sum_to_one_over_parents(diamond):
    assert edges_of(diamond) == {
        ("b", "a"): ("finetune", 1.0),
        ("c", "a"): ("quantized", 1.0),
        ("d", "b"): ("merge", 0.75),
        ("d", "c"): ("merge", 0.25),
    }
    assert weights_of(tree("d a merge\nd b merge\nd c merge")) == {
        ("d", parent): 1 / 3 for parent in "abc"
    }


def test_adjacency_of_the_paper_is_0_1(diamond):
    want = [[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]
    np.testing.assert_array_equal(dense(diamond.adjacency(), diamond, "abcd"), want)


def test_laplacian_by_hand(diamond):
    want = [[2, -1, -1, 0], [-1, 2, 0, -1], [-1, 0, 2, -1], [0, -1, -1, 2]]
    np.testing.assert_array_equal(dense(diamond.laplacian(), diamond, "abcd"), want)


def test_strengths_are_relation_times_weight_times_number_of_parents(diamond):
    strengths = diamond.strengths(STRENGTHS)
    # b-a: 1; c-a: 4; d-b: 2 x 2 x 0.75; d-c: 2 x 2 x 0.25.
    want = [[0, 1, 4, 0], [1, 0, 0, 3], [4, 0, 0, 1], [0, 3, 1, 0]]
    np.testing.assert_allclose(dense(diamond.adjacency(strengths), diamond, "abcd"), want)
    want = [[5, -1, -4, 0], [-1, 4, 0, -3], [-4, 0, 5, -1], [0, -3, -1, 4]]
    np.testing.assert_allclose(dense(diamond.laplacian(strengths), diamond, "abcd"), want)


def test_equal_parents_count_in_full_each():
    lineage = tree("d a merge\nd b merge\nd c merge")
    ones = dict.fromkeys(RELATIONS, 1.0)
    np.testing.assert_allclose(lineage.strengths(ones), 1)


def test_of_two_edges_between_one_pair_the_stronger_counts():
    two = np.zeros(2, np.int32)
    lineage = Lineage(
        np.array(["a", "b"], object),
        two + 1,
        two,
        np.array(["ancestor", "merge"], object),
        np.array([0.5, 0.5]),
    )
    both = lineage.adjacency(np.array([3.0, 2.0])).toarray()
    np.testing.assert_array_equal(both, [[0, 3], [3, 0]])


def test_empty_lineage_has_an_empty_laplacian():
    lineage = Lineage.empty(["a", "b", "c"])
    np.testing.assert_array_equal(lineage.laplacian().toarray(), np.zeros((3, 3)))
    np.testing.assert_array_equal(lineage.components(), [0, 1, 2])
    assert lineage.summary(["a"]) == "0 of 1 models have a recorded parent; 0 are connected"
    assert list(lineage.core(["c", "a"]).nodes) == ["c", "a"]
    assert list(Lineage.empty().core(["c", "a"]).nodes) == ["c", "a"]


# --- core and descendants ---


def test_core_keeps_latent_ancestors_that_join_two():
    core = tree("m1 base\nm2 base").core(["m2", "m1"])
    assert list(core.nodes) == ["m2", "m1", "base"]
    assert set(edges_of(core)) == {("m1", "base"), ("m2", "base")}


def test_core_prunes_dangling_ancestors_again_and_again():
    lineage = tree("m1 base\nm2 base\nbase root\nroot grand\nm3 p\np q\nq r")
    core = lineage.core(["m1", "m2", "m3"])
    assert list(core.nodes) == ["m1", "m2", "m3", "base"]
    assert set(edges_of(core)) == {("m1", "base"), ("m2", "base")}
    assert not core.parents_of("m3")


def test_core_keeps_a_chain_of_latents_between_evaluated_models():
    core = tree("x m1\ny x\nm2 y\nz m2").core(["m1", "m2"])
    assert list(core.nodes[:2]) == ["m1", "m2"]
    assert set(core.nodes[2:]) == {"x", "y"}
    assert set(edges_of(core)) == {("x", "m1"), ("y", "x"), ("m2", "y")}


def test_core_leaves_out_unevaluated_children_and_their_other_parents():
    core = tree("m1 base\nm2 base\nkid m1 merge\nkid other merge").core(["m1", "m2"])
    assert set(core.nodes) == {"m1", "m2", "base"}


def test_core_keeps_evaluated_order_isolated_and_unknown_models():
    lineage = tree("m1 base\nm2 base\nlone far")
    core = lineage.core(["stranger", "m2", "lone", "m1"])
    assert list(core.nodes) == ["stranger", "m2", "lone", "m1", "base"]
    assert core.summary(["stranger", "lone"]).startswith("0 of 2")


def test_core_renormalises_weights_over_the_parents_that_stay():
    lineage = tree("m2 m1 merge 1\nm2 lost merge 3")
    assert weights_of(lineage.core(["m1", "m2"])) == {("m2", "m1"): 1.0}


def test_whole_merges_keep_parents_that_join_nothing():
    lineage = tree(
        """
        m2 m1 merge 1
        m2 lost merge 3
        lost root
        m3 gone merge
        m3 away merge
        m4 far
        """
    )
    core = lineage.core(["m1", "m2", "m3", "m4"], whole_merges=True)
    # m3 keeps no parent, as m4 does not: they are roots.
    assert list(core.nodes) == ["m1", "m2", "m3", "m4", "lost"]
    assert weights_of(core) == {("m2", "m1"): 0.25, ("m2", "lost"): 0.75}


def test_core_keeps_evaluated_ancestors_at_the_end_of_a_line():
    core = tree("m2 m1").core(["m1", "m2"])
    assert set(edges_of(core)) == {("m2", "m1")}


def test_descendants_come_after_the_core_parents_first_with_weights_renormalised():
    lineage = tree(
        """
        k3 k2 merge 1
        k3 m2 merge 3
        k2 k1 merge 3
        k2 outsider merge 2
        k1 m1
        m2 m1
        other outsider
        """
    )
    below = lineage.descendants(["m1", "m2"])
    assert list(below.nodes) == ["m1", "m2", "k1", "k2", "k3"]
    # Not m2 <- m1, which is inside the core.
    weights = {
        ("k1", "m1"): 1.0,
        ("k2", "k1"): 1.0,
        ("k3", "k2"): 0.25,
        ("k3", "m2"): 0.75,
    }
    assert weights_of(below) == weights
    whole = lineage.descendants(["m1", "m2"], whole_merges=True)
    assert list(whole.nodes) == ["m1", "m2", "outsider", "k1", "k2", "k3"]
    weights |= {("k2", "k1"): 0.6, ("k2", "outsider"): 0.4}
    assert weights_of(whole) == weights
    more = lineage.descendants(["m1", "m2"], others=["outsider", "k1", "nobody"])
    assert set(more.nodes) == {*whole.nodes, "other"}
    assert list(more.nodes[:3]) == ["m1", "m2", "outsider"]
    assert weights_of(more) == weights | {("other", "outsider"): 1.0}


def test_descendants_of_unknown_models_are_none():
    below = tree("b a").descendants(["stranger"])
    assert list(below.nodes) == ["stranger"]
    assert not len(below.child)


# --- walks ---


def test_components():
    lineage = tree("b a\nc b\ny x")
    label = dict(zip(lineage.nodes, lineage.components(), strict=True))
    assert label["a"] == label["b"] == label["c"] != label["x"] == label["y"]


def test_depth_is_the_longest_way_from_a_root():
    lineage = tree("b a\nc b\nd c merge\nd a merge\ny x")
    depth = dict(zip(lineage.nodes, lineage.depth().tolist(), strict=True))
    assert depth == {"a": 0, "b": 1, "c": 2, "d": 3, "x": 0, "y": 1}


def test_topological_order_puts_parents_first():
    lineage = tree("d c merge\nd b merge\nc a\nb a\na root")
    order = [lineage.nodes[i] for i in lineage.topological_order()]
    assert sorted(order) == ["a", "b", "c", "d", "root"]
    assert order[:2] == ["root", "a"]
    assert order[-1] == "d"


def test_parents_children_and_kin():
    lineage = tree("b a\nc a\nd b merge\nd e merge\nf d\ny x")
    assert sorted(lineage.parents_of("d")) == ["b", "e"]
    assert lineage.parents_of("a") == []
    assert sorted(lineage.children_of("a")) == ["b", "c"]
    assert lineage.children_of("f") == []
    assert lineage.kin_of("b", 0) == []
    assert sorted(lineage.kin_of("b", 1)) == ["a", "d"]
    assert sorted(lineage.kin_of("b", 2)) == ["a", "c", "d", "e", "f"]
    assert sorted(lineage.kin_of("b", 9)) == ["a", "c", "d", "e", "f"]


def test_unknown_model_is_named_with_the_nearest():
    lineage = tree("org/model-b org/model-a")
    for ask in (lineage.parents_of, lineage.children_of, lambda name: lineage.kin_of(name, 1)):
        with pytest.raises(InputError, match="unknown model 'org/modell-b'; did you mean"):
            ask("org/modell-b")


def test_summary_counts_parents_and_connections():
    lineage = tree("m1 base\nm2 base\nm3 m1\nlone far")
    # m1 and m3 have parents; base, not among the models, connects m1, m2 and m3.
    assert lineage.summary(["m1", "base", "m3", "stranger"]) == (
        "2 of 4 models have a recorded parent; 3 are connected"
    )
    assert lineage.summary(["m1", "m2"]) == (
        "2 of 2 models have a recorded parent; 2 are connected"
    )
    assert lineage.summary(["lone", "m1", "stranger"]) == (
        "2 of 3 models have a recorded parent; 0 are connected"
    )
    assert lineage.summary(["x"]) == "0 of 1 models have a recorded parent; 0 are connected"


def test_repr():
    assert repr(tree("b a\nc a")) == "Lineage(3 models, 2 edges)"


# --- aliases ---


def test_aliases_rename_children_and_parents():
    lineage = tree("b old\nold a", aliases={"old": "new", "unused": "x"})
    assert set(edges_of(lineage)) == {("b", "new"), ("new", "a")}
    assert [note for note in lineage.notes if "alias" in note] == [
        "1 child name renamed by the alias table",
        "1 parent name renamed by the alias table",
    ]


def test_chain_of_aliases_is_followed():
    lineage = tree("b v1\nc v2\nd v3", aliases={"v1": "v2", "v2": "v3"})
    assert set(edges_of(lineage)) == {("b", "v3"), ("c", "v3"), ("d", "v3")}


def test_circle_of_aliases_is_named():
    with pytest.raises(InputError, match="circle: p -> q -> r -> p; remove one"):
        tree("b a", aliases={"p": "q", "q": "r", "r": "p"})


def test_alias_of_itself_is_harmless():
    assert set(edges_of(tree("b a", aliases={"a": "a", "b": "c"}))) == {("c", "a")}


def test_alias_that_makes_a_self_loop_drops_it():
    lineage = tree("gpt2 openai/gpt2\nb gpt2", aliases={"gpt2": "openai/gpt2"})
    assert set(edges_of(lineage)) == {("b", "openai/gpt2")}
    assert "1 self-loops dropped (openai/gpt2)" in lineage.notes


@pytest.mark.parametrize("as_file", [True, False])
def test_alias_table(as_file, tmp_path):
    table = pd.DataFrame({"alias": [" old"], "name": ["new"]})
    if as_file:
        table.to_csv(tmp_path / "a.csv", index=False)
    lineage = tree("b old", aliases=tmp_path / "a.csv" if as_file else table)
    assert set(edges_of(lineage)) == {("b", "new")}


def test_broken_alias_tables():
    with pytest.raises(InputError, match="aliases: no column 'name'; rename 'names'"):
        tree("b a", aliases=pd.DataFrame({"alias": ["x"], "names": ["y"]}))
    with pytest.raises(InputError, match="alias 'x' stands for both 'y' and 'z'; keep one"):
        tree("b a", aliases=pd.DataFrame({"alias": ["x", "x"], "name": ["y", "z"]}))
    with pytest.raises(InputError, match="alias table not found"):
        tree("b a", aliases="none.csv")
    same_twice = pd.DataFrame({"alias": ["b", "b"], "name": ["y", "y"]})
    assert set(edges_of(tree("b a", aliases=same_twice))) == {("y", "a")}


# --- what reading drops and notes ---


def test_self_loops_are_dropped_and_noted():
    lineage = tree("a a\nb a\nc c")
    assert set(edges_of(lineage)) == {("b", "a")}
    assert lineage.notes == ("2 self-loops dropped (a, c)",)


def test_a_file_of_self_loops_alone_is_an_empty_lineage():
    lineage = tree("a a")
    assert (len(lineage.nodes), len(lineage.child)) == (0, 0)
    assert list(lineage.core(["m"]).nodes) == ["m"]


def test_repeated_edges_count_once():
    lineage = tree("b a\nc a\nb a")
    assert weights_of(lineage) == {("b", "a"): 1.0, ("c", "a"): 1.0}
    assert lineage.notes == ("1 repeated edges dropped, direct relations kept",)


@pytest.mark.parametrize("order", ["b a ancestor\nb a adapter", "b a adapter\nb a ancestor"])
def test_direct_relation_is_kept_over_ancestor(order):
    assert edges_of(tree(order)) == {("b", "a"): ("adapter", 1.0)}


def test_order_of_edges_is_kept_when_repeats_are_dropped():
    lineage = tree("d a ancestor\nb a ancestor\nc a\nb a")
    assert [lineage.nodes[c] for c in lineage.child] == ["d", "c", "b"]


def test_names_that_differ_by_case_are_noted_and_kept_apart():
    lineage = tree("b Org/A\nc org/a")
    assert len(lineage.nodes) == 4
    assert lineage.notes == ("2 names differ only by case and are kept apart (Org/A, org/a)",)


def test_blanks_are_stripped_and_noted(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("child, parent ,relation\n b ,a, merge\n")
    lineage = read_lineage(path)
    assert edges_of(lineage) == {("b", "a"): ("merge", 1.0)}
    assert lineage.notes == ("blanks around 1 child name stripped",)


def test_no_notes_without_cause(diamond):
    assert diamond.notes == ()


@pytest.mark.parametrize(
    ("text", "cycle"),
    [
        ("b a\na b", {"a", "b"}),
        ("b a\nc b\na c\nd c\nx y", {"a", "b", "c"}),
        ("b a ancestor\na b", {"a", "b"}),
    ],
)
def test_cycle_is_named(text, cycle):
    with pytest.raises(InputError, match="has a cycle") as caught:
        tree(text, where="l.csv")
    assert caught.value.where == "l.csv"
    named = caught.value.what.partition(": ")[2].split(" -> ")
    assert named[0] == named[-1]
    assert set(named) == cycle
    assert len(named) == len(cycle) + 1
    # Parents come before children in it.
    pairs = {tuple(line.split()[:2]) for line in text.splitlines()}
    assert all((child, parent) in pairs for parent, child in pairwise(named))


def test_cycle_through_an_alias_is_found():
    with pytest.raises(InputError, match="has a cycle"):
        tree("b a\nc b", aliases={"c": "a"})


# --- broken files ---

HEADER = "child,parent,relation\n"
WEIGHTED = "child,parent,relation,weight\n"
BROKEN = {
    "empty": ("", "the file is empty"),
    "blank lines": ("\n\n", "the file is empty"),
    "no rows": (HEADER, "has a header but no rows"),
    "no relation": ("child,parent\nb,a\n", "no column 'relation'"),
    "column misspelt": (
        "child,parents,relation\nb,a,merge\n",
        "no column 'parent'; rename 'parents'",
    ),
    "column in another case": ("Child,parent,relation\nb,a,merge\n", "rename 'Child'"),
    "column unknown": ("child,parent,relation,wieght\nb,a,merge,1\n", "did you mean 'weight'"),
    "column twice": ("child,child,relation\nb,a,merge\n", "2 columns are named 'child'"),
    "semicolons": ("child;parent;relation\nb;a;merge\n", "separate them by commas"),
    "tabs": ("child\tparent\trelation\nb\ta\tmerge\n", "separate them by commas"),
    "ragged": (HEADER + "b,a,merge\nc,a\n", "line 3: 2 cells under a header of 3"),
    "relation misspelt": (
        HEADER + "b,a,merge\nc,a,fintune\n",
        "line 3, child c: unknown relation 'fintune'; did you mean 'finetune'?",
    ),
    "relation in another case": (HEADER + "b,a,Merge\n", "did you mean 'merge'?"),
    "relation missing": (HEADER + "b,a,\n", "line 2, child b: unknown relation ''"),
    "child missing": (HEADER + ",a,merge\n", "the child name is missing; name it"),
    "parent blank": (HEADER + "b,  ,merge\n", "line 2, child b: the parent name is missing"),
    "weight zero": (WEIGHTED + "b,a,merge,0\n", "column weight, line 2, child b: weight is 0"),
    "weight negative": (WEIGHTED + "c,a,merge,1\nb,a,merge,-2\n", "line 3, child b: weight is -2"),
    "weight infinite": (WEIGHTED + "b,a,merge,inf\n", "weight is inf"),
    "weight a word": (WEIGHTED + "b,a,merge,half\n", "'half' is not a number"),
    "weight nan": (WEIGHTED + "b,a,merge,nan\n", "'nan' is not a number"),
    "weights for some": (
        WEIGHTED + "b,a,merge,0.5\nb,c,merge,\n",
        "some parents of b have a weight and some have none; give all or none",
    ),
    "cycle": (HEADER + "b,a,merge\na,b,merge\n", "has a cycle: "),
    "latin-1": ((HEADER + "é,a,merge\n").encode("latin-1"), "UTF-8"),
    "a Parquet file called CSV": (b"PAR1\x15\x04PAR1\n", "is not CSV text"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=list(BROKEN))
def test_broken_file_says_what_where_and_how_to_fix(content, words, tmp_path):
    path = tmp_path / "l.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_lineage(path)
    line = str(caught.value)
    assert words in line
    assert line.startswith(str(path))
    assert "\n" not in line
    assert caught.value.fix


def test_missing_folder_and_unknown_kinds_of_files(tmp_path):
    with pytest.raises(InputError, match="lineage file not found"):
        read_lineage(tmp_path / "none.csv")
    with pytest.raises(InputError, match="lineage file is a folder"):
        read_lineage(tmp_path)
    (tmp_path / "l.txt").write_text(HEADER + "b,a,merge\n")
    with pytest.raises(InputError, match=r"unknown kind of file '\.txt'"):
        read_lineage(tmp_path / "l.txt")
    (tmp_path / "l.parquet").write_text(HEADER)
    with pytest.raises(InputError, match="is not a Parquet file"):
        read_lineage(tmp_path / "l.parquet")
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(HEADER.encode() * 100)[:30])
    with pytest.raises(InputError, match="is not a gzip file, or is damaged"):
        read_lineage(tmp_path / "l.csv.gz")


def test_frame_names_rows_from_one():
    frame = pd.DataFrame({"child": ["b"], "parent": ["a"], "relation": ["x"]})
    with pytest.raises(InputError, match=r"^edges, row 1, child b: unknown relation 'x'"):
        lineage_from_frame(frame, where="edges")


# --- round trips and random graphs ---


def assert_same(a: Lineage, b: Lineage) -> None:
    assert edges_of(a) == edges_of(b)
    assert list(a.nodes) == list(b.nodes)


@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz", "l.parquet", "l.pq"])
def test_write_and_read(name, tmp_path, diamond):
    write_lineage(diamond, tmp_path / name)
    assert_same(read_lineage(tmp_path / name), diamond)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path):
    lineage = tree('1.0 001\nNA null\n"q" x')
    write_lineage(lineage, tmp_path / "l.csv")
    assert_same(read_lineage(tmp_path / "l.csv"), lineage)


@st.composite
def lineages(draw):
    n = draw(st.integers(2, 12))
    pairs = [(c, p) for c in range(n) for p in range(c)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=20, unique=True))
    label = draw(st.permutations([f"m{i}" for i in range(n)]))
    relations = st.sampled_from(RELATIONS)
    weights = st.floats(0.1, 10)
    lines = [f"{label[c]} {label[p]} {draw(relations)} {draw(weights)}" for c, p in chosen]
    evaluated = draw(st.lists(st.sampled_from([*label, "other"]), unique=True))
    return tree("\n".join(lines)), evaluated


@given(lineages())
def test_laplacian_is_symmetric_positive_and_has_zero_row_sums(drawn):
    lineage, _ = drawn
    for strengths in (None, lineage.strengths(STRENGTHS)):
        laplacian = lineage.laplacian(strengths).toarray()
        np.testing.assert_array_equal(laplacian, laplacian.T)
        np.testing.assert_allclose(laplacian.sum(axis=1), 0, atol=1e-9)
        eigenvalues = np.linalg.eigvalsh(laplacian)
        assert eigenvalues.min() > -1e-9
        n_components = len(set(lineage.components().tolist()))
        assert (eigenvalues < 1e-9).sum() == n_components


@given(lineages())
def test_quadratic_form_is_a_sum_over_edges(drawn):
    lineage, _ = drawn
    strengths = lineage.strengths(STRENGTHS)
    t = np.random.default_rng(0).normal(size=len(lineage.nodes))
    want = (strengths * (t[lineage.child] - t[lineage.parent]) ** 2).sum()
    assert t @ lineage.laplacian(strengths) @ t == pytest.approx(want)


@given(lineages())
def test_weights_are_shares(drawn):
    lineage, evaluated = drawn
    for part in (lineage, lineage.core(evaluated), lineage.descendants(evaluated)):
        total = np.bincount(part.child, part.weight, minlength=len(part.nodes))
        np.testing.assert_allclose(total[np.unique(part.child)], 1)
        assert part.child.dtype == part.parent.dtype == np.int32


def ancestors(lineage: Lineage, names) -> set:
    found, stack = set(), list(names)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += lineage.parents_of(name) if name in lineage.index else []
    return found


@given(lineages())
def test_core_is_what_brute_force_leaves(drawn):
    lineage, evaluated = drawn
    left = ancestors(lineage, evaluated)
    pairs = {frozenset(pair) for pair in edges_of(lineage)}
    while True:
        inside = [pair for pair in pairs if pair <= left]
        loose = {m for m in left - set(evaluated) if sum(m in pair for pair in inside) <= 1}
        if not loose:
            break
        left -= loose
    core = lineage.core(evaluated)
    assert list(core.nodes[: len(evaluated)]) == evaluated
    assert len(set(core.nodes)) == len(core.nodes)
    assert set(core.nodes) == left
    assert set(edges_of(core)) == {pair for pair in edges_of(lineage) if set(pair) <= left}
    # Nothing more to prune, and nothing lost, when it is done again.
    again = core.core(evaluated)
    assert set(again.nodes) == left
    assert edges_of(again) == edges_of(core)


@given(lineages())
def test_whole_merges_weigh_parents_as_recorded(drawn):
    lineage, evaluated = drawn
    plain, whole = lineage.core(evaluated), lineage.core(evaluated, whole_merges=True)
    joined = {child for child, _ in edges_of(plain)}
    added = {p for child in joined for p in lineage.parents_of(child)} - set(plain.nodes)
    assert set(whole.nodes) == set(plain.nodes) | added
    assert list(whole.nodes[: len(evaluated)]) == evaluated
    recorded = {pair: w for pair, w in weights_of(lineage).items() if pair[0] in joined}
    assert weights_of(whole) == pytest.approx(recorded)
    again = whole.core(evaluated, whole_merges=True)
    assert weights_of(again) == pytest.approx(recorded)
    below = lineage.descendants(whole.nodes, whole_merges=True)
    assert (below.parent < below.child).all()
    under = {child for child, _ in edges_of(lineage.descendants(whole.nodes))}
    recorded = {pair: w for pair, w in weights_of(lineage).items() if pair[0] in under}
    assert weights_of(below) == pytest.approx(recorded)


@given(lineages())
def test_core_and_descendants_share_no_edge_and_reach_all_kin_below(drawn):
    lineage, evaluated = drawn
    core = lineage.core(evaluated)
    below = lineage.descendants(core.nodes)
    assert list(below.nodes[: len(core.nodes)]) == list(core.nodes)
    want = {m for m in lineage.nodes if ancestors(lineage, [m]) & set(core.nodes)}
    assert set(below.nodes) == want | set(core.nodes)
    assert not set(edges_of(core)) & set(edges_of(below))
    assert (below.child >= len(core.nodes)).all()
    assert (below.parent < below.child).all()


@given(lineages())
def test_topological_order_and_depth_agree(drawn):
    lineage, _ = drawn
    place = np.argsort(lineage.topological_order())
    assert (place[lineage.parent] < place[lineage.child]).all()
    depth = lineage.depth()
    assert (depth[lineage.parent] < depth[lineage.child]).all()
    for i in np.flatnonzero(depth):
        assert depth[i] == 1 + depth[lineage.parent[lineage.child == i]].max()


@given(lineages())
def test_any_lineage_survives_the_disk(tmp_path_factory, drawn):
    path = tmp_path_factory.mktemp("l") / "l.csv"
    write_lineage(drawn[0], path)
    assert_same(read_lineage(path), drawn[0])


@pytest.mark.real
def test_real_lineage(data_dir):
    lineage = read_lineage(data_dir / "lineage" / "edges.csv")
    assert set(lineage.relation) <= set(RELATIONS)
    assert len(lineage.child) > 40_000
    counts = pd.read_csv(data_dir / "subtasks" / "counts.csv", usecols=["model"])
    models = list(counts["model"].unique())
    core = lineage.core(models)
    assert list(core.nodes[: len(models)]) == models
    latent = np.arange(len(models), len(core.nodes))
    n_neighbours = np.asarray((core.adjacency() > 0).sum(axis=1)).ravel()
    assert (n_neighbours[latent] >= 2).all()
    assert len(core.nodes) > len(models)
    assert len(lineage.descendants(core.nodes).nodes) > len(core.nodes)
    children = set(lineage.nodes[lineage.child])
    n_parents = sum(model in children for model in models)
    assert n_parents > 1000
    assert lineage.summary(models).startswith(f"{n_parents:,} of {len(models):,} models have")


def test_among_joins_nobody_through_others():
    lineage = tree("b a\nc b\nd a\nd c merge")
    near = lineage.among(["d", "a", "c", "zz"])
    assert list(near.nodes) == ["d", "a", "c", "zz"]
    assert weights_of(near) == {("d", "a"): 0.5, ("d", "c"): 0.5}
    assert weights_of(lineage.among(["d", "a"])) == {("d", "a"): 1.0}


def test_edges_of_some_relations_alone():
    lineage = tree("b a ancestor\nc a finetune\nc b merge")
    direct = lineage.of_relations(["finetune", "merge"])
    assert list(direct.nodes) == list(lineage.nodes)
    assert weights_of(direct) == {("c", "a"): 0.5, ("c", "b"): 0.5}
    with pytest.raises(InputError, match="did you mean 'merge'"):
        lineage.of_relations(["merged"])


def test_shuffled_keeps_numbers_of_parents_and_children_by_relation(rng):
    lineage = simulated_lineage(150, rng=rng, merge_share=0.3)
    mixed = lineage.shuffled(np.random.default_rng(1))
    for relation in set(lineage.relation):
        here = lineage.relation == relation
        for end in ("child", "parent"):
            counts = [np.bincount(getattr(x, end)[here], minlength=150) for x in (lineage, mixed)]
            np.testing.assert_array_equal(*counts)
    np.testing.assert_array_equal(mixed.child, lineage.child)
    np.testing.assert_array_equal(mixed.weight, lineage.weight)
    assert (mixed.child != mixed.parent).all()
    graph = nx.DiGraph(zip(mixed.parent, mixed.child, strict=True))
    assert graph.number_of_edges() == len(mixed.child)
    assert nx.is_directed_acyclic_graph(graph)
    # With 12 base models and preferential attachment, chance alone keeps some edges.
    assert (mixed.parent == lineage.parent).mean() < 0.3
    again = lineage.shuffled(np.random.default_rng(1))
    np.testing.assert_array_equal(again.parent, mixed.parent)


def test_shuffled_never_closes_a_cycle():
    # c -> b -> a beside f -> e -> d: exchanges within a chain would make a model its own ancestor.
    lineage = tree("b a\nc b\ne d\nf e")
    seen = set()
    for seed in range(60):
        mixed = lineage.shuffled(np.random.default_rng(seed))
        graph = nx.DiGraph(zip(mixed.parent, mixed.child, strict=True))
        assert nx.is_directed_acyclic_graph(graph)
        seen.add(frozenset(zip(mixed.child, mixed.parent, strict=True)))
    assert len(seen) > 1


def test_layout_gives_every_model_a_row_below_its_first_parent():
    lineage = tree("b a\nc a\nd b\ne c merge\ne d merge\ny x")
    found = lineage.layout().set_index("model")
    assert sorted(found["row"]) == list(range(7))
    assert found["depth"].to_dict() == {"a": 0, "b": 1, "c": 1, "d": 2, "e": 3, "x": 0, "y": 1}
    rows = found["row"]
    assert rows["a"] < rows["b"] < rows["d"]
    assert rows["c"] < rows["e"]
    assert rows["d"] == rows["b"] + 1
    assert rows["e"] == rows["c"] + 1
    assert abs(rows["y"] - rows["x"]) == 1
