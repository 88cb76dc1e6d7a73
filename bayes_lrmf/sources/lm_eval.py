"""Results of lm-evaluation-harness: its samples as responses, its bare results as counts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import counted, named
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.sources.documents import document_hash
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.lm_eval_files import Results, Samples, found_files, records
from bayes_lrmf.sources.metric_choice import (
    Metric,
    Scored,
    check_wishes,
    choices_in_words,
    choose,
    fraction,
)
from bayes_lrmf.sources.runs import Counted, Run, counts_of, responses_of

__all__ = ["read_lm_eval"]

# What a sample holds besides its metrics, in the releases that do not list these.
_NO_METRICS = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
    "doc_hash", "prompt_hash", "target_hash",
}  # fmt: skip
_ALL = ""  # stands for all items of a task whose samples are not at hand


def read_lm_eval(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    metric: Metric = None,
    filter_name: str | None = None,
    aliases: Any = None,
) -> Imported:
    """Read what ``lm_eval --output_path ... --log_samples`` wrote, from release 0.4.0 on.

    A task is a benchmark and a document an item, named by its ``doc_id``. Where one ``doc_id``
    holds different questions in different runs, the items of that task are named by a hash of the
    question. A model has the name it was loaded by, with ``@revision`` unless that is the main
    one. Results without samples are counts.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, searched to the bottom, or files of results and samples.
    metric : str or mapping, optional
        A metric, or task -> metric. By default the first that a task has of acc_norm, acc,
        exact_match and what else `METRICS` lists.
    filter_name : str, optional
        By default strict-match, then none, then the first of a task.
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
        found, or no task has the metric or filter.
    """
    names = read_aliases(aliases)
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    samples, results, strange = found_files(paths)
    notes = [f"{counted(strange, 'file')} of unknown tasks passed over: {named(strange)}"]
    notes = notes if strange else []
    logged: dict[str, list[tuple[Samples, Scored, dict[str, str]]]] = defaultdict(list)
    for one in samples:
        logged[one.task].append((one, *_scored(one)))
    in_samples = {(s.model, s.task, s.when) for s in samples}
    bare: dict[str, list[tuple[Results, Scored]]] = defaultdict(list)
    for file in results:
        for task, metrics in file.tasks.items():
            if (file.model, task, file.when) not in in_samples:
                bare[task].append((file, _aggregated(file, task, metrics)))
    all_scored = {
        task: [s for _, s, _ in logged[task]] + [s for _, s in bare[task]]
        for task in dict.fromkeys([*logged, *bare])
    }
    check_wishes(
        [s for group in all_scored.values() for s in group], metric=metric, filter_name=filter_name
    )
    choices = {
        task: choose(group, metric=metric, filter_name=filter_name)
        for task, group in all_scored.items()
    }
    notes += choices_in_words(choices)
    runs: list[Run] = []
    counts: list[Counted] = []
    unsized: list[str] = []
    renamed: dict[str, str] = {}
    rounded: list[str] = []
    n_absent = 0
    for task, group in all_scored.items():
        documents = [d for _, _, d in logged[task]]
        sources: Sequence[Samples | Results] = [s for s, _, _ in logged[task]]
        sources = [*sources, *(r for r, _ in bare[task])]
        for i, (source, scored, key) in enumerate(zip(sources, group, choices[task], strict=True)):
            if key is None:
                continue
            model = names.get(scored.model, scored.model)
            if model != scored.model:
                renamed[scored.model] = model
            values = scored.values[key]
            if isinstance(source, Samples):
                n_absent += len(documents[i].keys() | values.keys()) - len(values)
                setting = source.results.setting(task) if source.results else ""
                runs.append(Run(model, task, scored.when, values, documents[i], setting))
                continue
            trials = _trials(source, task)
            if trials is None:
                unsized.append(task)
                continue
            successes = values[_ALL] * trials
            if abs(successes - round(successes)) > 1e-6 * trials:
                rounded.append(task)
            counts.append(Counted(model, task, scored.when, round(successes), trials))
    responses, united = responses_of(runs)
    table = counts_of(counts, responses)
    notes += united
    if n_absent:
        notes.append(f"{n_absent:,} samples without the metric passed over")
    if len(table):
        which = list(dict.fromkeys(table["benchmark"]))
        notes.append(f"no samples, counts of successes instead: {named(which)}")
    if unsized:
        which = list(dict.fromkeys(unsized))
        notes.append(f"neither samples nor their number, passed over: {named(which)}")
    if rounded:
        which = list(dict.fromkeys(rounded))
        notes.append(f"successes rounded to whole numbers: {named(which)}")
    if not len(responses) and not len(table):
        raise InputError(
            "no result with a metric from 0 to 1",
            where=", ".join(str(path) for path in list(paths)[:3]),
            fix="run with --log_samples, or name another metric",
        )
    return Imported(responses, table, tuple(notes), renamed)


def _scored(samples: Samples) -> tuple[Scored, dict[str, str]]:
    """Return the metrics of a file of samples, and the hash of each document that it holds."""
    results = samples.results
    better = results.part("higher_is_better").get(samples.task) if results else None
    scored = Scored(
        samples.model,
        samples.task,
        samples.when,
        str(samples.path),
        lower_is_better=frozenset(m for m, up in (better or {}).items() if up is False),
    )
    documents: dict[str, str] = {}
    times: dict[str, int] = defaultdict(int)
    filters = results.filters(samples.task) if results else []
    no_numbers: set[tuple[str, str]] = set()
    for line, record in records(samples.path):
        item = str(record["doc_id"])
        name = record.get("filter")
        if name is None:
            # Old records do not name their filter; each filter goes once through all documents.
            at = times[item]
            name = filters[at] if at < len(filters) else f"filter-{at + 1}" if at else "none"
            times[item] += 1
        if record.get("doc") is not None and item not in documents:
            documents[item] = document_hash(record["doc"])
        listed = record.get("metrics")
        metrics = listed if isinstance(listed, list) else record.keys() - _NO_METRICS
        for metric in sorted(metrics, key=list(record).index) if not listed else metrics:
            given = record.get(metric)
            value = fraction(given)
            if value is not None:
                scored.put(str(name), metric, item, value, f"{samples.path}, line {line}")
            elif given is not None:
                no_numbers.add((str(name), metric))
    for key in no_numbers:
        scored.values.pop(key, None)
    if not documents and not scored.values and not no_numbers:
        raise InputError("holds no samples", where=str(samples.path), fix="delete it")
    return scored, documents


def _aggregated(results: Results, task: str, metrics: dict[str, Any]) -> Scored:
    """Return the metrics of a task over all its items."""
    better = results.part("higher_is_better").get(task) or {}
    scored = Scored(
        results.model,
        task,
        results.when,
        str(results.path),
        lower_is_better=frozenset(m for m, up in better.items() if up is False),
    )
    for name, given in metrics.items():
        metric, comma, filter_name = name.partition(",")
        value = fraction(given)
        if comma and value is not None and not metric.endswith("_stderr"):
            scored.put(filter_name, metric, _ALL, value, f"{results.path}, task {task}")
    return scored


def _trials(results: Results, task: str) -> int | None:
    sizes = results.part("n-samples").get(task)
    size = sizes.get("effective") if isinstance(sizes, dict) else None
    return int(size) if isinstance(size, int) and size > 0 else None
