"""Log-likelihoods of response tables in blocks, with gradients that need one block of memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayes_lrmf.devices import sharded, summed_over
from bayes_lrmf.logit_normal import logit_normal

__all__ = [
    "BinaryTable",
    "CountTable",
    "ShardedTable",
    "SparseTable",
    "bernoulli_parts",
    "beta_binomial",
    "log_gamma",
]

_BLOCK_CELLS, _SPARSE_BLOCK = 2**19, 2**20
_RUN = 32


@jax.custom_jvp
def log_gamma(x: jax.Array) -> jax.Array:
    """Return log Gamma(x), x > 0, by Stirling's series after a shift by 4.

    Several times faster than the general routine, and as exact: relative error below 1e-9.
    """
    return _log_gamma_parts(x)[0]


@log_gamma.defjvp
def _log_gamma_jvp(primals: Any, tangents: Any) -> Any:
    value, slope = _log_gamma_parts(primals[0])
    return value, slope * tangents[0]


def _log_gamma_parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    z = x + 4.0
    log_z, inverse = jnp.log(z), 1 / z
    series, tail = _stirling(inverse)
    rising, by_x = _rising(x)
    value = (z - 0.5) * log_z - z + 0.5 * np.log(2 * np.pi) + series - jnp.log(rising)
    return value, log_z - tail - by_x


def _stirling(inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return Stirling's series and ``log z - digamma(z)`` from 1 / z, z > 4."""
    square = inverse * inverse
    series = inverse * (
        1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))
    )
    tail = 0.5 * inverse + square * (
        1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132)))
    )
    return series, tail


def _rising(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return Gamma(x + 4) / Gamma(x), and the derivative of its logarithm."""
    rising = x * (x + 1) * (x + 2) * (x + 3)
    return rising, (2 * x + 3) * (2 * x * x + 6 * x + 2) / rising


def beta_binomial(psi: Any, successes: Any, trials: Any, concentration: Any) -> jax.Array:
    """Return Beta-Binomial log-likelihoods without the binomial coefficient.

    Parameters
    ----------
    psi : array
        Logits of the mean.
    successes, trials : arrays
        Zero trials give zero.
    concentration : array
        alpha + beta; large values approach the Binomial.
    """
    psi, concentration = jnp.asarray(psi, float), jnp.asarray(concentration, float)
    psi, concentration = jnp.broadcast_arrays(psi, concentration)
    successes, trials = jnp.asarray(successes), jnp.asarray(trials)
    outcome = _outcome(psi, concentration, successes, trials - successes)
    return outcome - _log_rise(concentration, trials)


def _rise_parts(x: Any, k: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return s, r and d with ``log Gamma(x + k) / Gamma(x) = s - log r``, d its derivative in x.

    The difference is worked out before anything is rounded: however large x, nothing cancels.
    """
    z = x + 4.0
    inverse, inverse_k = 1 / z, 1 / (z + k)
    grown = jnp.log1p(k * inverse)
    series, tail = _stirling(inverse)
    series_k, tail_k = _stirling(inverse_k)
    rising, by_x = _rising(x)
    rising_k, by_x_k = _rising(x + k)
    value = (z - 0.5) * grown + k * (jnp.log(z + k) - 1) + (series_k - series)
    slope = grown - (tail_k - tail) - (by_x_k - by_x)
    return value, rising_k / rising, slope


@jax.custom_jvp
def _log_rise(x: jax.Array, k: jax.Array) -> jax.Array:
    """Return ``log Gamma(x + k) / Gamma(x)``, differentiable in x."""
    value, rising, _ = _rise_parts(x, k)
    return value - jnp.log(rising)


@_log_rise.defjvp
def _log_rise_jvp(primals: Any, tangents: Any) -> Any:
    value, rising, slope = _rise_parts(*primals)
    return value - jnp.log(rising), slope * tangents[0]


@jax.custom_jvp
def _outcome(psi: jax.Array, concentration: jax.Array, right: Any, wrong: Any) -> jax.Array:
    """Return ``log Gamma(right + a) / Gamma(a) + log Gamma(wrong + b) / Gamma(b)``."""
    return _outcome_parts(psi, concentration, right, wrong)[0]


@_outcome.defjvp
def _outcome_jvp(primals: Any, tangents: Any) -> Any:
    value, by_psi, by_concentration = _outcome_parts(*primals)
    return value, by_psi * tangents[0] + by_concentration * tangents[1]


def _outcome_parts(psi: Any, concentration: Any, right: Any, wrong: Any) -> Any:
    p, q = jax.nn.sigmoid(psi), jax.nn.sigmoid(-psi)
    shape = jnp.stack([concentration * p, concentration * q])
    (value_r, value_w), (rise_r, rise_w), (by_right, by_wrong) = _rise_parts(
        shape, jnp.stack(jnp.broadcast_arrays(right, wrong))
    )
    # One logarithm for both: logarithms are most of the cost.
    value = value_r + value_w - jnp.log(rise_r * rise_w)
    by_psi = concentration * p * q * (by_right - by_wrong)
    return value, by_psi, p * by_right + q * by_wrong


def bernoulli_parts(psi: jax.Array, outcome: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the log-likelihoods of a block of cells, summed in part, and their derivatives.

    With s = 1 for a success and -1 for a failure, and T = tanh(psi / 2),
    ``log p = min(s psi, 0) + log((1 + |T|) / 2)``, whose derivative is ``(s - T) / 2``. The
    logarithm is taken once for a product of many: it costs more than all else in a cell.
    """
    seen = outcome >= 0
    side, t = 2 * outcome.astype(psi.dtype) - 1, jnp.tanh(psi / 2)
    grown = jnp.where(seen, (1 + jnp.abs(t)) / 2, 1.0)
    runs = (min(_RUN, psi.shape[0]), 1)
    product = jax.lax.reduce_window(
        grown, np.array(1, grown.dtype), jax.lax.mul, runs, runs, "SAME"
    )
    value = jnp.where(seen, jnp.minimum(side * psi, 0), 0.0).sum(0) + jnp.log(product).sum(0)
    return value, jnp.where(seen, (side - t) / 2, 0.0)


@dataclass(frozen=True, eq=False)
class BinaryTable:
    """A dense table of 0/1 responses.

    Attributes
    ----------
    values : int8 array, shape (n_models, n_items)
        -1 where the item was not run.
    """

    values: np.ndarray

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
        ahead, across, values = rows, cols, self.values
        # Blocks of the shorter side: what is summed over them is then the longer one's, once.
        if values.shape[1] > values.shape[0]:
            ahead, across, values = cols, rows, values.T
        return _binary(ahead, across, _blocks(values), len(values), None)

    def estimate(
        self,
        key: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        concentration: Any,
        n_batches: int,
        noise_sd: Any = None,
    ) -> jax.Array:
        """Return an unbiased estimate of `log_likelihood` from a random 1 / n_batches of items."""
        n_items = self.values.shape[1]
        size = max(1, n_items // n_batches)
        items = jax.random.choice(key, n_items, (size,), replace=False)
        batch = jnp.take(jnp.asarray(self.values.T), items, axis=0)
        # The table is transposed here: items play the rows.
        return n_items / size * _binary(cols[:, items], rows, batch[None], size, None)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["blocks"],
    meta_fields=["n_models", "mesh"],
)
@dataclass(frozen=True, eq=False)
class ShardedTable:
    """A dense table of 0/1 responses whose models are spread over devices.

    Attributes
    ----------
    blocks : int8 array, shape (n_blocks, block, n_items)
        Models in blocks, -1 where the item was not run; sharded along the first axis.
    n_models : int
    mesh : Mesh
        Of one axis. Its devices may belong to several processes.
    """

    blocks: jax.Array
    n_models: int
    mesh: Mesh

    @classmethod
    def of(cls, values: np.ndarray, mesh: Mesh) -> ShardedTable:
        """Place the rows of a table, shape (n_models, n_items), on the devices of a mesh."""
        return cls(sharded(_blocks(values, mesh.size), mesh), len(values), mesh)

    def log_likelihood(
        self, rows: jax.Array, cols: jax.Array, concentration: Any, noise_sd: Any = None
    ) -> jax.Array:
        """Return the total log-likelihood, on every device; see `BinaryTable`."""
        return _binary(rows, cols, self.blocks, self.n_models, self.mesh)

    def estimate(
        self,
        key: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        concentration: Any,
        n_batches: int,
        noise_sd: Any = None,
    ) -> jax.Array:
        """Return `log_likelihood`: no random part of the items lies on one device."""
        return self.log_likelihood(rows, cols, concentration, noise_sd)


def _blocks(values: np.ndarray, multiple: int = 1) -> np.ndarray:
    """Return rows in blocks, their number a multiple of `multiple`."""
    n_rows, n_cols = values.shape
    block = max(1, min(-(-n_rows // multiple), _BLOCK_CELLS // max(n_cols, 1)))
    n_blocks = -(-n_rows // (block * multiple)) * multiple
    if n_blocks * block == n_rows:
        return values.reshape(n_blocks, block, n_cols)
    padded = np.full((n_blocks * block, n_cols), -1, values.dtype)
    padded[:n_rows] = values
    return padded.reshape(n_blocks, block, n_cols)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _binary(
    rows: jax.Array, cols: jax.Array, blocks: jax.Array, n_rows: int, mesh: Mesh | None
) -> jax.Array:
    return _binary_parts(rows, cols, blocks, n_rows, mesh, gradient=False)[0]


def _binary_forward(rows: Any, cols: Any, blocks: Any, n_rows: int, mesh: Mesh | None) -> Any:
    value, grad_rows, grad_cols = _binary_parts(rows, cols, blocks, n_rows, mesh, gradient=True)
    return value, (grad_rows, grad_cols)


def _binary_backward(n_rows: int, mesh: Mesh | None, residual: Any, cotangent: jax.Array) -> Any:
    grad_rows, grad_cols = residual
    return (
        (cotangent * grad_rows).astype(grad_rows.dtype),
        (cotangent * grad_cols).astype(grad_cols.dtype),
        None,
    )


_binary.defvjp(_binary_forward, _binary_backward)


def _binary_parts(
    rows: Any, cols: Any, blocks: Any, n_rows: int, mesh: Mesh | None, *, gradient: bool
) -> Any:
    n_blocks, block, _ = blocks.shape
    padded = jnp.pad(rows, ((0, 0), (0, n_blocks * block - n_rows)))
    by_block = padded.reshape(len(rows), n_blocks, block).transpose(1, 0, 2)
    scan = summed_over(partial(_binary_scan, gradient=gradient), mesh, (True, True, False))
    (total, grad_cols), grad_blocks = scan(jnp.asarray(blocks), by_block, cols)
    if not gradient:
        return total, None, None
    grad_rows = grad_blocks.transpose(1, 0, 2).reshape(len(rows), -1)[:, :n_rows]
    return total, grad_rows, grad_cols


def _binary_scan(blocks: Any, by_block: Any, cols: Any, *, gradient: bool) -> Any:
    """Return value and gradient by columns, summed over blocks of rows, and that by block."""
    # Block sums are added in the widest float at hand: a table's total loses 1e-7 of itself
    # in float32, which is more than an optimiser's last steps gain.
    wide = jnp.promote_types(cols.dtype, jax.dtypes.canonicalize_dtype(jnp.float64))

    def step(carry: Any, part: Any) -> Any:
        total, grad_cols = carry
        y, r = part
        psi = r.T @ cols
        value, residual = bernoulli_parts(psi, y)
        total = total + value.astype(wide).sum()
        if not gradient:
            return (total, grad_cols), None
        return (total, grad_cols + r @ residual), cols @ residual.T

    start = (jnp.zeros((), wide), jnp.zeros_like(cols))
    return jax.lax.scan(step, start, (blocks, by_block))


def _cell_likelihood(
    psi: jax.Array, successes: jax.Array, trials: jax.Array, concentration: Any, noise_sd: Any
) -> jax.Array:
    if noise_sd is not None:
        return logit_normal(psi, successes, trials, noise_sd)
    if concentration is None:
        return successes * psi - trials * jax.nn.softplus(psi)
    return beta_binomial(psi, successes, trials, concentration)


@dataclass(frozen=True, eq=False)
class CountTable:
    """A dense table of k successes in n trials.

    Attributes
    ----------
    successes, trials : float arrays, shape (n_models, n_items)
        Zero trials where the item was not run.
    """

    successes: np.ndarray
    trials: np.ndarray

    def log_likelihood(
        self, rows: jax.Array, cols: jax.Array, concentration: Any, noise_sd: Any = None
    ) -> jax.Array:
        """Return the total log-likelihood of psi = rows' cols, without binomial coefficients.

        Parameters
        ----------
        rows : array, shape (n_components, n_models)
        cols : array, shape (n_components, n_items)
        concentration : array, shape (n_items,), or None
            alpha + beta of Beta-Binomial counts.
        noise_sd : array, shape (n_items,), or None
            Of normal noise on the log-odds; counts are Binomial with neither.
        """
        psi = rows.T @ cols
        k, n = jnp.asarray(self.successes, psi.dtype), jnp.asarray(self.trials, psi.dtype)
        if concentration is None:
            noise = None if noise_sd is None else jnp.broadcast_to(noise_sd, psi.shape)
            return _cell_likelihood(psi, k, n, None, noise).sum()
        item, trials, times = self._distinct
        total = times @ _log_rise(concentration[item], jnp.asarray(trials, psi.dtype))
        return _outcome(psi, jnp.broadcast_to(concentration, psi.shape), k, n - k).sum() - total

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct numbers of trials by item, and how often each occurs."""
        item = np.broadcast_to(np.arange(self.trials.shape[1]), self.trials.shape)
        seen = self.trials > 0
        pairs = np.stack([item[seen], self.trials[seen]])
        (items, trials), times = np.unique(pairs, axis=1, return_counts=True)
        return items.astype(np.int32), trials, times.astype(float)

    def estimate(
        self,
        key: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        concentration: Any,
        n_batches: int,
        noise_sd: Any = None,
    ) -> jax.Array:
        """Return `log_likelihood`: tables of counts are small."""
        return self.log_likelihood(rows, cols, concentration, noise_sd)


@dataclass(frozen=True, eq=False)
class SparseTable:
    """A sparse table of observed cells, held in blocks of equal length.

    Attributes
    ----------
    rows, cols : int32 arrays, shape (n_blocks, block)
    successes, trials : float32 arrays, shape (n_blocks, block)
        Padding cells have zero trials.
    """

    rows: np.ndarray
    cols: np.ndarray
    successes: np.ndarray
    trials: np.ndarray

    @classmethod
    def from_cells(
        cls, rows: np.ndarray, cols: np.ndarray, successes: np.ndarray, trials: np.ndarray
    ) -> SparseTable:
        """Pad and block cells given as flat arrays, in random order so that blocks are alike."""
        order = np.random.default_rng(0).permutation(len(rows))
        block = min(_SPARSE_BLOCK, max(len(rows), 1))
        n_blocks = max(1, -(-len(rows) // block))

        def blocked(x: np.ndarray, dtype: Any) -> np.ndarray:
            out = np.zeros(n_blocks * block, dtype)
            out[: len(x)] = x[order]
            return out.reshape(n_blocks, block)

        return cls(
            blocked(rows, np.int32),
            blocked(cols, np.int32),
            blocked(successes, np.float32),
            blocked(trials, np.float32),
        )

    def log_likelihood(
        self, rows: jax.Array, cols: jax.Array, concentration: Any, noise_sd: Any = None
    ) -> jax.Array:
        """Return the total log-likelihood of psi = rows' cols, without binomial coefficients.

        Parameters are those of `CountTable.log_likelihood`.
        """
        blocks = (self.rows, self.cols, self.successes, self.trials)
        arrays = tuple(jnp.asarray(b) for b in blocks)
        return self._scan(arrays, rows, cols, concentration, noise_sd)

    def estimate(
        self,
        key: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        concentration: Any,
        n_batches: int,
        noise_sd: Any = None,
    ) -> jax.Array:
        """Return an unbiased estimate of `log_likelihood` from one random block of cells."""
        n_blocks = len(self.rows)
        at = jax.random.randint(key, (), 0, n_blocks)
        blocks = (self.rows, self.cols, self.successes, self.trials)
        one = tuple(jnp.asarray(b)[at][None] for b in blocks)
        return n_blocks * self._scan(one, rows, cols, concentration, noise_sd)

    def _scan(
        self, blocks: Any, rows: Any, cols: Any, concentration: Any, noise_sd: Any
    ) -> jax.Array:
        wide = jnp.promote_types(rows.dtype, jax.dtypes.canonicalize_dtype(jnp.float64))

        @jax.checkpoint
        def block_sum(rows: Any, cols: Any, spreads: Any, block: Any) -> jax.Array:
            r, c, k, n = block
            psi = (rows[:, r] * cols[:, c]).sum(0)
            over, noise = (None if spread is None else spread[c] for spread in spreads)
            k, n = k.astype(psi.dtype), n.astype(psi.dtype)
            value = _cell_likelihood(psi, k, n, over, noise)
            return jnp.where(n > 0, value, 0.0).sum().astype(wide)

        def step(total: jax.Array, block: Any) -> Any:
            return total + block_sum(rows, cols, (concentration, noise_sd), block), None

        return jax.lax.scan(step, jnp.zeros((), wide), blocks)[0]
