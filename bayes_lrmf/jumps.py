"""Models that leave their kin on one benchmark alone: memorised, or measured otherwise."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import binom

from bayes_lrmf.directed import step_index
from bayes_lrmf.item_space import core_draws, parents_of_evaluated, steps_of
from bayes_lrmf.posterior import Posterior

__all__ = ["benchmark_steps", "jumps", "more_than_usual", "pulled"]

_FEWEST_STEPS = 20
_FEWEST_OTHERS = 2
_FAR = 7.0
_OWN_SHARE = 0.5
_NORMAL = 1.4826
_USUAL_SHARE = 0.001
_SURE = 0.01
_OF_STEP = ["model", "parents", "benchmark", "step", "elsewhere", "z"]
_JUMPS = ["model", "benchmark", "z", "reason"]


@dataclass(frozen=True)
class _Step:
    """A step that jumps, as `benchmark_steps` describes it."""

    model: str
    parents: tuple[str, ...]
    benchmark: str
    step: float
    elsewhere: float
    z: float

    @property
    def above(self) -> bool:
        return self.z > 0

    def reason(self) -> str:
        side = "above" if self.above else "below"
        return (
            f"{abs(self.step):.1f} log-odds {side} {' + '.join(self.parents)} on "
            f"{self.benchmark}, {self.elsewhere:+.1f} elsewhere (z {self.z:.1f}): "
            f"{_question(self.above)}"
        )


def benchmark_steps(posterior: Posterior, *, key: jax.Array, n_draws: int = 100) -> pd.DataFrame:
    r"""Return how far children step from their recorded parents on each benchmark.

    A step is a difference of mean log-odds over the items of a benchmark, that of a merge from the
    weighted mean of its parents. Its excess d is what it goes beyond the child's median step on
    its other benchmarks. With m the median of posterior means of d over the children of a relation
    (all children where there are fewer than twenty of that relation) and s 1.4826 times the median
    absolute deviation from it,

    .. math:: z = \frac{d - m}{\sqrt{s^2 + \sigma^2 + (r / 2)^2}}

    where :math:`\sigma` is the posterior standard deviation of d, so that noise of few results is
    no jump, and r how far the other steps lie from their median at most: steps that are long
    everywhere differ more between benchmarks, too.

    Parameters
    ----------
    posterior : Posterior
    key : jax key
    n_draws : int

    Returns
    -------
    DataFrame
        ``model, parents, benchmark, step, elsewhere, excess, z, jumps``, by child and benchmark.
        Compared are benchmarks on which child and parents all have results, if these are three or
        more; only those compared by twenty children or more are listed. `parents` are tuples of
        names, `elsewhere` is the median step on the others. A step `jumps` if z is beyond 7 either
        way.

    Raises
    ------
    InputError
        For a point estimate, or a fit without lineage.
    """
    design = posterior.design
    children, weights = parents_of_evaluated(design.core, design.n_evaluated)
    drawn = core_draws(posterior, key=key, n_draws=n_draws)
    of_item, n_benchmarks = design.benchmark_index, len(design.benchmarks)
    means = np.stack([drawn.cols[:, :, of_item == b].mean(-1) for b in range(n_benchmarks)], -1)
    steps = (steps_of(drawn.rows, children, weights) @ means).astype(float)
    compared = _compared(_with_results(posterior), children, weights)
    steps = np.where(compared, steps, np.nan)
    excess, spread = _beyond_others(steps)
    middle = excess.mean(0)
    z = _standardised(middle, excess.std(0), spread, step_index(design.core)[children])
    at, b = np.nonzero(np.isfinite(z))
    names, parents = design.core.nodes, weights.indices
    named = [
        tuple(names[parents[start:stop]])
        for start, stop in zip(weights.indptr[:-1], weights.indptr[1:], strict=True)
    ]
    step = steps.mean(0)[at, b]
    return pd.DataFrame(
        {
            "model": names[children[at]],
            "parents": [named[u] for u in at],
            "benchmark": design.benchmarks[b],
            "step": step,
            "elsewhere": step - middle[at, b],
            "excess": middle[at, b],
            "z": z[at, b],
            "jumps": np.abs(z[at, b]) > _FAR,
        }
    )


def jumps(steps: pd.DataFrame) -> pd.DataFrame:
    """Return models that stand out from their kin on one benchmark alone, farthest first.

    A step that jumps is one between two models, either of which may be the odd one. It is the
    child, unless a parent has itself jumped the other way from its own parents there, or the only
    parent has two or more children, and most of those compared, that jump away from it the same
    way. A parent that has jumped and its children that have gone back make one row.

    Parameters
    ----------
    steps : DataFrame
        From `benchmark_steps`.

    Returns
    -------
    DataFrame
        ``model, benchmark, z, reason``; z is positive for a model above its kin.
    """
    far = [_Step(*row) for row in steps.loc[steps["jumps"], _OF_STEP].itertuples(index=False)]
    above = {(step.model, step.benchmark): step.above for step in far}
    compared = Counter(zip(steps["parents"], steps["benchmark"], strict=True))
    away = defaultdict(list)
    for step in far:
        away[step.parents, step.benchmark, step.above].append(step.z)
    rows = {}
    for step in far:
        with_parents = step.parents, step.benchmark
        z = away[*with_parents, step.above]
        mine = [above.get((parent, step.benchmark)) for parent in step.parents]
        if (not step.above) in mine:
            continue
        if len(step.parents) > 1 or len(z) == 1 or 2 * len(z) <= compared[with_parents]:
            rows[step.model, step.benchmark] = step.z, step.reason()
        elif (step.parents[0], step.benchmark) not in above:
            side = "above" if step.above else "below"
            middle = float(np.median(z))
            rows[step.parents[0], step.benchmark] = (
                -middle,
                f"{len(z)} of {compared[with_parents]} children are far {side} it on "
                f"{step.benchmark}, not elsewhere (median z {middle:.1f}): "
                f"{_question(not step.above)}",
            )
    table = [(*of, *row) for of, row in rows.items()]
    return pd.DataFrame(table, columns=_JUMPS).sort_values(
        "z", key=np.abs, ascending=False, kind="stable", ignore_index=True
    )


def pulled(posterior: Posterior, found: pd.DataFrame) -> pd.DataFrame:
    """Return models whose predictions of a benchmark lean on one that jumps there.

    They have no results on it: parents of such a model, its children, and theirs, as far as there
    are no results in between.

    Parameters
    ----------
    posterior : Posterior
    found : DataFrame
        From `jumps`.

    Returns
    -------
    DataFrame
        ``model, benchmark, z, reason``, in the order of `found`; z is that of the one that jumps.
    """
    design = posterior.design
    child, parent = (
        np.concatenate([getattr(part, side) for part in (design.core, design.periphery)])
        for side in ("child", "parent")
    )
    n = len(design.models)
    known = np.zeros((n, len(design.benchmarks)), bool)
    known[: design.n_evaluated] = _with_results(posterior)
    below = sp.csr_array((np.ones(len(child)), (parent, child)), shape=(n, n))
    above = below.T.tocsr()
    place = {name: b for b, name in enumerate(design.benchmarks)}
    at = {name: u for u, name in enumerate(design.models)}
    rows = []
    for jump in found.to_dict("records"):
        start, benchmark = at[jump["model"]], jump["benchmark"]
        unknown = ~known[:, place[benchmark]]
        kin = [(u, "child") for u in _neighbours(above, start) if unknown[u]]
        seen, level, kind = {start}, [start], "parent"
        while level:
            level = [
                u
                for u in dict.fromkeys(v for w in level for v in _neighbours(below, w))
                if unknown[u] and u not in seen
            ]
            seen |= set(level)
            kin += [(u, kind) for u in level]
            kind = "ancestor"
        rows += [
            (
                design.models[u], benchmark, jump["z"],
                f"no results on {benchmark}, where its {kind} {jump['model']} is far "
                f"{'above' if jump['z'] > 0 else 'below'} kin",
            )
            for u, kind in kin
        ]  # fmt: skip
    # Of several that pull a model the farthest comes first.
    return pd.DataFrame(rows, columns=_JUMPS).drop_duplicates(["model", "benchmark"])


def more_than_usual(steps: pd.DataFrame) -> bool:
    """Return whether more children jump than one in a thousand explains, at a 1 % level.

    Parameters
    ----------
    steps : DataFrame
        From `benchmark_steps`.
    """
    jumping = steps.groupby("model")["jumps"].any()
    return bool(binom.sf(jumping.sum() - 1, len(jumping), _USUAL_SHARE) < _SURE)


def _question(above: bool) -> str:
    return "memorised, or measured otherwise?" if above else "measured otherwise?"


def _with_results(posterior: Posterior) -> np.ndarray:
    """Return which evaluated models have results on which benchmarks."""
    design = posterior.design
    cells, n = design.responses.to_cells(), len(design.benchmarks)
    at = cells.rows.astype(np.int64) * n + design.benchmark_index[cells.cols]
    found = np.bincount(at, minlength=design.n_evaluated * n) > 0
    return np.asarray(found.reshape(design.n_evaluated, n))


def _compared(known: np.ndarray, children: np.ndarray, weights: sp.csr_array) -> np.ndarray:
    """Return which benchmarks child and parents all have results on, of those with enough."""
    lacks = np.ones((weights.shape[1], known.shape[1]))
    lacks[: len(known)] -= known
    one = np.ones(weights.nnz)
    recorded = sp.csr_array((one, weights.indices, weights.indptr), shape=weights.shape)
    both = known[children] & (recorded @ lacks == 0)
    return np.asarray(both & (both.sum(1, keepdims=True) > _FEWEST_OTHERS))


def _beyond_others(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return steps less the median of the others, and how far the others' means lie from theirs.

    Parameters
    ----------
    steps : array, shape (n_draws, n_children, n_benchmarks)
        NaN where not compared.

    Returns
    -------
    excess : array, shape (n_draws, n_children, n_benchmarks)
    spread : array, shape (n_children, n_benchmarks)
    """
    excess = np.full(steps.shape, np.nan)
    spread = np.full(steps.shape[1:], np.nan)
    some = np.isfinite(steps[0]).any(1)
    if not some.any():
        return excess, spread
    for b in range(steps.shape[2]):
        others = np.delete(steps[:, some], b, axis=2)
        excess[:, some, b] = steps[:, some, b] - np.nanmedian(others, axis=2)
        middle = others.mean(0)
        away = np.abs(middle - np.nanmedian(middle, axis=1, keepdims=True))
        spread[some, b] = np.nanmax(away, axis=1)
    return excess, spread


def _standardised(
    excess: np.ndarray, sd: np.ndarray, spread: np.ndarray, relation: np.ndarray
) -> np.ndarray:
    """Return robust z of excesses, NaN where too few are compared.

    Parameters
    ----------
    excess, sd, spread : arrays, shape (n_children, n_benchmarks)
    relation : int array, shape (n_children,)
    """
    z = np.full(excess.shape, np.nan)
    for b in range(excess.shape[1]):
        seen = np.isfinite(excess[:, b])
        if seen.sum() < _FEWEST_STEPS:
            continue
        for kind in np.unique(relation[seen]):
            mine = seen & (relation == kind)
            like = mine if mine.sum() >= _FEWEST_STEPS else seen
            centre = np.median(excess[like, b])
            scale = _NORMAL * np.median(np.abs(excess[like, b] - centre))
            total = scale**2 + sd[mine, b] ** 2 + (_OWN_SHARE * spread[mine, b]) ** 2
            away = excess[mine, b] - centre
            z[mine, b] = away / np.sqrt(np.maximum(total, np.finfo(float).tiny))
    return z


def _neighbours(graph: sp.csr_array, node: int) -> list[int]:
    return [int(u) for u in graph.indices[graph.indptr[node] : graph.indptr[node + 1]]]
