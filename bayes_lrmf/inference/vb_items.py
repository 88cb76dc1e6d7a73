"""Items in variational Bayes: Gaussians of loadings and intercepts, and their prior's estimates."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.inference.vb_local import ItemMoments, ItemSums
from bayes_lrmf.spec import HyperPrior, Spec
from bayes_lrmf.vech import unvech, vech

__all__ = ["ItemGaussians", "scale_mode"]


def scale_mode(n: float, squares: float, prior: HyperPrior) -> float:
    """Return the sd that maximises ``-n log sd - squares / (2 sd^2)`` plus its log-normal prior."""
    if not prior.learned:
        return prior.median
    low, high = np.log(prior.median) - 12 * prior.log_sd, np.log(prior.median) + 12 * prior.log_sd
    # The derivative in log sd falls from + to -: bisection cannot miss.
    for _ in range(80):
        at = (low + high) / 2
        slope = -n + squares * np.exp(-2 * at) - (at - np.log(prior.median)) / prior.log_sd**2
        low, high = (at, high) if slope > 0 else (low, at)
    return float(np.exp(at))


@dataclass(frozen=True, eq=False)
class ItemGaussians:
    """Independent Gaussians of (x_i, b_i), and the prior that items of a group share.

    Attributes
    ----------
    mean : array, shape (n_items, K + 1)
    covariance : array, shape (n_items, K + 1, K + 1)
    group_mean : array, shape (n_groups, K + 1)
        Prior means of loadings and intercepts.
    intercept_sd : float
    """

    design: Design
    spec: Spec
    mean: np.ndarray
    covariance: np.ndarray
    group_mean: np.ndarray
    intercept_sd: float

    @classmethod
    def start(
        cls, design: Design, spec: Spec, loading: np.ndarray, intercept: np.ndarray
    ) -> ItemGaussians:
        """Return point masses at these values, shapes (K, n_items) and (n_items,)."""
        mean = np.concatenate([loading, intercept[None]]).T.astype(float)
        n, size = mean.shape
        at = np.zeros((design.n_groups, size))
        new = cls(design, spec, mean, np.zeros((n, size, size)), at, spec.intercept_sd.median)
        return new.with_scales()

    @property
    def prior_precision(self) -> np.ndarray:
        """Diagonal, shape (K + 1,)."""
        return np.append(np.ones(self.spec.rank), self.intercept_sd**-2.0)

    def local(self) -> ItemMoments:
        """Return moments of (x, b, 1)."""
        n, size = self.mean.shape
        mean = np.concatenate([self.mean, np.ones((n, 1))], axis=1)
        col, row = np.tril_indices(size + 1)
        second = mean[:, row] * mean[:, col]
        second[:, : size * (size + 1) // 2] += vech(self.covariance)
        return ItemMoments(mean, second)

    def updated(self, sums: ItemSums, which: np.ndarray | None = None) -> ItemGaussians:
        """Return the best Gaussians given sums over models of (m, 1, c).

        Parameters
        ----------
        sums : ItemSums
        which : int array, optional
            The items it is about; others stay. By default all.
        """
        size = self.mean.shape[1]
        chosen = slice(None) if which is None else which
        covariance = self._covariance(sums.square)
        # Effects of models add to psi what items have no part in.
        of_effects = sums.square[:, size * (size + 1) // 2 :]
        linear = sums.linear[:, :size] - of_effects[:, :size]
        linear = linear + self.prior_precision * self.group_mean[self.design.item_groups[chosen]]
        new = self.mean.copy(), self.covariance.copy()
        new[0][chosen] = (covariance @ linear[..., None])[..., 0]
        new[1][chosen] = covariance
        return dataclasses.replace(self, mean=new[0], covariance=new[1])

    def with_curvature(self, square: np.ndarray) -> ItemGaussians:
        """Return the same means with the covariances that `ItemSums.square` gives."""
        return dataclasses.replace(self, covariance=self._covariance(square))

    def _covariance(self, square: np.ndarray) -> np.ndarray:
        size = self.mean.shape[1]
        told = unvech(square[:, : size * (size + 1) // 2])
        return np.linalg.inv(told + np.diag(self.prior_precision))

    def with_scales(self) -> ItemGaussians:
        """Return group means and the spread of intercepts at their best."""
        of_item, spec, k = self.design.item_groups, self.spec, self.spec.rank
        n = np.bincount(of_item).astype(float)
        total = np.zeros_like(self.group_mean)
        np.add.at(total, of_item, self.mean)
        loose = np.append(
            np.full(k, spec.loading_mean_sd.median**-2.0), spec.intercept_mean_sd.median**-2.0
        )
        prior = self.prior_precision
        group_mean = total * prior / (n[:, None] * prior + loose)
        if not spec.loading_mean:
            group_mean[:, :k] = 0.0
        centred = self.mean[:, k] - group_mean[of_item, k]
        squares = float((centred**2).sum() + self.covariance[:, k, k].sum())
        sd = scale_mode(len(centred), squares, spec.intercept_sd)
        return dataclasses.replace(self, group_mean=group_mean, intercept_sd=sd)

    def log_density(self) -> float:
        """Return the items' part of the ELBO, entropy included, and of the penalties."""
        k, spec = self.spec.rank, self.spec
        prior = self.prior_precision
        centred = self.mean - self.group_mean[self.design.item_groups]
        square = centred**2 + np.diagonal(self.covariance, axis1=1, axis2=2)
        value = 0.5 * (np.log(prior) * len(square)).sum() - 0.5 * (square * prior).sum()
        value += 0.5 * np.linalg.slogdet(self.covariance)[1].sum() + 0.5 * square.size
        loose = np.append(
            np.full(k, spec.loading_mean_sd.median**-2.0), spec.intercept_mean_sd.median**-2.0
        )
        value -= 0.5 * (self.group_mean**2 * loose).sum()
        if spec.intercept_sd.learned:
            ratio = np.log(self.intercept_sd / spec.intercept_sd.median) / spec.intercept_sd.log_sd
            value -= 0.5 * ratio**2
        return float(value)

    def standardised(self) -> tuple[ItemGaussians, np.ndarray, np.ndarray, np.ndarray]:
        """Return items whose loadings have unit variance and intercepts do not follow them.

        What factors lose by ``m -> (m - shift) back``, rows being models, loadings and intercepts
        gain: psi is the same, and the prior of the items, which knows one scale and no
        correlation, fits best.

        Returns
        -------
        items : ItemGaussians
        back : array, shape (K, K)
        shift : array, shape (K,)
        change : array, shape (K + 1, K + 1)
            What loadings and intercepts are multiplied by.
        """
        k = self.spec.rank
        centred = self.mean - self.group_mean[self.design.item_groups]
        second = (centred.T @ centred + self.covariance.sum(0)) / len(centred)
        values, vectors = np.linalg.eigh(second[:k, :k])
        forward = (vectors / np.sqrt(values)) @ vectors.T
        back = (vectors * np.sqrt(values)) @ vectors.T
        shift = -np.linalg.solve(second[:k, :k], second[:k, k])
        change = np.zeros((k + 1, k + 1))
        change[:k, :k] = forward
        change[k, :k], change[k, k] = shift, 1.0
        new = dataclasses.replace(
            self,
            mean=self.mean @ change.T,
            covariance=change @ self.covariance @ change.T,
            group_mean=self.group_mean @ change.T,
        )
        return new, back, shift, change
