"""The lineage that model cards on the Hugging Face Hub record, from models up to their roots."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bayes_lrmf.checks import InputError
from bayes_lrmf.sources.hub_cards import Card, CardReader

if TYPE_CHECKING:
    import pandas as pd

    from bayes_lrmf.progress import Progress

__all__ = ["read_hub_lineage"]


def read_hub_lineage(
    models: Iterable[str],
    *,
    token: str | bool | None = None,
    endpoint: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Ask the Hub for the base models of models, for theirs, and so on; each model once.

    A model keeps the name that it was given in `models`; others have the name that the Hub answers
    with, which differs from that on a card when a model was renamed. A parent without a page of
    its own, deleted or private, stays a parent. Relations are those of the Hub; where it says
    none, one base model makes a finetune and several make a merge.

    Parameters
    ----------
    models : iterable of str
        Names as owner/name.
    token : str, bool or None
        Access token; None takes the one that huggingface_hub finds, False none.
    endpoint : str, optional
        Address of the Hub.
    cache : path-like, optional
        A folder for the answers, one JSON file for a model, made if it does not exist. What
        stands there is not asked for again, so a run that stopped goes on where it was; delete a
        file to ask again.
    offline : bool
        Whether to answer from the cache alone.
    progress : Progress, optional

    Returns
    -------
    edges : DataFrame
        ``child, parent, relation``, as `read_lineage` takes it.
    notes : tuple of str
        Renamed and missing models, and edges that were dropped.

    Raises
    ------
    InputError
        If no model is named, huggingface_hub is missing, the token is refused, the cache cannot be
        used, or the Hub cannot be reached or keeps refusing.
    """
    import pandas as pd

    asked = list(dict.fromkeys(name.strip() for name in models if name.strip()))
    if not asked:
        raise InputError("no model named", fix="give names as owner/name")
    reader = CardReader(token=token, endpoint=endpoint, cache=cache, offline=offline)
    cards = _cards(asked, reader, progress)
    names = _names(asked, cards)
    notes = _notes(asked, cards)
    rows: list[tuple[str, str, str]] = []
    above: dict[str, set[str]] = {}
    n_own, circles = 0, []
    for name, card in cards.items():
        child = names[name]
        if child in above:
            continue
        above[child] = set()
        for parent, relation in card.parents:
            known = names.get(parent, parent)
            if known == child or cards.get(parent, card).name == card.name:
                n_own += 1
            elif _leads_to(known, child, above):
                circles.append(f"{known} -> {child}")
            elif known not in above[child]:
                above[child].add(known)
                rows.append((child, known, relation))
    if n_own:
        notes.append(f"models that name themselves as base model: {n_own:,}")
    if circles:
        notes.append(f"edges that close a circle, left out: {len(circles):,} ({_some(circles)})")
    return pd.DataFrame(rows, columns=["child", "parent", "relation"], dtype=object), tuple(notes)


def _cards(asked: list[str], reader: CardReader, progress: Progress | None) -> dict[str, Card]:
    """Return the cards of models and of all above them, by the name they were asked for."""
    cards: dict[str, Card] = {}
    by_name: dict[str, Card] = {}
    waiting = deque(asked)
    while waiting:
        name = waiting.popleft()
        if name in cards:
            continue
        # A model that was renamed stands on cards by its old and by its new name.
        card = by_name.get(name) or reader.read(name, progress)
        cards[name] = by_name[card.name] = card
        waiting.extend(parent for parent, _ in card.parents if parent not in cards)
        if progress is not None:
            progress.update(len(cards), waiting=len(waiting))
    return cards


def _names(asked: list[str], cards: dict[str, Card]) -> dict[str, str]:
    """Return what to call each model: as the caller does, or else as the Hub does."""
    called: dict[str, str] = {}
    for name in asked:
        called.setdefault(cards[name].name, name)
    known = set(asked)
    return {
        name: name if name in known else called.get(card.name, card.name)
        for name, card in cards.items()
    }


def _notes(asked: list[str], cards: dict[str, Card]) -> list[str]:
    notes, wanted = [], set(asked)
    renamed = [f"{name} is now {card.name}" for name, card in cards.items() if card.name != name]
    if renamed:
        notes.append(f"renamed on the Hub: {len(renamed):,} ({_some(renamed)})")
    for absence in dict.fromkeys(card.absence for card in cards.values() if card.absence):
        found = [name for name, card in cards.items() if card.absence == absence]
        own = sum(name in wanted for name in found)
        notes.append(f"{absence}: {len(found):,}, {own:,} of them asked for ({_some(found)})")
    strange = [f"{name}: {part}" for name, card in cards.items() for part in card.strange]
    if strange:
        shown = _some(strange)
        notes.append(f"base models that are no names, left out: {len(strange):,} ({shown})")
    return notes


def _leads_to(start: str, goal: str, above: dict[str, set[str]]) -> bool:
    """Say whether `goal` is an ancestor of `start`."""
    stack, seen = [start], {start}
    while stack:
        new = above.get(stack.pop(), set()) - seen
        seen |= new
        stack += new
    return goal in seen


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
