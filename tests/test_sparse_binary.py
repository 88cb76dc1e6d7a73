"""Sparse 0/1 tables against their sum over cells, whatever their segments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from bayes_lrmf import sparse_binary
from bayes_lrmf.sparse_binary import SparseBinaryTable

N_MODELS, N_ITEMS, RANK = 60, 41, 3


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def made(seed=0):
    """Return cells whose models have from none to all of the items, in random order."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0, 1, N_MODELS) ** 4
    rows, cols = np.nonzero(rng.random((N_MODELS, N_ITEMS)) < share[:, None])
    order = rng.permutation(len(rows))
    rows, cols = rows[order].astype(np.int32), cols[order].astype(np.int32)
    outcome = rng.integers(0, 2, len(rows)).astype(np.int8)
    factors = [2 * rng.standard_normal((RANK, n)) for n in (N_MODELS, N_ITEMS)]
    return (rows, cols, outcome), factors


def expected(cells, factors):
    rows, cols, outcome = cells
    side = 2.0 * outcome - 1
    psi = (factors[0][:, rows] * factors[1][:, cols]).sum(0)
    residual = side * special.expit(-side * psi)
    slopes = [np.zeros_like(f) for f in factors]
    for k in range(RANK):
        np.add.at(slopes[0][k], rows, residual * factors[1][k, cols])
        np.add.at(slopes[1][k], cols, residual * factors[0][k, rows])
    return special.log_expit(side * psi).sum(), slopes


def value_and_slopes(table, factors):
    def total(rows, cols):
        return table.log_likelihood(rows, cols, None)

    given = [jnp.asarray(f) for f in factors]
    value, slopes = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*given)
    assert float(jax.jit(total)(*given)) == pytest.approx(float(value), rel=1e-12)
    return float(value), slopes


@pytest.mark.parametrize("block", [1, 64, 2**18])
@pytest.mark.parametrize("widths", [(1,), (4,), (128,), (8, 16, 32, 64, 128)])
def test_value_and_slopes(monkeypatch, widths, block):
    monkeypatch.setattr(sparse_binary, "_WIDTHS", widths)
    monkeypatch.setattr(sparse_binary, "_BLOCK_CELLS", block)
    cells, factors = made()
    table = SparseBinaryTable.from_cells(*cells, (N_MODELS, N_ITEMS))
    value, slopes = value_and_slopes(table, factors)
    by_hand, slopes_by_hand = expected(cells, factors)
    assert value == pytest.approx(by_hand, rel=1e-12)
    for ours, theirs in zip(slopes, slopes_by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_in_single_precision():
    cells, factors = made(1)
    table = SparseBinaryTable.from_cells(*cells, (N_MODELS, N_ITEMS))
    value, slopes = value_and_slopes(table, [f.astype(np.float32) for f in factors])
    by_hand, slopes_by_hand = expected(cells, factors)
    assert value == pytest.approx(by_hand, rel=1e-5)
    assert slopes[0].dtype == np.float32
    for ours, theirs in zip(slopes, slopes_by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_segments_hold_every_cell_once_with_little_beside():
    (rows, cols, outcome), _ = made()
    table = SparseBinaryTable.from_cells(rows, cols, outcome, (N_MODELS, N_ITEMS))
    for side, own, other in ((table.by_model, rows, cols), (table.by_item, cols, rows)):
        real = side.outcome >= 0
        owner = np.broadcast_to(side.owner[..., None], real.shape)
        found = sorted(zip(owner[real], side.other[real], side.outcome[real], strict=True))
        assert found == sorted(zip(own, other, outcome, strict=True))
        assert real.size < 3 * len(rows)
        assert (np.diff(side.owner.ravel()) >= 0).all()


def test_no_cells():
    none = np.zeros(0, np.int32)
    table = SparseBinaryTable.from_cells(none, none, none, (4, 3))
    value, slopes = value_and_slopes(table, [np.ones((2, 4)), np.ones((2, 3))])
    assert value == 0
    assert not any(np.any(s) for s in slopes)


def test_estimates_average_to_the_value(monkeypatch):
    monkeypatch.setattr(sparse_binary, "_BLOCK_CELLS", 64)
    cells, factors = made()
    table = SparseBinaryTable.from_cells(*cells, (N_MODELS, N_ITEMS))
    rows, cols = (jnp.asarray(f) for f in factors)
    one = jax.jit(lambda key: table.estimate(key, rows, cols, None, 4))
    found = np.array([one(key) for key in jax.random.split(jax.random.key(0), 400)])
    values = np.unique(np.round(found, 8))
    assert len(values) == len(table.by_model.owner) > 3
    assert values.mean() == pytest.approx(expected(cells, factors)[0], rel=1e-8)
