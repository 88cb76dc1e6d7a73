"""Results of lm-evaluation-harness: its samples as responses, its bare results as counts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
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
    refuse_wrong,
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
    places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    samples, results, strange = found_files(places)
    notes = [f"{counted(strange, 'file')} of unknown tasks passed over: {named(strange)}"]
    notes = notes if strange else []
    by_task: dict[str, list[_Source]] = defaultdict(list)
    for one in samples:
        by_task[one.task].append(_from_samples(one))
    in_samples = {(one.model, one.task, one.when) for one in samples}
    for file in results:
        for task, metrics in file.tasks.items():
            if (file.model, task, file.when) not in in_samples:
                by_task[task].append(_from_results(file, task, metrics))
    every = [source.scored for group in by_task.values() for source in group]
    check_wishes(every, metric=metric, filter_name=filter_name)
    choices = {
        task: choose([source.scored for source in group], metric=metric, filter_name=filter_name)
        for task, group in by_task.items()
    }
    notes += choices_in_words(choices)
    runs: list[Run] = []
    counts: list[Counted] = []
    told: dict[str, dict[str, None]] = defaultdict(dict)
    n_absent = 0
    for task, group in by_task.items():
        for source, key in zip(group, choices[task], strict=True):
            if key is None:
                continue
            if source.is_bare:
                count, odd = _counted(source, key, names)
                counts += [count] if count else []
                told |= {what: told[what] | {task: None} for what in odd}
            else:
                run = _run(source, key, names)
                n_absent += len(run.documents.keys() - run.scores.keys())
                runs.append(run)
    responses, united = responses_of(runs)
    table = counts_of(counts, responses)
    notes += united
    if n_absent:
        notes.append(f"{n_absent:,} samples without the metric passed over")
    if len(table):
        which = list(dict.fromkeys(table["benchmark"]))
        notes.append(f"no samples, counts of successes instead: {named(which)}")
    notes += [f"{what}: {named(list(tasks))}" for what, tasks in told.items()]
    if not len(responses) and not len(table):
        refuse_wrong(every)
        raise InputError(
            "neither samples nor results with a number of samples",
            where=", ".join(str(place) for place in places[:3]),
            fix="run with --log_samples",
        )
    found = dict.fromkeys(scored.model for scored in every)
    renamed = {model: names[model] for model in found if names.get(model, model) != model}
    return Imported(responses, table, tuple(notes), renamed)


@dataclass(frozen=True, eq=False)
class _Source:
    """A task in a file, its metrics, and the hash of each document that the file holds."""

    scored: Scored
    results: Results | None
    is_bare: bool
    documents: dict[str, str]


def _run(source: _Source, key: tuple[str, str], names: dict[str, str]) -> Run:
    scored, results = source.scored, source.results
    model = names.get(scored.model, scored.model)
    setting = results.setting(scored.task) if results else ""
    return Run(model, scored.task, scored.when, scored.values[key], source.documents, setting)


def _counted(
    source: _Source, key: tuple[str, str], names: dict[str, str]
) -> tuple[Counted | None, list[str]]:
    """Return successes and trials of a task without samples, and what to say of them."""
    scored, told = source.scored, []
    assert source.results is not None
    share = scored.values[key][_ALL]
    trials = _trials(source.results, scored.task)
    if trials is None:
        trials = _trials_of_error(source.results, scored.task, key, share)
        if trials is None:
            return None, ["neither samples nor their number, passed over"]
        told.append("number of samples worked out from the standard error")
    successes = share * trials
    if abs(successes - round(successes)) > 1e-6 * trials:
        told.append("successes rounded to whole numbers")
    model = names.get(scored.model, scored.model)
    return Counted(model, scored.task, scored.when, round(successes), trials), told


def _from_samples(samples: Samples) -> _Source:
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
    return _Source(scored, results, False, documents)


def _from_results(results: Results, task: str, metrics: dict[str, Any]) -> _Source:
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
    return _Source(scored, results, True, {})


def _trials(results: Results, task: str) -> int | None:
    sizes = results.part("n-samples").get(task)
    size = sizes.get("effective") if isinstance(sizes, dict) else None
    return int(size) if isinstance(size, int) and size > 0 else None


def _trials_of_error(results: Results, task: str, key: tuple[str, str], share: float) -> int | None:
    """Return the n of se^2 = p (1 - p) / (n - 1), for files of releases that do not hold it.

    This holds for the mean of zeros and ones; None if n or the successes are then not whole.
    """
    error = results.tasks[task].get(f"{key[1]}_stderr,{key[0]}")
    if not isinstance(error, float) or not error > 0:
        return None
    trials = 1 + share * (1 - share) / error**2
    whole = round(trials)
    is_whole = abs(trials - whole) < 1e-6 * whole
    return whole if is_whole and abs(share * whole - round(share * whole)) < 1e-6 * whole else None
