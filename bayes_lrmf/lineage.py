"""The lineage graph: read, validate, aliases, cycles, components, Laplacian."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from bayes_lrmf.checks import InputError, nearest, one_of
from bayes_lrmf.tables import Table, read_table, table_of_frame, write_table

__all__ = [
    "RELATIONS",
    "Lineage",
    "lineage_from_frame",
    "read_aliases",
    "read_lineage",
    "write_lineage",
]

RELATIONS = ("finetune", "merge", "adapter", "quantized", "ancestor")

_COLUMNS = ("child", "parent", "relation", "weight")


@dataclass(frozen=True, eq=False, repr=False)
class Lineage:
    """Who was made from whom.

    Attributes
    ----------
    nodes : array of str, shape (n_nodes,)
    child, parent : int32 arrays, shape (n_edges,)
        Indices into `nodes`.
    relation : array of str, shape (n_edges,)
        One of `RELATIONS`; ``ancestor`` is a parent at an unknown distance.
    weight : float array, shape (n_edges,)
        Share of each parent in its child; sums to one over the parents of a child.
    notes : tuple of str
        What reading dropped or kept, and why.
    """

    nodes: np.ndarray
    child: np.ndarray
    parent: np.ndarray
    relation: np.ndarray
    weight: np.ndarray
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Lineage({len(self.nodes):,} models, {len(self.child):,} edges)"

    @classmethod
    def empty(cls, nodes: Iterable[str] = ()) -> Lineage:
        """Return a lineage of these models without edges."""
        none = np.empty(0, np.int32)
        names = np.array(list(nodes), dtype=object)
        return cls(names, none, none, np.empty(0, object), np.empty(0))

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each name in `nodes`."""
        return {name: i for i, name in enumerate(self.nodes)}

    @cached_property
    def _parents(self) -> list[list[int]]:
        lists: list[list[int]] = [[] for _ in self.nodes]
        for c, p in zip(self.child.tolist(), self.parent.tolist(), strict=True):
            lists[c].append(p)
        return lists

    def _edges(self, keep: np.ndarray, nodes: np.ndarray, position: np.ndarray) -> Lineage:
        """Return the edges `keep` over `nodes`; `position` maps old indices to new ones."""
        child, parent = position[self.child[keep]], position[self.parent[keep]]
        weight = _normalised(child, self.weight[keep], len(nodes))
        child, parent = child.astype(np.int32), parent.astype(np.int32)
        return Lineage(nodes, child, parent, self.relation[keep], weight)

    def core(self, evaluated: Sequence[str], *, whole_merges: bool = False) -> Lineage:
        """Return the evaluated models and the unevaluated ancestors that join them.

        Evaluated models come first, in the given order, kin or not. Unevaluated ancestors with at
        most one neighbour among the rest tell nothing and are left out, again and again.

        Parameters
        ----------
        evaluated : sequence of str
        whole_merges : bool
            Whether a model that keeps a parent keeps its others too. They tell nothing either, but
            without them it would seem to be made of the one alone.
        """
        n = len(self.nodes)
        known = [self.index[m] for m in evaluated if m in self.index]
        above = np.zeros(n, bool)
        stack = list(known)
        above[known] = True
        inside = above.tolist()
        while stack:
            for p in self._parents[stack.pop()]:
                if not inside[p]:
                    inside[p] = True
                    stack.append(p)
        above = np.array(inside, dtype=bool)
        keep = above[self.child] & above[self.parent]
        low = np.minimum(self.child, self.parent)[keep].astype(np.int64)
        high = np.maximum(self.child, self.parent)[keep]
        low, high = np.divmod(pd.unique(low * n + high), n)
        degree = np.bincount(np.concatenate([low, high]), minlength=n)
        # A node of one neighbour is joined to the sum over its neighbours.
        total = (np.bincount(low, high, minlength=n) + np.bincount(high, low, minlength=n)).tolist()
        fixed = np.zeros(n, bool)
        fixed[known] = True
        loose = np.flatnonzero(above & ~fixed & (degree <= 1)).tolist()
        left, is_fixed = degree.tolist(), fixed.tolist()
        while loose:
            i = loose.pop()
            inside[i] = False
            if left[i]:
                j = int(total[i])
                left[j] -= 1
                total[j] -= i
                if left[j] == 1 and not is_fixed[j]:
                    loose.append(j)
        kept = np.array(inside, bool)
        if whole_merges:
            kept |= self._other_parents(kept[self.child] & kept[self.parent])
        latent = np.flatnonzero(kept & ~fixed)
        names = np.array([*evaluated, *self.nodes[latent]], dtype=object)
        position = np.full(len(self.nodes), -1)
        for at, name in enumerate(names):
            if name in self.index:
                position[self.index[name]] = at
        keep = (position[self.child] >= 0) & (position[self.parent] >= 0)
        return self._edges(keep, names, position)

    def _other_parents(self, edges: np.ndarray) -> np.ndarray:
        """Return which nodes are parents of the children of these edges, shape (n_nodes,)."""
        of_child, of_parent = np.zeros((2, len(self.nodes)), bool)
        of_child[self.child[edges]] = True
        of_parent[self.parent[of_child[self.child]]] = True
        return of_parent

    def descendants(
        self, core: Sequence[str], *, whole_merges: bool = False, others: Iterable[str] = ()
    ) -> Lineage:
        """Return `core`, then their other descendants, parents before children.

        Only edges into those descendants are kept, from parents that are core or descendants too.

        Parameters
        ----------
        core : sequence of str
        whole_merges : bool
            Whether the other parents of those descendants stand after the core, without parents of
            their own.
        others : iterable of str
            Models that stand there too, if they do not descend from the core. What descends from
            them counts as the core's descendants do.
        """
        position = np.full(len(self.nodes), -1)
        for at, name in enumerate(core):
            if name in self.index:
                position[self.index[name]] = at
        founder = np.zeros(len(self.nodes), bool)
        founder[[self.index[m] for m in others if m in self.index]] = True
        below, parents, is_founder = [], self._parents, founder.tolist()
        reached = (position >= 0).tolist()
        for i in self._walk[0]:
            if not reached[i]:
                reached[i] = any(reached[p] for p in parents[i])
                if reached[i]:
                    below.append(i)
                elif is_founder[i]:
                    reached[i] = True
        under = np.zeros(len(self.nodes), bool)
        under[below] = True
        beside = np.array(reached, bool) & ~under & (position < 0)
        if whole_merges:
            beside |= self._other_parents(under[self.child]) & ~under & (position < 0)
        after = np.concatenate([np.flatnonzero(beside), np.array(below, np.int64)])
        position[after] = len(core) + np.arange(len(after))
        names = np.array([*core, *self.nodes[after]], dtype=object)
        keep = under[self.child] & (position[self.parent] >= 0)
        return self._edges(keep, names, position)

    def among(self, models: Iterable[str]) -> Lineage:
        """Return the edges between these models alone: nobody is joined through others."""
        names = np.array(list(dict.fromkeys(models)), dtype=object)
        position = np.full(len(self.nodes), -1)
        for at, name in enumerate(names):
            if name in self.index:
                position[self.index[name]] = at
        keep = (position[self.child] >= 0) & (position[self.parent] >= 0)
        return self._edges(keep, names, position)

    def of_relations(self, relations: Iterable[str]) -> Lineage:
        """Return the same models and the edges of these relations alone."""
        wanted = [one_of(r, RELATIONS, name="relation") for r in relations]
        keep = np.isin(self.relation.astype(str), wanted)
        return self._edges(keep, self.nodes, np.arange(len(self.nodes)))

    def shuffled(self, rng: np.random.Generator, *, n_swaps: int = 20) -> Lineage:
        """Return a random lineage in which every model has as many parents and children.

        Pairs of edges of one relation exchange their parents: numbers are kept relation by
        relation, and a child keeps the weights of its parents. Exchanges that would repeat an
        edge or close a cycle are passed over.

        Parameters
        ----------
        rng : numpy Generator
        n_swaps : int
            Exchanges tried for each edge.

        References
        ----------
        Maslov and Sneppen (2002), Specificity and stability in topology of protein networks.
        """
        parent, child = self.parent.tolist(), self.child.tolist()
        parents = [set(p) for p in self._parents]

        def own_ancestor(start: int) -> bool:
            stack, seen = list(parents[start]), set(parents[start])
            while stack:
                new = parents[stack.pop()] - seen
                seen |= new
                stack += new
            return start in seen

        def swap(e: int, f: int) -> None:
            for edge, new in ((e, parent[f]), (f, parent[e])):
                parents[child[edge]].remove(parent[edge])
                parents[child[edge]].add(new)
            parent[e], parent[f] = parent[f], parent[e]

        for relation in sorted(set(self.relation)):
            edges = np.flatnonzero(self.relation == relation)
            for e, f in rng.choice(edges, (n_swaps * len(edges), 2)).tolist():
                repeats = parent[f] in parents[child[e]] or parent[e] in parents[child[f]]
                if repeats or child[e] == child[f]:
                    continue
                swap(e, f)
                if own_ancestor(child[e]) or own_ancestor(child[f]):
                    swap(e, f)
        return replace(self, parent=np.array(parent, np.int32))

    def strengths(self, relation_strength: Mapping[str, float] | None = None) -> np.ndarray:
        """Return Laplacian weights of the edges, shape (n_edges,).

        The strength of the relation, times the weight of the parent, times the number of parents:
        equal parents count in full each. Without strengths, 1 for every edge (the paper's A).
        """
        if relation_strength is None:
            return np.ones(len(self.child))
        by_relation = np.array([relation_strength[r] for r in self.relation], dtype=float)
        n_parents = np.bincount(self.child, minlength=len(self.nodes))[self.child]
        return by_relation * n_parents * self.weight

    def adjacency(self, strengths: np.ndarray | None = None) -> sp.csr_array:
        """Return the symmetric adjacency A; of two edges between one pair the stronger counts."""
        n = len(self.nodes)
        values = self.strengths() if strengths is None else strengths
        low = np.minimum(self.child, self.parent).astype(np.int64)
        high = np.maximum(self.child, self.parent)
        pair = pd.Series(values).groupby(low * n + high).max()
        keys = pair.index.to_numpy()
        upper = sp.coo_array((pair.to_numpy(dtype=float), (keys // n, keys % n)), shape=(n, n))
        return sp.csr_array(upper + upper.T)

    def laplacian(self, strengths: np.ndarray | None = None) -> sp.csr_array:
        """Return the un-normalised Laplacian L = D - A."""
        adjacency = self.adjacency(strengths)
        return sp.csr_array(sp.diags_array(adjacency.sum(axis=1)) - adjacency)

    def components(self) -> np.ndarray:
        """Return the label of each node's connected component, shape (n_nodes,)."""
        return np.asarray(connected_components(self.adjacency(), directed=False)[1])

    def _digraph(self) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.nodes)))
        graph.add_edges_from(zip(self.parent.tolist(), self.child.tolist(), strict=True))
        return graph

    @cached_property
    def _walk(self) -> tuple[list[int], list[int]]:
        """Return nodes with parents before children, as far as no cycle is met, and depths."""
        edges = pd.DataFrame({"parent": self.parent, "child": self.child}).drop_duplicates()
        n, parent = len(self.nodes), edges["parent"].to_numpy()
        children = edges["child"].to_numpy()[np.argsort(parent, kind="stable")].tolist()
        first = np.searchsorted(np.sort(parent), np.arange(n + 1)).tolist()
        awaited = np.bincount(edges["child"], minlength=n)
        order, depth = np.flatnonzero(awaited == 0).tolist(), [0] * n
        waiting = awaited.tolist()
        for i in order:
            below = depth[i] + 1
            for c in children[first[i] : first[i + 1]]:
                depth[c] = max(depth[c], below)
                waiting[c] -= 1
                if not waiting[c]:
                    order.append(c)
        return order, depth

    def topological_order(self) -> np.ndarray:
        """Return node indices, parents before children."""
        return np.array(self._walk[0], dtype=np.int64)

    def depth(self) -> np.ndarray:
        """Return the longest number of steps from a root to each node."""
        return np.array(self._walk[1], dtype=np.int64)

    def layout(self) -> pd.DataFrame:
        """Return a row and a depth for each node, to draw the lineage as an indented tree.

        Returns
        -------
        DataFrame
            Indexed like `nodes`: ``model``; ``row``, from 0 at the top, no two alike, families
            one below another and a model below its first recorded parent; ``depth``, steps from
            a root on the longest way.
        """
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.nodes)))
        first = {c: near[0] for c, near in enumerate(self._parents) if near}
        graph.add_edges_from((p, c) for c, p in first.items())
        row = np.zeros(len(self.nodes), np.int64)
        roots = [i for i in graph if i not in first]
        order = (i for root in roots for i in nx.dfs_preorder_nodes(graph, root))
        for at, i in enumerate(order):
            row[i] = at
        return pd.DataFrame({"model": self.nodes, "row": row, "depth": self.depth()})

    def _at(self, name: str) -> int:
        if name not in self.index:
            one_of(name, self.index, name="model")
        return self.index[name]

    def parents_of(self, name: str) -> list[str]:
        """Return the recorded parents of a model."""
        return [self.nodes[p] for p in self._parents[self._at(name)]]

    def children_of(self, name: str) -> list[str]:
        """Return the recorded children of a model."""
        return list(self.nodes[self.child[self.parent == self._at(name)]])

    def kin_of(self, name: str, distance: int) -> list[str]:
        """Return the models within `distance` steps up or down of a model, without itself."""
        reach = nx.single_source_shortest_path_length(
            self._digraph().to_undirected(as_view=True), self._at(name), cutoff=distance
        )
        return [self.nodes[i] for i, steps in reach.items() if steps]

    def summary(self, models: Sequence[str]) -> str:
        """Say how many of `models` have a recorded parent, and how many are connected."""
        at = np.array([self.index[m] for m in models if m in self.index], dtype=np.int64)
        has_parent = np.zeros(len(self.nodes), bool)
        has_parent[self.child] = True
        label = self.components()[at] if len(at) else at
        size = np.bincount(label, minlength=1)
        connected = int((size[label] > 1).sum()) if len(at) else 0
        parents = int(has_parent[at].sum())
        return (
            f"{parents:,} of {len(models):,} models have a recorded parent; "
            f"{connected:,} are connected"
        )


def _normalised(child: np.ndarray, weight: np.ndarray, n_nodes: int) -> np.ndarray:
    total = np.bincount(child, weight, minlength=n_nodes)
    return weight / total[child] if len(child) else np.empty(0)


def read_lineage(path: str | os.PathLike[str], *, aliases: Any = None) -> Lineage:
    """Read edges ``child, parent, relation[, weight]`` from CSV or Parquet.

    Parameters
    ----------
    path : str or path-like
    aliases : path, DataFrame or mapping, optional
        Columns ``alias, name``, or alias -> name: other names of models.

    Raises
    ------
    InputError
        For missing or unknown columns, relations or names, weights that are not positive, and
        cycles, which are named.
    """
    table = read_table(path, key="child", text=("child", "parent", "relation"), what="lineage file")
    return _lineage_of(table, read_aliases(aliases))


def lineage_from_frame(
    frame: pd.DataFrame, *, aliases: Any = None, where: str | None = None
) -> Lineage:
    """Check a frame with the columns of `read_lineage` and return its lineage.

    Parameters
    ----------
    frame : DataFrame
    aliases : path, DataFrame or mapping, optional
        As for `read_lineage`.
    where : str, optional
        What messages call the frame.

    Raises
    ------
    InputError
        As `read_lineage`.
    """
    return _lineage_of(table_of_frame(frame, key="child", name=where), read_aliases(aliases))


def write_lineage(lineage: Lineage, path: str | os.PathLike[str]) -> None:
    """Write edges as CSV or Parquet, whole or not at all; models without edges are not in it.

    Parameters
    ----------
    lineage : Lineage
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq.

    Raises
    ------
    InputError
        For another name, or a folder that cannot be written.
    """
    columns = {
        "child": pa.array(list(lineage.nodes[lineage.child]), pa.string()),
        "parent": pa.array(list(lineage.nodes[lineage.parent]), pa.string()),
        "relation": pa.array(list(lineage.relation), pa.string()),
        "weight": pa.array(lineage.weight, pa.float64()),
    }
    write_table(columns, path)


def read_aliases(given: Any) -> dict[str, str]:
    """Return alias -> name, chains of aliases followed to their end.

    Parameters
    ----------
    given : path, DataFrame, mapping or None
        Columns ``alias, name``, or alias -> name.

    Raises
    ------
    InputError
        If columns are missing, an alias stands for two names, or aliases go in a circle.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if isinstance(given, pd.DataFrame):
            table = table_of_frame(given, key="alias", name="aliases")
        else:
            table = read_table(given, key="alias", text=("alias", "name"), what="alias table")
        _check_columns(table, ("alias", "name"), ())
        (a, alias, _), (b, name, _) = table.names("alias"), table.names("name")
        pairs = [(alias[i], name[j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
        given = dict(pairs)
        for known, meant in pairs:
            if given[known] != meant:
                raise InputError(
                    f"alias {known!r} stands for both {meant!r} and {given[known]!r}",
                    where=table.name,
                    fix="keep one",
                )
    resolved: dict[str, str] = {}
    for alias in given:
        seen, name = {alias: None}, alias
        while name not in resolved and name in given and given[name] != name:
            name = given[name]
            if name in seen:
                circle = " -> ".join([*seen, name])
                raise InputError(f"aliases go in a circle: {circle}", fix="remove one of them")
            seen[name] = None
        end = resolved.get(name, name)
        resolved |= {one: end for one in seen if one in given}
    return {alias: resolved[alias] for alias in given}


def _check_columns(table: Table, needed: Sequence[str], optional: Sequence[str]) -> None:
    columns = [str(c) for c in table.frame.columns]
    for column in needed:
        if column not in columns:
            close = nearest(column, [c for c in columns if c not in (*needed, *optional)])
            hint = f"rename {close!r}" if close else "its columns are " + ", ".join(columns[:6])
            raise InputError(f"no column {column!r}", where=table.name, fix=hint)
    for column in columns:
        one_of(column, [*needed, *optional], name="column", where=table.name)


def _lineage_of(table: Table, aliases: Mapping[str, str]) -> Lineage:
    _check_columns(table, _COLUMNS[:3], _COLUMNS[3:])
    relations = table.frame["relation"].astype(object)
    for row in np.flatnonzero(~relations.isin(RELATIONS).to_numpy()).tolist():
        value = relations.iloc[row]
        given = "" if pd.isna(value) else str(value).strip()
        one_of(given, RELATIONS, name="relation", where=table.place(row))
    weight = np.full(len(table.frame), np.nan)
    if "weight" in table.frame:
        weight = table.numbers("weight", valid="a number above 0, or leave it empty")
        bad = ~np.isnan(weight) & ~((weight > 0) & np.isfinite(weight))
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f"weight is {weight[row]:g}",
                where=table.place(row, column="weight"),
                fix="give a number above 0, or leave it empty",
            )
    notes: list[str] = []
    names = {}
    for column in ("child", "parent"):
        codes, unique, stripped = table.names(column)
        renamed = [aliases.get(name, name) for name in unique]
        n_aliases = sum(a != b for a, b in zip(unique, renamed, strict=True))
        if n_aliases:
            notes.append(f"{_times(n_aliases, column)} renamed by the alias table")
        if stripped:
            notes.append(f"blanks around {_times(len(stripped), column)} stripped")
        names[column] = np.array(renamed, dtype=object)[codes]
    edges = pd.DataFrame(
        {**names, "relation": relations.astype(str).str.strip().to_numpy(object), "weight": weight}
    )
    edges = _without_repeats(edges, notes)
    code, nodes = pd.factorize(np.concatenate([edges["child"], edges["parent"]]))
    child, parent = code[: len(edges)].astype(np.int32), code[len(edges) :].astype(np.int32)
    _note_case(nodes, notes)
    stated = edges["weight"].to_numpy()
    # A child whose parents carry some weights but not all is a mistake, not a default.
    n_given = np.bincount(child, ~np.isnan(stated), minlength=len(nodes))
    partly = (n_given > 0) & (n_given < np.bincount(child, minlength=len(nodes)))
    if partly.any():
        name = nodes[int(partly.argmax())]
        raise InputError(
            f"some parents of {name} have a weight and some have none",
            where=table.name,
            fix="give all or none",
        )
    weights = _normalised(child, np.where(np.isnan(stated), 1.0, stated), len(nodes))
    relation = edges["relation"].to_numpy(object)
    lineage = Lineage(np.asarray(nodes, object), child, parent, relation, weights, tuple(notes))
    _refuse_cycles(lineage, table.name)
    return lineage


def _times(n: int, noun: str) -> str:
    return f"{n:,} {noun} name{'s' if n != 1 else ''}"


def _without_repeats(edges: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    loops = edges["child"] == edges["parent"]
    if loops.any():
        some = ", ".join(edges.loc[loops, "child"].unique()[:3])
        notes.append(f"{int(loops.sum()):,} self-loops dropped ({some})")
        edges = edges[~loops]
    # A direct relation says more than an ancestor at an unknown distance.
    edges = edges.assign(unknown=edges["relation"] == "ancestor")
    edges = edges.sort_values("unknown", kind="stable")
    repeated = edges.duplicated(["child", "parent"])
    if repeated.any():
        notes.append(f"{int(repeated.sum()):,} repeated edges dropped, direct relations kept")
        edges = edges[~repeated]
    return edges.sort_index().drop(columns="unknown").reset_index(drop=True)


def _note_case(nodes: np.ndarray, notes: list[str]) -> None:
    folded = pd.Series(nodes).str.casefold()
    alike = folded.duplicated(keep=False)
    if alike.any():
        some = ", ".join(sorted(nodes[alike.to_numpy()], key=str.casefold)[:2])
        notes.append(f"{int(alike.sum()):,} names differ only by case and are kept apart ({some})")


def _refuse_cycles(lineage: Lineage, where: str | None) -> None:
    if len(lineage._walk[0]) == len(lineage.nodes):
        return
    cycle = [lineage.nodes[p] for p, _ in nx.find_cycle(lineage._digraph())]
    raise InputError(
        "the lineage has a cycle: " + " -> ".join([*cycle, cycle[0]]),
        where=where,
        fix="remove one of these edges",
    )
