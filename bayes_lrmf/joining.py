"""More responses for a table: rows appended, cells filled in, its items kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bayes_lrmf.cells import Cells, cell_order, held
from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.responses import Responses

__all__ = ["joined", "on_items_of"]


def on_items_of(table: Responses, new: Responses) -> Responses:
    """Return `new` with the items of `table`, in their order.

    Raises
    ------
    InputError
        For an item that `table` lacks, naming the nearest, or counts where it has 0/1.
    """
    index = {key: i for i, key in enumerate(_keys(table))}
    wanted = _keys(new)
    for benchmark, item in wanted:
        if (benchmark, item) not in index:
            one_of(f"{benchmark}:{item}", [":".join(key) for key in index], name="item")
    if table.is_binary and not new.is_binary:
        raise InputError(
            "the new responses are counts, those of the fit 0/1", fix="give one line per item"
        )
    cells = new.to_cells()
    cols = np.array([index[key] for key in wanted], np.int32)[cells.cols]
    order = cell_order(cells.rows, cols, table.n_items)
    placed = replace(cells, cols=cols)
    placed = placed if order is None else placed.taken(order)
    dense, kept = held(
        placed, (new.n_models, table.n_items), full_trials=table.items["trials"].to_numpy()
    )
    return replace(new, items=table.items, dense=dense, cells=kept)


def _keys(table: Responses) -> list[tuple[str, str]]:
    """Return benchmark and item of each column; joined to one text, two could be alike."""
    return list(zip(table.items["benchmark"], table.items["item"], strict=True))


def joined(table: Responses, new: Responses) -> Responses:
    """Return a table with further cells of its own models, and of new ones below them.

    Parameters
    ----------
    table : Responses
    new : Responses
        Of the same items (`on_items_of`).

    Raises
    ------
    InputError
        If a cell stands in both.
    """
    row_of = {name: i for i, name in enumerate(table.models)}
    names = list(table.models) + [m for m in new.models if m not in row_of]
    row_of = {name: i for i, name in enumerate(names)}
    old, more = table.to_cells(), new.to_cells()
    rows = np.array([row_of[m] for m in new.models], np.int32)[more.rows]
    flat = old.rows.astype(np.int64) * table.n_items + old.cols
    again = np.flatnonzero(np.isin(rows.astype(np.int64) * table.n_items + more.cols, flat))
    if len(again):
        item = table.items.iloc[more.cols[again[0]]]
        raise InputError(
            f"model {names[rows[again[0]]]!r} has a result of "
            f"{item['benchmark']}:{item['item']} already",
            fix="leave it out of the new responses",
        )
    parts = [(old, old.rows), (more, rows)]
    trials = None
    if old.trials is not None or more.trials is not None:
        trials = np.concatenate(
            [np.ones(len(r), np.float32) if c.trials is None else c.trials for c, r in parts]
        )
    cells = Cells(
        np.concatenate([r for _, r in parts]),
        np.concatenate([old.cols, more.cols]),
        np.concatenate([old.successes, more.successes]),
        trials,
    )
    order = cell_order(cells.rows, cells.cols, table.n_items)
    cells = cells if order is None else cells.taken(order)
    dense, kept = held(
        cells, (len(names), table.n_items), full_trials=table.items["trials"].to_numpy()
    )
    left = tuple(m for m in table.unevaluated if m not in set(new.models))
    return replace(
        table, models=np.array(names, dtype=object), dense=dense, cells=kept, unevaluated=left
    )
