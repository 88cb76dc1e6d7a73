"""Arithmetic by blocks of rows."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

import numpy as np
import pytest

from bayes_lrmf.threads import by_rows


class Both(NamedTuple):
    total: np.ndarray
    product: np.ndarray


def both(a, b):
    return Both(a.sum(1), a * b[:, None])


@pytest.mark.parametrize("rows", [1, 3, 10, 11, 1000])
def test_blocks_put_together_are_the_whole(rows, rng):
    a, b = rng.normal(size=(31, 4)), rng.normal(size=31)
    found = by_rows(both, a, b, rows=rows)
    assert isinstance(found, Both)
    np.testing.assert_array_equal(found.total, both(a, b).total)
    np.testing.assert_array_equal(found.product, both(a, b).product)
    np.testing.assert_array_equal(by_rows(np.exp, a, rows=rows), np.exp(a))


def test_no_block_is_larger_and_none_is_left_out(rng):
    seen = []

    def noted(a):
        seen.append(len(a))
        return a

    by_rows(noted, np.arange(10.0), rows=4)
    assert sorted(seen) == [2, 4, 4]


def test_errors_are_those_of_the_function():
    with pytest.raises(np.linalg.LinAlgError):
        by_rows(np.linalg.cholesky, -np.ones((9, 1, 1)), rows=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
def test_a_forked_process_has_threads_of_its_own():
    numbers = np.arange(64.0)
    by_rows(np.exp, numbers, rows=4)
    child = os.fork()
    if not child:
        signal.alarm(20)
        same = np.array_equal(by_rows(np.exp, numbers, rows=4), np.exp(numbers))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
