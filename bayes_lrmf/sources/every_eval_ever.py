"""Results in the schema of Every Eval Ever: its samples as responses, its scores as counts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import counted, named
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.sources.assembly import ALL, Part, Trials, assembled, trials_of
from bayes_lrmf.sources.every_eval_ever_files import Record, Result, Sample, searched
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.metric_choice import Metric, Scored
from bayes_lrmf.sources.places import files_in, in_words

__all__ = ["read_every_eval_ever"]


def read_every_eval_ever(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    metric: Metric = None,
    filter_name: str | None = None,
    aliases: Any = None,
) -> Imported:
    """Read records and samples in the schema of Every Eval Ever, of versions 0.2 and 0.3.

    An evaluation is a benchmark and a sample an item, named by its ``sample_id``; samples that
    are repeated, such as epochs, are averaged. Percents become shares. A score on another scale
    counts as whether the sample ``is_correct``. Where one ``sample_id`` holds different questions
    in different runs, the items of that benchmark are named by a hash of the question. Scores
    without samples are counts, where the record says of how many samples they are.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, searched to the bottom, or files: JSON records, and JSON lines of samples or
        records.
    metric : str or mapping, optional
        A metric, or evaluation -> metric. By default the first that an evaluation has of
        acc_norm, acc, exact_match and what else `METRICS` lists, then the first of all.
    filter_name : str, optional
        Of results of lm-evaluation-harness. By default strict-match, then none, then the first.
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
        found, or no evaluation has the metric or filter.
    """
    names = read_aliases(aliases)
    places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    records, samples, strange = searched(files_in(places, (".json", ".jsonl")))
    if not records and not samples:
        raise InputError(
            "no records of Every Eval Ever",
            where=in_words(places),
            fix="give a folder of its JSON records and *_samples.jsonl",
        )
    notes = []
    if strange:
        notes.append(f"{counted(strange, 'file')} of another kind passed over: {named(strange)}")
    n_failed = sum(sample.failed for sample in samples)
    if n_failed:
        notes.append(f"{n_failed:,} samples that ended in an error passed over")
    parts = _parts(records, samples, notes)
    return assembled(
        parts,
        names=names,
        metric=metric,
        filter_name=filter_name,
        notes=notes,
        nothing=InputError(
            "neither samples nor scores from 0 to 1 with a number of samples",
            where=in_words(places),
            fix="give the *_samples.jsonl beside the records",
        ),
    )


def _parts(records: list[Record], samples: list[Sample], notes: list[str]) -> list[Part]:
    """Return what files say, a part for each evaluation; records only where samples are none."""
    by_run = {(record.run, record.model): record for record in records}
    groups: dict[tuple[str, str, str], list[tuple[Sample, Result | None]]] = defaultdict(list)
    n_loose = 0
    for sample in samples:
        if sample.failed:
            continue
        record = by_run.get((sample.run, sample.model))
        result = _result_of(sample, record) if record else None
        if record and sample.key and result is None:
            n_loose += 1
            continue
        task = result.task if result else sample.name.removesuffix(f"/{sample.filter_name}")
        groups[sample.run, sample.model, task].append((sample, result))
    if n_loose:
        notes.append(f"{n_loose:,} samples of scores that their record does not hold passed over")
    parts = [
        _from_samples(model, task, by_run.get((run, model)), group)
        for (run, model, task), group in groups.items()
    ]
    for record in records:
        by_task: dict[str, list[Result]] = defaultdict(list)
        for result in record.results:
            by_task[result.task].append(result)
        sampled = {t for run, model, t in groups if (run, model) == (record.run, record.model)}
        if sampled and not sampled & by_task.keys():
            continue  # its scores have other names than its samples
        parts += [
            _from_results(record, task, results)
            for task, results in by_task.items()
            if task not in sampled
        ]
    return parts


def _result_of(sample: Sample, record: Record) -> Result | None:
    """Return the result that a sample counts for: the one it names, or the only one there is."""
    alike = [r for r in record.results if r.name == sample.name]
    if sample.key:
        # Some writers give results of several evaluations one key.
        found = [r for r in (*alike, *record.results) if r.key == sample.key]
        return found[0] if found else None
    return alike[0] if len(alike) == 1 else None


def _from_samples(
    model: str, task: str, record: Record | None, group: list[tuple[Sample, Result | None]]
) -> Part:
    first = group[0][0]
    where = record.where if record else first.where
    lower = {r.metric for _, r in group if r and r.lower_is_better}
    when = record.when if record else _when(first.run)
    scored = Scored(model, task, when, where, lower_is_better=frozenset(lower))
    documents: dict[str, str] = {}
    repeated: dict[tuple[str, str, str], list[tuple[float, str]]] = defaultdict(list)
    for sample, result in group:
        documents[sample.item] = sample.document
        value = _value(sample, result)
        if value is not None:
            filter_name = result.filter_name if result else sample.filter_name
            metric = result.metric if result else sample.key or "score"
            repeated[filter_name, metric, sample.item].append((value, sample.where))
    for (filter_name, metric, item), values in repeated.items():
        outside = [pair for pair in values if not 0 <= pair[0] <= 1]
        mean = outside[0][0] if outside else sum(value for value, _ in values) / len(values)
        scored.put(filter_name, metric, item, mean, (outside or values)[0][1])
    return Part(scored, documents)


def _value(sample: Sample, result: Result | None) -> float | None:
    scale = result.scale if result else 1.0
    if scale is None:
        return None if sample.is_correct is None else float(sample.is_correct)
    return None if sample.score is None else sample.score / scale


def _from_results(record: Record, task: str, results: list[Result]) -> Part:
    lower = frozenset(r.metric for r in results if r.lower_is_better)
    scored = Scored(record.model, task, record.when, record.where, lower_is_better=lower)
    trials: dict[tuple[str, str], Trials] = {}
    for result in results:
        if result.score is None or result.scale is None:
            continue
        share, key = result.score / result.scale, (result.filter_name, result.metric)
        scored.put(*key, ALL, share, f"{record.where}, evaluation {result.name}")
        is_number = isinstance(result.error, int | float)
        error = result.error / result.scale if is_number else None
        found = trials_of(result.size, share, error)
        trials |= {key: found} if found else {}
    return Part(scored, trials=trials)


def _when(run: str) -> float:
    """Return the seconds since 1970 that identifiers of runs end in."""
    try:
        return float(run.rpartition("/")[2])
    except ValueError:
        return 0.0
