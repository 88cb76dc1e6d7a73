"""How an import fits what is at hand."""

from __future__ import annotations

import pandas as pd

from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.sources.imported import (
    Imported,
    lineage_reconciliation,
    reconciliation,
)

LONG = ["model", "benchmark", "item", "response"]
IMPORTED = Imported(
    pd.DataFrame(
        [("org/Kid", "arc", "0", 1), ("org/kid2", "arc", "1", 0), ("org/kid2", "new", "0", 0)],
        columns=LONG,
    ),
    pd.DataFrame(
        [("org/mum", "gsm8k", 3, 10)], columns=["model", "benchmark", "successes", "trials"]
    ),
    renamed={"kid-two": "org/kid2"},
)
LINEAGE = lineage_from_frame(
    pd.DataFrame(
        [("org/kid", "org/mum", "finetune"), ("org/kid2", "org/mum", "merge")],
        columns=["child", "parent", "relation"],
    )
)


def test_alone():
    assert reconciliation(IMPORTED) == [
        "3 models, 3 benchmarks, 3 responses on 3 items, 1 count of whole benchmarks",
        "1 model renamed by the alias table: kid-two -> org/kid2",
    ]


def test_against_a_lineage():
    assert reconciliation(IMPORTED, lineage=LINEAGE)[2:] == [
        "2 of 3 models known",
        "unknown model org/Kid; did you mean org/kid?",
        "1 of 3 models have a recorded parent; 2 are connected",
    ]


def test_against_responses():
    rows = [("org/kid2", "arc", "0", 1), ("zzz", "arc", "1", 0), ("zzz", "arc", "2", 1)]
    known = responses_from_frame(pd.DataFrame(rows, columns=LONG))
    assert reconciliation(IMPORTED, known=known)[2:] == [
        "1 of 3 models known",
        "unknown model org/Kid; did you mean org/kid2?",
        "unknown model org/mum",
        "1 of 3 benchmarks known",
        "unknown benchmark new",
        "unknown benchmark gsm8k",
        "2 of 3 items known, 1 new",
    ]


def test_many_unknown_models_are_not_all_named():
    rows = [(f"m{i}", "arc", "0", 1) for i in range(9)]
    imported = Imported(pd.DataFrame(rows, columns=LONG), IMPORTED.counts[:0])
    lines = reconciliation(imported, lineage=LINEAGE)
    assert sum("unknown model m" in line for line in lines) == 5
    assert "4 more unknown models" in lines


def test_against_a_posterior(kin_fit):
    design = kin_fit.design
    item = design.items.iloc[0]
    rows = [
        (design.models[0], item["benchmark"], item["item"], 1),
        ("nobody/knows", item["benchmark"], "never seen", 1),
        ("stranger", item["benchmark"], item["item"], 1),
    ]
    imported = Imported(pd.DataFrame(rows, columns=LONG), IMPORTED.counts[:0])
    lines = reconciliation(imported, known=kin_fit)
    assert "2 of 3 models known" in lines
    assert "1 of 2 items known, 1 new" in lines


def test_counts_alone_are_matched_by_benchmark():
    known = responses_from_frame(
        pd.DataFrame([("org/mum", "GSM8K", 5, 10)], columns=list(IMPORTED.counts.columns))
    )
    counts = Imported(IMPORTED.responses[:0], IMPORTED.counts)
    assert reconciliation(counts, known=known)[1:] == [
        "1 of 1 model known",
        "0 of 1 benchmark known",
        "unknown benchmark gsm8k; did you mean GSM8K?",
    ]


def test_a_lineage_against_what_it_was_asked_for():
    assert lineage_reconciliation(LINEAGE, ["org/kid", "org/kid", "org/lone"]) == [
        "2 edges of 3 models, 2 of them not asked for",
        "asked for: 1 of 2 models have a recorded parent; 0 are connected",
    ]


def test_a_lineage_against_an_earlier_one_and_results():
    edges = [("org/kid", "org/mum", "finetune"), ("org/new", "org/kid", "merge")]
    earlier = lineage_from_frame(pd.DataFrame(edges, columns=["child", "parent", "relation"]))
    rows = [("org/kid2", "arc", "0", 1), ("org/mum", "arc", "0", 1), ("zzz", "arc", "0", 1)]
    known = responses_from_frame(pd.DataFrame(rows, columns=LONG))
    lines = lineage_reconciliation(LINEAGE, ["org/kid", "Org/Kid2"], lineage=earlier, known=known)
    assert lines[2:] == [
        "1 of 2 models known",
        "unknown model Org/Kid2; did you mean org/kid2?",
        "with results: 1 of 3 models have a recorded parent; 2 are connected",
        "1 of 2 edges known, 1 new",
    ]


def test_a_lineage_against_a_posterior(kin_fit):
    evaluated = list(kin_fit.design.responses.models)
    edges = [(evaluated[0], "a/parent", "finetune")]
    found = lineage_from_frame(pd.DataFrame(edges, columns=["child", "parent", "relation"]))
    lines = lineage_reconciliation(found, evaluated[:1], known=kin_fit)
    assert "1 of 1 model known" in lines
    n = len(evaluated)
    assert f"with results: 1 of {n} models have a recorded parent; 0 are connected" in lines
