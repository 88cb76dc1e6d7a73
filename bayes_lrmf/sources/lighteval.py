"""Results of LightEval: its details as responses, its bare results as counts."""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.sources.assembly import ALL, Part, Trials, assembled, trials_of
from bayes_lrmf.sources.documents import document_hash
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.lighteval_files import Details, Results, searched, setting_of, task_of
from bayes_lrmf.sources.metric_choice import METRICS, Metric, Scored, fraction
from bayes_lrmf.sources.parquet_files import columns_of, rows_of
from bayes_lrmf.sources.places import files_in, in_words

__all__ = ["default_metrics", "parts_of", "read_lighteval"]

_METRICS = ("metric", "metrics", "__metric__")
_DOCUMENTS = ("doc", "__doc__")
_QUESTIONS = ("query", "example", "full_prompt")
# The first files of the leaderboard have a column for each metric, among others.
_PLAIN = (*METRICS, "mc2", "quasi_exact_match")
_NOT_A_NUMBER = re.compile(r"\bnan\b")


def read_lighteval(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    metric: Metric = None,
    aliases: Any = None,
) -> Imported:
    """Read what LightEval wrote with ``--save-details``: details_*.parquet and results_*.json.

    A task, without its suite and shots, is a benchmark. A question is an item, named by its
    ``id`` in the dataset; by a hash of the question in files of releases before 0.11, which have
    none, and in later ones beside them. Results without details are counts.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, searched to the bottom, or files: an ``output_dir``, or a dataset of details as
        downloaded from the Hub.
    metric : str or mapping, optional
        A metric, or task -> metric. By default the first that a task has of acc_norm, acc,
        exact_match and what else `METRICS` lists.
    aliases : path, DataFrame or mapping, optional
        Other names of models, as `read_lineage` takes them.

    Returns
    -------
    Imported
        With notes on what was chosen and what was passed over.

    Raises
    ------
    InputError
        If a file is missing or broken, a value of the metric is not from 0 to 1, nothing is
        found, or no task has the metric.
    """
    names = read_aliases(aliases)
    places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    details, results = searched(files_in(places, (".json", ".parquet")))
    if not details and not results:
        raise InputError(
            "no output of LightEval",
            where=in_words(places),
            fix="give its output_dir, or details_*.parquet and results_*.json",
        )
    return assembled(
        parts_of(details, results),
        names=names,
        metric=metric,
        priority=default_metrics,
        nothing=InputError(
            "neither details nor results with a number of samples",
            where=in_words(places),
            fix="run with --save-details",
        ),
    )


def default_metrics(task: str) -> Sequence[str]:
    """Return metrics, the first of which a task has is its default.

    That of MMLU is ``acc``, though the first leaderboard also wrote its ``acc_norm``.
    """
    return ("acc", *METRICS) if task.startswith("hendrycksTest") else METRICS


def parts_of(details: Iterable[Details], results: Iterable[Results]) -> list[Part]:
    """Return what files say, a part for each task; results only where there are no details."""
    by_task: dict[str, list[tuple[Details, list[_Answer]]]] = defaultdict(list)
    for one in details:
        by_task[task_of(one.name)].append((one, _answers(one.path)))
    parts, seen = [], set()
    for task, group in by_task.items():
        by_id = all(_are_distinct([a.key for a in answers]) for _, answers in group)
        for one, answers in group:
            parts.append(_from_details(one, answers, by_id=by_id))
            seen.add((one.model, task, one.when))
    for file in results:
        for name, metrics in file.tasks.items():
            if (file.model, task_of(name), file.when) not in seen:
                parts.append(_from_results(file, name, metrics))
    return parts


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a row says: the key of its question in the dataset, if known, its hash, the metrics."""

    row: int
    key: str
    document: str
    metrics: dict[str, Any]


def _are_distinct(keys: list[str]) -> bool:
    return all(keys) and len(set(keys)) == len(keys)


def _answers(path: Path) -> list[_Answer]:
    """Return the answers of a file of any release."""
    columns = columns_of(path)
    nested = next((c for c in _METRICS if c in columns), None)
    flat = {c: c.removeprefix("metrics.") for c in columns if c.startswith("metrics.")}
    flat = flat or {c: c for c in columns if c in _PLAIN}
    document = next((c for c in _DOCUMENTS if c in columns), None)
    question = next((c for c in _QUESTIONS if c in columns), None)
    if not nested and not flat:
        raise _not_details(path, columns, "metric")
    if not document and not question:
        raise _not_details(path, columns, "doc")
    if document:
        fields = [f for f in (*_QUESTIONS, "choices", "id") if f in columns[document]]
        wanted = [f"{document}.{f}" for f in fields] or [document]
    else:
        wanted = [c for c in (question, "choices") if c in columns]
    answers = []
    for row, content in rows_of(path, [*wanted, *([nested] if nested else flat)]):
        given = content[document] if document else content
        metrics = content[nested] if nested else {flat[c]: content[c] for c in flat}
        answers.append(
            _Answer(
                row,
                _key(given),
                _document(given),
                _metrics(metrics, f"{path}, row {row}"),
            )
        )
    if not answers:
        raise InputError("holds no details", where=str(path), fix="delete it")
    return answers


def _key(given: Any) -> str:
    key = given.get("id") if isinstance(given, dict) else None
    return "" if key is None else str(key).strip()


def _not_details(path: Path, columns: Iterable[str], lacking: str) -> InputError:
    some = ", ".join(list(columns)[:4]) or "none"
    return InputError(
        f"no column {lacking!r} (it has {some})",
        where=str(path),
        fix="give details_*.parquet as LightEval writes them",
    )


def _document(given: Any) -> str:
    """Return the hash of a question and its choices, whatever stood around them."""
    if not isinstance(given, dict):
        return document_hash(str(given))
    question = next((given[q] for q in _QUESTIONS if given.get(q) is not None), None)
    choices = given.get("choices")
    # Some releases wrote lists as the text of Python that stands for them.
    if isinstance(choices, str):
        choices = _literal(choices)
    texts = [question, *(choices if isinstance(choices, list) else [choices])]
    return document_hash([t.strip() if isinstance(t, str) else t for t in texts])


def _metrics(given: Any, where: str) -> dict[str, Any]:
    if isinstance(given, str):
        given = _literal(_NOT_A_NUMBER.sub("None", given))
    if given is not None and not isinstance(given, dict):
        raise InputError(
            "the metrics are no mapping",
            where=where,
            fix="give details_*.parquet as LightEval writes them",
        )
    return given or {}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _from_details(details: Details, answers: list[_Answer], *, by_id: bool) -> Part:
    results = details.results
    config = results.config(details.name) if results else {}
    scored = _scored(details.model, details.name, details.when, details.path, config)
    documents: dict[str, str] = {}
    times: dict[str, int] = defaultdict(int)
    for answer in answers:
        times[answer.document] += 1
        # The same question twice in one task stays two items.
        again = f"-{times[answer.document]}" if times[answer.document] > 1 else ""
        item = answer.key if by_id else answer.document + again
        documents[item] = answer.document
        for name, value in answer.metrics.items():
            scored.put_given("", name, item, value, where=f"{details.path}, row {answer.row}")
    return Part(scored, documents, setting_of(details.name))


def _from_results(results: Results, name: str, metrics: dict[str, Any]) -> Part:
    config = results.config(name)
    scored = _scored(results.model, name, results.when, results.path, config)
    trials: dict[tuple[str, str], Trials] = {}
    for metric, given in metrics.items():
        value = fraction(given)
        if value is not None and not metric.endswith("_stderr"):
            scored.put("", metric, ALL, value, f"{results.path}, task {name}")
            error = metrics.get(f"{metric}_stderr")
            found = trials_of(config.get("effective_num_docs"), value, error)
            trials |= {("", metric): found} if found else {}
    return Part(scored, setting=setting_of(name), trials=trials)


def _scored(model: str, name: str, when: float, path: Path, config: dict[str, Any]) -> Scored:
    lower: set[str] = set()
    listed = config.get("metrics") or config.get("metric")
    for one in listed if isinstance(listed, list) else ():
        better = one.get("higher_is_better") if isinstance(one, dict) else None
        if isinstance(better, dict):
            lower |= {str(metric) for metric, up in better.items() if up is False}
        elif better is False:
            lower.add(str(one.get("metric_name")))
    return Scored(model, task_of(name), when, str(path), lower_is_better=frozenset(lower))
