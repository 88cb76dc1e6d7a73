"""What batches of items told of the models when each was last looked at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from bayes_lrmf.inference.vb_cells import Evidence

__all__ = ["BatchSums"]


@dataclass(frozen=True, eq=False)
class BatchSums:
    """Sums over items by batch, and over batches, in coordinates that change between steps.

    Attributes
    ----------
    total : Evidence
        Over the batches looked at so far; `square` (n_panels, n_models, L, L).
    squares : float32 array, shape (n_batches, n_panels, n_models, L (L + 1) / 2)
        As they were added to the total; unique entries.
    linears : float32 array, shape (n_batches, n_panels, n_models, L)
    turns : array, shape (n_batches, L, L)
        What (x, 1, b) has been multiplied by since.
    seen : bool array, shape (n_batches,)
    """

    total: Evidence
    squares: np.ndarray
    linears: np.ndarray
    turns: np.ndarray
    seen: np.ndarray

    @classmethod
    def empty(cls, n_batches: int, n_panels: int, n_models: int, size: int) -> BatchSums:
        """Return the sums before any batch."""
        shape = n_panels, n_models, size
        return cls(
            Evidence(np.zeros((*shape, size)), np.zeros(shape), np.nan, None),
            np.zeros((n_batches, n_panels, n_models, size * (size + 1) // 2), np.float32),
            np.zeros((n_batches, *shape), np.float32),
            np.broadcast_to(np.eye(size), (n_batches, size, size)).copy(),
            np.zeros(n_batches, bool),
        )

    def turned(self, change: np.ndarray) -> BatchSums:
        """Return the sums as they are when (x, b) are multiplied by `change`."""
        k = len(change) - 1
        at = np.r_[0:k, k + 1]
        turn = np.eye(k + 2)
        turn[at[:, None], at] = change
        return dataclasses.replace(self, total=_turned(self.total, turn), turns=turn @ self.turns)

    def with_batch(self, batch: int, found: Evidence) -> BatchSums:
        """Return the sums with `found` in the place of what the batch told before."""
        size = found.linear.shape[-1]
        first, second = np.triu_indices(size)
        square = found.square[..., first, second].astype(np.float32)
        linear = found.linear.astype(np.float32)
        added = Evidence(_unpacked(square, size), linear.astype(float), np.nan, None)
        before = _turned(
            Evidence(
                _unpacked(self.squares[batch], size),
                self.linears[batch].astype(float),
                np.nan,
                None,
            ),
            self.turns[batch],
        )
        total = Evidence(
            self.total.square + (added.square - before.square),
            self.total.linear + (added.linear - before.linear),
            np.nan,
            None,
        )
        # In place: the arrays are large, and no one looks back.
        self.squares[batch], self.linears[batch] = square, linear
        self.turns[batch], self.seen[batch] = np.eye(size), True
        return dataclasses.replace(self, total=total)

    def estimate(self, shares: np.ndarray) -> Evidence:
        """Return what all items would tell if those of other batches were like those seen.

        Parameters
        ----------
        shares : array, shape (n_batches, n_panels)
            Parts of the items of each panel.
        """
        scale = 1 / shares[self.seen].sum(0)[:, None, None]
        return self.total._replace(
            square=self.total.square * scale[..., None], linear=self.total.linear * scale
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of_arrays` takes."""
        return {
            "sum_square": self.total.square,
            "sum_linear": self.total.linear,
            "batch_square": self.squares,
            "batch_linear": self.linears,
            "batch_turn": self.turns,
            "batch_seen": self.seen,
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> BatchSums:
        """Return the sums that gave these arrays."""
        total = Evidence(arrays["sum_square"], arrays["sum_linear"], np.nan, None)
        return cls(total, *(arrays[f"batch_{n}"] for n in ("square", "linear", "turn", "seen")))


def _unpacked(packed: np.ndarray, size: int) -> np.ndarray:
    first, second = np.triu_indices(size)
    out = np.empty((*packed.shape[:-1], size, size))
    out[..., first, second] = packed
    out[..., second, first] = packed
    return out


def _turned(evidence: Evidence, turn: np.ndarray) -> Evidence:
    return evidence._replace(
        square=turn @ evidence.square @ turn.T, linear=evidence.linear @ turn.T
    )
