"""Which of the metrics and filters of a task says whether an answer is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.layouts import named

__all__ = [
    "FILTERS",
    "METRICS",
    "Scored",
    "check_wishes",
    "choices_in_words",
    "choose",
    "fraction",
    "refuse_wrong",
]

FILTERS = ("strict-match", "none")
METRICS = (
    "acc_norm",
    "acc",
    "exact_match",
    "prompt_level_strict_acc",
    "mc1",
    "pass@1",
    "pass_at_1",
    "em",
    "math_verify",
    "f1",
    "contains",
    "score",
)

type Metric = str | Mapping[str, str] | None


@dataclass(eq=False)
class Scored:
    """What one file says of one model on one task, by filter and metric.

    Attributes
    ----------
    model, task : str
    when : float
    where : str
        The file.
    values : dict
        (filter, metric) -> item -> value.
    wrong : dict
        (filter, metric) -> the first value that is none from 0 to 1, and where it stands.
    lower_is_better : set of str
        Metrics that are no successes.
    no_numbers : set
        (filter, metric) that are something else than a number on some item.
    """

    model: str
    task: str
    when: float
    where: str
    values: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    wrong: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    lower_is_better: frozenset[str] = frozenset()
    no_numbers: set[tuple[str, str]] = field(default_factory=set)

    @property
    def filters(self) -> list[str]:
        """Names of the filters, in their order."""
        return list(dict.fromkeys(name for name, _ in self.values))

    def metrics(self, filter_name: str) -> list[str]:
        """Return the metrics that a filter has numbers for."""
        return [metric for name, metric in self.values if name == filter_name]

    def put(self, filter_name: str, metric: str, item: str, value: float, where: str) -> None:
        """Add a value."""
        key = filter_name, metric
        self.values.setdefault(key, {})[item] = value
        if not 0 <= value <= 1:
            self.wrong.setdefault(key, (value, where))

    def put_given(
        self, filter_name: str, metric: str, item: str, given: Any, *, where: str
    ) -> None:
        """Add a value as a file holds it; a metric that is no number somewhere is none at all."""
        value = fraction(given)
        key = filter_name, metric
        if value is not None and key not in self.no_numbers:
            self.put(filter_name, metric, item, value, where)
        elif value is None and given is not None:
            self.no_numbers.add(key)
            self.values.pop(key, None)


def fraction(value: Any) -> float | None:
    """Return a metric of one answer as a number; None if it is no number.

    A list of true and false, such as whether each instruction was followed, counts as its share
    of true.
    """
    if isinstance(value, list) and value and all(isinstance(v, bool) for v in value):
        return sum(value) / len(value)
    try:
        return float(value) if isinstance(value, bool | int | float) else None
    except OverflowError:
        return math.inf


def check_wishes(scored: Sequence[Scored], *, metric: Metric, filter_name: str | None) -> None:
    """Refuse names of metrics, tasks and filters that no file has.

    Raises
    ------
    InputError
        Naming the nearest one that is there.
    """
    if filter_name is not None:
        valid = dict.fromkeys(name for s in scored for name in s.filters)
        one_of(filter_name, valid, name="filter")
    if isinstance(metric, str):
        one_of(metric, dict.fromkeys(m for s in scored for _, m in s.values), name="metric")
    for task, wanted in (metric or {}).items() if not isinstance(metric, str) else ():
        one_of(task, dict.fromkeys(s.task for s in scored), name="task")
        valid = dict.fromkeys(m for s in scored if s.task == task for _, m in s.values)
        one_of(wanted, valid, name="metric", where=f"task {task}")


def choose(
    scored: Sequence[Scored],
    *,
    metric: Metric = None,
    filter_name: str | None = None,
    priority: Sequence[str] = METRICS,
) -> list[tuple[str, str] | None]:
    """Choose filter and metric for all runs of one task; None where a run has no usable metric.

    What all runs have goes before what some have. Wishes go first, then the order of `FILTERS`
    and `priority`, then the order in the files.

    Raises
    ------
    InputError
        If a value of the chosen metric is not from 0 to 1.
    """
    wish = metric.get(scored[0].task) if isinstance(metric, Mapping) else metric
    shared = [f for f in scored[0].filters if all(f in s.filters for s in scored)]
    found: list[tuple[str, str] | None] = []
    for one in scored:
        filters = shared or one.filters
        wanted = [filter_name, *FILTERS, *filters]
        chosen = next((f for f in wanted if f is not None and f in filters), "")
        having = [s for s in scored if chosen in s.filters]
        metrics = [m for m in one.metrics(chosen) if all(m in s.metrics(chosen) for s in having)]
        metrics = metrics or one.metrics(chosen)
        best: str | None = wish
        if wish not in one.metrics(chosen):
            usable = [
                m for m in metrics if m not in one.lower_is_better and (chosen, m) not in one.wrong
            ]
            best = next((m for m in priority if m in metrics), usable[0] if usable else None)
        if best is None:
            found.append(None)
            continue
        if (chosen, best) in one.wrong:
            raise _wrong(one, (chosen, best))
        found.append((chosen, best))
    return found


def refuse_wrong(scored: Iterable[Scored]) -> None:
    """Raise `InputError` for the first value that is not from 0 to 1, if there is one."""
    for one in scored:
        for key in one.wrong:
            raise _wrong(one, key)


def _wrong(scored: Scored, key: tuple[str, str]) -> InputError:
    value, where = scored.wrong[key]
    what = "not a number" if math.isnan(value) else f"{value:g}, outside [0, 1]"
    others = [m for m in scored.metrics(key[0]) if (key[0], m) not in scored.wrong]
    fix = f"choose another metric, such as {others[0]!r}" if others else "leave this task out"
    return InputError(f"{key[1]} of {scored.task} is {what}", where=where, fix=fix)


def choices_in_words(
    choices: Mapping[str, Sequence[tuple[str, str] | None]], *, kind: str = "metric"
) -> list[str]:
    """Return a note for each filter and metric that was chosen, with the tasks.

    Parameters
    ----------
    choices : mapping
        Task -> what `choose` returned.
    kind : str
        What the notes call a metric.
    """
    tasks: dict[tuple[str, str] | None, list[str]] = {}
    for task, chosen in choices.items():
        for key in dict.fromkeys(chosen):
            tasks.setdefault(key, []).append(task)
    notes = []
    for key, which in tasks.items():
        more = f" and {len(which) - 3:,} more" if len(which) > 3 else ""
        listing = named(which).removesuffix(", ...") + more
        if key is None:
            notes.append(f"no {kind} from 0 to 1, passed over: {listing}")
        else:
            of_filter = f", filter {key[0]}" if key[0] else ""
            notes.append(f"{kind} {key[1]}{of_filter}: {listing}")
    mixed = [task for task, chosen in choices.items() if len(set(chosen) - {None}) > 1]
    if mixed:
        notes.append(f"runs differ in what they have, and so in the choice: {named(mixed)}")
    return notes
