"""What the study's scripts share: the tables, where results go, how a run is asked for."""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")

from bayes_lrmf.evaluate import Setting, evaluate
from bayes_lrmf.evaluation import Evaluation
from bayes_lrmf.features import features_from_frame, read_features
from bayes_lrmf.lineage import Lineage, read_lineage
from bayes_lrmf.methods import METHODS, Background
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses, read_responses
from bayes_lrmf.similarity import item_graph, read_item_texts
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

FOLDER = Path("build/analyses")
REAL = ("v1", "subtasks")
SIMULATED = ("simulated items", "simulated counts")
_FILES = {"v1": "oll_v1", "subtasks": "subtasks"}
_RESPONSES = {"v1": "oll_v1/responses.parquet", "subtasks": "subtasks/counts.csv"}
# Downloads and likes come after the results, so no prediction may use them.
_FEATURES = {"v1": ("params_b", "type", "architecture", "precision", "date")}
_FEATURES["subtasks"] = ("params_b", "last_modified")


class DataAbsent(Exception):
    """The real tables are not at hand."""


@dataclass(frozen=True, eq=False)
class Data:
    """A table of the study and what is known beside it."""

    name: str
    responses: Responses
    background: Background


@cache
def load(name: str) -> Data:
    """Return one of `REAL` or `SIMULATED`; raise `DataAbsent` where real tables are not at hand."""
    if name in SIMULATED:
        return _simulated(name)
    folder = Path(os.environ.get("BAYES_LRMF_DATA", "../shared/data"))
    if not folder.is_dir():
        raise DataAbsent(f"no real data at {folder}: name their folder in BAYES_LRMF_DATA")
    responses = read_responses(folder / _RESPONSES[name])
    features = read_features(folder / _FILES[name] / "models.csv")
    features = features.rename(columns=str.lower)[list(_FEATURES[name])]
    adjacency = None
    if name == "v1":
        texts = read_item_texts(folder / "oll_v1/items.csv")
        adjacency, note = item_graph(responses.items, texts)
        print(f"item similarity: {note}")
    lineage = read_lineage(folder / "lineage/edges.csv")
    print(f"{name}: {responses!r}; {lineage.summary(list(responses.models))}")
    return Data(name, responses, Background(lineage, _with_log_size(features), adjacency))


def _with_log_size(features: pd.DataFrame) -> pd.DataFrame:
    size = features["params_b"]
    return features.assign(log_params=np.log(size.where(size > 0)))


def _simulated(name: str) -> Data:
    import jax

    counts = name == "simulated counts"
    data = simulate(
        read_spec("laplacian"),
        key=jax.random.key(11),
        n_models=240,
        n_items=12 if counts else 160,
        n_benchmarks=12 if counts else 4,
        density=1,
        trials=60 if counts else 1,
        cold_share=0,
        merge_share=0,
    )
    # Sizes that have nothing to do with the responses: there is nothing in them to find.
    size = np.random.default_rng(5).choice([1.0, 3.0, 7.0, 13.0, 70.0], len(data.lineage.nodes))
    frame = pd.DataFrame({"model": data.lineage.nodes, "params_b": size})
    features = _with_log_size(features_from_frame(frame))
    print(f"{name}, no real models: {data.responses!r}")
    return Data(name, data.responses, Background(data.lineage, features))


def at_hand(methods: Sequence[str]) -> list[str]:
    """Return the methods that can run here, and say which cannot."""
    found = []
    for name in methods:
        if name not in METHODS:
            continue
        needs = ("flax", "optax", "bayes_lrmf.baselines.neural") if name.startswith("ncf") else ()
        if all(importlib.util.find_spec(module) for module in needs):
            found.append(name)
        else:
            print(f"skipped: {name} (pip install 'bayes-lrmf[neural]')")
    return found


def lineage_method() -> str:
    """Return the method that the others are compared with in full."""
    return "vb"


def run(
    data: Data,
    settings: Sequence[Setting],
    methods: Sequence[str],
    *,
    seeds: Sequence[int],
    tune: bool = True,
    told: Lineage | None = None,
) -> Evaluation:
    """Evaluate, taking from `FOLDER`/parts what any script has finished before."""
    with Progress(f"evaluate {data.name}", enabled=True) as progress:
        return evaluate(
            data.responses,
            data.background,
            settings,
            at_hand(methods),
            seeds=seeds,
            tune=tune,
            told=told,
            folder=FOLDER / "parts",
            progress=progress,
        )


def figures(data: str, found: Evaluation, metrics: Sequence[str]) -> pd.DataFrame:
    """Return ``data, holdout, method, metric, value``, means over seeds, for `--check`."""
    wanted = found.metrics[found.metrics["metric"].isin(metrics)]
    means = wanted.groupby(["holdout", "method", "metric"], sort=False)["value"].mean()
    return means.dropna().reset_index().assign(data=data)


def write_table(table: pd.DataFrame, name: str) -> Path:
    """Write a table as CSV into `FOLDER`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.csv"
    table.to_csv(path, index=False)
    print(f"wrote {path}")
    return path


def file_name(*parts: str) -> str:
    """Return a name of a file from words."""
    return "_".join(parts).replace(" ", "_").replace(":", "_")


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; what is marked ``*`` becomes bold."""
    lines = [list(table.columns), ["---"] * len(table.columns)]
    for row in table.astype(str).to_numpy():
        cells = (cell.strip() for cell in row)
        lines.append([f"**{c[:-1]}**" if c.endswith("*") else c for c in cells])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def command(script: Callable[[bool], object], description: str | None) -> None:
    """Run a script from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small simulated tables, one seed")
    given = parser.parse_args()
    started = time.perf_counter()
    try:
        script(given.quick)
    except DataAbsent as absent:
        raise SystemExit(str(absent)) from None
    print(f"{time.perf_counter() - started:.0f} s")
