"""Models that respond alike because they are one model: re-uploads and other precisions."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from bayes_lrmf.responses import Responses

__all__ = ["twins"]

_FEWEST_SHARED = 100
_BLOCK = 512


def twins(responses: Responses) -> np.ndarray:
    """Return a label for each model, equal for models that respond identically.

    Two models respond identically if they have the same cells and responses. In dense 0/1 tables,
    whose benchmarks are often missing for one copy and not for another, it is enough that they
    agree on every cell they share, on 100 at least; twins of twins are twins.

    Parameters
    ----------
    responses : Responses

    Returns
    -------
    int array, shape (n_models,)
        Labels count from 0 in order of first appearance.
    """
    same = _same_cells(responses)
    if responses.dense is None:
        return same
    first, last = _agreeing(responses.dense)
    # Equal labels of the same cells make one node, so that exact twins need no edge.
    edge = sp.coo_array((np.ones(len(first)), (same[first], same[last])), shape=(len(same),) * 2)
    label = connected_components(edge, directed=False)[1]
    return np.asarray(pd.factorize(label[same])[0])


def _same_cells(responses: Responses) -> np.ndarray:
    cells = responses.to_cells()
    bounds = np.searchsorted(cells.rows, np.arange(responses.n_models + 1))
    parts = [cells.cols, cells.successes, *([] if cells.trials is None else [cells.trials])]
    keys = [
        b"".join(part[start:stop].tobytes() for part in parts)
        for start, stop in itertools.pairwise(bounds)
    ]
    return np.asarray(pd.factorize(np.array(keys, dtype=object))[0])


def _agreeing(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows that agree on all shared cells, of which there are enough."""
    seen = (dense >= 0).astype(np.float32)
    signs = np.where(dense > 0, 1, -1).astype(np.float32) * seen
    firsts, lasts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(dense), _BLOCK):
        part = slice(start, start + _BLOCK)
        shared = seen[part] @ seen[start:].T
        # Whole numbers below 2^24 are exact in float32.
        alike = (signs[part] @ signs[start:].T == shared) & (shared >= _FEWEST_SHARED)
        row, col = np.nonzero(np.triu(alike, 1))
        firsts.append(row + start)
        lasts.append(col + start)
    return np.concatenate(firsts), np.concatenate(lasts)
