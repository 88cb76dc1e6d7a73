"""The same question, however it is written down."""

from __future__ import annotations

import itertools

import pytest

from bayes_lrmf.sources.documents import document_hash

CHOICES = ("one", "two", "three")


@pytest.mark.parametrize(
    "write",
    [
        lambda order: {"q": "?", "choices": order, "answer": order.index("two")},
        lambda order: {"q": "?", "choices": order, "answer": "ABC"[order.index("two")]},
        lambda order: (
            {"q": "?", "answer": f"({'ABC'[order.index('two')]})"}
            | {f"choice{i}": c for i, c in enumerate(order)}
        ),
        lambda order: {
            "q": "?",
            "choices": {"text": order, "label": ["A", "B", "C"]},
            "answerKey": "ABC"[order.index("two")],
        },
        lambda order: {
            "q": "?",
            "mc1": {"choices": order, "labels": [int(c == "two") for c in order]},
        },
    ],
)
def test_order_of_choices_and_place_of_the_answer_do_not_matter(write):
    hashes = {document_hash(write(list(order))) for order in itertools.permutations(CHOICES)}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 16


def test_what_makes_another_question():
    one = {"q": "How many?", "choices": ["1", "2"], "answer": 0}
    others = [
        one | {"q": "How much?"},
        one | {"choices": ["1", "3"]},
        one | {"choices": ["1", "2", "2"]},
        {"a": 3, "b": 4},
        {"a": 3, "b": 5},
        {"q": "How many?", "answer": "forty"},
        {"q": "How many?", "answer": "fifty"},
        "How many?",
    ]
    assert len({document_hash(d) for d in [one, *others]}) == 9
