"""Recipes of mergekit: the parents of a merge, and the share that each has in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.sources.recipes import Group, Source, Where, documents_of, number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METHODS", "Merge", "last_merge", "read_merge"]

# How a method mixes its inputs; methods of one kind share a rule of `_shares`.
METHODS = {
    "linear": "weights",
    "slerp": "interpolation",
    "nuslerp": "donors",
    "multislerp": "donors",
    "karcher": "equal",
    "task_arithmetic": "task vectors",
    "ties": "task vectors, normalised",
    "dare_ties": "task vectors",
    "dare_linear": "task vectors",
    "breadcrumbs": "task vectors",
    "breadcrumbs_ties": "task vectors",
    "della": "task vectors, normalised",
    "della_linear": "task vectors",
    "sce": "equal donors",
    "ram": "equal donors",
    "ramplus_tl": "equal donors",
    "model_stock": "equal donors",
    "arcee_fusion": "equal",
    "nearswap": "equal",
    "passthrough": "copy",
}
_NEEDS_BASE = {"slerp", "sce", "ram", "ramplus_tl", "model_stock", "arcee_fusion", "nearswap"}
_PAIRS = {"slerp", "arcee_fusion", "nearswap"}


@dataclass(frozen=True)
class Merge:
    """What a merge is made of.

    Attributes
    ----------
    name : str or None
        Its name in a file of several merges.
    method : str
        One of `METHODS`.
    parents : tuple of str
    weights : tuple of float
        Share of each parent, positive; they sum to one.
    notes : tuple of str
        What reading left out, and why.
    """

    name: str | None
    method: str
    parents: tuple[str, ...]
    weights: tuple[float, ...]
    notes: tuple[str, ...] = ()

    def edges(self, child: str) -> pd.DataFrame:
        """Return rows ``child, parent, relation, weight`` for `read_lineage`.

        Parameters
        ----------
        child : str
            The name of the merge.
        """
        import pandas as pd

        frame = pd.DataFrame({"child": child, "parent": list(self.parents), "relation": "merge"})
        return frame.assign(weight=list(self.weights))


def read_merge(path: str | os.PathLike[str]) -> tuple[Merge, ...]:
    """Read a recipe of mergekit: who is merged, and in what shares.

    Shares are taken at every layer and averaged. Gradients are interpolated along the layers, and
    filters are matched against the names of the matrices in a layer, each counted by its size in
    Mistral 7B; norms, embeddings and the head do not count. Where the recipe does not say how many
    layers there are, 32 are assumed. Slices count by their layers.

    - ``linear``: weights, scaled to sum to one; a missing weight is 1.
    - ``slerp``: t for the model that is not the base, 1 - t for the base.
    - ``nuslerp``, ``multislerp``: weights of the models that are not the base, scaled to sum to
      one; the base is only an origin.
    - Methods that add task vectors (``task_arithmetic``, ``ties``, ``dare_*``, ``della*``,
      ``breadcrumbs*``) give base + sum c_i (model_i - base), where c_i is the weight, scaled to
      sum to one if ``normalize`` is on (which it is by default for ``ties`` and ``della``), times
      ``lambda``. A donor counts by abs(c_i) and the base by 1 - sum c_i if that is positive,
      scaled to sum to one. Pruning is not counted.
    - ``model_stock``, ``sce``, ``ram*``: the donors in equal shares, since the parameters decide;
      the base is only an origin. ``karcher``, ``arcee_fusion``, ``nearswap``: all in equal shares.
    - ``passthrough``: by layers.

    Parameters
    ----------
    path : str or path-like
        A YAML file of one recipe or, divided by ``---``, several, of which all but one have a
        ``name``; a parent of that name is replaced by its own parents.

    Returns
    -------
    tuple of Merge
        In the order of the file.

    Raises
    ------
    InputError
        If PyYAML is missing, the file is not a recipe, a method is unknown, or no weight is left.

    References
    ----------
    Goddard et al. (2024), Arcee's MergeKit: a toolkit for merging large language models.
    """
    documents = documents_of(path)
    merges: dict[str | None, Merge] = {}
    for where, document in documents:
        merge = _merge_of(document, where)
        if merge.name in merges:
            what = "two merges have no name" if merge.name is None else f"two merges {merge.name!r}"
            raise InputError(what, where=str(where), fix="give each its name")
        merges[merge.name] = merge
    done: dict[str | None, Merge] = {}
    return tuple(_resolve(name, merges, done, (), str(path)) for name in merges)


def last_merge(path: str | os.PathLike[str]) -> Merge:
    """Return the merge that a recipe is about: the one without a name, or else the last.

    Raises
    ------
    InputError
        As `read_merge`.
    """
    merges = read_merge(path)
    return next((merge for merge in merges if merge.name is None), merges[-1])


def _merge_of(document: Mapping[str, Any], where: Where) -> Merge:
    if "experts" in document:
        raise InputError(
            "a mixture of experts is no merge of weights",
            where=str(where),
            fix="write its experts into a lineage",
        )
    if "merge_method" not in document:
        raise InputError("no merge_method", where=str(where), fix="name the method, such as linear")
    method = str(document["merge_method"])
    one_of(method, METHODS, name="merge_method", where=str(where))
    total: dict[str, float] = {}
    notes: list[str] = []
    groups = where.groups(document)
    n_layers = sum(group.n_layers for group in groups)
    for group in groups:
        for model, share in _group_shares(method, group).items():
            total[model] = total.get(model, 0.0) + share
        notes += group.notes()
    # A base with an adapter, or of another revision, is a donor by the same name.
    donors = {s.name for group in groups for s in group.sources if s.model != group.base}
    from_base = METHODS[method].startswith("task vectors") or METHODS[method] == "equal donors"
    if from_base and not any(share > 0 for model, share in total.items() if model in donors):
        raise InputError(
            "all weights are 0, or the base stands alone",
            where=str(where),
            fix="give a model beside the base a weight above 0",
        )
    left_out = [model for model, share in total.items() if share <= 0]
    if left_out:
        notes.append(f"weight 0, left out: {', '.join(left_out)}")
    kept = {model: share / n_layers for model, share in total.items() if share > 0}
    name = document.get("name")
    return Merge(
        None if name is None else str(name),
        method,
        tuple(kept),
        tuple(kept.values()),
        tuple(dict.fromkeys(notes)),
    )


def _group_shares(method: str, group: Group) -> dict[str, float]:
    """Return shares of the models of a group, which sum to its number of layers."""
    base = group.base
    needs_base = method in _NEEDS_BASE or METHODS[method].startswith("task vectors")
    if needs_base and base is None:
        raise InputError(f"{method} without base_model", where=group.where, fix="name the base")
    sources = group.with_base() if method in _PAIRS or METHODS[method] == "equal" else group.sources
    if method in _PAIRS:
        if len(sources) != 2 or not any(source.model == base for source in sources):
            raise InputError(
                f"{method} takes the base and one other model, not {len(sources)}",
                where=group.where,
                fix="name two models, one of them as base_model",
            )
    elif method == "passthrough" and len(sources) != 1:
        raise InputError(
            f"passthrough takes one model for a slice, not {len(sources)}",
            where=group.where,
            fix="give each its slice",
        )
    donors = [source for source in sources if source.model != base]
    if METHODS[method] == "donors" and (not donors or (method == "nuslerp" and len(donors) != 2)):
        wanted = "two models" if method == "nuslerp" else "a model"
        raise InputError(
            f"{method} takes {wanted} beside the base, not {len(donors)}",
            where=group.where,
            fix="correct the list of models",
        )
    total = dict.fromkeys((source.name for source in sources), 0.0)
    n_mixed = 0.0
    for size, at in group.places():
        parts = _shares(method, group, sources, at)
        whole = sum(parts.values())
        if whole <= 0:
            continue
        n_mixed += size
        for name, part in parts.items():
            total[name] = total.get(name, 0.0) + size * part / whole
    if not n_mixed:
        raise InputError("all weights are 0", where=group.where, fix="give a weight above 0")
    return {name: share * group.n_layers / n_mixed for name, share in total.items()}


def _shares(
    method: str, group: Group, sources: Sequence[Source], at: tuple[str, float]
) -> dict[str, float]:
    """Return what each model adds at one matrix of one layer, not scaled."""
    base, kind = group.base, METHODS[method]
    donors = [source for source in sources if source.model != base]
    if kind == "interpolation":
        t = number(group.value("t", at), "t", group.where)
        if not 0 <= t <= 1:
            raise InputError(f"t is {t:g}", where=group.where, fix="give a number from 0 to 1")
        return _summed((s.name, 1 - t if s.model == base else t) for s in sources)
    if kind in ("equal", "copy"):
        return _summed((s.name, 1.0) for s in sources)
    if kind == "equal donors":
        return _summed((s.name, 1.0) for s in donors or sources)
    counted = sources if kind == "weights" else donors
    weights = [number(group.value("weight", at, s, 1.0), "weight", group.where) for s in counted]
    if not kind.startswith("task vectors"):
        return _summed((s.name, abs(w)) for s, w in zip(counted, weights, strict=True))
    normalize = group.value("normalize", at, default=kind.endswith("normalised"))
    scale = number(group.value("lambda", at, default=1.0), "lambda", group.where)
    if normalize and abs(sum(weights)) > 1e-8:
        scale /= sum(weights)
    added = [scale * w for w in weights]
    rest = 1 - sum(added)
    parts = [(s.name, abs(c)) for s, c in zip(counted, added, strict=True)]
    # The base has its part last, and none where rounding alone leaves some.
    return _summed([*parts, (group.base_name, rest if rest > 1e-9 else 0.0)])


def _summed(parts: Iterator[tuple[str, float]] | Sequence[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, part in parts:
        found[name] = found.get(name, 0.0) + part
    return found


def _resolve(
    name: str | None,
    merges: Mapping[str | None, Merge],
    done: dict[str | None, Merge],
    above: tuple[str | None, ...],
    where: str,
) -> Merge:
    """Put into `done` a merge whose parents are no merges of the same file, and return it."""
    if name in done:
        return done[name]
    if name in above:
        raise InputError(
            "merges go in a circle: " + " -> ".join(str(n) for n in [*above, name]),
            where=where,
            fix="remove one of them",
        )
    merge = merges[name]
    parts: list[tuple[str, float]] = []
    notes = list(merge.notes)
    for parent, weight in zip(merge.parents, merge.weights, strict=True):
        if parent not in merges:
            parts.append((parent, weight))
            continue
        inner = _resolve(parent, merges, done, (*above, name), where)
        notes += inner.notes
        parts += [(p, weight * w) for p, w in zip(inner.parents, inner.weights, strict=True)]
    found = _summed(parts)
    parents, weights = tuple(found), tuple(found.values())
    done[name] = replace(merge, parents=parents, weights=weights, notes=tuple(dict.fromkeys(notes)))
    return done[name]
