"""Runs of models on benchmarks, united into one table: later results win, questions are matched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from bayes_lrmf.layouts import counted, named

__all__ = ["Counted", "Run", "counts_of", "responses_of"]


@dataclass(frozen=True, eq=False)
class Run:
    """What one model did on the items of one benchmark, as one file says.

    Attributes
    ----------
    model, benchmark : str
    when : float
        Seconds since 1970, to tell which of two runs is later.
    scores : dict
        Item -> response from 0 to 1.
    documents : dict
        Item -> hash of its question, where the question was recorded.
    setting : str
        What should be equal for runs to be comparable, such as ``5-shot``; empty if unknown.
    """

    model: str
    benchmark: str
    when: float
    scores: dict[str, float]
    documents: dict[str, str] = field(default_factory=dict)
    setting: str = ""


@dataclass(frozen=True)
class Counted:
    """Successes of one model in the trials of one benchmark, without items."""

    model: str
    benchmark: str
    when: float
    successes: int
    trials: int


def responses_of(runs: Iterable[Run]) -> tuple[pd.DataFrame, list[str]]:
    """Unite runs into a long table; the latest wins where runs of one model overlap.

    Where an item holds different questions in different runs, all items of its benchmark are
    named by the hash of their question instead.

    Returns
    -------
    responses : DataFrame
        Columns model, benchmark, item, response, a row each.
    notes : list of str
    """
    by_benchmark: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.when):
        by_benchmark[run.benchmark].append(run)
    notes: list[str] = []
    columns: dict[str, list[object]] = {c: [] for c in ("model", "benchmark", "item", "response")}
    for benchmark, its_runs in by_benchmark.items():
        _note_settings(benchmark, its_runs, notes)
        scores = _by_document(benchmark, its_runs, notes)
        cells: dict[str, dict[str, float]] = {}
        n_again, repeated = 0, []
        for run, values in zip(its_runs, scores, strict=True):
            mine = cells.setdefault(run.model, {})
            if mine:
                repeated.append(run.model)
                n_again += len(mine.keys() & values.keys())
            mine.update(values)
        if repeated:
            who = list(dict.fromkeys(repeated))
            notes.append(
                f"{benchmark}: repeated runs of {counted(who, 'model')} united ({named(who)}); "
                f"the latest wins on {n_again:,} overlapping item{'s' if n_again != 1 else ''}"
            )
        for model, values in cells.items():
            columns["model"] += [model] * len(values)
            columns["benchmark"] += [benchmark] * len(values)
            columns["item"] += values
            columns["response"] += values.values()
    frame = pd.DataFrame(columns)
    if not len(frame) or (frame["response"] % 1 == 0).all():
        frame["response"] = frame["response"].astype("int64")
    return frame.sort_values("model", kind="stable", ignore_index=True), notes


def counts_of(counts: Iterable[Counted], responses: pd.DataFrame) -> pd.DataFrame:
    """Return the latest counts of each model and benchmark that has no responses.

    Returns
    -------
    DataFrame
        Columns model, benchmark, successes, trials.
    """
    itemised = set(zip(responses["model"], responses["benchmark"], strict=True))
    latest = {
        (c.model, c.benchmark): (c.successes, c.trials)
        for c in sorted(counts, key=lambda c: c.when)
        if (c.model, c.benchmark) not in itemised
    }
    rows = [(*key, *value) for key, value in latest.items()]
    columns = ["model", "benchmark", "successes", "trials"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        "model", kind="stable", ignore_index=True
    )


def _note_settings(benchmark: str, runs: Sequence[Run], notes: list[str]) -> None:
    settings = sorted({run.setting for run in runs if run.setting})
    if len(settings) > 1:
        notes.append(f"{benchmark}: runs differ in their setting ({', '.join(settings)})")


def _by_document(benchmark: str, runs: Sequence[Run], notes: list[str]) -> list[dict[str, float]]:
    """Return the scores of each run by item, or by question where items are not the same."""
    questions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for item, document in run.documents.items():
            questions[item].add(document)
    n_mixed = sum(len(found) > 1 for found in questions.values())
    if not n_mixed:
        return [run.scores for run in runs]
    notes.append(
        f"{benchmark}: {n_mixed:,} of {len(questions):,} items hold different questions in "
        "different runs; its items are named by a hash of the question instead"
    )
    renamed, n_lost = [], 0
    for run in runs:
        scores: dict[str, float] = {}
        seen: dict[str, int] = defaultdict(int)
        for item, score in run.scores.items():
            if item not in run.documents:
                n_lost += 1
                continue
            document = run.documents[item]
            seen[document] += 1
            # The same question twice in one benchmark stays two items.
            again = f"-{seen[document]}" if seen[document] > 1 else ""
            scores[document + again] = score
        renamed.append(scores)
    if n_lost:
        notes.append(f"{benchmark}: {n_lost:,} results without a recorded question dropped")
    return renamed
