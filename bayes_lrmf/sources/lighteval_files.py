"""Files of LightEval: which is which, what they hold, and whose they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.sources.json_files import json_content

__all__ = ["Details", "Results", "is_lighteval", "searched", "setting_of", "task_of"]

_DATE = r"\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d(?:\.\d+)?"
_DETAILS = re.compile(rf"details_(?P<task>.+)_(?P<date>{_DATE})\.parquet")
_RESULTS = re.compile(rf"results_(?P<date>{_DATE})\.json")
_REPOSITORY = re.compile(r"(?:datasets--.*--)?details_(?P<model>.+?)(?:_private)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
        """Metrics of each task as the file names it; averages over tasks are left out."""
        return {
            name: metrics
            for name, metrics in self.content["results"].items()
            if isinstance(metrics, dict) and name != "all" and ":_average" not in name
        }

    def config(self, name: str) -> dict[str, Any]:
        """Return how a task was configured, empty if the file does not say."""
        configs = self.content.get("config_tasks")
        for key in (name, name.rpartition("|")[0], task_of(name)):
            found = configs.get(key) if isinstance(configs, dict) else None
            if isinstance(found, dict):
                return found
        return {}


@dataclass(frozen=True, eq=False)
class Details:
    """A file of details: what one model did on the questions of one task.

    `name` is the task with its suite and shots, and `results` those of the same run.
    """

    path: Path
    model: str
    name: str
    when: float
    results: Results | None


def is_lighteval(content: Any) -> bool:
    """Say whether a file of results is one of LightEval, or of the leaderboard before it."""
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        return False
    return "config_general" in content or any("|" in str(name) for name in results)


def task_of(name: str) -> str:
    """Return ``arc:challenge`` of ``harness|arc:challenge|25``."""
    parts = _without_numbers(name)
    return parts[-1] if parts else name


def setting_of(name: str) -> str:
    """Return ``harness 25-shot`` of ``harness|arc:challenge|25``."""
    kept = _without_numbers(name)
    numbers = name.split("|")[len(kept) :]
    return " ".join([*kept[:-1], *(f"{shots}-shot" for shots in numbers[:1])])


def searched(files: Mapping[Path, bool]) -> tuple[list[Details], list[Results]]:
    """Return details and results among files, given whether each was named itself.

    Raises
    ------
    InputError
        If a file is not what its name says, or was named and is neither.
    """
    results: dict[str, list[Results]] = {}
    found: list[tuple[Path, str, str]] = []
    for file, is_named in files.items():
        if match := _DETAILS.fullmatch(file.name):
            found.append((file, match["task"], match["date"].replace(":", "-")))
        elif match := _RESULTS.fullmatch(file.name):
            date = match["date"].replace(":", "-")
            if one := _read(file, date, is_named=is_named):
                results.setdefault(date, []).append(one)
        elif is_named and file.suffix == ".parquet" and not file.name.startswith("results_"):
            raise InputError(
                "the task of these details is unknown",
                where=str(file),
                fix="keep its name, details_<task>_<date>.parquet",
            )
    details = []
    for file, name, date in found:
        own = _of_the_same_run(file, results.get(date, []))
        model = own.model if own else _model_of_path(file)
        details.append(Details(file, model, name, _moment(date), own))
    return details, [one for group in results.values() for one in group]


def _without_numbers(name: str) -> list[str]:
    parts = name.split("|")
    while len(parts) > 1 and parts[-1].strip().isdigit():
        parts.pop()
    return parts


def _read(file: Path, date: str, *, is_named: bool) -> Results | None:
    content = json_content(file)
    if not is_lighteval(content):
        if is_named:
            raise InputError(
                "holds no results of LightEval",
                where=str(file),
                fix="give its output_dir, or details_*.parquet and results_*.json",
            )
        return None
    general = content.get("config_general")
    general = general if isinstance(general, dict) else {}
    config = general.get("model_config")
    config = config if isinstance(config, dict) else {}
    name = str(general.get("model_name") or config.get("model_name") or "")
    revision = str(config.get("revision") or "main")
    if name and revision != "main" and not _COMMIT.fullmatch(revision):
        name += f"@{revision}"
    return Results(file, name or _model_of_path(file), _moment(date), content)


def _of_the_same_run(file: Path, dated: list[Results]) -> Results | None:
    """Return the results of a run, told by its date, and by the model if two have one date."""
    folder = str(file.absolute().parent)
    near = [one for one in dated if one.model.partition("@")[0].rpartition("/")[2] in folder]
    return (near or dated)[0] if dated else None


def _model_of_path(file: Path) -> str:
    """Return the model that ``details_<org>__<model>`` or ``details/<org>/<model>`` names."""
    parts = list(file.absolute().parent.parts)
    for part in reversed(parts):
        if match := _REPOSITORY.fullmatch(part):
            return match["model"].replace("__", "/")
    if re.fullmatch(_DATE, parts[-1]):
        parts.pop()
    for kind in ("details", "results"):
        if kind in parts[:-1]:
            name = parts[len(parts) - parts[::-1].index(kind) :]
            return "/".join(name) if len(name) > 1 else name[0].replace("__", "/")
    return parts[-1].replace("__", "/")


def _moment(date: str) -> float:
    day, _, time = date.partition("T")
    moment = datetime.fromisoformat(f"{day}T{time.replace('-', ':')}")
    return moment.replace(tzinfo=UTC).timestamp()
