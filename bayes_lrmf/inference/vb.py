"""Variational Bayes in closed form, by Polya-Gamma augmentation: the fast engine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from bayes_lrmf.checks import InputError, positive, whole_number
from bayes_lrmf.design import Design
from bayes_lrmf.inference.checkpoint import Checkpoint, Saved, saved_by
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.start import item_levels
from bayes_lrmf.inference.vb_batches import BatchSums
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_closing import Closed, close, close_briefly
from bayes_lrmf.inference.vb_fit import VariationalFit
from bayes_lrmf.inference.vb_local import local_maps
from bayes_lrmf.posterior import FitRecord, GaussianState, Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses
from bayes_lrmf.spec import Spec
from bayes_lrmf.variational import VariationalState

__all__ = ["fit_vb"]

_NEGLIGIBLE_GAIN = 0.02
_ROUGH = 50.0
_FEWEST_SWEEPS = 3
_BATCHES = "vb, batches"


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
    n_batches: int = 1,
    n_epochs: int = 3,
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
    n_batches : int
        With more than one, the fit begins with steps on random batches of items, each item in one,
        and no more than one batch of the table is held at a time by anything but the
        design; that of `stream_responses` is held by the disk. For dense 0/1 tables.
    n_epochs : int
        How often the steps go through all batches, before sweeps over all.
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
    priors, a step of each sweep, until some are learned anew at the end; `DirectedPrior` and
    `FieldPrior` say which. Between updates loadings are scaled to the variance their prior has, and
    the factors back, which leaves psi alone and saves most of the sweeps (parameter expansion, Qi &
    Jaakkola 2006).

    At the end covariances are made those of the expected log-likelihood instead of its bound: the
    inverse of the prior's precision plus the expected curvature, the fixed point of Gaussian
    variational approximation (Opper & Archambeau 2009). Means stay, but for a step of Newton where
    the weights of a directed prior's steps follow. The bound's curvature is larger, sevenfold at
    log-odds of 4, and intervals of models with few responses from it are too narrow. Sweeps that
    follow the expected log-likelihood all the way have no need of a bound, but factors of models
    that are nearly always right or wrong run away. Scales learned from the bound's covariances are
    too small; those of a field, of steps from parents, of intercepts and of over-dispersion are
    learned anew from the others (`close`).

    Steps on batches keep what each batch told of the models, 2 (L + 1) (L + 4) bytes for each at
    rank L and 4 (L + 3) more for each benchmark, and put the new in the place of the old (Hughes &
    Sudderth 2013): after the first epoch there is no noise that a rate would have to take away.
    They begin at the mode that one batch has.

    References
    ----------
    Polson, Scott & Windle (2013); Jaakkola & Jordan (2000); Durante & Rigon (2019); Opper &
    Archambeau (2009); Hughes & Sudderth (2013).
    """
    _check(design, spec)
    max_sweeps = whole_number(max_sweeps, name="max_sweeps")
    n_batches = _n_batches(design, n_batches)
    n_epochs = whole_number(n_epochs, name="n_epochs")
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
            "n_batches": n_batches,
            "n_epochs": n_epochs,
        },
    )
    enough = tolerance * design.responses.n_observed + _NEGLIGIBLE_GAIN
    loaded = saved.load("vb")
    if loaded is not None:
        run = _Run.loaded(design, spec, *loaded, n_batches=n_batches)
        saved.resumed("sweep", len(run.trace))
    elif n_batches > 1:
        run = _Run(_in_batches(design, spec, key, progress, start, saved, n_batches, n_epochs))
    else:
        run = _Run(_begun(design, spec, key, progress, start, saved, 1))
    try:
        if run.fit.factor is None:
            # Before the first sweep there is a point, and no ELBO.
            run = dataclasses.replace(run, fit=run.fit.swept(learn=True)[0].contiguous())
        while len(run.trace) < max_sweeps and not run.converged:
            run = run.advanced(enough)
            progress.update(len(run.trace), elbo=-run.trace[-1])
            saved.offer("vb", run.state)
        if run.converged:
            closed = close(run.fit, lambda n: progress.update(n, stage="scales"))
        else:
            closed = close_briefly(run.fit)
        return _posterior(run, closed, saved, "still rising")
    except KeyboardInterrupt:
        if run.fit.factor is not None:
            saved.offer("vb", run.state, at_once=True)
        when = f"after {len(run.trace):,} sweeps"
        stopped = dataclasses.replace(run, converged=False)

        def made() -> Posterior:
            return _posterior(stopped, close_briefly(stopped.fit), saved, "interrupted")

        raise saved.interrupted(when, made if run.trace else None) from None


def _posterior(run: _Run, closed: Closed, saved: Saved, otherwise: str) -> Posterior:
    message = f"ELBO {-run.trace[-1]:.6g} after {len(run.trace)} sweeps"
    if run.n_bound:
        n_last = len(run.trace) - run.n_bound
        message += f", {n_last} of them with variances of steps integrated out"
    if closed.n_rounds:
        message += f", scales of the expected curvature after {closed.n_rounds} rounds"
    if not closed.settled:
        message += ", still moving"
    if not run.converged:
        message += f", {otherwise}"
    record = FitRecord(
        method="vb",
        converged=run.converged and closed.settled,
        message=message,
        trace=np.asarray(run.trace),
        seconds=saved.seconds,
    )
    return Posterior(run.fit.design, run.fit.spec, closed.fit.result(), record)


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


def _n_batches(design: Design, n_batches: int) -> int:
    n_batches = whole_number(n_batches, name="n_batches")
    if n_batches == 1:
        return 1
    if design.responses.dense is None:
        raise InputError("batches are of dense 0/1 tables", fix="leave n_batches at 1")
    if design.mesh is not None:
        raise InputError("batches of a table on several devices", fix="choose one or the other")
    fewest = int(np.bincount(design.benchmark_index).min())
    # Of a single item a batch would not know the effect of its benchmark.
    if n_batches > fewest // 2:
        raise InputError(
            f"{n_batches:,} batches of a benchmark with {fewest:,} items",
            fix=f"give n_batches of at most {max(fewest // 2, 1):,}",
        )
    return n_batches


def _in_batches(
    design: Design,
    spec: Spec,
    key: jax.Array,
    progress: Progress,
    start: Posterior | None,
    saved: Saved,
    n_batches: int,
    n_epochs: int,
) -> VariationalFit:
    """Return the fit after the steps on batches."""
    seed = int(np.asarray(jax.random.key_data(key)).ravel()[-1])
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n_batches) for _ in range(n_epochs)])
    loaded = saved.load(_BATCHES)
    if loaded is not None:
        info, arrays = loaded
        fit, n_done = VariationalFit.of_arrays(design, spec, arrays, n_batches=n_batches), info["n"]
        sums = BatchSums.of_arrays(arrays)
        saved.resumed("step", n_done)
    else:
        fit, n_done = _placed(design, spec, key, progress, start, saved, n_batches), 0
        sums = BatchSums.empty(n_batches, len(fit.maps), design.n_evaluated, spec.rank + 2)

    def state() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"n": n_done}, fit.arrays() | sums.arrays()

    try:
        while n_done < len(order):
            fit, sums = fit.stepped(int(order[n_done]), sums)
            fit, n_done = fit.contiguous(), n_done + 1
            progress.update(n_done, of=f"{len(order):,}", stage="batches")
            saved.offer(_BATCHES, state)
    except KeyboardInterrupt:
        if n_done:
            saved.offer(_BATCHES, state, at_once=True)
        raise saved.interrupted(f"after {n_done:,} batches", None) from None
    return fit


def _placed(
    design: Design,
    spec: Spec,
    key: jax.Array,
    progress: Progress,
    start: Posterior | None,
    saved: Saved,
    n_batches: int,
) -> VariationalFit:
    """Return a fit at the models that the mode of one batch has, and items that suit them."""
    if start is not None:
        return _begun(design, spec, key, progress, start, saved, n_batches)
    _, panel = local_maps(design, spec)
    table = CellTable(design, spec, panel, spec.rank + 2, n_batches=n_batches)
    chosen = np.sort(table.members(0))
    r = design.responses
    assert r.dense is not None
    items = r.items.iloc[chosen].reset_index(drop=True)
    part = dataclasses.replace(
        design, responses=Responses(r.models, items, np.ascontiguousarray(r.dense[:, chosen]), None)
    )
    values = dict(_start_values(part, spec, key, progress, None, saved))
    loading = np.zeros((spec.rank, design.n_items))
    loading[:, chosen] = values["loading"]
    values["loading"], values["intercept"] = loading, item_levels(design)
    return VariationalFit.start(design, spec, values, n_batches=n_batches).with_items()


def _begun(
    design: Design,
    spec: Spec,
    key: jax.Array,
    progress: Progress,
    start: Posterior | None,
    saved: Saved,
    n_batches: int,
) -> VariationalFit:
    """Return the fit at the mode, or at an earlier fit, with its spreads where it has any."""
    values = _start_values(design, spec, key, progress, start, saved)
    fit = VariationalFit.start(design, spec, values, n_batches=n_batches)
    if start is not None and isinstance(start.state, VariationalState):
        fit = fit.resumed(start.state)
    return fit


def _laplacian_twin(spec: Spec) -> Spec:
    """Return a spec of the same sites that has a mode."""
    return dataclasses.replace(
        spec,
        lineage="none" if spec.lineage == "none" else "laplacian",
        likelihood="binomial" if spec.likelihood == "logit_normal" else spec.likelihood,
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
    mode = fit_map(
        design,
        _laplacian_twin(spec),
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
    fit : VariationalFit
    trace : tuple of float
        Negative ELBO by sweep.
    n_bound : int
        Sweeps before the variances of steps were integrated out; 0 if they are not.
    converged : bool
    """

    fit: VariationalFit
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
        cls,
        design: Design,
        spec: Spec,
        info: dict[str, Any],
        arrays: dict[str, np.ndarray],
        *,
        n_batches: int,
    ) -> _Run:
        trace = tuple(arrays["trace"].tolist())
        fit = VariationalFit.of_arrays(design, spec, arrays, n_batches=n_batches)
        return cls(fit, trace, info["n_bound"], info["converged"])
