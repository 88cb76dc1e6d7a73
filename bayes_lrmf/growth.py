"""Designs with more models and responses than a fit saw, and designs of some families alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from bayes_lrmf.covariates import Covariates
from bayes_lrmf.design import Design
from bayes_lrmf.gmrf import LaplacianGraph
from bayes_lrmf.joining import joined
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.responses import Responses

__all__ = ["families_of", "grown"]


def grown(
    design: Design,
    lineage: Lineage | None = None,
    responses: Responses | None = None,
    *,
    into_core: Iterable[str] = (),
) -> Design:
    """Return a design with further models, and further responses of old and new ones.

    What is known stays: recorded parents of models that the design has, and its core. Models with
    new responses become core nodes, and so do their unevaluated ancestors down from the core.

    Parameters
    ----------
    design : Design
    lineage : Lineage, optional
        Parents of new models. Edges into models that have parents or responses are left out, and a
        note says so.
    responses : Responses, optional
        On the items of the design.
    into_core : iterable of str
        Further models to become core nodes.

    Raises
    ------
    InputError
        For a response that the design has already.
    """
    tree = Lineage.empty() if lineage is None else lineage
    wanted = [*into_core, *(() if responses is None else responses.models)]
    known = {*tree.nodes, *design.periphery.nodes}
    strangers = [m for m in wanted if m not in known]
    if strangers:
        tree = dataclasses.replace(tree, nodes=np.append(tree.nodes, strangers))
    union, notes = _united(design, tree)
    table = design.responses if responses is None else joined(design.responses, responses)
    index = union.index
    in_core = np.zeros(len(union.nodes), bool)
    in_core[: design.n_core] = True
    parents: dict[int, list[int]] = {}
    for c, p in zip(union.child.tolist(), union.parent.tolist(), strict=True):
        parents.setdefault(c, []).append(p)
    stack = [index[m] for m in wanted]
    while stack:
        node = stack.pop()
        if not in_core[node]:
            in_core[node] = True
            stack += parents.get(node, [])
    evaluated = set(table.models)
    latent = [m for m in union.nodes[in_core] if m not in evaluated]
    core = union.among([*table.models, *latent])
    below = union.descendants(
        list(core.nodes),
        whole_merges=design.covariates is not None,
        others=design.models[design.n_core :],
    )
    return _complete(design, table, core, below, union.nodes, notes)


def families_of(design: Design, models: Iterable[str]) -> Design:
    """Return the design of these models and of all core nodes joined with them.

    Responses of others, and unevaluated descendants that were not asked for, are left out.

    Parameters
    ----------
    design : Design
    models : iterable of str

    Raises
    ------
    InputError
        For an unknown model, naming the nearest.
    """
    p = design.periphery
    keep = np.zeros(len(p.nodes), bool)
    keep[design.places(models)] = True
    # Parents stand before children, so that one pass from below reaches every ancestor.
    order = np.argsort(-p.child, kind="stable")
    for c, parent in zip(p.child[order].tolist(), p.parent[order].tolist(), strict=True):
        if keep[c]:
            keep[parent] = True
    label = design.core.components()
    keep[: design.n_core] = np.isin(label, label[keep[: design.n_core]])
    inside = keep[: design.n_evaluated]
    table = design.responses.select_models(design.responses.models[inside])
    core = design.core.among(design.core.nodes[keep[: design.n_core]])
    below = p.among(p.nodes[keep])
    return _complete(design, table, core, below, p.nodes[keep], ())


def _united(design: Design, lineage: Lineage) -> tuple[Lineage, list[str]]:
    """Return all edges among models of a design and new ones, old models first."""
    core, below = design.core, design.periphery
    names = [*below.nodes, *(m for m in lineage.nodes if m not in below.index)]
    index = {name: i for i, name in enumerate(names)}
    settled = np.zeros(len(names), bool)
    settled[: design.n_core] = True
    settled[below.child] = True
    child = np.array([index[m] for m in lineage.nodes], np.int32)[lineage.child]
    parent = np.array([index[m] for m in lineage.nodes], np.int32)[lineage.parent]
    new = ~settled[child]
    notes = []
    known = {
        *zip(core.child, core.parent, strict=True),
        *zip(below.child, below.parent, strict=True),
    }
    ignored = [
        names[c]
        for c, p in zip(child[~new].tolist(), parent[~new].tolist(), strict=True)
        if (c, p) not in known
    ]
    if ignored:
        some = ", ".join(dict.fromkeys(ignored[:3])) + (", ..." if len(ignored) > 3 else "")
        notes.append(
            f"{len(ignored)} edges into models of the fit are left out ({some}): "
            "fit again to use them"
        )
    union = Lineage(
        np.array(names, dtype=object),
        np.concatenate([core.child, below.child, child[new]]).astype(np.int32),
        np.concatenate([core.parent, below.parent, parent[new]]).astype(np.int32),
        np.concatenate([core.relation, below.relation, lineage.relation[new]]),
        np.concatenate([core.weight, below.weight, lineage.weight[new]]),
    )
    return union, notes


def _complete(
    design: Design,
    table: Responses,
    core: Lineage,
    below: Lineage,
    names: Iterable[str],
    notes: Sequence[str],
) -> Design:
    known = set(below.nodes)
    nodes = np.array([*below.nodes, *(m for m in names if m not in known)], dtype=object)
    periphery = dataclasses.replace(below, nodes=nodes)
    return Design(
        table,
        core,
        periphery,
        design.strengths,
        LaplacianGraph(core.adjacency(core.strengths(design.strengths))),
        design.item_graph,
        (*design.notes, *notes),
        _covariates(design, nodes),
    )


def _covariates(design: Design, nodes: np.ndarray) -> Covariates | None:
    """Return what is known of models; of new ones nothing is."""
    known = design.covariates
    if known is None:
        return None
    index = design.periphery.index
    at = np.array([index.get(name, -1) for name in nodes], np.int64)
    old = at >= 0
    values = np.zeros((len(nodes), known.values.shape[1]))
    values[old] = known.values[at[old]]
    values[:, 0] = 1.0
    kind = np.zeros(len(nodes), np.int32)
    kind[old] = known.kind[at[old]]
    return dataclasses.replace(known, values=values, kind=kind)
