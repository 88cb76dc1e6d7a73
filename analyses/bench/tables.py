"""Tables of the benchmark: made once, written to disk, the same cells for every contestant."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from bayes_lrmf.design import Design, make_design
from bayes_lrmf.files import written_whole
from bayes_lrmf.holdouts import Split, hold_out_cold
from bayes_lrmf.lineage import Lineage, read_lineage, write_lineage
from bayes_lrmf.responses import Responses, read_responses, write_responses
from bayes_lrmf.spec import Spec, read_spec

HELD_OUT_SHARE = 0.02
SIMULATED = {
    # models, items, benchmarks, share of the leaf children that is hidden, of cells observed
    "small": (600, 120, 4, 0.15, 0.68),
    "v1-sized": (6650, 1480, 6, 0.05, 0.68),
    "paper-sized": (2934, 21606, 6, 0.05, 1.0),
}
_SEED = 0


@dataclass(frozen=True, eq=False)
class Table:
    """A table and what is held out of it.

    Attributes
    ----------
    name : str
    folder : Path
        With ``train.parquet``, ``lineage.csv`` and ``arrays.npz``.
    split : Split
        The hidden cold models; its `train` lacks the held-out single cells too.
    lineage : Lineage
    """

    name: str
    folder: Path
    split: Split
    lineage: Lineage

    @property
    def arrays(self) -> Path:
        """The file that every contestant reads."""
        return self.folder / "arrays.npz"


def point_spec() -> Spec:
    """Return the spec of the objective that all point estimates share."""
    # Similar items would need their texts, which a simulated table has not.
    return replace(read_spec("paper"), item_prior="independent")


def simulated_table(name: str, folder: Path) -> Table:
    """Simulate one of `SIMULATED` from spec `laplacian`, along a forest.

    What is known of hidden models is complete, so that intervals of their scores can be judged.
    """
    import jax

    from bayes_lrmf.simulate import simulate

    n_models, n_items, n_benchmarks, share, observed = SIMULATED[name]
    data = simulate(
        read_spec("laplacian"),
        key=jax.random.key(_SEED),
        n_models=n_models,
        n_items=n_items,
        n_benchmarks=n_benchmarks,
        density=1,
        cold_share=0,
        merge_share=0,
    )
    return _written(f"simulated, {name}", folder, data.responses, data.lineage, share, observed)


def real_table(folder: Path) -> Table | None:
    """Return v1 where `BAYES_LRMF_DATA` names the folder of real tables, else None."""
    data = os.environ.get("BAYES_LRMF_DATA")
    if not data or not Path(data, "oll_v1/responses.parquet").is_file():
        return None
    responses = read_responses(Path(data, "oll_v1/responses.parquet"))
    return _written("v1", folder, responses, read_lineage(Path(data, "lineage/edges.csv")), 0.5)


def _written(
    name: str,
    folder: Path,
    responses: Responses,
    lineage: Lineage,
    share: float,
    observed: float = 1.0,
) -> Table:
    split = hold_out_cold(responses, lineage, seed=_SEED, share=share)
    rng = np.random.default_rng(_SEED)
    cells = split.train.to_cells()
    if observed < 1:
        gone = rng.random(len(cells.rows)) >= observed
        split = replace(split, train=split.train.hide(cells=(cells.rows[gone], cells.cols[gone])))
        cells = split.train.to_cells()
    held = rng.choice(len(cells.rows), round(HELD_OUT_SHARE * len(cells.rows)), replace=False)
    rows, cols, y = cells.rows[held], cells.cols[held], cells.successes[held]
    train = split.train.hide(cells=(rows, cols))
    split = replace(split, train=train)
    folder.mkdir(parents=True, exist_ok=True)
    write_responses(train, folder / "train.parquet")
    write_lineage(lineage, folder / "lineage.csv")
    design = make_design(train, point_spec(), lineage=lineage)
    with written_whole(folder / "arrays.npz") as path:
        np.savez(path, **_arrays(design, split), held_rows=rows, held_cols=cols, held_y=y)
    return Table(name, folder, split, lineage)


def _arrays(design: Design, split: Split) -> dict[str, np.ndarray]:
    """Return table, graph and weights of the objective, and who descends from whom."""
    spec, train = point_spec(), split.train
    assert spec.penalty is not None
    assert train.dense is not None
    kin = kinship([*train.models, *split.models], design.periphery)
    return {
        "responses": train.dense,
        "models": train.models.astype(str),
        "cold_models": np.array(split.models, dtype=str),
        "n_core": np.array(design.n_core),
        "edge_a": design.graph.rows,
        "edge_b": design.graph.cols,
        "edge_weight": design.graph.weights,
        "rank": np.array(spec.rank),
        "lambda_models": np.array(spec.penalty.models),
        "ridge": np.array(spec.penalty.ridge),
        "kin_data": kin.data,
        "kin_indices": kin.indices,
        "kin_indptr": kin.indptr,
        "kin_shape": np.array(kin.shape),
    }


def kinship(models: list[str], lineage: Lineage) -> sp.csr_array:
    """Return who is, or descends from, which parent: 0/1, shape (n_models, n_parents).

    It tells a method that takes features of models, and no graph, of their lineage. Parents are
    those that two or more of the models share.
    """
    n = len(lineage.nodes)
    step = sp.csr_array(
        (np.ones(len(lineage.child)), (lineage.child, lineage.parent)), shape=(n, n)
    )
    reached = sp.eye_array(n, format="csr")
    while True:
        further = reached + reached @ step
        further.data[:] = 1.0
        if further.nnz == reached.nnz:
            break
        reached = further
    place = {name: at for at, name in enumerate(lineage.nodes)}
    mine = reached[[place[name] for name in models]]
    shared = np.asarray(mine.sum(0)).ravel() > 1
    is_parent = np.isin(np.arange(n), lineage.parent)
    return sp.csr_array(mine[:, np.flatnonzero(shared & is_parent)])
