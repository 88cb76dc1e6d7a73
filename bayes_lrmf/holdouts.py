"""Hold-out designs: what of a table a method may see, and what it is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, probability, whole_number
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.responses import Responses
from bayes_lrmf.twins import twins

__all__ = [
    "Split",
    "families",
    "hold_out_cells",
    "hold_out_cold",
    "hold_out_later",
    "hold_out_roots",
    "hold_out_shots",
]


@dataclass(frozen=True, eq=False)
class Split:
    """A table in two: what a method sees, and what was held out.

    Attributes
    ----------
    name : str
        The design and what sets it apart, such as ``cells:0.02``.
    seed : int
    train : Responses
        Every item of the table, and the models that keep a response; those without one are among
        its `unevaluated`, so that a method knows them by name.
    test : Responses
        The held-out responses that are scored: every item, and the models that have some.
    truth : Responses
        All responses of those models, held out or not.

    Raises
    ------
    ValueError
        If `train` holds a cell of `test`.
    """

    name: str
    seed: int
    train: Responses
    test: Responses
    truth: Responses

    def __post_init__(self) -> None:
        cells = self.test.to_cells()
        if self.train.matrices(self.test.models)[1][cells.rows, cells.cols].any():
            raise ValueError(f"{self.name}: the training table holds cells that were held out")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are predicted."""
        return tuple(self.test.models)


def hold_out_cold(
    responses: Responses, lineage: Lineage, *, seed: int, share: float = 0.5
) -> Split:
    """Hide all results of a random share of the leaf children.

    A leaf child has a recorded direct parent in the table and no child there. Models with
    identical responses (re-uploads) are hidden together, and never when one of them would stay.

    Parameters
    ----------
    responses : Responses
    lineage : Lineage
    seed : int
    share : float
        Of the leaf children, between 0 and 1.

    Raises
    ------
    InputError
        If the table has no leaf children.
    """
    probability(share, name="share")
    inside = np.asarray(pd.Index(lineage.nodes).isin(responses.models))
    both = inside[lineage.child] & inside[lineage.parent]
    direct = both & (lineage.relation != "ancestor")
    leaves = lineage.nodes[np.setdiff1d(lineage.child[direct], lineage.parent[both])]
    if not (groups := _whole_groups(responses, leaves)):
        raise InputError("no leaf child to hide", fix="give a lineage that knows the models")
    hidden = _drawn(groups, share * len(leaves), np.random.default_rng(seed))
    return _without("cold", seed, responses, hidden)


def hold_out_roots(
    responses: Responses,
    lineage: Lineage,
    *,
    seed: int,
    share: float = 0.5,
    at_most: int = 200,
) -> Split:
    """Hide all results of some models without any recorded kin.

    No other model of the table is of their family. Models with identical responses are hidden
    together or stay.

    Parameters
    ----------
    responses : Responses
    lineage : Lineage
    seed : int
    share : float
        Of the models without kin, between 0 and 1.
    at_most : int
        Number of hidden models beyond which no more are drawn.

    Raises
    ------
    InputError
        If every model has kin.
    """
    probability(share, name="share")
    label = families(list(responses.models), lineage)
    alone = label.index[~label.duplicated(keep=False)]
    if not (groups := _whole_groups(responses, alone)):
        raise InputError("every model has recorded kin", fix="choose another hold-out")
    wanted = min(share * len(alone), whole_number(at_most, name="at_most"))
    hidden = _drawn(groups, wanted, np.random.default_rng(seed))
    return _without("roots", seed, responses, hidden)


def hold_out_later(
    responses: Responses,
    lineage: Lineage,
    *,
    seed: int,
    dates: pd.Series,
    share: float = 0.2,
) -> Split:
    """Hide all results of the models after a date: the past predicts the future.

    The date is the quantile that leaves `share` of the dated models after it. Models without a
    date stay. So do models with responses identical to those of one that stays: a re-upload is
    no news.

    Parameters
    ----------
    responses : Responses
    lineage : Lineage
        Not used; every design takes one.
    seed : int
        Names the split; nothing is random.
    dates : Series of datetimes, indexed by model
    share : float
        Of the dated models, between 0 and 1.

    Raises
    ------
    InputError
        If `dates` are no dates or name a model twice, or no model of the table is later.
    """
    if not pd.api.types.is_datetime64_any_dtype(dates.dtype):
        raise InputError(f"dates are {dates.dtype}", fix="give a column of dates")
    if dates.index.has_duplicates:
        name = dates.index[dates.index.duplicated()][0]
        raise InputError(f"dates name {name!r} twice", fix="keep one")
    known = dates.reindex(responses.models).dropna()
    if known.empty:
        raise InputError("no model of the table has a date", fix="name them as in the table")
    border = known.quantile(1 - probability(share, name="share"), interpolation="lower")
    later = known.index[known > border]
    if not (groups := _whole_groups(responses, later)):
        raise InputError(f"no model is later than {border:%Y-%m-%d}", fix="give more dates")
    hidden = [model for group in groups for model in group]
    return _without(f"later:{border:%Y-%m-%d}", seed, responses, hidden)


def hold_out_shots(
    responses: Responses, lineage: Lineage, *, seed: int, k: int, share: float = 0.5
) -> Split:
    """Hide the models of `hold_out_cold` but for k random cells of each.

    With one seed the cells of a smaller k are among those of a larger one, and models with
    identical responses keep the same cells. A model with at most k cells is not held out.

    Parameters
    ----------
    responses : Responses
    lineage : Lineage
    seed : int
    k : int
        Cells that each of those models keeps: items of a 0/1 table, k-of-n cells of counts.
    share : float
        As for `hold_out_cold`.

    Raises
    ------
    InputError
        As `hold_out_cold`, or if no model has more than k cells.
    """
    k = whole_number(k, name="k", minimum=0)
    cold = hold_out_cold(responses, lineage, seed=seed, share=share)
    row_of = {model: row for row, model in enumerate(responses.models)}
    cells = responses.to_cells()
    held, scored = np.zeros((2, len(cells.rows)), bool)
    shown: dict[int, np.ndarray] = {}
    label = twins(responses)
    groups = {model: int(label[row_of[model]]) for model in cold.models}
    parts = {}
    for model, group in groups.items():
        start, stop = np.searchsorted(cells.rows, [row_of[model], row_of[model] + 1])
        # One order of all items for a group: its members keep the same where they ran them.
        order = np.random.default_rng([seed, group]).permutation(responses.n_items)
        parts[model] = slice(start, stop)
        last = np.argsort(order[cells.cols[start:stop]])[k:]
        held[start + last] = True
        kept = np.delete(cells.cols[start:stop], last)
        shown[group] = np.union1d(shown.get(group, np.empty(0, kept.dtype)), kept)
    for model, part in parts.items():
        # What is shown of one twin would tell the cell of another: hidden, but not scored.
        scored[part] = held[part] & ~np.isin(cells.cols[part], shown[groups[model]])
    if not scored.any():
        raise InputError(f"{k:,} shots are all that any hidden model has", fix="give fewer")
    return _split(f"shots:{k}", seed, responses, held, scored)


def hold_out_cells(
    responses: Responses,
    lineage: Lineage,
    *,
    seed: int,
    density: float,
    at_most: int = 200_000,
) -> Split:
    """Keep random cells alone, and score a random sample of the others.

    Of models with identical responses only the first stays in the table, or the cells of one
    would tell those of another. With one seed the cells of a smaller density are among those of
    a larger one, and the scored ones are the same as long as there are others enough.

    Parameters
    ----------
    responses : Responses
    lineage : Lineage
        Not used; every design takes one.
    seed : int
    density : float
        Share of all cells, of models times items, that stay; less than what is observed.
    at_most : int
        Number of cells that are scored.

    Raises
    ------
    InputError
        If the table does not hold more cells than stay.
    """
    probability(density, name="density")
    at_most = whole_number(at_most, name="at_most")
    group = twins(responses)
    first = np.unique(group, return_index=True)[1]
    n_twins = responses.n_models - len(first)
    if n_twins:
        responses = responses.select_models(responses.models[np.sort(first)])
        note = f"{n_twins:,} models with responses identical to those of another left out"
        responses = replace(responses, notes=(*responses.notes, note))
    n_kept = round(density * responses.n_models * responses.n_items)
    if not 0 < n_kept < responses.n_observed:
        fix = f"give a density below {responses.density:.3g}"
        if n_kept < responses.n_observed:
            fix = "give a larger one, or a larger table"
        raise InputError(
            f"density is {density:g}, which leaves {n_kept:,} of {responses.n_observed:,} cells",
            fix=fix,
        )
    order = np.random.default_rng(seed).permutation(responses.n_observed)
    held, scored = np.zeros((2, len(order)), bool)
    held[order[n_kept:]] = True
    scored[order[max(n_kept, len(order) - at_most) :]] = True
    return _split(f"cells:{density:g}", seed, responses, held, scored)


def families(models: Sequence[str], lineage: Lineage) -> pd.Series:
    """Return each model's family: its connected component in the core of the lineage.

    Parameters
    ----------
    models : sequence of str
        All of a table, before anything is held out.
    lineage : Lineage

    Returns
    -------
    Series of int, indexed by model
        Two of the models have one label if recorded kin, evaluated or not, join them.
    """
    label = lineage.core(list(models)).components()[: len(models)]
    return pd.Series(label, index=pd.Index(models, name="model"), name="family")


def _whole_groups(responses: Responses, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of twins that consist of these models alone, sorted."""
    wanted = pd.Series(responses.models).isin(list(names))
    group = twins(responses)
    whole = wanted.groupby(group).all()
    members = pd.Series(responses.models).groupby(group)
    return sorted(tuple(sorted(members.get_group(g))) for g in whole.index[whole])


def _drawn(groups: list[tuple[str, ...]], wanted: float, rng: np.random.Generator) -> list[str]:
    """Return the models of random groups, one group after another until they are enough."""
    drawn: list[str] = []
    for g in rng.permutation(len(groups)):
        if len(drawn) >= wanted:
            break
        drawn += groups[g]
    return drawn


def _without(name: str, seed: int, responses: Responses, hidden: list[str]) -> Split:
    rows = np.flatnonzero(pd.Series(responses.models).isin(hidden))
    if len(rows) == responses.n_models:
        raise InputError("no model would stay", where=name, fix="hide a smaller share")
    held = np.isin(responses.to_cells().rows, rows)
    return _split(name, seed, responses, held, held)


def _split(
    name: str, seed: int, responses: Responses, held: np.ndarray, scored: np.ndarray
) -> Split:
    """Return the split that hides the cells `held` and scores the cells `scored` of them."""
    cells = responses.to_cells()
    train = responses.hide(cells=(cells.rows[held], cells.cols[held]))
    stays = np.isin(np.arange(responses.n_models), cells.rows[~held])
    gone = responses.models[~stays]
    train = replace(
        train.select_models(responses.models[stays]),
        unevaluated=(*responses.unevaluated, *gone),
    )
    truth = responses.select_models(sorted(responses.models[np.unique(cells.rows[scored])]))
    test = responses.hide(cells=(cells.rows[~scored], cells.cols[~scored]))
    return Split(name, seed, train, test.select_models(truth.models), truth)
