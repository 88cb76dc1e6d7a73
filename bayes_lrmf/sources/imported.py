"""What an import gives, and how it fits what is already at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from bayes_lrmf.checks import nearest
from bayes_lrmf.layouts import named

if TYPE_CHECKING:
    from bayes_lrmf.lineage import Lineage
    from bayes_lrmf.posterior import Posterior
    from bayes_lrmf.responses import Responses

__all__ = ["Imported", "reconciliation"]

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
        What was imported; models that are known, and the nearest names to those that are not;
        items that are known or new; the share of models with a recorded parent.
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
        unknown = [model for model in models if model not in names]
        lines.append(f"{len(models) - len(unknown):,} of {_number(len(models), 'model')} known")
        for model in unknown[:_MOST_UNKNOWN]:
            close = nearest(model, names)
            lines.append(f"unknown model {model}" + (f"; did you mean {close}?" if close else ""))
        if len(unknown) > _MOST_UNKNOWN:
            lines.append(f"{len(unknown) - _MOST_UNKNOWN:,} more unknown models")
    if known is not None:
        frame = known.items if hasattr(known, "items") else known.design.items
        n_old = len(items & _labels(frame))
        lines.append(
            f"{n_old:,} of {_number(len(items), 'item')} known, {len(items) - n_old:,} new"
        )
    if lineage is not None and models:
        lines.append(lineage.summary(models))
    return lines


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _labels(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["benchmark"].astype(str), frame["item"].astype(str), strict=True))


def _models_of(known: Responses | Posterior) -> list[str]:
    if hasattr(known, "design"):
        return [str(model) for model in known.design.models]
    return [str(model) for model in (*known.models, *known.unevaluated)]
