"""What batches of items told of the models when each was last looked at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from bayes_lrmf.inference.vb_local import ModelSquares, ModelSums
from bayes_lrmf.vech import congruence

__all__ = ["BatchSums"]

_NAMES = ("square", "effect_square", "linear", "effect_linear")


@dataclass(frozen=True, eq=False)
class BatchSums:
    """Sums over items by batch, and over batches, in coordinates that change between steps.

    Attributes
    ----------
    total : ModelSums
        Over the batches looked at so far.
    parts : ModelSums of float32 arrays, shapes (n_batches, ...)
        As they were added to the total.
    turns : array, shape (n_batches, L, L)
        What (x, b, 1) has been multiplied by since.
    seen : bool array, shape (n_batches,)
    """

    total: ModelSums
    parts: ModelSums
    turns: np.ndarray
    seen: np.ndarray

    @classmethod
    def empty(cls, n_batches: int, n_panels: int, n_models: int, size: int) -> BatchSums:
        """Return the sums before any batch."""
        shapes = (
            (n_models, size * (size - 1) // 2),
            (n_panels, n_models, size),
            (n_models, size - 1),
            (n_panels, n_models),
        )
        return cls(
            _sums([np.zeros(shape) for shape in shapes]),
            _sums([np.zeros((n_batches, *shape), np.float32) for shape in shapes]),
            np.broadcast_to(np.eye(size), (n_batches, size, size)).copy(),
            np.zeros(n_batches, bool),
        )

    def turned(self, change: np.ndarray) -> BatchSums:
        """Return the sums as they are when (x, b) are multiplied by `change`."""
        turn = np.eye(len(change) + 1)
        turn[:-1, :-1] = change
        return dataclasses.replace(self, total=_turned(self.total, turn), turns=turn @ self.turns)

    def with_batch(self, batch: int, found: ModelSums) -> BatchSums:
        """Return the sums with `found` in the place of what the batch told before."""
        kept = _arrays(self.parts)
        before = _turned(_sums([part[batch].astype(float) for part in kept]), self.turns[batch])
        # In place: the arrays are large, and no one looks back.
        for part, new in zip(kept, _arrays(found), strict=True):
            part[batch] = new
        self.turns[batch], self.seen[batch] = np.eye(self.turns.shape[-1]), True
        gains = [part[batch] - old for part, old in zip(kept, _arrays(before), strict=True)]
        total = [old + gain for old, gain in zip(_arrays(self.total), gains, strict=True)]
        return dataclasses.replace(self, total=_sums(total))

    def estimate(self, shares: np.ndarray) -> ModelSums:
        """Return what all items would tell if those of other batches were like those seen.

        Parameters
        ----------
        shares : array, shape (n_batches,)
            Parts of the items.
        """
        # One number for all panels, so that what is told of a model stays a covariance.
        scale = 1 / shares[self.seen].sum()
        return _sums([part * scale for part in _arrays(self.total)])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of_arrays` takes."""
        return {
            **{f"sum_{n}": part for n, part in zip(_NAMES, _arrays(self.total), strict=True)},
            **{f"batch_{n}": part for n, part in zip(_NAMES, _arrays(self.parts), strict=True)},
            "batch_turn": self.turns,
            "batch_seen": self.seen,
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> BatchSums:
        """Return the sums that gave these arrays."""
        total, parts = (_sums([arrays[f"{of}_{n}"] for n in _NAMES]) for of in ("sum", "batch"))
        return cls(total, parts, arrays["batch_turn"], arrays["batch_seen"])


def _arrays(sums: ModelSums) -> tuple[np.ndarray, ...]:
    return (*sums.square, sums.linear, sums.effect_linear)


def _sums(arrays: list[np.ndarray]) -> ModelSums:
    return ModelSums(ModelSquares(*arrays[:2]), *arrays[2:])


def _turned(sums: ModelSums, turn: np.ndarray) -> ModelSums:
    change = turn[:-1, :-1]
    square = ModelSquares(sums.square.shared @ congruence(change).T, sums.square.effect @ turn.T)
    return sums._replace(square=square, linear=sums.linear @ change.T)
