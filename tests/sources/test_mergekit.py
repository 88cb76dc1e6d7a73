"""Tests of merge recipes: shares computed by hand, names resolved, mistakes to one line."""

from __future__ import annotations

import sys

import click
import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.cli import main
from bayes_lrmf.commands.deciding import predict
from bayes_lrmf.commands.importing_lineage import mergekit
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.outlook import predict_merge
from bayes_lrmf.sources.mergekit import METHODS, read_merge
from bayes_lrmf.storage import write_posterior

pytest.importorskip("yaml")


@pytest.fixture
def merge(tmp_path):
    """Return a function from the text of a recipe to its merges."""

    def read(text: str):
        path = tmp_path / "m.yml"
        path.write_text(text)
        return read_merge(path)

    return read


def models(*pairs: tuple[str, object]) -> str:
    lines = ["models:"]
    for name, weight in pairs:
        lines.append(f"  - model: {name}")
        if weight is not None:
            lines.append(f"    parameters: {{weight: {weight}}}")
    return "\n".join(lines) + "\n"


SLERP = "merge_method: slerp\nbase_model: a\n"
TIES = "merge_method: ties\nbase_model: base\n"
ARITHMETIC = "merge_method: task_arithmetic\nbase_model: base\n"
# Two attention matrices of size 1, two of a quarter, three of the MLP of 3.5: 2.5 of 13.
ATTENTION, MLP = 2.5 / 13, 10.5 / 13

SHAPES = {
    "linear": (
        "merge_method: linear\n" + models(("a", 1), ("b", 3)),
        {"a": 0.25, "b": 0.75},
    ),
    "linear without weights": (
        "merge_method: linear\n" + models(("a", None), ("b", None)),
        {"a": 0.5, "b": 0.5},
    ),
    "a model's own weight comes before that of the recipe": (
        "merge_method: linear\n" + models(("a", 3), ("b", None)) + "parameters: {weight: 1}\n",
        {"a": 0.75, "b": 0.25},
    ),
    "linear, weights as texts": (
        "merge_method: linear\n" + models(("a", "1e-1"), ("b", "'3e-1'")),
        {"a": 0.25, "b": 0.75},
    ),
    # Layers at 0 and 1 only: shares 0 and 1/2 of a, so a quarter, not a third.
    "shares are taken at every layer": (
        "merge_method: linear\nslices:\n  - sources:\n"
        "      - {model: a, layer_range: [0, 2], parameters: {weight: [0, 1]}}\n"
        "      - {model: b, layer_range: [0, 2], parameters: {weight: 1}}\n",
        {"a": 0.25, "b": 0.75},
    ),
    "linear gradient over layers of unknown number": (
        "merge_method: linear\n" + models(("a", [0, 0.5]), ("b", [1, 0.5])),
        {"a": 0.25, "b": 0.75},
    ),
    "slerp": (
        SLERP + models(("a", None), ("b", None)) + "parameters: {t: 0.3}\n",
        {"a": 0.7, "b": 0.3},
    ),
    "slerp whose base is named second": (
        SLERP + models(("b", None), ("a", None)) + "parameters: {t: 0.3}\n",
        {"b": 0.3, "a": 0.7},
    ),
    "slerp whose base is not listed": (
        SLERP + models(("b", None)) + "parameters: {t: 0.3}\n",
        {"b": 0.3, "a": 0.7},
    ),
    # Positions 0, 1/4, 1/2, 3/4 and 1 fall on the five values.
    "slerp by slices with filters": (
        SLERP + "slices:\n  - sources:\n"
        "      - {model: a, layer_range: [0, 5]}\n      - {model: b, layer_range: [0, 5]}\n"
        "parameters:\n  t:\n    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}\n"
        "    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0.5]}\n    - value: 0.9\n",
        {"a": 1 - 0.5 * ATTENTION - 0.6 * MLP, "b": 0.5 * ATTENTION + 0.6 * MLP},
    ),
    "filters, the first that matches": (
        "merge_method: slerp\nbase_model: a\n" + models(("a", None), ("b", None)) +
        "parameters:\n  t:\n    - {filter: q_proj, value: 1}\n    - {filter: '*', value: 0}\n"
        "    - {filter: mlp, value: 1}\n",
        {"a": 12 / 13, "b": 1 / 13},
    ),
    # 0.3 + 0.2 leave half of the base.
    "task arithmetic leaves something for the base": (
        ARITHMETIC + models(("a", 0.3), ("b", 0.2)),
        {"a": 0.3, "b": 0.2, "base": 0.5},
    ),
    "task arithmetic of whole weights leaves nothing": (
        ARITHMETIC + models(("a", 1), ("b", 3)),
        {"a": 0.25, "b": 0.75},
    ),
    # base + 0.5 (a - base) - 0.5 (b - base): magnitudes 0.5, 0.5 and 1 of the base.
    "a model is taken away": (
        ARITHMETIC + models(("a", 0.5), ("b", -0.5)),
        {"a": 0.25, "b": 0.25, "base": 0.5},
    ),
    "ties is normalised, and its base listed": (
        TIES + models(("base", None), ("a", 0.3), ("b", 0.1)),
        {"a": 0.75, "b": 0.25},
    ),
    "ties with normalize off": (
        TIES + models(("a", 0.3), ("b", 0.1)) + "parameters: {normalize: false, density: 0.5}\n",
        {"a": 0.3, "b": 0.1, "base": 0.6},
    ),
    "ties with lambda": (
        TIES + models(("a", 3), ("b", 1)) + "parameters: {lambda: 0.5}\n",
        {"a": 0.375, "b": 0.125, "base": 0.5},
    ),
    "dare_ties is not normalised": (
        "merge_method: dare_ties\nbase_model: base\n" + models(("a", 0.5)),
        {"a": 0.5, "base": 0.5},
    ),
    "della is normalised, della_linear is not": (
        "merge_method: della\nbase_model: base\n" + models(("a", 0.5)),
        {"a": 1.0},
    ),
    "model_stock": (
        "merge_method: model_stock\nbase_model: base\n" + models(("a", None), ("b", None)),
        {"a": 0.5, "b": 0.5},
    ),
    "karcher": (
        "merge_method: karcher\n" + models(("a", None), ("b", None), ("c", None)),
        {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3},
    ),
    "nuslerp with an origin": (
        "merge_method: nuslerp\nbase_model: base\n" + models(("a", 1), ("b", 4)),
        {"a": 0.2, "b": 0.8},
    ),
    "multislerp": (
        "merge_method: multislerp\n" + models(("a", 2), ("b", 1), ("c", 1)),
        {"a": 0.5, "b": 0.25, "c": 0.25},
    ),
    # 24 layers of a, then 8 of b and 16 of a again.
    "passthrough by layers": (
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: a, layer_range: [0, 24]}]\n"
        "  - sources: [{model: b, layer_range: [8, 16]}]\n"
        "  - sources: [{model: a, layer_range: [16, 32]}]\n",
        {"a": 40 / 48, "b": 8 / 48},
    ),
    # Three layers of a quarter of a, one of all a.
    "slices with their own weights": (
        "merge_method: linear\nslices:\n"
        "  - sources:\n"
        "      - {model: a, layer_range: [0, 3], parameters: {weight: 1}}\n"
        "      - {model: b, layer_range: [0, 3], parameters: {weight: 3}}\n"
        "  - sources: [{model: a, layer_range: [3, 4]}]\n",
        {"a": (0.75 + 1) / 4, "b": 2.25 / 4},
    ),
    "slices with their own t": (
        SLERP + "parameters: {t: 1}\nslices:\n"
        "  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]\n"
        "    parameters: {t: 0.5}\n"
        "  - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n",
        {"a": 0.25, "b": 0.75},
    ),
    "modules": (
        "merge_method: linear\nmodules:\n  text:\n    models:\n"
        "      - {model: a, parameters: {weight: 1}}\n      - {model: b, parameters: {weight: 1}}\n"
        "  vision:\n    models: [{model: a, parameters: {weight: 1}}]\n",
        {"a": 0.75, "b": 0.25},
    ),
    "revisions and adapters": (
        "merge_method: linear\n" + models(("o/a@main", 1), ("o/b@v2+o/l@x", 1), ("o/b", 2)),
        {"o/a": 0.25, "o/b": 0.75},
    ),
    "a base with an adapter is a donor": (
        ARITHMETIC + models(("base+lora", 0.5)),
        {"base": 1.0},
    ),
    "a slice of the base alone": (
        ARITHMETIC + "slices:\n"
        "  - sources:\n"
        "      - {model: base, layer_range: [0, 3]}\n"
        "      - {model: a, layer_range: [0, 3], parameters: {weight: 1}}\n"
        "  - sources: [{model: base, layer_range: [3, 4]}]\n",
        {"a": 0.75, "base": 0.25},
    ),
    # At the first of two layers no task vector is added, at the second only half.
    "a gradient that starts with the base": (
        ARITHMETIC + "slices:\n"
        "  - sources:\n"
        "      - {model: base, layer_range: [0, 2]}\n"
        "      - {model: a, layer_range: [0, 2], parameters: {weight: [0, 0.5]}}\n",
        {"a": 0.25, "base": 0.75},
    ),
    "long form of a model": (
        "merge_method: linear\nmodels:\n"
        "  - model: {model: {path: a, revision: r}, lora: {path: l}}\n  - model: {path: b}\n",
        {"a": 0.5, "b": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "shares"), SHAPES.values(), ids=list(SHAPES))
def test_shares(text, shares, merge):
    [found] = merge(text)
    assert dict(zip(found.parents, found.weights, strict=True)) == pytest.approx(shares)
    assert sum(found.weights) == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reads_two_parents_or_their_layers(method, merge):
    """No method is in the table without a rule."""
    text = f"merge_method: {method}\nbase_model: a\nparameters: {{t: 0.5}}\n"
    both = models(("a", 0.5), ("b", 0.5), *([("c", 0.5)] if "slerp" in method[1:] else []))
    if method == "passthrough":
        both = (
            "slices:\n  - sources: [{model: a, layer_range: [0, 1]}]\n"
            "  - sources: [{model: b, layer_range: [1, 2]}]\n"
        )
    if method == "slerp":
        both = models(("a", None), ("b", None))
    [found] = merge(text + both)
    assert "b" in found.parents
    assert sum(found.weights) == pytest.approx(1)


def test_notes_say_what_is_left_out(merge):
    [found] = merge("merge_method: linear\n" + models(("a@v1", 1), ("b+l", 1), ("c", 0)))
    assert found.parents == ("a", "b")
    notes = " | ".join(found.notes)
    assert "revision v1 of a" in notes
    assert "adapter l" in notes
    assert "weight 0, left out: c" in notes


def test_documents_resolve_to_the_parents_of_their_parents(merge):
    text = (
        "name: inner\nmerge_method: linear\n" + models(("a", 1), ("b", 3)) + "---\n"
        "name: outer\nmerge_method: linear\n" + models(("inner", 1), ("c", 1)) + "---\n"
        "merge_method: linear\n" + models(("outer", 0.5), ("a", 0.5))
    )  # fmt: skip
    inner, outer, last = merge(text)
    assert (inner.name, outer.name, last.name) == ("inner", "outer", None)
    assert dict(zip(outer.parents, outer.weights, strict=True)) == pytest.approx(
        {"a": 0.125, "b": 0.375, "c": 0.5}
    )
    assert dict(zip(last.parents, last.weights, strict=True)) == pytest.approx(
        {"a": 0.5625, "b": 0.1875, "c": 0.25}
    )


def test_documents_may_stand_in_any_order(merge):
    text = (
        "merge_method: linear\n" + models(("inner", 1), ("c", 1)) + "---\n"
        "name: inner\nmerge_method: linear\n" + models(("a", 1))
    )  # fmt: skip
    last, _ = merge(text)
    assert dict(zip(last.parents, last.weights, strict=True)) == {"c": 0.5, "a": 0.5}


def test_edges_are_a_lineage(merge):
    [found] = merge("merge_method: linear\n" + models(("a", 1), ("b", 3)))
    frame = found.edges("kid")
    assert list(frame.columns) == ["child", "parent", "relation", "weight"]
    lineage = lineage_from_frame(frame)
    assert lineage.parents_of("kid") == ["a", "b"]
    assert list(lineage.weight) == pytest.approx([0.25, 0.75])
    assert set(lineage.relation) == {"merge"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
TWO = models(("a", 1), ("b", 1))
BROKEN = {
    "empty": ("", ("the recipe is empty", "write models")),
    "comments alone": ("# nothing\n", ("the recipe is empty",)),
    "not a mapping": ("- a\n- b\n", ("the recipe is not a mapping", "key: value")),
    "a word": ("merge\n", ("the recipe is not a mapping",)),
    "experts": ("base_model: a\nexperts: []\n", ("a mixture of experts is no merge",)),
    "no method": (TWO, ("no merge_method", "linear")),
    "unknown method": ("merge_method: slrp\n" + TWO, ("'slrp'", "did you mean 'slerp'?")),
    "no models": ("merge_method: linear\n", ("no models", "models, slices or modules")),
    "empty models": ("merge_method: linear\nmodels: []\n", ("no models",)),
    "models and slices": (
        "merge_method: linear\nslices: [{}]\n" + TWO,
        ("models and slices together",),
    ),
    "models a word": ("merge_method: linear\nmodels: a\n", ("models is not a list",)),
    "models words": ("merge_method: linear\nmodels: [a, b]\n", ("a model is not a mapping",)),
    "a model misspelt": (
        "merge_method: linear\nmodels: [{modle: a}]\n",
        ("without model", "rename 'modle'"),
    ),
    "a model a number": ("merge_method: linear\nmodels: [{model: 7}]\n", ("7 is no model",)),
    "two adapters": ("merge_method: linear\nmodels: [{model: a+b+c}]\n", ("'a+b+c' is no model",)),
    "weights all zero": (
        "merge_method: linear\n" + models(("a", 0), ("b", 0)),
        ("all weights are 0", "above 0"),
    ),
    "task vectors all zero": (
        ARITHMETIC + models(("a", 0), ("b", 0)),
        ("all weights are 0", "above 0"),
    ),
    "weight a word": ("merge_method: linear\n" + models(("a", "much")), ("weight is 'much'",)),
    "weight true": ("merge_method: linear\n" + models(("a", "true")), ("weight is True",)),
    "weight not finite": ("merge_method: linear\n" + models(("a", ".inf")), ("weight is inf",)),
    "weight a mapping of nothing": (
        "merge_method: linear\n" + models(("a", "{filter: mlp}")),
        ("mixes numbers with filters",),
    ),
    "slerp without t": (SLERP + models(("a", None), ("b", None)), ("no parameter t", "give t")),
    "slerp with t too large": (
        SLERP + models(("a", None), ("b", None)) + "parameters: {t: 2}\n",
        ("t is 2", "from 0 to 1"),
    ),
    "slerp of three": (
        SLERP + models(("a", 1), ("b", 1), ("c", 1)) + "parameters: {t: 0.5}\n",
        ("the base and one other model, not 3",),
    ),
    "slerp without base": (
        "merge_method: slerp\nparameters: {t: 0.5}\n" + TWO,
        ("slerp without base_model", "name the base"),
    ),
    "ties without base": ("merge_method: ties\n" + TWO, ("ties without base_model",)),
    "ties of the base alone": (TIES + models(("base", 1)), ("the base stands alone",)),
    "nuslerp of three": (
        "merge_method: nuslerp\n" + models(("a", 1), ("b", 1), ("c", 1)),
        ("two models beside the base, not 3",),
    ),
    "passthrough of two": ("merge_method: passthrough\n" + TWO, ("one model for a slice, not 2",)),
    "layer_range missing": (
        "merge_method: passthrough\nslices: [{sources: [{model: a}]}]\n",
        ("slice 1", "layer_range of a is None", "[0, 32]"),
    ),
    "layer_range backwards": (
        "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [8, 2]}]}]\n",
        ("layer_range of a is [8, 2]",),
    ),
    "layers without end": (
        "merge_method: passthrough\nslices:\n"
        + "  - sources: [{model: a, layer_range: [0, 9000]}]\n" * 2,
        ("more than 10,000 layers",),
    ),
    "slices of unequal length": (
        "merge_method: linear\nslices:\n"
        "  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}]\n",
        ("slice 1", "different numbers of layers"),
    ),
    "two nameless merges": (
        f"merge_method: linear\n{TWO}---\nmerge_method: linear\n{TWO}",
        ("document 2", "two merges have no name"),
    ),
    "a circle": (
        "name: p\nmerge_method: linear\n" + models(("q", 1)) + "---\n"
        "name: q\nmerge_method: linear\n" + models(("p", 1)),
        ("merges go in a circle: p -> q -> p",),
    ),
    "aliases that blow up": (BOMB, ("aliases make it more than 100,000 values",)),
    "an alias of itself": ("a: &a [*a]\n", ("aliases make it more than",)),
    "nested without end": ("[" * 3000, ("nested more than 40 deep", "flatten")),
    "too large": ("# " + "x" * 1_000_001, ("larger than 1 MB",)),
    "tabs": ("merge_method: linear\nmodels:\n\t- model: a\n", ("line 3", "is not YAML")),
    "unclosed": ("merge_method: [linear\n", ("is not YAML", "line 2")),
    "an object": ("merge_method: !!python/object:os.system {}\n", ("is not YAML",)),
    "no such date": ("merge_method: 2024-13-45\n", ("is not YAML", "quote it")),
    "binary": (b"\xff\xfe\x00", ("UTF-8",)),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=list(BROKEN))
def test_mistakes_make_one_line(text, words, tmp_path):
    path = tmp_path / "m.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read_merge(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "; " in line
    for word in words:
        assert word in line


def test_missing_file_and_missing_reader(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="merge recipe not found"):
        read_merge(tmp_path / "none.yml")
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "m.yml").write_text("a: 1")
    with pytest.raises(InputError, match=r"PyYAML is not installed; pip install"):
        read_merge(tmp_path / "m.yml")


def run(command: click.Command, *arguments: object) -> None:
    command.main([str(a) for a in arguments], standalone_mode=False)


def test_command_writes_edges(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yml").write_text(
        "name: inner\nmerge_method: linear\n" + models(("a", 1), ("b", 3)) + "---\n"
        "merge_method: linear\n" + models(("inner", 1), ("c", 1))
    )  # fmt: skip
    run(mergekit, "m.yml", "--child", "o/kid", "-o", "e.csv")
    table = pd.read_csv("e.csv")
    assert dict(zip(table["parent"], table["weight"], strict=True)) == pytest.approx(
        {"a": 0.125, "b": 0.375, "c": 0.5}
    )
    assert set(table["child"]) == {"o/kid"}
    with pytest.raises(InputError, match="--child: a is one of its own parents"):
        run(mergekit, "m.yml", "--child", "a", "-o", "e.csv")
    with pytest.raises(InputError, match="--child: the merge has no name"):
        run(mergekit, "m.yml", "--child", " ", "-o", "e.csv")


@pytest.fixture(scope="module")
def fitted(kin_fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "p.nc"
    write_posterior(kin_fit, path)
    return path


def parents_in(fit) -> tuple[str, str]:
    first, second, *_ = fit.design.responses.models
    return first, second


def test_predict_of_a_recipe_is_that_of_the_merge(kin_fit, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = parents_in(kin_fit)
    (tmp_path / "m.yml").write_text("merge_method: linear\n" + models((a, 1), (b, 3)))
    run(
        predict, fitted, "--merge", "m.yml", "--ci-prob", 0.8, "--draws", 50, "--seed", 3,
        "-o", "t.csv",
    )  # fmt: skip
    table = pd.read_csv("t.csv")
    assert list(table.columns) == [
        "benchmark", "mean", "sd", "lower", "upper", f"beats:{a}", f"beats:{b}",
        "beats:best parent",
    ]  # fmt: skip
    wanted = predict_merge(
        kin_fit, {a: 0.25, b: 0.75}, key=jax.random.key(3), ci_prob=0.8, n_draws=50
    )
    assert list(table["benchmark"]) == list(wanted.scores["benchmark"])
    columns = ["mean", "sd", "lower", "upper"]
    np.testing.assert_allclose(table[columns], wanted.scores[columns], rtol=1e-4)
    np.testing.assert_allclose(table[f"beats:{b}"], wanted.beats[b], rtol=1e-4)
    np.testing.assert_allclose(table["beats:best parent"], wanted.beats["best parent"], rtol=1e-4)
    assert f"linear: 0.25 {a}, 0.75 {b}" in capsys.readouterr().err


def test_predict_takes_the_merge_without_a_name(kin_fit, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = parents_in(kin_fit)
    (tmp_path / "m.yml").write_text(
        "merge_method: linear\n" + models(("inner", 1)) + "---\n"
        "name: inner\nmerge_method: linear\n" + models((a, 1), (b, 1))
    )  # fmt: skip
    run(predict, fitted, "--merge", "m.yml", "--draws", 10, "-o", "t.csv")
    assert f"beats:{b}" in pd.read_csv("t.csv")


def test_mistakes_of_predict_with_a_recipe(kin_fit, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = parents_in(kin_fit)
    (tmp_path / "m.yml").write_text("merge_method: linear\n" + models((a, 1), (b + "x", 3)))

    def refused(*options: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["predict", str(fitted), *(str(o) for o in options), "-o", "t.csv"])
        assert caught.value.code == 2
        assert not (tmp_path / "t.csv").exists()
        return capsys.readouterr().err

    line = refused("--merge", "m.yml")
    assert line.startswith(f"bayes-lrmf: m.yml: unknown model '{b}x'; did you mean '")
    assert line.count("\n") == 1
    assert "--models: not for a merge" in refused("--merge", "m.yml", "--models", a)
    assert "--level: not for a merge" in refused("--merge", "m.yml", "--level", "item")
    assert "none.yml: merge recipe not found" in refused("--merge", "none.yml")
    (tmp_path / "m.yml").write_text("merge_method: linear\n" + models((a, 1), (b, 3)))
    assert "ci_prob is 90" in refused("--merge", "m.yml", "--ci-prob", 90)
