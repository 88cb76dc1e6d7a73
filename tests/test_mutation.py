"""Changes of the code: which are made, how they are told, and that explained ones still exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analyses import mutation

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("operator", "made"),
    [
        ("ReplaceBinaryOperator_Add_Sub", True),
        ("ReplaceBinaryOperator_BitOr_BitAnd", True),
        ("ReplaceBinaryOperator_Add_LShift", False),
        ("ReplaceBinaryOperator_Mul_BitAnd", False),
        ("ReplaceComparisonOperator_Lt_LtE", True),
        ("ReplaceComparisonOperator_Is_IsNot", True),
        ("ReplaceComparisonOperator_Eq_Is", False),
        ("ReplaceUnaryOperator_USub_UAdd", True),
        ("ReplaceUnaryOperator_USub_Not", False),
        ("NumberReplacer", True),
    ],
)
def test_changes_that_break_by_type_alone_are_not_made(operator, made):
    assert mutation._sensible(operator) == made


def test_annotations_are_found_from_and_to():
    source = "def f(a: int | None, *rest: str) -> float:\n    b: list[int] = []\n    return a + b\n"
    lines = source.splitlines()
    found = {lines[a[0] - 1][a[1] : b[1]] for a, b in mutation._annotations(source)}
    assert found == {"int | None", "str", "float", "list[int]"}


def test_what_differs_is_told_without_indent():
    before = "def f(a):\n    if a > 1:\n        return a\n    return 0\n"
    assert mutation.difference(before, before.replace("> 1", ">= 1")) == (
        2,
        "if a > 1:",
        "if a >= 1:",
    )
    assert mutation.difference("a = 1\n\n@cached\ndef f(): pass\n", "a = 1\ndef f(): pass\n") == (
        2, "@cached", "",
    )  # fmt: skip


def test_a_row_counts_what_was_noticed_and_what_is_explained(tmp_path, monkeypatch):
    path = tmp_path / "explained.csv"
    path.write_text("module,old,new,why\nm,a > 0,a != 0,counts\nother,b,c,no\n", encoding="utf-8")
    monkeypatch.setattr(mutation, "EXPLAINED", path)
    killed = {"killed": True, "line": 1, "old": "a > 0", "new": "a < 0"}
    explained = {"killed": False, "line": 1, "old": "a > 0", "new": "a != 0"}
    unexplained = {"killed": False, "line": 2, "old": "b", "new": "c"}
    row = mutation.row("m", 50, 3, [killed, killed, explained, unexplained])
    assert row.pop("date") >= "2026-01-01"
    assert row == {
        "module": "m", "changes": 50, "seed": 3, "tried": 4, "noticed": 2, "explained": 1,
    }  # fmt: skip


def test_results_of_another_source_are_not_used_again(tmp_path):
    path = tmp_path / "m.json"
    assert mutation._read(path, "a = 1") == {}
    path.write_text(json.dumps({"source": "a = 1", "tried": {"a = 2": {"killed": True}}}))
    assert mutation._read(path, "a = 1") == {"a = 2": {"killed": True}}
    assert mutation._read(path, "a = 3") == {}


def test_changes_are_made_where_code_is_and_each_once():
    pytest.importorskip("cosmic_ray", reason="make mutation installs it")
    source = "def f(a: int | None, *rest):\n    return g(*rest) + a * 2\n"
    made = [mutation.changed(source, *place) for place in mutation.places(source)]
    told = {mutation.difference(source, one)[2] for one in made}
    assert {"return g(*rest) - a * 2", "return g(*rest) + a / 2"} <= told
    assert all(new.startswith("return g(*rest)") for new in told)


def test_modules_and_tests_are_there_and_explained_changes_are_of_the_code():
    explained = mutation.explanations()
    for module, tests in mutation.MODULES.items():
        assert all((ROOT / name).is_file() for name in tests)
        lines = (ROOT / "bayes_lrmf" / f"{module}.py").read_text(encoding="utf-8").splitlines()
        stripped = {line.strip() for line in lines}
        for (of, old, new), why in explained.items():
            if of == module:
                assert old in stripped, old
                assert new != old
                assert why
    assert {module for module, *_ in explained} <= set(mutation.MODULES)
