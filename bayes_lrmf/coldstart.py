"""Fold new models, and new results of known ones, into a posterior without a refit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import jax
import numpy as np

from bayes_lrmf.block_elimination import BlockElimination, BlockFactor
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import Design
from bayes_lrmf.directed import StepScales
from bayes_lrmf.growth import families_of, grown
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_items import ItemGaussians
from bayes_lrmf.inference.vb_local import (
    ItemMoments,
    ModelMoments,
    local_maps,
    model_moments,
    onto_models,
    pull_of_models,
)
from bayes_lrmf.inference.vb_steps import DirectedPrior, Moments
from bayes_lrmf.joining import on_items_of
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior, VariationalState
from bayes_lrmf.redraw import redrawn
from bayes_lrmf.responses import Responses
from bayes_lrmf.scale_mixture import SCALE_GRID

__all__ = ["add", "is_directed", "with_core"]

_MOST_ROUNDS = 100
_CHANGE = 2e-3
_CURVATURE_ROUNDS = 3


class _System(NamedTuple):
    """A Gaussian of core nodes: precision blocks on `blocks`, and the mean."""

    blocks: BlockElimination
    diagonal: np.ndarray
    off: np.ndarray
    mean: np.ndarray

    def placed(self, blocks: BlockElimination, at: np.ndarray) -> _System:
        """Return the same on another elimination, with nothing known of further nodes.

        Parameters
        ----------
        blocks : BlockElimination
        at : int array, shape (n_nodes,)
            New position of each node, or -1 for those that are left out with all they are joined
            to. Fill of the old elimination is left behind: it is zero.
        """
        size, kept = self.mean.shape[1], at >= 0
        diagonal = np.zeros((blocks.n_nodes, size, size))
        off = np.zeros((blocks.n_entries, size, size))
        mean = np.zeros((blocks.n_nodes, size))
        diagonal[at[kept]], mean[at[kept]] = self.diagonal[kept], self.mean[kept]
        order = self.blocks.order
        rows, cols = at[order.neighbour], at[order.owner]
        inside = np.flatnonzero((rows >= 0) & (cols >= 0))
        inside = inside[blocks.order.joins(rows[inside], cols[inside])]
        entry, turned = blocks.located(rows[inside], cols[inside])
        block = self.off[inside]
        off[entry] = np.where(turned[:, None, None], block.mT, block)
        return _System(blocks, diagonal, off, mean)


def add(
    posterior: Posterior,
    *,
    lineage: Lineage | None = None,
    responses: Responses | None = None,
    key: jax.Array | None = None,
    whole: bool = True,
) -> Posterior:
    """Return a posterior that knows further models, and further results of any model.

    Models without responses are predicted from their parents, and change nothing else. Responses
    update, with items and hyper-parameters as they were fitted, the Gaussian of all models along
    the lineage: the model's own factors, its parents', its siblings'.

    Parameters
    ----------
    posterior : Posterior
    lineage : Lineage, optional
        Parents of the new models, which may be new too.
    responses : Responses, optional
        Of items of the fit.
    key : jax key, optional
        Needed for responses in fits of the Laplacian prior, which are drawn anew (`redrawn`).
    whole : bool
        False leaves out all models that are no kin of those named here: faster, and as good for
        predictions about these.

    Returns
    -------
    Posterior
        Its record says what was added.

    Raises
    ------
    InputError
        For an item that the fit lacks, or a result that it has already.

    Notes
    -----
    Of fits of the directed prior by vb, precision blocks of the fitted Gaussian are extended by the
    steps to new core nodes, whose variances expectation propagation integrates out, and by
    Polya-Gamma weights of the new responses, renewed until the means settle; then the expected
    curvature replaces the weights, as in `fit_vb`.
    """
    if lineage is not None and posterior.spec.lineage == "none":
        # Kin are nothing to this fit but names.
        lineage = Lineage.empty(lineage.nodes)
    new = None if responses is None else on_items_of(posterior.design.responses, responses)
    named = _named(lineage, new)
    if not named:
        raise InputError("nothing to add", fix="give a lineage or responses")
    told = new if new is not None and new.n_observed else None
    drawn = told is not None and not is_directed(posterior)
    if drawn and posterior.spec.lineage == "directed":
        raise InputError(
            f"responses cannot be folded into a fit of spec {posterior.spec.name} "
            f"by {posterior.record.method}",
            fix="fit it with method vb, or fit again",
        )
    if drawn and key is None:
        raise InputError("responses are drawn anew here", fix="give a key")
    near = posterior
    if is_directed(posterior) and (told is not None or not whole):
        near = _of_families(posterior, [m for m in named if m in posterior.design.periphery.index])
    part = grown(near.design, lineage, told)
    bigger = grown(posterior.design, lineage, told) if whole else part
    if posterior.spec.likelihood == "bernoulli":
        bigger = bigger.once_per_cell()
    n_models = len(bigger.models) - len((posterior if whole else near).design.models)
    if drawn and told is not None and key is not None:
        order = bigger.core.nodes[bigger.core.topological_order()]
        models = [m for m in order if m in set(told.models)]
        known = grown(posterior.design, lineage)
        strangers = [m for m in models if m not in known.periphery.index]
        known = grown(known, Lineage.empty(strangers)) if strangers else known
        posterior = redrawn(posterior, known, bigger, models, key=key)
    elif told is not None:
        found = _conditioned(near, part, told, _items(posterior))
        if whole:
            found = _merged(posterior, bigger, part, found)
        posterior = _with_nodes(posterior, bigger, found)
    else:
        posterior = dataclasses.replace(near if not whole else posterior, design=bigger)
    n_cells = 0 if told is None else told.n_observed
    message = f"{posterior.record.message}; {n_models} models and {n_cells} responses added since"
    record = dataclasses.replace(posterior.record, message=message)
    return dataclasses.replace(posterior, record=record)


def is_directed(posterior: Posterior) -> bool:
    """Whether it holds one Gaussian of all core nodes under the directed prior."""
    directed = posterior.spec.lineage == "directed"
    return directed and isinstance(posterior.state, VariationalState)


def with_core(posterior: Posterior, models: Sequence[str]) -> Posterior:
    """Return the posterior with these models among its core nodes, nothing more known of them.

    Their steps have the variances of the mixture that `Posterior.draws` of descendants have.

    Parameters
    ----------
    posterior : Posterior
        A fit of the directed prior by vb.
    models : sequence of str
    """
    old = posterior.design
    if all(model in old.core.index for model in models):
        return posterior
    design = grown(old, into_core=models)
    at = _positions(old, design)
    system = _system(posterior).placed(design.blocks, at)
    added = np.ones(design.n_core, bool)
    added[at] = False
    diagonal, off, linear = _prior(posterior, design).precision(added)
    pulled = design.blocks.multiply(system.diagonal, system.off, system.mean)
    system = _System(design.blocks, system.diagonal + diagonal, system.off + off, system.mean)
    factor = design.blocks.factor(system.diagonal, system.off)
    mean = design.blocks.solve(factor, pulled + linear)
    return _with_nodes(posterior, design, system._replace(mean=mean))


def _kept[T](function: Callable[[Posterior], T]) -> Callable[[Posterior], T]:
    """Keep what a function finds of a posterior for as long as that lives."""
    found: WeakKeyDictionary[Posterior, T] = WeakKeyDictionary()

    @functools.wraps(function)
    def looked_up(posterior: Posterior) -> T:
        if posterior not in found:
            found[posterior] = function(posterior)
        return found[posterior]

    return looked_up


def _named(lineage: Lineage | None, responses: Responses | None) -> list[str]:
    nodes = [] if lineage is None else list(lineage.nodes)
    return list(dict.fromkeys([*nodes, *([] if responses is None else responses.models)]))


@_kept
def _system(posterior: Posterior) -> _System:
    v, blocks = posterior.state.values, posterior.design.blocks
    factor = BlockFactor(v["model_root"].astype(float), v["model_lower"].astype(float))
    return _System(blocks, *blocks.precision(factor), v["model_mean"].astype(float))


def _positions(design: Design, other: Design) -> np.ndarray:
    """Return where the core nodes of a design stand in the core of another, or -1."""
    index = other.core.index
    return np.array([index.get(name, -1) for name in design.core.nodes], np.int64)


def _with_nodes(posterior: Posterior, design: Design, system: _System) -> Posterior:
    """Return a posterior with this Gaussian of the core nodes of a design."""
    factor = system.blocks.factor(system.diagonal, system.off)
    values = {
        "model_mean": system.mean,
        "model_root": factor.root.astype(np.float32),
        "model_lower": factor.lower.astype(np.float32),
    }
    state = VariationalState({**posterior.state.values, **values})
    return dataclasses.replace(posterior, design=design, state=state)


def _of_families(posterior: Posterior, models: Sequence[str]) -> Posterior:
    """Return the posterior of the families of some models alone; the whole one for none."""
    design = families_of(posterior.design, models)
    if not design.n_core:
        return posterior
    system = _system(posterior).placed(design.blocks, _positions(posterior.design, design))
    return _with_nodes(posterior, design, system)


def _conditioned(
    posterior: Posterior, design: Design, new: Responses, items: ItemMoments
) -> _System:
    """Return the Gaussian of the core of a grown design, given its new responses."""
    rank, blocks = posterior.spec.rank, design.blocks
    at = _positions(posterior.design, design)
    old = _system(posterior).placed(blocks, at)
    added = np.ones(design.n_core, bool)
    added[at] = False
    rows = np.array([design.core.index[m] for m in new.models])
    maps, panel = local_maps(design, posterior.spec)
    cols = np.unique(new.to_cells().cols)
    seen = dataclasses.replace(design, responses=new.select_items(cols))
    cells = CellTable(seen, posterior.spec, panel[cols], rank + 2, compiled=False)
    items = ItemMoments(*(part[cols] for part in items))
    noise = _noise(posterior)
    noise = None if noise is None else noise[cols]
    prior = _prior(posterior, design)
    steps = np.flatnonzero(added)
    pulled = blocks.multiply(old.diagonal, old.off, old.mean)
    square, pull = np.zeros_like(old.diagonal), np.zeros_like(old.mean)

    def updated() -> tuple[_System, Moments]:
        diagonal, off, linear = prior.precision(added)
        system = _System(blocks, old.diagonal + diagonal + square, old.off + off, old.mean)
        factor = blocks.factor(system.diagonal, system.off)
        mean = blocks.solve(factor, pulled + linear + pull)
        return system._replace(mean=mean), Moments(mean, *blocks.selected_inverse(factor))

    def local(moments: Moments) -> ModelMoments:
        return model_moments(maps, moments.mean[rows], moments.variance[rows], rank)

    system, moments = updated()
    for _ in range(_MOST_ROUNDS):
        sums = cells.about_models(local(moments), items, noise)
        square[rows] = onto_models(maps, sums.square)
        pull[rows] = pull_of_models(maps, sums)
        before, (system, moments) = moments, updated()
        prior = prior.reweighed(moments, steps)
        sd = np.sqrt(np.diagonal(moments.variance, axis1=1, axis2=2))
        if (np.abs(moments.mean - before.mean) / sd).max() < _CHANGE:
            break
    # From here on the mean is a step of Newton from the bound's, with its gradient there.
    bound = moments.mean
    force = pull[rows] - (square[rows] @ bound[rows, :, None])[..., 0]
    for _ in range(_CURVATURE_ROUNDS):
        bend = cells.curvature(local(moments._replace(mean=bound)), items, noise)
        square[rows] = onto_models(maps, bend.of_models)
        pull[rows] = force + (square[rows] @ bound[rows, :, None])[..., 0]
        system, moments = updated()
        prior = prior.reweighed(moments, steps)
    return system


@_kept
def _items(posterior: Posterior) -> ItemMoments:
    v, design = posterior.state.values, posterior.design
    root = v["item_root"].astype(float)
    means = np.concatenate([v["loading_mean"], v["intercept_mean"][None]]).T
    items = ItemGaussians(
        design,
        posterior.spec,
        v["item_mean"].astype(float),
        root @ root.mT,
        means,
        float(v["intercept_sd"]),
    )
    return items.local()


def _noise(posterior: Posterior) -> np.ndarray | None:
    """Return the variance of the over-dispersion of each item."""
    sd = posterior.state.values.get("overdispersion_sd")
    if sd is None:
        return None
    many = posterior.design.items["trials"].to_numpy() > 1
    return np.where(many, sd[posterior.design.benchmark_index].astype(float) ** 2, 0.0)


def _prior(posterior: Posterior, design: Design) -> DirectedPrior:
    """Return the prior of the steps at the fitted scales, its weights those of steps unseen."""
    scales = StepScales.from_values(posterior.state.values)
    step = design.directed.step
    n_effects = scales.effect_variance.shape[1]
    factor_weight = 1 / (scales.factor_shares @ SCALE_GRID)[step]
    effect_weight = 1 / (scales.effect_shares @ SCALE_GRID)[step]
    assert design.covariates is not None
    return DirectedPrior(
        design.directed,
        design.covariates,
        posterior.spec,
        scales,
        factor_weight,
        np.repeat(effect_weight[:, None], n_effects, axis=1),
        marginal=True,
    )


def _merged(posterior: Posterior, design: Design, part: Design, found: _System) -> _System:
    """Return the Gaussian of a whole core, of which some families were found anew."""
    old = _system(posterior).placed(design.blocks, _positions(posterior.design, design))
    at = _positions(part, design)
    renewed = found.placed(design.blocks, at)
    fresh = np.zeros(design.n_core, bool)
    fresh[at] = True
    order = design.blocks.order
    of_part = fresh[order.owner]
    return _System(
        design.blocks,
        np.where(fresh[:, None, None], renewed.diagonal, old.diagonal),
        np.where(of_part[:, None, None], renewed.off, old.off),
        np.where(fresh[:, None], renewed.mean, old.mean),
    )
