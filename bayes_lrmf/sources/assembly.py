"""Tasks of many files brought together: a metric chosen for each, then responses or counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bayes_lrmf.checks import InputError
from bayes_lrmf.layouts import MOST_TRIALS, named
from bayes_lrmf.sources.imported import Imported
from bayes_lrmf.sources.metric_choice import (
    METRICS,
    Metric,
    Scored,
    check_wishes,
    choices_in_words,
    choose,
    refuse_wrong,
)
from bayes_lrmf.sources.runs import Counted, Run, counts_of, responses_of

__all__ = ["ALL", "Part", "Trials", "assembled", "trials_of"]

ALL = ""  # stands for all items of a task whose items are not at hand


@dataclass(frozen=True)
class Trials:
    """How many items a share is made of, and whether that was worked out from its error."""

    n: int
    is_worked_out: bool = False


@dataclass(frozen=True, eq=False)
class Part:
    """What one file says of one model on one task.

    Attributes
    ----------
    scored : Scored
        Values by item, or of `ALL` alone.
    documents : dict
        Item -> hash of its question.
    setting : str
        What should be equal for runs to be comparable, such as ``5-shot``.
    trials : mapping or None
        (filter, metric) -> `Trials` of a value of `ALL`; None if the values are of items.
    """

    scored: Scored
    documents: dict[str, str] = field(default_factory=dict)
    setting: str = ""
    trials: Mapping[tuple[str, str], Trials] | None = None


def trials_of(size: Any, share: float, error: Any) -> Trials | None:
    """Return the number of items that a share is made of.

    Without a size it is the n of se^2 = p (1 - p) / (n - 1), which holds for the mean of zeros
    and ones; None if n or the successes are then not whole, or n is more than tables can hold.
    """
    if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MOST_TRIALS:
        return Trials(size)
    if not 0 <= share <= 1 or not isinstance(error, float) or not 1e-9 < error < 1:
        return None
    n = 1 + share * (1 - share) / error**2
    whole = round(n)
    is_whole = whole <= MOST_TRIALS and abs(n - whole) < 1e-6 * whole
    if is_whole and abs(share * whole - round(share * whole)) < 1e-6 * whole:
        return Trials(whole, is_worked_out=True)
    return None


def assembled(
    parts: Iterable[Part],
    *,
    names: Mapping[str, str],
    nothing: InputError,
    metric: Metric = None,
    filter_name: str | None = None,
    priority: Callable[[str], Sequence[str]] = lambda task: METRICS,
    notes: Iterable[str] = (),
) -> Imported:
    """Choose a metric for each task and unite what the files say.

    Parameters
    ----------
    parts : iterable of Part
    names : mapping
        Other names of models -> their names.
    nothing : InputError
        What to say if there are neither responses nor counts.
    metric : str or mapping, optional
        A metric, or task -> metric.
    filter_name : str, optional
    priority : callable, optional
        Task -> metrics, the first of which it has is the default.
    notes : iterable of str
        What was found before.

    Raises
    ------
    InputError
        If a value of the chosen metric is not from 0 to 1, no task has the metric or filter, or
        there is nothing.
    """
    by_task: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_task[part.scored.task].append(part)
    every = [part.scored for group in by_task.values() for part in group]
    check_wishes(every, metric=metric, filter_name=filter_name)
    choices = {
        task: choose(
            [part.scored for part in group],
            metric=metric,
            filter_name=filter_name,
            priority=priority(task),
        )
        for task, group in by_task.items()
    }
    said = [*notes, *choices_in_words(choices)]
    runs: list[Run] = []
    counts: list[Counted] = []
    told: dict[str, dict[str, None]] = defaultdict(dict)
    n_absent = 0
    for task, group in by_task.items():
        for part, key in zip(group, choices[task], strict=True):
            if key is None:
                continue
            model = names.get(part.scored.model, part.scored.model)
            if part.trials is not None:
                counts += _counted(part, model, key, told)
                continue
            scores = part.scored.values[key]
            n_absent += len(part.documents.keys() - scores.keys())
            runs.append(Run(model, task, part.scored.when, scores, part.documents, part.setting))
    responses, united = responses_of(runs)
    table = counts_of(counts, responses)
    said += united
    if n_absent:
        said.append(f"{n_absent:,} samples without the metric passed over")
    if len(table):
        which = list(dict.fromkeys(table["benchmark"]))
        said.append(f"no samples, counts of successes instead: {named(which)}")
    said += [f"{what}: {named(list(tasks))}" for what, tasks in told.items()]
    if not len(responses) and not len(table):
        refuse_wrong(every)
        raise nothing
    found = dict.fromkeys(scored.model for scored in every)
    renamed = {model: names[model] for model in found if names.get(model, model) != model}
    return Imported(responses, table, tuple(said), renamed)


def _counted(
    part: Part, model: str, key: tuple[str, str], told: dict[str, dict[str, None]]
) -> list[Counted]:
    """Return successes and trials of a task without items, if known, and tell what is odd."""
    task = part.scored.task
    trials = part.trials.get(key) if part.trials else None
    if trials is None:
        told["neither samples nor their number, passed over"][task] = None
        return []
    if trials.is_worked_out:
        told["number of samples worked out from the standard error"][task] = None
    successes = part.scored.values[key][ALL] * trials.n
    if abs(successes - round(successes)) > 1e-6 * trials.n:
        told["successes rounded to whole numbers"][task] = None
    return [Counted(model, task, part.scored.when, round(successes), trials.n)]
