"""Joint Gaussians of models, a family at a time, with the items of the fit at their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components, depth_first_order

from bayes_lrmf.block_elimination import BlockFactor
from bayes_lrmf.checks import InputError
from bayes_lrmf.coldstart import is_directed, with_core
from bayes_lrmf.draws import noise_sd_of, rows_and_columns
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior

__all__ = ["FamilyGaussian", "Panel", "family_gaussians"]

_MOST_TOGETHER = 200
_N_DRAWS = 1000
_BASIS_MODELS = 300


class FamilyGaussian(NamedTuple):
    """Models whose log-odds are correlated; other families are independent of them.

    Attributes
    ----------
    models : array of str, shape (n,)
    mean : array, shape (n, D)
    covariance : array, shape (n, D, n, D)
    """

    models: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


class Panel(NamedTuple):
    """Items: log-odds of a model at ``t`` are normal around ``vectors @ t + offset``.

    Attributes
    ----------
    vectors : array, shape (n_items, D)
    offset : array, shape (n_items,)
    noise : array, shape (n_items,)
        Variance of the log-odds of a cell beside that of the model: over-dispersion, and what is
        not known of the item.
    """

    vectors: np.ndarray
    offset: np.ndarray
    noise: np.ndarray


def family_gaussians(
    posterior: Posterior, models: Sequence[str], *, key: jax.Array
) -> tuple[list[FamilyGaussian], Panel]:
    """Return what is known of some models, as Gaussians that responses can update.

    Of a fit of the directed prior by vb this is the fitted Gaussian itself. Of other fits it has
    the moments of 1,000 draws, of log-odds projected on their leading directions over the items,
    which rotations of the factors leave alone. Families of more than 200 of the models are cut
    into parts along the lineage; what the parts say of each other is left out.

    Parameters
    ----------
    posterior : Posterior
    models : sequence of str
    key : jax key
        For the draws.

    Raises
    ------
    InputError
        For a point estimate.
    """
    if posterior.is_point:
        raise InputError("a point estimate knows no uncertainty", fix="fit with vb, svi or nuts")
    if is_directed(posterior):
        return _exact(with_core(posterior, models), models)
    return _of_draws(posterior, models, key)


class _Tree(NamedTuple):
    """Edges of a lineage without directions, and the family of each node."""

    graph: sp.csr_array
    label: np.ndarray

    @classmethod
    def of(cls, *lineages: Lineage) -> _Tree:
        n = len(lineages[-1].nodes)
        child, parent = (
            np.concatenate([getattr(t, side) for t in lineages]) for side in ("child", "parent")
        )
        graph = sp.csr_array((np.ones(len(child)), (child, parent)), shape=(n, n))
        return cls(graph, connected_components(graph, directed=False)[1])

    def groups(self, at: np.ndarray) -> list[np.ndarray]:
        """Return indices into `at`, nodes, by family; neighbours, where these are too large."""
        place = np.full(len(self.label), -1)
        place[at] = np.arange(len(at))
        order = np.argsort(self.label[at], kind="stable")
        borders = np.flatnonzero(np.diff(self.label[at][order])) + 1
        found = []
        for family in np.split(order, borders):
            if len(family) > _MOST_TOGETHER:
                along = depth_first_order(self.graph, at[family[0]], directed=False)[0]
                family = place[along]
                family = family[family >= 0]
            found += np.array_split(family, -(-len(family) // _MOST_TOGETHER))
        return found


def _exact(posterior: Posterior, models: Sequence[str]) -> tuple[list[FamilyGaussian], Panel]:
    design, v = posterior.design, posterior.state.values
    at = np.array([design.core.index[m] for m in models], np.int64)
    factor = BlockFactor(v["model_root"].astype(float), v["model_lower"].astype(float))
    variance = design.blocks.selected_inverse(factor)[0]
    mean = v["model_mean"].astype(float)
    names = np.array(list(models), dtype=object)
    found = []
    for g in _Tree.of(design.core).groups(at):
        # A model of its own needs no walk along its kin.
        block = (
            design.blocks.joint_covariance(factor, at[g])
            if len(g) > 1
            else variance[at[g], :, None]
        )
        found.append(FamilyGaussian(names[g], mean[at[g]], block))
    return found, _panel_of_state(posterior)


def _panel_of_state(posterior: Posterior) -> Panel:
    design, v = posterior.design, posterior.state.values
    k, n_ability, _ = v["model_layout"].tolist()
    ones = [np.ones((design.n_items, n_ability))]
    if posterior.spec.benchmark_effects:
        ones.append((design.benchmark_index[:, None] == design.effect_benchmarks).astype(float))
    item = v["item_mean"].astype(float)
    known = v["model_mean"][: design.n_evaluated, :k].astype(float)
    known = np.concatenate([known, np.ones((len(known), 1))], axis=1)
    spread = v["item_root"].astype(float).mT @ (known.T @ known / len(known)) @ v["item_root"]
    noise = np.trace(spread, axis1=1, axis2=2)
    sd = v.get("overdispersion_sd")
    if sd is not None:
        many = design.items["trials"].to_numpy() > 1
        noise = noise + np.where(many, sd[design.benchmark_index].astype(float) ** 2, 0.0)
    return Panel(np.concatenate([item[:, :k], *ones], axis=1), item[:, k], noise)


def _of_draws(
    posterior: Posterior, models: Sequence[str], key: jax.Array
) -> tuple[list[FamilyGaussian], Panel]:
    draw_key, rest = jax.random.split(key)
    design = posterior.design
    values = posterior.draws(_N_DRAWS, key=draw_key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rest)).tolist())
    at = np.array([design.periphery.index[m] for m in models], np.int64)
    some = np.sort(rng.permutation(design.n_evaluated)[:_BASIS_MODELS])
    rows, cols = rows_and_columns(
        posterior, values, rng=rng, chosen=np.unique(np.concatenate([at, some]))
    )
    place = np.searchsorted(np.unique(np.concatenate([at, some])), at)
    n_fields = rows.shape[1] - ("intercept" in values)
    psi = np.einsum("dfm,dfi->mi", rows, cols, optimize=True) / len(rows)
    offset = psi.mean(0)
    size = min(n_fields, *psi.shape)
    basis = np.linalg.svd(psi - offset, full_matrices=False)[2][:size].astype(float)
    # Orthonormal directions: what psi of a draw is along them.
    turned = np.einsum("dfi,ki->dfk", cols, basis, optimize=True)
    projected = np.einsum("dfm,dfk->dmk", rows, turned, optimize=True) - basis @ offset
    left = np.zeros(design.n_items)
    for row, col, near in zip(rows, cols, projected, strict=True):
        left += ((row.T @ col - offset - near @ basis) ** 2).mean(0)
    noise = left / len(rows)
    sd = noise_sd_of(posterior, values)
    if sd is not None:
        noise = noise + (sd.astype(float) ** 2).mean(0)
    chosen = projected[:, place].astype(float)
    mean = chosen.mean(0)
    around = (chosen - mean) / np.sqrt(len(chosen) - 1)
    names = np.array(list(models), dtype=object)
    found = []
    for g in _Tree.of(design.core, design.periphery).groups(at):
        flat = around[:, g].reshape(len(around), -1)
        covariance = (flat.T @ flat).reshape(len(g), size, len(g), size)
        found.append(FamilyGaussian(names[g], mean[g], covariance))
    return found, Panel(basis.T, offset, noise)
