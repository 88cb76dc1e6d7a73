"""The log-likelihood of a sparse table of 0/1 responses, without adding into places at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes_lrmf.kernels import bernoulli_parts

__all__ = ["SparseBinaryTable"]

_BLOCK_CELLS = 2**18
_WIDTHS = (8, 16, 32, 64, 128)
_SEGMENT_COST = 8  # of one more segment, in cells


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["owner", "other", "outcome"],
    meta_fields=["n_owners"],
)
@dataclass(frozen=True, eq=False)
class _Segments:
    """Cells of one side, each owner's in segments of equal width, segments in blocks.

    Attributes
    ----------
    owner : int32 array, shape (n_blocks, n_segments)
    other : int32 array, shape (n_blocks, n_segments, width)
    outcome : int8 array, shape (n_blocks, n_segments, width)
        -1 in what is padding.
    n_owners : int
    """

    owner: Any
    other: Any
    outcome: Any
    n_owners: int

    @classmethod
    def of(cls, owner: np.ndarray, other: np.ndarray, outcome: np.ndarray, n: int) -> _Segments:
        size = np.bincount(owner, minlength=n)
        cost = [(-(-size // w)).sum() * (w + _SEGMENT_COST) for w in _WIDTHS]
        width = _WIDTHS[int(np.argmin(cost))]
        n_each = -(-size // width)
        order = np.argsort(owner, kind="stable")
        begin = np.concatenate([[0], np.cumsum(size)[:-1]])
        place = np.arange(len(owner)) - np.repeat(begin, size)
        first = np.concatenate([[0], np.cumsum(n_each)[:-1]])
        at = np.repeat(first, size) + place // width, place % width
        per_block = max(1, min(_BLOCK_CELLS // width, int(n_each.sum())))
        n_blocks = max(1, -(-int(n_each.sum()) // per_block))
        # Padding belongs to the last owner, so that owners are in order.
        owners = np.full(n_blocks * per_block, max(n - 1, 0), np.int32)
        owners[: n_each.sum()] = np.repeat(np.arange(n), n_each)
        others = np.zeros((n_blocks * per_block, width), np.int32)
        outcomes = np.full((n_blocks * per_block, width), -1, np.int8)
        others[at], outcomes[at] = other[order], outcome[order]
        shape = n_blocks, per_block
        return cls(
            owners.reshape(shape),
            others.reshape(*shape, width),
            outcomes.reshape(*shape, width),
            n,
        )


@dataclass(frozen=True, eq=False)
class SparseBinaryTable:
    """Observed cells of a sparse 0/1 table, once by model and once by item.

    The slope of a model's components is a sum over its own cells, and that of an item's over its
    own, so that each is made of gathers alone.

    Attributes
    ----------
    by_model, by_item : _Segments
    """

    by_model: _Segments
    by_item: _Segments

    @classmethod
    def from_cells(
        cls, rows: np.ndarray, cols: np.ndarray, outcome: np.ndarray, shape: tuple[int, int]
    ) -> SparseBinaryTable:
        """Return the table of cells given as flat arrays, of this many models and items."""
        outcome = outcome.astype(np.int8)
        return cls(
            _Segments.of(rows, cols, outcome, shape[0]), _Segments.of(cols, rows, outcome, shape[1])
        )

    def log_likelihood(
        self, rows: jax.Array, cols: jax.Array, concentration: Any, noise_sd: Any = None
    ) -> jax.Array:
        """Return the total log-likelihood of psi = rows' cols.

        Parameters
        ----------
        rows : array, shape (n_components, n_models)
        cols : array, shape (n_components, n_items)
        concentration, noise_sd : ignored
            A single trial has no over-dispersion.
        """
        return _total(rows, cols, self.by_model, self.by_item)

    def estimate(
        self,
        key: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        concentration: Any,
        n_batches: int,
        noise_sd: Any = None,
    ) -> jax.Array:
        """Return an unbiased estimate of `log_likelihood` from one random block of segments."""
        n_blocks = len(self.by_model.owner)
        at = jax.random.randint(key, (), 0, n_blocks)
        owner, other, outcome = (
            jnp.asarray(x)[at]
            for x in (self.by_model.owner, self.by_model.other, self.by_model.outcome)
        )
        psi = jnp.einsum("swl,sl->ws", cols.T[other], rows.T[owner])
        return n_blocks * _value(psi, outcome.T)


@jax.custom_vjp
def _total(rows: jax.Array, cols: jax.Array, by_model: _Segments, by_item: _Segments) -> jax.Array:
    return _side(rows, cols, by_model)[0]


def _forward(rows: Any, cols: Any, by_model: _Segments, by_item: _Segments) -> Any:
    value, of_rows = _side(rows, cols, by_model)
    _, of_cols = _side(cols, rows, by_item)
    return value, (of_rows, of_cols)


def _backward(slopes: Any, cotangent: jax.Array) -> Any:
    return *((cotangent * s).astype(s.dtype) for s in slopes), None, None


_total.defvjp(_forward, _backward)


def _side(own: jax.Array, others: jax.Array, cells: _Segments) -> tuple[jax.Array, jax.Array]:
    """Return the value, and the slopes by components of the owners, shape (n_components, n)."""
    wide = jnp.promote_types(own.dtype, jax.dtypes.canonicalize_dtype(jnp.float64))
    own, others = own.T, others.T

    def step(carry: Any, part: _Segments) -> Any:
        total, slope = carry
        across = others[part.other]
        psi = jnp.einsum("swl,sl->ws", across, own[part.owner])
        value, residual = bernoulli_parts(psi, part.outcome.T)
        found = jnp.einsum("swl,ws->sl", across, residual)
        slope = slope.at[part.owner].add(found, indices_are_sorted=True)
        return (total + value.astype(wide).sum(), slope), None

    start = jnp.zeros((), wide), jnp.zeros_like(own)
    (total, slope), _ = jax.lax.scan(step, start, jax.tree.map(jnp.asarray, cells))
    return total, slope.T


def _value(psi: jax.Array, outcome: jax.Array) -> jax.Array:
    side = 2 * outcome.astype(psi.dtype) - 1
    return jnp.where(outcome >= 0, -jax.nn.softplus(-side * psi), 0.0).sum()
