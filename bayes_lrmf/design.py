"""Arrays that a statistical model is fitted to: row order, tables and graphs, fixed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from bayes_lrmf.block_elimination import BlockElimination, block_elimination
from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.covariates import Covariates, covariates
from bayes_lrmf.devices import device_mesh
from bayes_lrmf.directed import DirectedGraph
from bayes_lrmf.gmrf import LaplacianGraph
from bayes_lrmf.kernels import BinaryTable, CountTable, ShardedTable, SparseTable
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.responses import Responses
from bayes_lrmf.sparse_binary import SparseBinaryTable
from bayes_lrmf.spec import Spec

__all__ = ["Design", "make_design"]

_DENSE_COUNT_CELLS = 4_000_000
_DENSE_COUNT_DENSITY = 0.2


@dataclass(frozen=True, eq=False)
class Design:
    """What a fit sees.

    Attributes
    ----------
    responses : Responses
        The observed cells.
    core : Lineage
        Evaluated models, in the order of `responses`, then their unevaluated ancestors as far as
        these join two of them; under a directed prior also as other parents of a model that has
        one among these. Factors of core nodes are parameters.
    periphery : Lineage
        The core nodes, then, under a directed prior, other parents of what follows, then
        unevaluated descendants of the core. Nothing is learned from them: they are predicted from
        their parents, so that adding one changes no other prediction.
    strengths : mapping or None
        Laplacian edge weight by relation; None for the 0/1 adjacency of the paper.
    graph : LaplacianGraph
        Graph over core nodes; without edges when the spec has no lineage.
    item_graph : LaplacianGraph or None
        Graph over items, for ``item_prior = "laplacian"``.
    notes : tuple of str
        What was left out, and why.
    covariates : Covariates or None
        Features and kinds of all of `models`, for ``lineage = "directed"``.
    mesh : jax.sharding.Mesh or None
        Devices that a dense table is spread over.
    """

    responses: Responses
    core: Lineage
    periphery: Lineage
    strengths: dict[str, float] | None
    graph: LaplacianGraph
    item_graph: LaplacianGraph | None = None
    notes: tuple[str, ...] = field(default=())
    covariates: Covariates | None = None
    mesh: Mesh | None = None

    @property
    def n_evaluated(self) -> int:
        """Number of evaluated models."""
        return len(self.responses.models)

    @property
    def n_core(self) -> int:
        """Number of evaluated models and latent ancestors."""
        return len(self.core.nodes)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.responses.n_items

    @property
    def models(self) -> np.ndarray:
        """Names of core nodes, then of the periphery."""
        return self.periphery.nodes

    def places(self, names: Iterable[str]) -> np.ndarray:
        """Return positions in `models`, each name once, in the order given.

        Raises
        ------
        InputError
            For an unknown model, naming the nearest.
        """
        index = self.periphery.index
        distinct = list(dict.fromkeys(names))
        for name in distinct:
            if name not in index:
                one_of(name, index, name="model")
        return np.array([index[name] for name in distinct], dtype=np.int64)

    @property
    def items(self) -> pd.DataFrame:
        """Items: benchmark, item, trials."""
        return self.responses.items

    @cached_property
    def benchmarks(self) -> np.ndarray:
        """Names of the benchmarks."""
        return self.responses.benchmarks

    @cached_property
    def benchmark_index(self) -> np.ndarray:
        """Index of each item's benchmark, shape (n_items,)."""
        return self.responses.benchmark_index

    @cached_property
    def item_groups(self) -> np.ndarray:
        """Group of each item whose prior means it shares, shape (n_items,).

        Items of a benchmark are a group; the items of benchmarks that have a single one form one
        group together, since a mean of their own would say nothing.
        """
        size = np.bincount(self.benchmark_index)[self.benchmark_index]
        return np.unique(np.where(size > 1, self.benchmark_index, -1), return_inverse=True)[1]

    @property
    def n_groups(self) -> int:
        """Number of item groups."""
        return int(self.item_groups.max()) + 1

    @cached_property
    def effect_benchmarks(self) -> np.ndarray:
        """Indices of the benchmarks of two items and more, which can carry an effect."""
        return np.flatnonzero(np.bincount(self.benchmark_index) > 1)

    @cached_property
    def count_benchmarks(self) -> np.ndarray:
        """Indices of the benchmarks with items of more than one trial."""
        many = self.responses.items["trials"].to_numpy() > 1
        return np.unique(self.benchmark_index[many])

    @cached_property
    def directed(self) -> DirectedGraph:
        """Steps from parents to children over core nodes."""
        return DirectedGraph(self.core)

    @cached_property
    def blocks(self) -> BlockElimination:
        """Elimination by blocks of the joint precision of core nodes."""
        if self.covariates is not None:
            return self.directed.blocks
        return block_elimination(self.n_core, self.graph.rows, self.graph.cols)

    @cached_property
    def table(self) -> BinaryTable | CountTable | ShardedTable | SparseBinaryTable | SparseTable:
        """The observed cells, as the likelihood wants them."""
        r = self.responses
        if r.dense is not None and self.mesh is not None:
            return ShardedTable.of(r.dense, self.mesh)
        if r.dense is not None:
            return BinaryTable(r.dense)
        cells = r.to_cells()
        if r.is_binary:
            return SparseBinaryTable.from_cells(cells.rows, cells.cols, cells.successes, r.shape)
        trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials
        counts = len(self.count_benchmarks) > 0
        n_cells = r.n_models * r.n_items
        if counts and r.density >= _DENSE_COUNT_DENSITY and n_cells <= _DENSE_COUNT_CELLS:
            k, n = np.zeros(r.shape), np.zeros(r.shape)
            k[cells.rows, cells.cols] = cells.successes
            n[cells.rows, cells.cols] = trials
            return CountTable(k, n)
        return SparseTable.from_cells(cells.rows, cells.cols, cells.successes, trials)

    @property
    def precision(self) -> str:
        """Floating point of a fit: counts need float64, where log Gamma cancels."""
        return "float64" if len(self.count_benchmarks) else "float32"

    def on(self, devices: Sequence[Any]) -> Design:
        """Return the design with its table spread over devices, for `fit_map` and `fit_vb`.

        Each process of a cluster makes the same design and calls the same fit: sums over cells are
        put together by collectives of JAX, the rest each process does for itself.

        Parameters
        ----------
        devices : sequence of jax.Device
            Such as ``jax.devices()``, which after ``jax.distributed.initialize()`` are those of all
            processes.

        Raises
        ------
        InputError
            For no device.
        """
        if not len(devices):
            raise InputError("no device to spread the table over", fix="give jax.devices()")
        return replace(self, mesh=device_mesh(devices))

    def on_one_device(self) -> Design:
        """Return the design with its table spread over nothing."""
        return self if self.mesh is None else replace(self, mesh=None)

    def holding(self, table: Any) -> Design:
        """Return the design with `table` in the place of its own."""
        new = replace(self)
        new.__dict__["table"] = table
        return new

    def once_per_cell(self) -> Design:
        """Return the design with every cell as one trial, a fraction (for "bernoulli")."""
        if self.responses.is_binary:
            return self
        cells = self.responses.to_cells()
        trials = np.ones(len(cells.rows)) if cells.trials is None else cells.trials
        table = SparseTable.from_cells(
            cells.rows, cells.cols, cells.successes / trials, np.ones(len(trials))
        )
        return self.holding(table)

    def parents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return child, parent and Laplacian weight of the edges into the periphery."""
        p = self.periphery
        return p.child, p.parent, p.strengths(self.strengths)


def make_design(
    responses: Responses,
    spec: Spec,
    *,
    lineage: Lineage | None = None,
    item_adjacency: Any = None,
    extra_models: Sequence[str] = (),
    features: pd.DataFrame | None = None,
) -> Design:
    """Fix rows, columns, tables and graphs for a fit of `spec`.

    Parameters
    ----------
    responses : Responses
    spec : Spec
    lineage : Lineage, optional
        Recorded family tree; models without responses become latent ancestors or predictions.
    item_adjacency : sparse array, shape (n_items, n_items), optional
        Item similarity.
    extra_models : sequence of str
        Further unevaluated models to predict, kin or not.
    features : DataFrame, optional
        Features of models, indexed by model, for the columns that the spec names.

    Raises
    ------
    InputError
        If the spec wants an item graph of another size.
    """
    lineage = lineage if lineage is not None else Lineage.empty()
    if spec.lineage == "none":
        # Kin are predictions without parents then, known by name alone.
        extra_models = [*extra_models, *lineage.nodes]
        lineage = Lineage.empty()
    whole_merges = spec.lineage == "directed"
    core = lineage.core(list(responses.models), whole_merges=whole_merges)
    periphery = lineage.descendants(list(core.nodes), whole_merges=whole_merges)
    known = set(periphery.nodes)
    lonely = dict.fromkeys(m for m in (*responses.unevaluated, *extra_models) if m not in known)
    nodes = np.array([*periphery.nodes, *lonely], dtype=object)
    periphery = Lineage(
        nodes, periphery.child, periphery.parent, periphery.relation, periphery.weight
    )
    strengths = dict(spec.relation_strength) if spec.penalty is None else None
    graph = LaplacianGraph(core.adjacency(core.strengths(strengths)))
    item_graph, notes = None, []
    if spec.item_prior == "laplacian":
        if item_adjacency is None:
            notes.append("no item similarity given: item loadings are independent a priori")
        elif item_adjacency.shape[0] != responses.n_items:
            raise InputError(
                f"item graph has {item_adjacency.shape[0]} items, the table {responses.n_items}",
                fix="build it from the table's items",
            )
        else:
            item_graph = LaplacianGraph(item_adjacency)
    known_of_models = None
    if spec.lineage == "directed":
        known_of_models, missing = covariates(
            features, list(nodes), features=spec.features, kind=spec.kind
        )
        notes += missing
    design = Design(
        responses, core, periphery, strengths, graph, item_graph, tuple(notes), known_of_models
    )
    return design.once_per_cell() if spec.likelihood == "bernoulli" else design
