"""Arithmetic by rows on all processors, in blocks that stay in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

__all__ = ["by_rows"]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(getattr(os, "process_cpu_count", os.cpu_count)())


# A forked process has the pool, and none of its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def by_rows(function: Callable[..., Any], *arrays: np.ndarray, rows: int) -> Any:
    """Apply a function to blocks of rows of arrays, and put its results together.

    The blocks are the same however many processors there are, and so are the results.

    Parameters
    ----------
    function : callable
        Of blocks of the arrays; returns an array, or a named tuple of arrays, of as many rows.
    *arrays : array, shape (n, ...)
    rows : int
        Of a block.
    """
    n = len(arrays[0])
    if n <= rows:
        return function(*arrays)
    starts = range(0, n, rows)
    parts = list(_pool().map(lambda at: function(*(a[at : at + rows] for a in arrays)), starts))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return type(parts[0])(*(np.concatenate(same) for same in zip(*parts, strict=True)))
