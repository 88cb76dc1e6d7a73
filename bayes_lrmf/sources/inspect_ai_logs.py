"""Results of Inspect: the scores in its logs as responses."""

from __future__ import annotations

import math
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import counted, named
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.sources.documents import document_hash
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.metric_choice import (
    Metric,
    Scored,
    check_wishes,
    choices_in_words,
    choose,
    refuse_wrong,
)
from bayes_lrmf.sources.runs import Run, counts_of, responses_of
from bayes_lrmf.unpacking import refuse_bomb

__all__ = ["read_inspect"]

_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
# Providers that run models of the hub: a name there is <provider>/<name on the hub>.
_HUB_PROVIDERS = ("hf", "vllm", "sglang", "transformer_lens", "nnterp")
_UNREAD = {"messages", "events", "store", "attachments", "output", "timelines"}


def read_inspect(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    metric: Metric = None,
    aliases: Any = None,
) -> Imported:
    """Read what ``inspect eval`` logged, as .eval or .json.

    A task, without the package it comes from, is a benchmark and a sample an item. The letters
    C, P, I and N count as 1, 0.5, 0 and 0; epochs are averaged. Models of the hub lose the name
    of their provider, such as ``hf/``. Where one sample holds different questions in different
    logs, the items of that task are named by a hash of the question.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, searched to the bottom, or logs.
    metric : str or mapping, optional
        A scorer, or task -> scorer; ``scorer.part`` where its scores have parts. By default the
        first of a task.
    aliases : path, DataFrame or mapping, optional
        Other names of models, as `read_lineage` takes them.

    Returns
    -------
    Imported
        With notes on what was chosen and what was passed over.

    Raises
    ------
    InputError
        If Inspect is not installed, a file is missing or broken, a score is not from 0 to 1, or
        nothing is found.
    """
    names = read_aliases(aliases)
    places = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    skipped: dict[str, int] = defaultdict(int)
    unfinished: list[str] = []
    logs: dict[str, list[tuple[Scored, dict[str, str]]]] = defaultdict(list)
    for file in _log_files(places):
        log = _read(file)
        if log is None:
            continue
        if log.status != "success":
            unfinished.append(f"{file} ({log.status})")
        scored, documents = _scored(log, file, skipped)
        logs[scored.task].append((scored, documents))
    if not logs:
        raise InputError(
            "no logs of Inspect",
            where=", ".join(str(place) for place in places[:3]),
            fix="give its log folder, or files that end in .eval or .json",
        )
    every = [scored for group in logs.values() for scored, _ in group]
    check_wishes(every, metric=metric, filter_name=None)
    choices = {
        task: choose([scored for scored, _ in group], metric=metric, priority=())
        for task, group in logs.items()
    }
    runs: list[Run] = []
    renamed: dict[str, str] = {}
    for task, group in logs.items():
        for (scored, documents), key in zip(group, choices[task], strict=True):
            model = names.get(scored.model, scored.model)
            if model != scored.model:
                renamed[scored.model] = model
            if key is not None:
                values = scored.values[key]
                skipped["score"] += len(documents.keys() | values.keys()) - len(values)
                runs.append(Run(model, task, scored.when, values, documents))
    notes = choices_in_words(choices, kind="scorer")
    if unfinished:
        notes.append(f"{counted(unfinished, 'log')} of unfinished runs read: {named(unfinished)}")
    if skipped["error"]:
        notes.append(f"{skipped['error']:,} samples that ended in an error passed over")
    if skipped["score"]:
        notes.append(f"{skipped['score']:,} samples without the score passed over")
    responses, united = responses_of(runs)
    if not len(responses):
        refuse_wrong(every)
        raise InputError(
            "no sample with a score from 0 to 1",
            where=", ".join(str(place) for place in places[:3]),
            fix="see `inspect view` for what went wrong",
        )
    return Imported(responses, counts_of((), responses), (*notes, *united), renamed)


def _log_files(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    files: dict[Path, None] = {}
    for place in map(Path, places):
        if place.is_dir():
            found = (f for f in sorted(place.rglob("*")) if f.suffix in (".eval", ".json"))
            files |= dict.fromkeys(f for f in found if f.is_file())
        elif not place.is_file():
            raise InputError("no such file or folder", where=str(place), fix="check the path")
        elif place.suffix not in (".eval", ".json"):
            raise InputError(
                f"unknown kind of log {place.suffix!r}",
                where=str(place),
                fix="give files that end in .eval or .json",
            )
        else:
            files[place] = None
    return list(files)


def _read(file: Path) -> Any:
    """Return a log; None for the lists that Inspect keeps beside its logs."""
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise InputError(
            "Inspect is not installed", fix="pip install 'bayes-lrmf[inspect]'"
        ) from error
    if file.name in ("logs.json", "eval-set.json"):
        return None
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                refuse_bomb(file, sum(member.file_size for member in archive.infolist()))
        return read_eval_log(str(file), exclude_fields=_UNREAD)
    except InputError:
        raise
    except Exception as error:  # its reader lets those of zipfile, json and pydantic through
        raise InputError(
            f"is no log of Inspect, or is cut short ({type(error).__name__})",
            where=str(file),
            fix="copy the file anew, or leave it out",
        ) from error


def _scored(log: Any, file: Path, skipped: dict[str, int]) -> tuple[Scored, dict[str, str]]:
    """Return the scores of a log, averaged over epochs, and the hash of each question."""
    task = log.eval.task.rpartition("/")[2]
    when = datetime.fromisoformat(log.eval.created)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    scored = Scored(_model_name(log.eval.model), task, when.timestamp(), str(file))
    epochs: dict[tuple[str, str], list[float]] = defaultdict(list)
    documents: dict[str, str] = {}
    order = [score.name for score in log.results.scores] if log.results else []
    for sample in log.samples or ():
        if sample.error is not None or getattr(sample, "invalidation", None) is not None:
            skipped["error"] += 1
            continue
        item = str(sample.id)
        documents[item] = document_hash([_text(sample.input), sample.choices])
        for name, score in (sample.scores or {}).items():
            parts = score.value if isinstance(score.value, dict) else {"": score.value}
            for part, given in parts.items():
                value = _number(given)
                if value is not None:
                    epochs[f"{name}.{part}" if part else name, item].append(value)
    # Scorers in the order of the log's results, as samples may keep them in another.
    rank = {name: at for at, name in enumerate(order)}
    for (name, item), values in sorted(
        epochs.items(), key=lambda pair: rank.get(pair[0][0].partition(".")[0], len(rank))
    ):
        outside = [value for value in values if not 0 <= value <= 1]
        mean = outside[0] if outside else sum(values) / len(values)
        scored.put("", name, item, mean, f"{file}, sample {item}")
    return scored, documents


def _model_name(name: str) -> str:
    provider, _, rest = name.partition("/")
    return rest if provider in _HUB_PROVIDERS and "/" in rest else name


def _text(given: Any) -> Any:
    # Messages have identifiers that differ from run to run.
    return given if isinstance(given, str) else [message.text for message in given]


def _number(given: Any) -> float | None:
    """Return a score as a number; None for what Inspect writes where there is none."""
    if isinstance(given, str):
        given = _LETTERS.get(given, _WORDS.get(given.lower(), given))
    try:
        number = float(given)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
