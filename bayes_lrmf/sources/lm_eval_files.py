"""Files of lm-evaluation-harness: which is which, what they hold, and whose they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.sources.json_files import json_content, json_records
from bayes_lrmf.sources.lighteval_files import is_lighteval
from bayes_lrmf.sources.parquet_files import rows_of
from bayes_lrmf.sources.places import files_in, in_words

__all__ = ["Results", "Samples", "found_files", "moment", "records", "searched"]

_DATE = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?"
_SAMPLES = re.compile(rf"samples_(?P<task>.+)_(?P<date>{_DATE})\.(?:jsonl?|parquet)")
_RESULTS = re.compile(rf".+_(?P<date>{_DATE})\.json")
# Where several stand together, the first names the model that was run.
_NAME_ARGUMENTS = ("peft", "delta", "pretrained", "model", "path", "engine")


@dataclass(frozen=True, eq=False)
class Results:
    """A file of results: of one model, on tasks.

    Attributes
    ----------
    path : Path
    model : str
        As the file names it, or else its folder.
    when : float
        Seconds since 1970.
    content : dict
        The file.
    """

    path: Path
    model: str
    when: float
    content: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Metrics of each task; groups of tasks are left out."""
        groups = {g for g, inner in self.part("group_subtasks").items() if inner and inner != [g]}
        configured = self.part("configs")
        return {
            task: metrics
            for task, metrics in self.part("results").items()
            if isinstance(metrics, dict)
            and (task in configured if configured else task not in groups)
        }

    def part(self, name: str) -> dict[str, Any]:
        """Return a part of the file, empty if it is not there."""
        found = self.content.get(name)
        return found if isinstance(found, dict) else {}

    def setting(self, task: str) -> str:
        """Return what should be equal for runs of a task to be comparable."""
        shots, version = self.part("n-shot").get(task), self.part("versions").get(task)
        parts = [f"{shots}-shot"] if isinstance(shots, int) else []
        if isinstance(version, int | float):
            parts.append(f"version {version:g}")
        return " ".join(parts)

    def filters(self, task: str) -> list[str]:
        """Return the names of the filters of a task, in their order."""
        config = self.part("configs").get(task)
        listed = (config.get("filter_list") if isinstance(config, dict) else None) or []
        return [str(f.get("name")) for f in listed if isinstance(f, dict)]


@dataclass(frozen=True, eq=False)
class Samples:
    """A file of samples: what one model did on the documents of one task.

    `results` stand beside it and say how the task was run.
    """

    path: Path
    model: str
    task: str
    when: float
    results: Results | None


def found_files(
    paths: Iterable[str | os.PathLike[str]],
) -> tuple[list[Samples], list[Results], list[str]]:
    """Return the files of samples and results in folders, or named themselves.

    Returns
    -------
    samples : list of Samples
    results : list of Results
        Those in the given folders, or given.
    strange : list of str
        Files of JSON lines in folders that no results stand beside: their task is unknown.

    Raises
    ------
    InputError
        If a path does not exist, a file is not what its name says, or there is none.
    """
    places = list(paths)
    samples, results, strange = searched(files_in(places, (".json", ".jsonl", ".parquet")))
    if not samples and not results:
        raise InputError(
            "no output of lm-evaluation-harness",
            where=in_words(places),
            fix="give its output_path, or results_*.json and samples_*.jsonl",
        )
    return samples, results, strange


def searched(files: Mapping[Path, bool]) -> tuple[list[Samples], list[Results], list[str]]:
    """Return what `found_files` does, maybe nothing, of files and whether each was named."""
    reader = _ResultsReader()
    samples: list[Samples] = []
    results: list[Results] = []
    strange: list[str] = []
    for file, is_named in files.items():
        match = _SAMPLES.fullmatch(file.name)
        if match:
            own = reader.beside(file, match["date"])
            model = own.model if own else _spelled_out(file.absolute().parent.name)
            samples.append(Samples(file, model, match["task"], moment(match["date"]), own))
        elif file.suffix == ".jsonl":
            old = _old_samples(file, reader.undated(file.parent))
            if old:
                samples.append(old)
            elif is_named:
                raise InputError(
                    "the task of these samples is unknown",
                    where=str(file),
                    fix="keep results.json beside it",
                )
            else:
                strange.append(str(file))
        elif file.suffix == ".parquet":
            continue
        elif found := reader.read(file, is_certain=is_named or file.name.startswith("results")):
            results.append(found)
    return samples, results, strange


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the content of each sample.

    Raises
    ------
    InputError
        If the file is not UTF-8, or a line is no JSON object.
    """
    # Releases before 0.4.3 wrote one JSON array, though the file is named .jsonl.
    is_parquet = path.suffix == ".parquet"
    for number, record in rows_of(path) if is_parquet else json_records(path):
        where = f"{path}, {'row' if is_parquet else 'line'} {number}"
        if not isinstance(record, dict) or "doc_id" not in record:
            raise InputError(
                "is no sample with a doc_id",
                where=where,
                fix="give the files that --log_samples writes",
            )
        yield where, record


class _ResultsReader:
    """Files of results, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, Results | None] = {}

    def read(self, file: Path, *, is_certain: bool) -> Results | None:
        """Return a file of results; None if it is something else and may be."""
        if file not in self._read:
            self._read[file] = self._parsed(file, is_certain=is_certain)
        return self._read[file]

    def beside(self, samples: Path, date: str) -> Results | None:
        """Return the results that a file of samples was written with."""
        for file in sorted(samples.parent.glob(f"*_{date}.json")):
            if not _SAMPLES.fullmatch(file.name) and (found := self.read(file, is_certain=True)):
                return found
        return None

    def undated(self, folder: Path) -> list[Results]:
        """Return the results of old releases in a folder, whose names hold no date."""
        files = [f for f in sorted(folder.glob("*.json")) if not _RESULTS.fullmatch(f.name)]
        return [r for f in files if (r := self.read(f, is_certain=f.name == "results.json"))]

    def _parsed(self, file: Path, *, is_certain: bool) -> Results | None:
        try:
            content = json_content(file)
        except InputError:
            if is_certain:
                raise
            return None
        if is_lighteval(content):
            return None
        parts = [content.get(p) if isinstance(content, dict) else None for p in _RESULT_PARTS]
        if not all(isinstance(part, dict) for part in parts):
            if is_certain:
                raise InputError(
                    "holds no results of lm-evaluation-harness",
                    where=str(file),
                    fix="give its output_path, or results_*.json and samples_*.jsonl",
                )
            return None
        match = _RESULTS.fullmatch(file.name)
        date = content.get("date")
        when = moment(match["date"]) if match else float(date) if _is_number(date) else 0.0
        name = str(content.get("model_name") or "")
        model = _model_of(name, content.get("config")) or _spelled_out(file.absolute().parent.name)
        return Results(file, model, when, content)


_RESULT_PARTS = ("results", "versions")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def moment(date: str) -> float:
    """Return the seconds since 1970 of a date as file names have it."""
    day, _, time = date.partition("T")
    moment = datetime.fromisoformat(f"{day}T{time.replace('-', ':')}")
    return moment.replace(tzinfo=UTC).timestamp()


def _spelled_out(sanitised: str) -> str:
    return sanitised.replace("__", "/")


def _model_of(name: str, config: Any) -> str:
    """Return the name of the model, with its revision if that is not the main one."""
    given = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(","))
    pairs = given.items() if isinstance(given, dict) else ()
    arguments = {str(k).strip(): str(v) for k, v in pairs}
    name = name or next((arguments[k] for k in _NAME_ARGUMENTS if arguments.get(k)), "")
    revision = arguments.get("revision", "main")
    return name if not name or revision in ("main", "None", "") else f"{name}@{revision}"


def _old_samples(file: Path, beside: list[Results]) -> Samples | None:
    """Return samples named <arguments of the model>_<task>.jsonl, as before release 0.4.3."""
    for results in beside:
        for task in sorted(results.tasks, key=len, reverse=True):
            if not file.stem.endswith(f"_{task}"):
                continue
            arguments = file.stem[: -len(task) - 1]
            config = results.part("config")
            if arguments == re.sub("/|=", "__", str(config.get("model_args"))):
                return Samples(file, results.model, task, results.when, results)
            # A later model has overwritten the results of this one.
            parts = (part.partition("__") for part in arguments.split(","))
            given = {key: _spelled_out(value) for key, _, value in parts}
            model = _model_of("", {"model_args": given}) or _spelled_out(arguments)
            return Samples(file, model, task, results.when, results)
    return None
