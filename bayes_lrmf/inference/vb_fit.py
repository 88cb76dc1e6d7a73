"""The state of variational Bayes, and what one sweep makes of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_lrmf.block_elimination import BlockFactor
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import Design
from bayes_lrmf.inference.vb_batches import BatchSums
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_field import FieldPrior
from bayes_lrmf.inference.vb_items import ItemGaussians, scale_mode
from bayes_lrmf.inference.vb_local import (
    ModelMoments,
    ModelSums,
    local_maps,
    model_moments,
    onto_models,
    pull_of_models,
)
from bayes_lrmf.inference.vb_step_scales import Evidence, with_learned_steps
from bayes_lrmf.inference.vb_steps import DirectedPrior, Moments
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["VariationalFit"]

_ITEM_PASSES = 4


def _prior_kind(spec: Spec) -> Any:
    return DirectedPrior if spec.lineage == "directed" else FieldPrior


@dataclass(frozen=True, eq=False)
class VariationalFit:
    """Everything a sweep renews.

    Attributes
    ----------
    force : array, shape (n_nodes, K + E), or None
        Gradient of the expected log-likelihood, by the bound, at the means of models; none before
        there are any but the first.
    """

    design: Design
    spec: Spec
    cells: CellTable
    maps: np.ndarray
    items: ItemGaussians
    moments: Moments
    factor: BlockFactor | None
    prior: Any
    noise_sd: np.ndarray | None
    force: np.ndarray | None = None

    @classmethod
    def start(
        cls, design: Design, spec: Spec, values: dict[str, np.ndarray], *, n_batches: int = 1
    ) -> VariationalFit:
        """Return point masses at these values of all sites of the program."""
        rows = [np.asarray(values["factor"], float)]
        if spec.ability:
            rows.append(values["ability_sd"] * values["ability_unit"][None])
        if spec.benchmark_effects and len(design.effect_benchmarks):
            rows.append(values["benchmark_sd"] * values["effect_unit"])
        mean = np.concatenate(rows).T.astype(float)
        items = ItemGaussians.start(design, spec, values["loading"], values["intercept"])
        prior = _prior_kind(spec).start(design, spec, mean)
        maps, panel = local_maps(design, spec)
        size = mean.shape[1]
        blocks = design.blocks
        moments = Moments(
            mean,
            np.zeros((len(mean), size, size)),
            np.zeros((blocks.n_entries, size, size)),
        )
        cells = CellTable(design, spec, panel, spec.rank + 2, n_batches=n_batches)
        noise_sd = None
        if spec.likelihood == "logit_normal" and len(design.count_benchmarks):
            noise_sd = np.full(len(design.benchmarks), spec.overdispersion_sd.median)
        return cls(design, spec, cells, maps, items, moments, None, prior, noise_sd)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of_arrays` takes: all that sweeps renew."""
        i = self.items
        assert self.factor is not None
        assert self.force is not None
        found = {f"moments_{n}": v for n, v in self.moments._asdict().items()}
        found |= {f"prior_{n}": v for n, v in self.prior.arrays().items()}
        found |= {
            "item_mean": i.mean,
            "item_covariance": i.covariance,
            "item_group_mean": i.group_mean,
            "item_intercept_sd": np.asarray(i.intercept_sd),
            "factor_root": self.factor.root,
            "factor_lower": self.factor.lower,
            "force": self.force,
        }
        if self.noise_sd is not None:
            found["noise_sd"] = self.noise_sd
        return found

    @classmethod
    def of_arrays(
        cls, design: Design, spec: Spec, arrays: dict[str, np.ndarray], *, n_batches: int = 1
    ) -> VariationalFit:
        """Return the fit that gave these arrays."""
        maps, panel = local_maps(design, spec)
        cells = CellTable(design, spec, panel, spec.rank + 2, n_batches=n_batches)
        empty = cls(design, spec, cells, maps, *(None,) * 5)  # type: ignore[arg-type]
        return empty.with_arrays(arrays)

    def with_arrays(self, arrays: dict[str, np.ndarray]) -> VariationalFit:
        """Return the fit with what `arrays` gave in the place of its own."""
        design, spec = self.design, self.spec
        prefix = "prior_"
        of_prior = {n[len(prefix) :]: v for n, v in arrays.items() if n.startswith(prefix)}
        items = ItemGaussians(
            design,
            spec,
            arrays["item_mean"],
            arrays["item_covariance"],
            arrays["item_group_mean"],
            float(arrays["item_intercept_sd"]),
        )
        return dataclasses.replace(
            self,
            items=items,
            moments=Moments(*(arrays[f"moments_{n}"] for n in Moments._fields)),
            factor=BlockFactor(arrays["factor_root"], arrays["factor_lower"]),
            prior=_prior_kind(spec).of_arrays(design, spec, of_prior),
            noise_sd=arrays.get("noise_sd"),
            force=arrays["force"],
        )

    def contiguous(self) -> VariationalFit:
        """Return the fit with arrays laid out as those that a file gives back.

        Sums over arrays of another layout may differ in the last bit, and a fit that goes on from a
        checkpoint should not.
        """
        # Without `ascontiguousarray`, which makes scalars arrays of one.
        return self.with_arrays({n: np.asarray(v, order="C") for n, v in self.arrays().items()})

    def resumed(self, state: VariationalState) -> VariationalFit:
        """Return the fit with the spreads and hyper-parameters of an earlier one."""
        v, blocks = state.values, self.design.blocks
        factor = BlockFactor(v["model_root"].astype(float), v["model_lower"].astype(float))
        if (len(factor.root), len(factor.lower)) != (blocks.n_nodes, blocks.n_entries):
            raise InputError("the fit to start at is of another design", fix="give one of this")
        moments = Moments(self.moments.mean, *blocks.selected_inverse(factor))
        root = v["item_root"].astype(float)
        items = dataclasses.replace(
            self.items,
            covariance=root @ root.mT,
            group_mean=np.concatenate([v["loading_mean"], v["intercept_mean"][None]]).T,
            intercept_sd=float(v["intercept_sd"]),
        )
        prior = self.prior
        if isinstance(prior, DirectedPrior):
            prior = dataclasses.replace(prior, marginal=True)
        prior = prior.resumed(v, moments)
        noise_sd = self.noise_sd
        if noise_sd is not None and "overdispersion_sd" in v:
            noise_sd = v["overdispersion_sd"]
        # The first sweep tells it.
        force = np.zeros_like(moments.mean)
        return dataclasses.replace(
            self,
            items=items,
            moments=moments,
            factor=factor,
            prior=prior,
            noise_sd=noise_sd,
            force=force,
        )

    @property
    def noise(self) -> np.ndarray | None:
        """Variance of the over-dispersion by item; none for items of one trial."""
        if self.noise_sd is None:
            return None
        many = self.design.items["trials"].to_numpy() > 1
        return np.where(many, self.noise_sd[self.design.benchmark_index] ** 2, 0.0)

    def local(self) -> ModelMoments:
        """Return moments of (m, 1, c) of evaluated models."""
        n, k = self.design.n_evaluated, self.spec.rank
        return model_moments(self.maps, self.moments.mean[:n], self.moments.variance[:n], k)

    def swept(self, *, learn: bool) -> tuple[VariationalFit, float]:
        """Return the state after one sweep, and the ELBO before it."""
        told = self.cells.about_items(self.local(), self.items.local(), self.noise)
        elbo = -np.inf if self.factor is None else told.bound + self.items_and_models()
        new = dataclasses.replace(self, items=self.items.updated(told))
        if learn:
            new = new._with_noise(told.noise)
            new = dataclasses.replace(new, items=new.items.with_scales())
            if new.prior.equivariant:
                new, _ = new._standardised()
        sums = new.cells.about_models(new.local(), new.items.local(), new.noise)
        return new._with_models(sums, learn=learn), elbo

    def with_items(self) -> VariationalFit:
        """Return the fit whose items suit its models, batch by batch."""
        items, local = self.items, self.local()
        for batch in range(self.cells.n_batches):
            members = self.cells.members(batch)
            for _ in range(_ITEM_PASSES):
                told = self.cells.about_items(local, items.local(), batch=batch)
                items = items.updated(told, members)
        return dataclasses.replace(self, items=items.with_scales())

    def stepped(self, batch: int, sums: BatchSums) -> tuple[VariationalFit, BatchSums]:
        """Return the state after a natural gradient step on a batch of items.

        Items of the batch get the best Gaussians given the models, then the models those given
        what all batches told when each was last looked at, this one now: a step of length one
        in natural parameters, whose noise is gone once all were looked at (incremental, or
        memoised, variational Bayes; Neal & Hinton 1998, Hughes & Sudderth 2013).

        Parameters
        ----------
        batch : int
        sums : BatchSums
            Changed in place; what is returned is to be used.
        """
        told = self.cells.about_items(self.local(), self.items.local(), batch=batch)
        items = self.items.updated(told, self.cells.members(batch)).with_scales()
        new = dataclasses.replace(self, items=items)
        if new.prior.equivariant:
            new, change = new._standardised()
            sums = sums.turned(change)
        found = new.cells.about_models(new.local(), new.items.local(), batch=batch)
        sums = sums.with_batch(batch, found)
        shares = np.array([self.cells.share(b) for b in range(self.cells.n_batches)])
        return new._with_models(sums.estimate(shares), learn=True), sums

    @property
    def is_final(self) -> bool:
        """Whether its sweeps are those to end with."""
        return not isinstance(self.prior, DirectedPrior) or self.prior.marginal

    def integrated(self) -> VariationalFit:
        """Return the fit that integrates the variances of steps out from now on."""
        return dataclasses.replace(self, prior=dataclasses.replace(self.prior, marginal=True))

    def with_curvature(self, bound: VariationalFit, *, learn: bool = False) -> VariationalFit:
        """Return the fit of a bound with covariances of the expected curvature, after one pass.

        Means are a Newton step from those of the bound, with its gradient: they stay where the
        prior is that of the bound. Weights of steps are renewed before, so that the means, the
        covariances and the weights belong together: with means of other weights, the results
        would seem to tell what the change of the weights did. Over-dispersion is the best given
        all.

        Parameters
        ----------
        bound : VariationalFit
            After a sweep.
        learn : bool
            Whether scales of steps from parents are learned anew (`with_learned_steps`).
        """
        assert bound.force is not None
        n, blocks = self.design.n_evaluated, self.design.blocks
        prior = self.prior.updated(self.moments, learn=False)
        at = dataclasses.replace(self, moments=self.moments._replace(mean=bound.moments.mean))
        bend = self.cells.curvature(at.local(), self.items.local(), self.noise)
        items = self.items.with_curvature(bend.of_items)
        curvature = np.zeros_like(self.moments.variance)
        curvature[:n] = onto_models(self.maps, bend.of_models)
        pull = bound.force + (curvature @ bound.moments.mean[:, :, None])[..., 0]
        if learn and isinstance(prior, DirectedPrior):
            prior = with_learned_steps(prior, self.design.core, Evidence(curvature, pull))
        diagonal, off, linear = prior.precision()
        factor = blocks.factor(diagonal + curvature, off)
        mean = blocks.solve(factor, linear + pull)
        moments = Moments(mean, *blocks.selected_inverse(factor))
        new = dataclasses.replace(self, items=items, moments=moments, factor=factor, prior=prior)
        return new._with_noise(bend.noise)

    def items_and_models(self) -> float:
        """Return what the ELBO holds beside the cells."""
        value = self.items.log_density() + self.prior.log_density(self.moments)
        if self.factor is not None:
            size = self.moments.mean.size
            value += 0.5 * size * (1 + np.log(2 * np.pi)) - 0.5 * self.factor.log_determinant
        if self.noise_sd is not None and self.spec.overdispersion_sd.learned:
            p = self.spec.overdispersion_sd
            value -= float((np.log(self.noise_sd / p.median) ** 2).sum() / (2 * p.log_sd**2))
        return value

    def _with_noise(self, squares_of_items: np.ndarray | None) -> VariationalFit:
        if self.noise_sd is None or squares_of_items is None:
            return self
        of_item = self.design.benchmark_index
        many = self.design.items["trials"].to_numpy() > 1
        squares = np.bincount(of_item[many], squares_of_items[many], len(self.noise_sd))
        n = np.bincount(of_item[many], self.cells.n_cells_of_item[many], len(self.noise_sd))
        prior = self.spec.overdispersion_sd
        sd = [scale_mode(*pair, prior) for pair in zip(n, squares, strict=True)]
        return dataclasses.replace(self, noise_sd=np.array(sd))

    def _standardised(self) -> tuple[VariationalFit, np.ndarray]:
        """Return the fit in other coordinates, and what loadings and intercepts are turned by."""
        items, back, shift, change = self.items.standardised()
        k, m = self.spec.rank, self.moments
        turn = np.eye(m.mean.shape[1])
        turn[:k, :k] = back
        mean = m.mean.copy()
        mean[:, :k] -= shift
        moments = Moments(mean @ turn, turn.T @ m.variance @ turn, turn.T @ m.covariance @ turn)
        prior = self.prior.transformed(back, shift)
        return dataclasses.replace(self, items=items, moments=moments, prior=prior), change

    def _with_models(self, sums: ModelSums, *, learn: bool) -> VariationalFit:
        n, blocks = self.design.n_evaluated, self.design.blocks
        square, pull = onto_models(self.maps, sums.square), pull_of_models(self.maps, sums)
        diagonal, off, linear = self.prior.precision()
        diagonal[:n] += square
        linear[:n] += pull
        factor = blocks.factor(diagonal, off)
        moments = Moments(blocks.solve(factor, linear), *blocks.selected_inverse(factor))
        force = np.zeros_like(linear)
        force[:n] = pull - (square @ moments.mean[:n, :, None])[..., 0]
        return dataclasses.replace(
            self,
            moments=moments,
            factor=factor,
            prior=self.prior.updated(moments, learn=learn),
            force=force,
        )

    def result(self) -> VariationalState:
        """Return what a posterior keeps."""
        assert self.factor is not None
        i = self.items
        k, n_ability = self.spec.rank, int(self.spec.ability)
        n_effects = self.moments.mean.shape[1] - k - n_ability
        values: dict[str, np.ndarray] = {
            "model_layout": np.array([k, n_ability, n_effects]),
            "model_mean": self.moments.mean,
            "model_root": self.factor.root,
            "model_lower": self.factor.lower,
            "item_mean": i.mean,
            "item_root": np.linalg.cholesky(i.covariance),
            "loading_mean": i.group_mean[:, :-1].T,
            "intercept_mean": i.group_mean[:, -1],
            "intercept_sd": np.asarray(i.intercept_sd),
            **self.prior.values(),
        }
        if self.noise_sd is not None:
            values["overdispersion_sd"] = self.noise_sd
        # Draws in single precision are as good, and half as large in the file.
        values |= {n: v.astype(np.float32) for n, v in values.items() if v.ndim > 2}
        return VariationalState(values)
