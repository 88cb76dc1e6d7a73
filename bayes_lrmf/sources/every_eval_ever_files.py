"""Files in the schema of Every Eval Ever: records of runs, and samples of their questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.sources.documents import document_hash
from bayes_lrmf.sources.json_files import json_content, json_records
from bayes_lrmf.sources.metric_choice import fraction

__all__ = ["Record", "Result", "Sample", "searched"]

_FIX = "give JSON records and *_samples.jsonl in the schema of Every Eval Ever"
_LM_EVAL = ("lm_eval", "lm-eval", "lm-evaluation-harness")


@dataclass(frozen=True, eq=False)
class Result:
    """A score of a run.

    Attributes
    ----------
    key : str
        What samples refer to; empty if the record gives none.
    name, task, filter_name, metric : str
        The evaluation as the record names it, its task and filter, and the metric.
    scale : float or None
        What a success counts: 1, or 100 for percent; None if the score is no share.
    score : float or None
    size, error : object
        Number of samples and standard error, as the record gives them.
    lower_is_better : bool
    """

    key: str
    name: str
    task: str
    filter_name: str
    metric: str
    scale: float | None
    score: float | None
    size: Any
    error: Any
    lower_is_better: bool


@dataclass(frozen=True, eq=False)
class Record:
    """A run of one model, `run` being its identifier and `when` its seconds since 1970."""

    where: str
    run: str
    model: str
    when: float
    results: tuple[Result, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """What a model did on one question, as one score of a run counts it."""

    where: str
    run: str
    model: str
    name: str
    filter_name: str
    key: str
    item: str
    document: str
    score: float | None
    is_correct: bool | None
    failed: bool


def searched(files: Mapping[Path, bool]) -> tuple[list[Record], list[Sample], list[str]]:
    """Return records, samples and what is neither, given whether each file was named itself.

    Raises
    ------
    InputError
        If a file is broken, or was named and is neither.
    """
    records: list[Record] = []
    samples: list[Sample] = []
    strange: list[str] = []
    for file, is_named in files.items():
        is_known = False
        for where, content in _contents(file):
            if isinstance(content, dict) and {"sample_id", "model_id"} <= content.keys():
                samples.append(_sample(content, where))
            elif (
                isinstance(content, dict) and {"model_info", "evaluation_results"} <= content.keys()
            ):
                records.append(_record(content, where))
            elif is_named or is_known:
                raise InputError("is neither a record nor a sample", where=where, fix=_FIX)
            else:
                break
            is_known = True
        if not is_known and is_named:
            raise InputError("is empty", where=str(file), fix=_FIX)
        if not is_known:
            strange.append(str(file))
    return records, samples, strange


def _contents(file: Path) -> Iterable[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        return ((f"{file}, line {line}", content) for line, content in json_records(file))
    return [(str(file), json_content(file))]


def _record(content: dict[str, Any], where: str) -> Record:
    results = content["evaluation_results"]
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise InputError("evaluation_results is no list of results", where=where, fix=_FIX)
    library = str(_part(content, "eval_library").get("name") or "").casefold()
    when = _moment(content.get("evaluation_timestamp")) or _moment(
        content.get("retrieved_timestamp")
    )
    found = [_result(one, library in _LM_EVAL, where) for one in results]
    # Two scorers may have one metric: then only the keys tell their results apart.
    times = Counter((r.task, r.filter_name, r.metric) for r in found)
    found = [
        replace(r, metric=r.key) if r.key and times[r.task, r.filter_name, r.metric] > 1 else r
        for r in found
    ]
    return Record(
        where,
        str(content.get("evaluation_id") or where),
        _text(_part(content, "model_info").get("id"), "model_info.id", where),
        when,
        tuple(found),
    )


def _result(content: dict[str, Any], is_lm_eval: bool, where: str) -> Result:
    name = _text(content.get("evaluation_name"), "evaluation_name", where)
    metric = _part(content, "metric_config")
    details = _part(content, "score_details")
    uncertainty = _part(details, "uncertainty")
    task, filter_name = name, "none" if is_lm_eval else ""
    if is_lm_eval and "/" in name:
        task, _, filter_name = name.rpartition("/")
    # Descriptions of other sources are sentences.
    described = str(metric.get("evaluation_description") or "") if is_lm_eval else ""
    given = (metric.get("metric_name"), metric.get("metric_id"), described.partition(" (")[0])
    return Result(
        str(content.get("evaluation_result_id") or ""),
        name,
        task,
        filter_name,
        next((str(g) for g in given if g), "score"),
        _scale(metric),
        fraction(details.get("score")),
        uncertainty.get("num_samples") or _part(content, "source_data").get("samples_number"),
        _part(uncertainty, "standard_error").get("value"),
        metric.get("lower_is_better") is True,
    )


def _scale(metric: dict[str, Any]) -> float | None:
    lowest, highest = metric.get("min_score"), metric.get("max_score")
    if lowest is None and highest is None:
        return 100.0 if metric.get("metric_unit") == "percent" else 1.0
    return float(highest) if lowest == 0 and highest in (1, 100) else None


def _sample(content: dict[str, Any], where: str) -> Sample:
    name = _text(content.get("evaluation_name"), "evaluation_name", where)
    question, evaluation = _part(content, "input"), _part(content, "evaluation")
    more = _part(content, "metadata")
    is_correct = evaluation.get("is_correct")
    # lm-evaluation-harness hashes the document; its prompt may differ between models.
    known = more.get("doc_hash")
    document = {key: question.get(key) for key in ("raw", "choices", "reference")}
    return Sample(
        where,
        str(content.get("evaluation_id") or ""),
        _text(content["model_id"], "model_id", where),
        name,
        str(more.get("filter") or ""),
        str(content.get("evaluation_result_id") or ""),
        _text(content["sample_id"], "sample_id", where),
        document_hash(known if known else document),
        fraction(evaluation.get("score")),
        is_correct if isinstance(is_correct, bool) else None,
        bool(content.get("error")),
    )


def _text(given: Any, name: str, where: str) -> str:
    text = str(given).strip() if isinstance(given, str | int) else ""
    if not text:
        raise InputError(f"{name} is missing or no name", where=where, fix=_FIX)
    return text


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _moment(given: Any) -> float:
    """Return seconds since 1970 of such seconds or an ISO date; 0 of anything else."""
    try:
        return float(given)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(str(given))
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
