"""Variational Bayes in closed form, by Polya-Gamma augmentation: the fast engine."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from bayes_lrmf.block_elimination import BlockFactor
from bayes_lrmf.checks import InputError, positive, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.checkpoint import Checkpoint, Saved, saved_by
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_field import FieldPrior
from bayes_lrmf.inference.vb_items import ItemGaussians, scale_mode
from bayes_lrmf.inference.vb_local import (
    LocalMoments,
    local_maps,
    local_moments,
    onto_models,
    pull_of_models,
)
from bayes_lrmf.inference.vb_steps import DirectedPrior, Moments
from bayes_lrmf.posterior import FitRecord, GaussianState, Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["fit_vb"]

_NEGLIGIBLE_GAIN = 0.02
_ROUGH = 50.0
_FEWEST_SWEEPS = 3
_CURVATURE_PASSES = 3
_NOISE_PASSES = 100
_NOISE_CHANGE = 2e-3


# Threads of BLAS spin over short vectors: they double the time of a processor, and save none.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_vb(
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    progress: Progress | None = None,
    max_sweeps: int = 300,
    tolerance: float = 2e-5,
    start: Posterior | None = None,
    checkpoint: Checkpoint | Saved | None = None,
) -> Posterior:
    r"""Fit a structured Gaussian approximation of the posterior by coordinate ascent.

    One Gaussian holds the factors and effects of all models and latent ancestors together, along
    the lineage; one for each item holds its loading and intercept. Given Polya-Gamma variables
    of the cells every update is in closed form.

    Parameters
    ----------
    design : Design
    spec : Spec
        Without a penalty, with intercepts and independent items; counts "binomial" or
        "logit_normal".
    key : jax key
        For the start of the point estimate that the first sweep starts from.
    progress : Progress, optional
    max_sweeps : int
    tolerance : float
        Stops when a sweep changes the bound by less than this per observed cell, and 0.02 in all:
        the bound itself is no measure, since counts of many trials make it large. Under the
        directed prior the variances of its steps are integrated out from the sweep on that gains
        less than 50 times as much.
    start : Posterior, optional
        An earlier fit of the same design to start at.
    checkpoint : Checkpoint, optional
        Where to save the fit now and then, and to go on from.

    Returns
    -------
    Posterior
        `record.trace` holds the negative ELBO by sweep, densities of hyper-parameters included but
        for those of the directed prior; with its variances integrated out, the negative log
        evidence of expectation propagation, which is no bound and need not rise.

    Raises
    ------
    InputError
        For a spec that is not conjugate, or a checkpoint of another fit.
    Interrupted
        After Ctrl-C, with the posterior so far.

    Notes
    -----
    Hyper-parameters are point estimates that maximise the ELBO plus the log density of their
    priors, a step of each sweep; `DirectedPrior` and `FieldPrior` say which. Between updates
    loadings are scaled to the variance their prior has, and the factors back, which leaves psi
    alone and saves most of the sweeps (parameter expansion, Qi & Jaakkola 2006).

    At the end covariances, with the means as they are, are made those of the expected
    log-likelihood instead of its bound: the inverse of the prior's precision plus the expected
    curvature, the fixed point of Gaussian variational approximation (Opper & Archambeau
    2009). The bound's curvature is larger, sevenfold at log-odds of 4, and intervals of models with
    few responses from it are too narrow. Sweeps that follow the expected log-likelihood all the way
    have no need of a bound, but factors of models that are nearly always right or wrong run away.

    References
    ----------
    Polson, Scott & Windle (2013); Jaakkola & Jordan (2000); Durante & Rigon (2019); Opper &
    Archambeau (2009).
    """
    _check(design, spec)
    max_sweeps = whole_number(max_sweeps, name="max_sweeps")
    tolerance = positive(tolerance, name="tolerance")
    progress = progress or Progress("vb", enabled=False)
    saved = saved_by(
        checkpoint,
        "vb",
        design,
        spec,
        key=key,
        progress=progress,
        options={
            "max_sweeps": max_sweeps,
            "tolerance": tolerance,
            "start": None if start is None else start.state.values,
        },
    )
    enough = tolerance * design.responses.n_observed + _NEGLIGIBLE_GAIN
    loaded = saved.load("vb")
    if loaded is not None:
        run = _Run.loaded(design, spec, *loaded)
        saved.resumed("sweep", len(run.trace))
    else:
        fit = _Fit.start(design, spec, _start_values(design, spec, key, progress, start, saved))
        if start is not None and isinstance(start.state, VariationalState):
            fit = fit.resumed(start.state)
        run = _Run(fit)
    try:
        if run.fit.factor is None:
            # Before the first sweep there is a point, and no ELBO.
            run = dataclasses.replace(run, fit=run.fit.swept(learn=True)[0].contiguous())
        while len(run.trace) < max_sweeps and not run.converged:
            run = run.advanced(enough)
            progress.update(len(run.trace), elbo=-run.trace[-1])
            saved.offer("vb", run.state)
        return _posterior(run, saved, "still rising")
    except KeyboardInterrupt:
        if run.fit.factor is not None:
            saved.offer("vb", run.state, at_once=True)
        when = f"after {len(run.trace):,} sweeps"
        stopped = dataclasses.replace(run, converged=False)
        made = functools.partial(_posterior, stopped, saved, "interrupted") if run.trace else None
        raise saved.interrupted(when, made) from None


def _posterior(run: _Run, saved: Saved, otherwise: str) -> Posterior:
    fit = run.fit.with_expected_curvature()
    message = f"ELBO {-run.trace[-1]:.6g} after {len(run.trace)} sweeps"
    if run.n_bound:
        n_last = len(run.trace) - run.n_bound
        message += f", {n_last} of them with variances of steps integrated out"
    if not run.converged:
        message += f", {otherwise}"
    record = FitRecord(
        method="vb",
        converged=run.converged,
        message=message,
        trace=np.asarray(run.trace),
        seconds=saved.seconds,
    )
    return Posterior(fit.design, fit.spec, fit.result(), record)


def _prior_kind(spec: Spec) -> Any:
    return DirectedPrior if spec.lineage == "directed" else FieldPrior


def _check(design: Design, spec: Spec) -> None:
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is a point estimate", fix="use method map")
    if not spec.intercept:
        raise InputError("method vb needs intercepts", fix="set intercept = true, or use svi")
    if design.item_graph is not None:
        raise InputError(
            "method vb knows no similarity of items", fix='set item_prior = "independent"'
        )
    if spec.likelihood == "beta_binomial" and len(design.count_benchmarks):
        raise InputError(
            "method vb has no Beta-Binomial counts",
            fix='set likelihood = "logit_normal", or use method svi or nuts',
        )


def _start_values(
    design: Design,
    spec: Spec,
    key: jax.Array,
    progress: Progress,
    start: Posterior | None,
    saved: Saved | None = None,
) -> dict[str, np.ndarray]:
    """Return point values of all sites to start at."""
    if start is not None:
        if isinstance(start.state, (GaussianState, VariationalState)):
            return start.state.centre()
        return {n: v[0] for n, v in start.state.draw(1, key, design).items()}
    twin = dataclasses.replace(
        spec,
        lineage="none" if spec.lineage == "none" else "laplacian",
        likelihood="binomial" if spec.likelihood == "logit_normal" else spec.likelihood,
    )
    mode = fit_map(
        design,
        twin,
        key=key,
        progress=progress,
        tolerance=1e-5,
        max_iterations=200,
        checkpoint=saved,
    )
    return {n: v[0] for n, v in mode.state.draw(1, key, design).items()}


@dataclass(frozen=True, eq=False)
class _Run:
    """A fit and how it came there.

    Attributes
    ----------
    fit : _Fit
    trace : tuple of float
        Negative ELBO by sweep.
    n_bound : int
        Sweeps before the variances of steps were integrated out; 0 if they are not.
    converged : bool
    """

    fit: _Fit
    trace: tuple[float, ...] = ()
    n_bound: int = 0
    converged: bool = False

    def advanced(self, enough: float) -> _Run:
        """Return the run after one sweep more, for which a gain of `enough` is one."""
        fit, elbo = self.fit.swept(learn=True)
        trace, n_bound, converged = (*self.trace, -elbo), self.n_bound, False
        if len(trace) >= n_bound + _FEWEST_SWEEPS:
            gain = trace[-2] - trace[-1]
            if fit.is_final:
                converged = abs(gain) < enough
            elif gain < _ROUGH * enough:
                fit, n_bound = fit.integrated(), len(trace)
        return _Run(fit.contiguous(), trace, n_bound, converged)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `loaded` takes."""
        info = {"n_bound": self.n_bound, "converged": bool(self.converged)}
        return info, {**self.fit.arrays(), "trace": np.array(self.trace)}

    @classmethod
    def loaded(
        cls, design: Design, spec: Spec, info: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> _Run:
        trace = tuple(arrays["trace"].tolist())
        return cls(_Fit.of_arrays(design, spec, arrays), trace, info["n_bound"], info["converged"])


@dataclass(frozen=True, eq=False)
class _Fit:
    """Everything a sweep renews."""

    design: Design
    spec: Spec
    cells: CellTable
    maps: np.ndarray
    items: ItemGaussians
    moments: Moments
    factor: BlockFactor | None
    prior: Any
    noise_sd: np.ndarray | None

    @classmethod
    def start(cls, design: Design, spec: Spec, values: dict[str, np.ndarray]) -> _Fit:
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
        cells = CellTable(design, spec, panel, spec.rank + 2)
        noise_sd = None
        if spec.likelihood == "logit_normal" and len(design.count_benchmarks):
            noise_sd = np.full(len(design.benchmarks), spec.overdispersion_sd.median)
        return cls(design, spec, cells, maps, items, moments, None, prior, noise_sd)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of_arrays` takes: all that sweeps renew."""
        i = self.items
        assert self.factor is not None
        found = {f"moments_{n}": v for n, v in self.moments._asdict().items()}
        found |= {f"prior_{n}": v for n, v in self.prior.arrays().items()}
        found |= {
            "item_mean": i.mean,
            "item_covariance": i.covariance,
            "item_group_mean": i.group_mean,
            "item_intercept_sd": np.asarray(i.intercept_sd),
            "factor_root": self.factor.root,
            "factor_lower": self.factor.lower,
        }
        if self.noise_sd is not None:
            found["noise_sd"] = self.noise_sd
        return found

    @classmethod
    def of_arrays(cls, design: Design, spec: Spec, arrays: dict[str, np.ndarray]) -> _Fit:
        """Return the fit that gave these arrays."""
        maps, panel = local_maps(design, spec)
        cells = CellTable(design, spec, panel, spec.rank + 2)
        empty = cls(design, spec, cells, maps, *(None,) * 5)  # type: ignore[arg-type]
        return empty.with_arrays(arrays)

    def with_arrays(self, arrays: dict[str, np.ndarray]) -> _Fit:
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
        )

    def contiguous(self) -> _Fit:
        """Return the fit with arrays laid out as those that a file gives back.

        Sums over arrays of another layout may differ in the last bit, and a fit that goes on from a
        checkpoint should not.
        """
        # Without `ascontiguousarray`, which makes scalars arrays of one.
        return self.with_arrays({n: np.asarray(v, order="C") for n, v in self.arrays().items()})

    def resumed(self, state: VariationalState) -> _Fit:
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
        return dataclasses.replace(
            self, items=items, moments=moments, factor=factor, prior=prior, noise_sd=noise_sd
        )

    @property
    def noise(self) -> np.ndarray | None:
        """Variance of the over-dispersion by item; none for items of one trial."""
        if self.noise_sd is None:
            return None
        many = self.design.items["trials"].to_numpy() > 1
        return np.where(many, self.noise_sd[self.design.benchmark_index] ** 2, 0.0)

    def local(self) -> LocalMoments:
        """Return moments of (m, c, 1) of evaluated models, by panel."""
        n, k = self.design.n_evaluated, self.spec.rank
        return local_moments(self.maps, self.moments.mean[:n], self.moments.variance[:n], k)

    def swept(self, *, learn: bool) -> tuple[_Fit, float]:
        """Return the state after one sweep, and the ELBO before it."""
        evidence = self.cells.about_items(self.local(), self.items.local(), self.noise)
        elbo = -np.inf if self.factor is None else evidence.bound + self.items_and_models()
        new = dataclasses.replace(self, items=self.items.updated(evidence))
        if learn:
            new = new._with_noise(evidence.noise)
            new = dataclasses.replace(new, items=new.items.with_scales())
            if new.prior.equivariant:
                new = new._standardised()
        return new._with_models(learn=learn), elbo

    @property
    def is_final(self) -> bool:
        """Whether its sweeps are those to end with."""
        return not isinstance(self.prior, DirectedPrior) or self.prior.marginal

    def integrated(self) -> _Fit:
        """Return the fit that integrates the variances of steps out from now on."""
        return dataclasses.replace(self, prior=dataclasses.replace(self.prior, marginal=True))

    def with_expected_curvature(self) -> _Fit:
        """Return the fit with the covariances that its own expected curvature gives.

        Means stay, and the over-dispersion is fitted anew. The bound, which pays in accuracy for
        being one, has a larger curvature and knows less of the noise: intervals would be too
        narrow.
        """
        fit = self
        for _ in range(_CURVATURE_PASSES):
            fit = fit._renewed()
        if fit.noise_sd is None:
            return fit
        for _ in range(_NOISE_PASSES):
            before, fit = fit.noise_sd, fit._renewed()
            if np.abs(fit.noise_sd / before - 1).max() < _NOISE_CHANGE:
                break
        return fit

    def _renewed(self) -> _Fit:
        bend = self.cells.curvature(self.local(), self.items.local(), self.noise)
        items = self.items.with_curvature(bend.of_items)
        diagonal, off, _ = self._precision(bend.of_models)
        factor = self.design.blocks.factor(diagonal, off)
        moments = Moments(self.moments.mean, *self.design.blocks.selected_inverse(factor))
        prior = self.prior.updated(moments, learn=False)
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

    def _with_noise(self, squares_of_items: np.ndarray | None) -> _Fit:
        if self.noise_sd is None or squares_of_items is None:
            return self
        of_item = self.design.benchmark_index
        many = self.design.items["trials"].to_numpy() > 1
        squares = np.bincount(of_item[many], squares_of_items[many], len(self.noise_sd))
        n = np.bincount(of_item[many], self.cells.n_cells_of_item[many], len(self.noise_sd))
        prior = self.spec.overdispersion_sd
        sd = [scale_mode(*pair, prior) for pair in zip(n, squares, strict=True)]
        return dataclasses.replace(self, noise_sd=np.array(sd))

    def _standardised(self) -> _Fit:
        items, back, shift = self.items.standardised()
        k, m = self.spec.rank, self.moments
        turn = np.eye(m.mean.shape[1])
        turn[:k, :k] = back
        mean = m.mean.copy()
        mean[:, :k] -= shift
        moments = Moments(mean @ turn, turn.T @ m.variance @ turn, turn.T @ m.covariance @ turn)
        prior = self.prior.transformed(back, shift)
        return dataclasses.replace(self, items=items, moments=moments, prior=prior)

    def _precision(self, square: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return precision blocks given `Evidence.square`, and the prior's linear term."""
        diagonal, off, linear = self.prior.precision()
        diagonal[: self.design.n_evaluated] += onto_models(self.maps, square, self.spec.rank)
        return diagonal, off, linear

    def _with_models(self, *, learn: bool) -> _Fit:
        evidence = self.cells.about_models(self.local(), self.items.local(), self.noise)
        diagonal, off, linear = self._precision(evidence.square)
        linear[: self.design.n_evaluated] += pull_of_models(self.maps, evidence, self.spec.rank)
        blocks = self.design.blocks
        factor = blocks.factor(diagonal, off)
        moments = Moments(blocks.solve(factor, linear), *blocks.selected_inverse(factor))
        return dataclasses.replace(
            self,
            moments=moments,
            factor=factor,
            prior=self.prior.updated(moments, learn=learn),
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
