"""Hold-out designs x methods -> one long table of metrics, resumable."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, one_of, whole_number
from bayes_lrmf.evaluation import Evaluation
from bayes_lrmf.files import written_whole
from bayes_lrmf.holdouts import (
    Split,
    families,
    hold_out_cells,
    hold_out_cold,
    hold_out_later,
    hold_out_roots,
    hold_out_shots,
)
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.methods import METHODS, Background, Method, run_method
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses
from bayes_lrmf.scoring import benchmark_scores, per_model, score

__all__ = ["HOLDOUTS", "Setting", "evaluate", "remove_parts"]

HOLDOUTS = ("cold", "cells", "time", "roots")
_VALIDATION_SEED = 1_000_003


@dataclass(frozen=True)
class Setting:
    """What is hidden.

    Attributes
    ----------
    holdout : {"cold", "cells", "time", "roots"}
    value : float
        Shots of "cold", observed density of "cells"; 0 for the others.
    """

    holdout: str
    value: float = 0.0

    @property
    def name(self) -> str:
        """Name in tables."""
        if self.holdout == "cells" or (self.holdout == "cold" and self.value):
            return f"{'shots' if self.holdout == 'cold' else 'cells'}:{self.value:g}"
        return self.holdout

    def split(self, responses: Responses, background: Background, *, seed: int) -> Split:
        """Hide cells of a table by this design."""
        one_of(self.holdout, HOLDOUTS, name="holdout")
        lineage = background.lineage
        if self.holdout == "cells":
            return hold_out_cells(responses, lineage, density=self.value, seed=seed)
        if self.holdout == "roots":
            return hold_out_roots(responses, lineage, seed=seed)
        if self.holdout == "time":
            return hold_out_later(responses, lineage, dates=_dates(background), seed=seed)
        if self.value:
            return hold_out_shots(responses, lineage, k=int(self.value), seed=seed)
        return hold_out_cold(responses, lineage, seed=seed)

    def validation(self, train: Responses, background: Background, *, seed: int) -> Split:
        """Hide some of a training table by the same design, to choose settings on.

        Of cells a tenth of those at hand; of later models, which are few, others of kin.
        """
        if self.holdout == "cells":
            density = 0.9 * train.density
            return hold_out_cells(train, background.lineage, density=density, seed=seed)
        alike = Setting("cold") if self.holdout == "time" else self
        return alike.split(train, background, seed=seed)


def _dates(background: Background) -> pd.Series:
    features = background.features
    if features is None:
        raise InputError("hold-out time needs dates of models", fix="give --models-table")
    for column in features:
        if pd.api.types.is_datetime64_any_dtype(features[column].dtype):
            return features[column]
    raise InputError("the table of models has no dates", fix="add a column date")


def evaluate(
    responses: Responses,
    background: Background,
    settings: Sequence[Setting],
    methods: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    tune: bool = True,
    told: Lineage | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run methods on hold-out designs.

    Parameters
    ----------
    responses : Responses
    background : Background
    settings : sequence of Setting
    methods : sequence of str
        Names among `methods.METHODS`.
    seeds : sequence of int
        Of hold-outs and of fits.
    tune : bool
        Whether methods choose their settings on validation cells of each training table; without,
        the first of their grid.
    told : Lineage, optional
        What methods are told in place of the lineage of `background`, by which hold-outs are
        drawn and families made all the same: a control.
    folder : Path, optional
        Where each finished cell of the grid is kept, and looked up before it is run.
    progress : Progress, optional

    Raises
    ------
    InputError
        For an unknown method, or a design that the table cannot bear.
    """
    methods = list(dict.fromkeys(one_of(name, METHODS, name="method") for name in methods))
    settings = list(dict.fromkeys(settings))
    seeds = list(dict.fromkeys(whole_number(seed, name="seed", minimum=0) for seed in seeds))
    progress = progress or Progress("evaluate", enabled=False)
    family = families(list(responses.models), background.lineage).astype("int64")
    known = background if told is None else replace(background, lineage=told)
    about = _fingerprint(responses, background, known.lineage)
    for setting in settings[1:]:
        # What a table cannot bear is told before hours of what it can.
        setting.split(responses, background, seed=seeds[0])
    total, done = len(settings) * len(seeds) * len(methods), 0
    found: list[dict[str, pd.DataFrame]] = []
    parts: list[Path] = []
    for setting in settings:
        for seed in seeds:
            split = validation = None
            for name in methods:
                progress.update(done, of=total, holdout=setting.name, seed=seed, method=name)
                done += 1
                label: dict[str, Any] = {"holdout": setting.name, "seed": seed, "method": name}
                part = (
                    None
                    if folder is None
                    else folder / _part_name(about, METHODS[name], tune, label)
                )
                if part is not None:
                    parts.append(part)
                if part is not None and part.is_file():
                    found.append(_read_part(part))
                    continue
                if split is None:
                    split = setting.split(responses, background, seed=seed)
                wanted = METHODS[name].uses_validation if tune else METHODS[name].conformal
                if validation is None and wanted:
                    validation = setting.validation(
                        split.train, background, seed=seed + _VALIDATION_SEED
                    )
                tables = _cell(name, split, validation, known, family, seed)
                tables = {k: t.assign(**label)[[*label, *t]] for k, t in tables.items()}
                found.append(tables)
                if part is not None:
                    _write_part(part, tables)
    progress.update(done, of=total)
    names = ("metrics", "losses", "scores", "settings")
    whole = {n: pd.concat([f[n] for f in found], ignore_index=True) for n in names}
    return Evaluation(**whole, parts=tuple(parts))


def _cell(
    name: str,
    split: Split,
    validation: Split | None,
    background: Background,
    family: pd.Series,
    seed: int,
) -> dict[str, pd.DataFrame]:
    started = time.perf_counter()
    run = run_method(name, split, background, key=jax.random.key(seed), validation=validation)
    figures = score(run.forecast, split, family)
    figures |= {"seconds": time.perf_counter() - started, "n_models": float(len(split.models))}
    losses = per_model(run.forecast, split)[["trials", "log_loss", "abs_error"]].reset_index()
    observed, predicted = benchmark_scores(run.forecast, split)
    rows, cols = (~np.isnan(observed)).nonzero()
    scores = pd.DataFrame(
        {
            "model": np.array(split.models, dtype=object)[rows],
            "benchmark": split.test.benchmarks[cols],
            "observed": observed[rows, cols].round(6),
            "predicted": predicted[rows, cols],
        }
    )
    return {
        "metrics": pd.DataFrame({"metric": list(figures), "value": list(figures.values())}),
        "losses": losses.assign(family=family[losses["model"]].to_numpy()),
        "scores": scores.assign(family=family[scores["model"]].to_numpy()),
        "settings": pd.DataFrame({"settings": [json.dumps(dict(run.settings))]}),
    }


def _fingerprint(responses: Responses, background: Background, told: Lineage) -> str:
    """Return what two runs must share for the results of one to serve the other."""
    digest = hashlib.sha256(responses.fingerprint().encode())
    digest.update(version("bayes-lrmf").encode())
    for tree in (background.lineage, told):
        for text in (tree.nodes[tree.child], tree.nodes[tree.parent], tree.relation):
            digest.update("\0".join(map(str, text)).encode())
        digest.update(tree.weight.tobytes())
    if background.features is not None:
        digest.update(background.features.sort_index().to_csv().encode())
    if background.item_adjacency is not None:
        graph = background.item_adjacency
        for part in (graph.indptr, graph.indices, graph.data):
            digest.update(part.tobytes())
    return digest.hexdigest()


def _part_name(about: str, method: Method, tune: bool, label: Mapping[str, object]) -> str:
    grid = [dict(settings) for settings in method.grid[: None if tune else 1]]
    text = json.dumps([about, grid, *label.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:20] + ".json.gz"


def _write_part(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: t.to_dict("list") for k, t in tables.items()})
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=5, mtime=0))


def _read_part(path: Path) -> dict[str, pd.DataFrame]:
    tables = json.loads(gzip.decompress(path.read_bytes()))
    return {k: pd.DataFrame(t) for k, t in tables.items()}


def remove_parts(parts: Sequence[Path]) -> None:
    """Remove what `evaluate` kept to resume from, and its folder if nothing else is there."""
    for part in parts:
        part.unlink(missing_ok=True)
    for folder in {part.parent for part in parts}:
        with contextlib.suppress(OSError):
            folder.rmdir()
