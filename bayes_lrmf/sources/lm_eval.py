"""Results of lm-evaluation-harness: its samples as responses, its bare results as counts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import counted, named
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.sources.assembly import ALL, Part, Trials, assembled, trials_of
from bayes_lrmf.sources.documents import document_hash
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.lm_eval_files import Results, Samples, found_files, records
from bayes_lrmf.sources.metric_choice import Metric, Scored, fraction
from bayes_lrmf.sources.places import in_words

__all__ = ["parts_of", "read_lm_eval"]

# What a sample holds besides its metrics, in the releases that do not list these.
_NO_METRICS = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
    "doc_hash", "prompt_hash", "target_hash",
}  # fmt: skip


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
    return assembled(
        parts_of(samples, results),
        names=names,
        metric=metric,
        filter_name=filter_name,
        notes=notes if strange else (),
        nothing=InputError(
            "neither samples nor results with a number of samples",
            where=in_words(places),
            fix="run with --log_samples",
        ),
    )


def parts_of(samples: Iterable[Samples], results: Iterable[Results]) -> list[Part]:
    """Return what files say, a part for each task; results only where there are no samples."""
    parts = [_from_samples(one) for one in samples]
    seen = {(part.scored.model, part.scored.task, part.scored.when) for part in parts}
    for file in results:
        for task, metrics in file.tasks.items():
            if (file.model, task, file.when) not in seen:
                parts.append(_from_results(file, task, metrics))
    return parts


def _from_samples(samples: Samples) -> Part:
    results = samples.results
    better = results.part("higher_is_better").get(samples.task) if results else None
    scored = Scored(
        samples.model,
        samples.task,
        samples.when,
        str(samples.path),
        lower_is_better=_lower(better),
    )
    documents: dict[str, str] = {}
    times: dict[str, int] = defaultdict(int)
    filters = results.filters(samples.task) if results else []
    for where, record in records(samples.path):
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
        if isinstance(listed, list) and listed:
            metrics = [metric for metric in listed if isinstance(metric, str)]
        else:
            metrics = [metric for metric in record if metric not in _NO_METRICS]
        for metric in metrics:
            scored.put_given(str(name), metric, item, record.get(metric), where=where)
    if not documents and not scored.values and not scored.no_numbers:
        raise InputError("holds no samples", where=str(samples.path), fix="delete it")
    return Part(scored, documents, results.setting(samples.task) if results else "")


def _lower(better: Any) -> frozenset[str]:
    """Return the metrics of a task that are better when lower."""
    pairs = better.items() if isinstance(better, dict) else ()
    return frozenset(metric for metric, up in pairs if up is False)


def _from_results(results: Results, task: str, metrics: dict[str, Any]) -> Part:
    better = results.part("higher_is_better").get(task)
    scored = Scored(
        results.model,
        task,
        results.when,
        str(results.path),
        lower_is_better=_lower(better),
    )
    sizes = results.part("n-samples").get(task)
    size = sizes.get("effective") if isinstance(sizes, dict) else None
    trials: dict[tuple[str, str], Trials] = {}
    for name, given in metrics.items():
        metric, comma, filter_name = name.partition(",")
        value = fraction(given)
        if comma and value is not None and not metric.endswith("_stderr"):
            scored.put(filter_name, metric, ALL, value, f"{results.path}, task {task}")
            found = trials_of(size, value, metrics.get(f"{metric}_stderr,{filter_name}"))
            trials |= {(filter_name, metric): found} if found else {}
    return Part(scored, trials=trials)
