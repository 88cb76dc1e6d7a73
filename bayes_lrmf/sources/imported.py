"""What an import gives, and how it fits what is already at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from bayes_lrmf.checks import nearest
from bayes_lrmf.layouts import named

if TYPE_CHECKING:
    from bayes_lrmf.lineage import Lineage
    from bayes_lrmf.posterior import Posterior
    from bayes_lrmf.responses import Responses

__all__ = ["Imported", "lineage_reconciliation", "reconciliation"]

_MOST_UNKNOWN = 5  # unknown names that are shown; the nearest to each is sought among all


@dataclass(frozen=True, eq=False)
class Imported:
    """Results of other tools as tables.

    Attributes
    ----------
    responses : DataFrame
        Columns model, benchmark, item, response.
    counts : DataFrame
        Columns model, benchmark, successes, trials: benchmarks known only as a whole.
    notes : tuple of str
        One line each: what was chosen, united or passed over.
    renamed : mapping
        Names of models as found -> as the alias table has them.
    """

    responses: pd.DataFrame
    counts: pd.DataFrame
    notes: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Models with a response or a count, each once."""
        return list(pd.unique(pd.concat([self.responses["model"], self.counts["model"]])))


def reconciliation(
    imported: Imported,
    *,
    lineage: Lineage | None = None,
    known: Responses | Posterior | None = None,
) -> list[str]:
    """Say in short lines how an import fits a lineage and earlier results.

    Parameters
    ----------
    imported : Imported
    lineage : Lineage, optional
    known : Responses or Posterior, optional
        Where its models and items may be known from.

    Returns
    -------
    list of str
        What was imported; models, benchmarks and items that are known, and the nearest names to
        those that are not; the share of models with a recorded parent.
    """
    models, items = imported.models, _labels(imported.responses)
    benchmarks = pd.unique(
        pd.concat([imported.responses["benchmark"], imported.counts["benchmark"]])
    )
    lines = [
        f"{_number(len(models), 'model')}, {_number(len(benchmarks), 'benchmark')}, "
        f"{_number(len(imported.responses), 'response')} on {_number(len(items), 'item')}, "
        f"{_number(len(imported.counts), 'count')} of whole benchmarks"
    ]
    if imported.renamed:
        pairs = [f"{a} -> {b}" for a, b in imported.renamed.items()]
        lines.append(f"{_number(len(pairs), 'model')} renamed by the alias table: {named(pairs)}")
    names: dict[str, None] = {}
    if lineage is not None:
        names |= dict.fromkeys(str(name) for name in lineage.nodes)
    if known is not None:
        names |= dict.fromkeys(_models_of(known))
    if lineage is not None or known is not None:
        lines += _matched(models, names, "model")
    if known is not None:
        frame = known.items if hasattr(known, "items") else known.design.items
        lines += _matched(benchmarks, dict.fromkeys(frame["benchmark"].astype(str)), "benchmark")
        n_old = len(items & _labels(frame))
        if items:
            lines.append(
                f"{n_old:,} of {_number(len(items), 'item')} known, {len(items) - n_old:,} new"
            )
    if lineage is not None and models:
        lines.append(lineage.summary(models))
    return lines


def lineage_reconciliation(
    found: Lineage,
    asked: Sequence[str],
    *,
    lineage: Lineage | None = None,
    known: Responses | Posterior | None = None,
) -> list[str]:
    """Say in short lines how a lineage fits the models it was asked for, and what is at hand.

    Parameters
    ----------
    found : Lineage
    asked : sequence of str
        Models whose parents were looked for.
    lineage : Lineage, optional
        An earlier one.
    known : Responses or Posterior, optional
        Where the models may have results.

    Returns
    -------
    list of str
        The share of models with a recorded parent, among those asked for and those with results;
        models that are known, and the nearest names to those that are not; edges that are new.
    """
    asked = list(dict.fromkeys(asked))
    others = len({str(name) for name in found.nodes} - set(asked))
    lines = [
        f"{_number(len(found.child), 'edge')} of {_number(len(found.nodes), 'model')}, "
        f"{others:,} of them not asked for",
        f"asked for: {found.summary(asked)}",
    ]
    names: dict[str, None] = {}
    if lineage is not None:
        names |= dict.fromkeys(str(name) for name in lineage.nodes)
    if known is not None:
        names |= dict.fromkeys(_models_of(known))
    if lineage is not None or known is not None:
        lines += _matched(asked, names, "model")
    if known is not None:
        lines.append(f"with results: {found.summary(_evaluated(known))}")
    if lineage is not None:
        n_old = len(_edges(found) & _edges(lineage))
        n = len(found.child)
        lines.append(f"{n_old:,} of {_number(n, 'edge')} known, {n - n_old:,} new")
    return lines


def _matched(found: Iterable[str], names: Mapping[str, None], noun: str) -> list[str]:
    """Say how many are known, and the nearest name to each of the first that are not."""
    found = list(found)
    unknown = [name for name in found if name not in names]
    lines = [f"{len(found) - len(unknown):,} of {_number(len(found), noun)} known"]
    for name in unknown[:_MOST_UNKNOWN]:
        close = nearest(name, names)
        lines.append(f"unknown {noun} {name}" + (f"; did you mean {close}?" if close else ""))
    if len(unknown) > _MOST_UNKNOWN:
        lines.append(f"{len(unknown) - _MOST_UNKNOWN:,} more unknown {noun}s")
    return lines


def _edges(lineage: Lineage) -> set[tuple[str, str]]:
    children, parents = lineage.nodes[lineage.child], lineage.nodes[lineage.parent]
    return set(zip(map(str, children), map(str, parents), strict=True))


def _evaluated(known: Responses | Posterior) -> list[str]:
    table = known.design.responses if hasattr(known, "design") else known
    return [str(model) for model in table.models]


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _labels(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["benchmark"].astype(str), frame["item"].astype(str), strict=True))


def _models_of(known: Responses | Posterior) -> list[str]:
    if hasattr(known, "design"):
        return [str(model) for model in known.design.models]
    return [str(model) for model in (*known.models, *known.unevaluated)]
