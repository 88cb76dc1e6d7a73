"""Distinct entries of symmetric matrices."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_lrmf.vech import congruence, multiplicity, unvech, vech


def symmetric(rng, *shape):
    root = rng.normal(size=(*shape, shape[-1]))
    return root + root.mT


@pytest.mark.parametrize("size", [1, 2, 3, 10, 33])
def test_there_and_back(size, rng):
    s = symmetric(rng, 4, size)
    entries = vech(s)
    assert entries.shape == (4, size * (size + 1) // 2)
    np.testing.assert_array_equal(unvech(entries), s)
    np.testing.assert_array_equal(vech(s[0]), entries[0])


def test_entries_of_a_leading_block_come_first():
    s = np.array([[1, 2, 4], [2, 3, 5], [4, 5, 6]])
    assert vech(s).tolist() == [1, 2, 3, 4, 5, 6]
    assert vech(s[:2, :2]).tolist() == [1, 2, 3]
    assert multiplicity(3).tolist() == [1, 2, 1, 2, 2, 1]


def test_traces_are_weighted_sums(rng):
    a, b = symmetric(rng, 5), symmetric(rng, 5)
    assert (vech(a) * multiplicity(5)) @ vech(b) == pytest.approx(np.trace(a @ b))


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
def test_congruence(shape, rng):
    a, s = rng.normal(size=shape), symmetric(rng, shape[-1])
    np.testing.assert_allclose(congruence(a) @ vech(s), vech(a @ s @ a.T), atol=1e-12)
