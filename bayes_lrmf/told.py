"""What runs would tell of the scores of a family of models, by Gaussian conditioning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dgemm
from scipy.special import expit, owens_t

from bayes_lrmf.design import Design
from bayes_lrmf.families import FamilyGaussian, Panel

__all__ = ["ItemCells", "Target", "ToldFamily"]

_LARGEST_CORRELATION = 0.999


class ItemCells:
    """What cells of one item share, laid out for products over all items at once.

    Parameters
    ----------
    design : Design
    panel : Panel
    member : array, shape (n_targets, n_benchmarks)
        Weights of benchmark scores in the targets of a model.
    """

    def __init__(self, design: Design, panel: Panel, member: np.ndarray) -> None:
        self.x, self.panel, self.member = panel.vectors, panel, member
        self.of_item = design.benchmark_index
        self.benchmarks = design.benchmarks
        self.trials = design.items["trials"].to_numpy(float)
        self.of_benchmark = [np.flatnonzero(self.of_item == b) for b in range(len(self.benchmarks))]
        self.first, self.second = np.triu_indices(self.x.shape[1])
        twice = np.where(self.first == self.second, 1.0, 2.0)
        self.products = (self.x[:, self.first] * self.x[:, self.second] * twice).T

    def quadratic(self, squares: np.ndarray) -> np.ndarray:
        """Return ``x_i' A_u x_i`` for symmetric A, shape (n, n_items)."""
        return np.asarray(squares[:, self.first, self.second] @ self.products)

    def along_own(self, vectors: np.ndarray) -> np.ndarray:
        """Return ``x_i' v_ub`` for b the benchmark of i, shape (n, n_items)."""
        out = np.empty((len(vectors), len(self.x)))
        for b, items in enumerate(self.of_benchmark):
            out[:, items] = vectors[:, b] @ self.x[items].T
        return out


class Target(NamedTuple):
    """How much the variance of a score counts.

    Attributes
    ----------
    kind : {"variance", "width", "event"}
        All alike, those above `border` alone, or by the variance of "the score is above `border`".
    border : float
    """

    kind: str
    border: float = 0.0

    def left(self, mean: np.ndarray, first: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return what is expected to be left of the target of each score.

        Parameters
        ----------
        mean, first, variance : arrays
            Of scores: their means and variances before the plan, and variances now.
        """
        if self.kind == "variance":
            return variance
        if self.kind == "width":
            return np.maximum(variance, self.border)
        distance = (mean - self.border) / np.sqrt(first)
        share = np.clip(1 - variance / first, 0, 1)
        return np.asarray(2 * owens_t(distance, np.sqrt((1 - share) / (1 + share))))

    def weight(self, mean: np.ndarray, first: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return what a unit of variance of each score counts, in the shape of the arguments.

        Parameters
        ----------
        mean, first, variance : arrays
            Of scores: their means and variances before the plan, and variances now.
        """
        if self.kind == "variance":
            return np.ones_like(variance)
        if self.kind == "width":
            return (variance > self.border).astype(float)
        distance = (mean - self.border) / np.sqrt(first)
        share = np.clip(1 - variance / first, 0, _LARGEST_CORRELATION)
        density = np.exp(-(distance**2) / (1 + share)) / (2 * np.pi * np.sqrt(1 - share**2))
        return np.asarray(density / first)


class ToldFamily:
    """What is known of a family, and what each run would tell, as runs are taken into the plan.

    Parameters
    ----------
    design : Design
    items : ItemCells
    family : FamilyGaussian
    wanted : set of str
        Models whose scores count.
    runnable : set of str
    cost : array, shape (n, n_items)
        Infinite for what cannot be run.

    Attributes
    ----------
    mean, variance : arrays, shape (n, n_targets)
        Of the targets of each model: scores, or their mean over benchmarks.
    wanted : bool array, shape (n,)
    target : Target
        What runs are for: variance, unless another is set.
    """

    def __init__(
        self,
        design: Design,
        items: ItemCells,
        family: FamilyGaussian,
        wanted: set[str],
        runnable: set[str],
        cost: np.ndarray,
    ) -> None:
        n, size = family.mean.shape
        self.target = Target("variance")
        self.models, self.items = family.models, items
        self.covariance = family.covariance.reshape(n * size, n * size).copy()
        self.wanted = np.array([m in wanted for m in family.models])
        successes, trials = design.responses.matrices(family.models)
        left = np.maximum(items.trials - trials, 0)
        psi = family.mean @ items.x.T + items.panel.offset
        spread = items.quadratic(self._own()) + items.panel.noise
        shrink = 1 / np.sqrt(1 + np.pi / 8 * spread)
        p = expit(shrink * psi)
        information = shrink * p * (1 - p)
        total = ((trials + left) @ np.eye(len(items.benchmarks))[items.of_item])[:, items.of_item]
        self.share = left * information / total
        seen = left * information > 0
        self.noise = items.panel.noise + 1 / np.where(seen, left * information, 1.0)
        # Gradients of the targets, and what their own trials add to their variance.
        weight = items.member[:, items.of_item]
        self.gradient = (self.share[:, None, :] * weight) @ items.x
        self._tells, self._counted = np.zeros((2, n, size, size))
        self.rest = (self.share**2 * self.noise) @ (weight**2).T
        self.mean = ((successes + left * p) / total) @ weight.T
        self.first = self.variance
        can = np.array([m in runnable for m in family.models])
        self.cost, self._run = cost, trials > 0
        self.open = can[:, None] & (trials == 0) & seen & np.isfinite(self.cost)

    def is_drawable(self, u: int, items: np.ndarray) -> bool:
        """Whether every one of these items that a model did not run can be run."""
        return bool((self.open[u, items] | self._run[u, items]).all())

    @property
    def n(self) -> int:
        """Number of models."""
        return len(self.models)

    def _own(self) -> np.ndarray:
        """Return the covariance of each model, shape (n, D, D)."""
        size = self.items.x.shape[1]
        blocks = self.covariance.reshape(self.n, size, self.n, size)
        at = np.arange(self.n)
        return blocks[at, :, at]

    @property
    def variance(self) -> np.ndarray:
        """Of the targets, shape (n, n_targets)."""
        explained = ((self.gradient @ self._own()) * self.gradient).sum(-1)
        return np.asarray(np.maximum(explained + self.rest, 1e-12))

    def _left(self, variance: np.ndarray, u: int | slice = slice(None)) -> np.ndarray:
        """Return what is left of the target of each score."""
        return self.target.left(self.mean[u], self.first[u], variance) * self.wanted[u, None]

    def expected(self) -> float:
        """Return what is expected to be left of the target, of all scores."""
        return float(self._left(self.variance).sum())

    def _weight(self) -> np.ndarray:
        return self.target.weight(self.mean, self.first, self.variance) * self.wanted[:, None]

    def _squares(self) -> np.ndarray:
        """Return S: the weighed gradients of the targets of each model, squared; (n, D, D)."""
        return np.asarray((self.gradient * self._weight()[..., None]).mT @ self.gradient)

    def _told(self) -> np.ndarray:
        """Return H: what ``x't`` of a model tells of all scores is ``x'H x``; (n, D, D).

        ``H_u = sum_v C_uv S_v C_vu``. Only models whose squares S changed are counted anew.
        """
        squares = self._squares()
        change = squares - self._counted
        at = np.flatnonzero(change.any((1, 2)))
        if len(at):
            n, size = self.n, change.shape[-1]
            rows = self.covariance.reshape(n, size, n, size)[:, :, at]
            across = rows.transpose(2, 0, 1, 3).reshape(len(at), -1, size) @ change[at]
            across = across.reshape(len(at), n, size, size).transpose(1, 2, 0, 3)
            self._tells += across.reshape(n, size, -1) @ rows.reshape(n, size, -1).mT
            self._counted = squares
        if not squares.any():
            # What rounding leaves of a target that is met would be taken for a gain.
            self._tells[:] = 0
        return self._tells

    def _learn(self, along: np.ndarray, seen: np.ndarray) -> None:
        """Lower the covariance by ``A M A'``, A of shape (n D, r), and what it tells with it."""
        size, r = self._counted.shape[-1], along.shape[1]
        a = along.reshape(-1, size, r)
        squared = self._counted @ a
        y = (self.covariance @ squared.reshape(along.shape)).reshape(a.shape)
        crossed = (y @ seen) @ a.mT
        twice = a @ (seen @ (a.mT @ squared).sum(0) @ seen) @ a.mT
        self._tells += twice - crossed - crossed.mT
        # In place: the covariance of a large family is tens of megabytes.
        lowered = dgemm(
            -1.0, along @ seen, along, beta=1.0, c=self.covariance.T, trans_b=True, overwrite_c=True
        )
        self.covariance = lowered.T

    def gains(self) -> np.ndarray:
        """Return the gain of each open cell, shape (n, n_items)."""
        items, weight, own = self.items, self._weight(), self._own()
        both = items.quadratic(np.concatenate([own, self._told()]))
        spread, told = both[: self.n], both[self.n :]
        mine = weight[:, None, :] * items.member.T
        covariance = items.along_own(mine @ (self.gradient @ own))
        extra = self.share * self.noise
        counted = (mine * items.member.T).sum(-1)
        here = 2 * covariance + extra * counted[:, items.of_item]
        return np.where(self.open, (told + extra * here) / (self.noise + spread), 0.0)

    def own_part(self, u: int, i: int) -> float:
        """Return what a run would gain in scores of the model itself."""
        size, x = self.items.x.shape[1], self.items.x[i]
        here = slice(u * size, (u + 1) * size)
        along = self.covariance[here, here] @ x
        covariance = self.gradient[u] @ along
        covariance += (
            self.items.member[:, self.items.of_item[i]] * self.share[u, i] * self.noise[u, i]
        )
        return float(self._weight()[u] @ covariance**2 / (self.noise[u, i] + x @ along))

    def take(self, u: int, i: int) -> None:
        """Take a run into the plan."""
        size, x = self.items.x.shape[1], self.items.x[i]
        along = self.covariance[:, u * size : (u + 1) * size] @ x
        total = self.noise[u, i] + along[u * size : (u + 1) * size] @ x
        self._learn(along[:, None], np.array([[1 / total]]))
        self._count(u, np.array([i]))

    def _count(self, u: int, at: np.ndarray) -> None:
        """Note that results of these items will be known."""
        weight = self.items.member[:, self.items.of_item[at]]
        self.gradient[u] -= (weight * self.share[u, at]) @ self.items.x[at]
        self.rest[u] -= (weight**2) @ (self.share[u, at] ** 2 * self.noise[u, at])
        self.rest[u] = np.maximum(self.rest[u], 0.0)
        self.open[u, at] = False

    def whole_gains(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return gain of each benchmark, its part in the model itself, and cost.

        Each has shape (n, n_benchmarks).
        """
        weight, own = self._weight(), self._own()
        told, was = self._told(), self.variance
        gain, same, cost = np.zeros((3, self.n, len(self.items.benchmarks)))
        for u, b in zip(*np.nonzero(self.some_left()), strict=True):
            at = self.left(u, b)
            cost[u, b] = self.cost[u, at].sum()
            seen = self._seen(own[u], u, at)
            member = self.items.member[:, b]
            after = self.gradient[u] - np.outer(member, self.share[u, at] @ self.items.x[at])
            rest = self.rest[u] - member**2 * (self.share[u, at] ** 2 @ self.noise[u, at])
            left = own[u] - own[u] @ seen @ own[u]
            now = ((after @ left) * after).sum(-1) + np.maximum(rest, 0)
            one = slice(u, u + 1)
            same[u, b] = (self._left(was[one], one) - self._left(now[None], one)).sum()
            mine = (self.gradient[u] * weight[u][:, None]).T @ self.gradient[u]
            gain[u, b] = same[u, b] + np.trace(seen @ (told[u] - own[u] @ mine @ own[u]))
        return gain, same, cost

    def left(self, u: int, b: int) -> np.ndarray:
        """Return the items of a benchmark that a model can run."""
        at = self.items.of_benchmark[b]
        return np.asarray(at[self.open[u, at]])

    def some_left(self) -> np.ndarray:
        """Return where `left` is not empty, shape (n, n_benchmarks)."""
        groups = [self.open[:, at].any(1) for at in self.items.of_benchmark]
        return np.stack(groups, axis=1)

    def _seen(self, own: np.ndarray, u: int, at: np.ndarray) -> np.ndarray:
        """Return ``(J^-1 + C)^-1`` for the information J of some items."""
        x = self.items.x[at]
        information = (x / self.noise[u, at][:, None]).T @ x
        found = np.linalg.solve(np.eye(len(own)) + information @ own, information)
        return np.asarray((found + found.T) / 2)

    def take_whole(self, u: int, b: int) -> None:
        """Take the run of all that is left of a benchmark into the plan."""
        size, at = self.items.x.shape[1], self.left(u, b)
        here = slice(u * size, (u + 1) * size)
        seen = self._seen(self.covariance[here, here], u, at)
        along = self.covariance[:, here]
        self._learn(along, seen)
        self._count(u, at)
