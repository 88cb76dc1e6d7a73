"""Hold-out designs x methods -> one long table of metrics, resumable."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, one_of, whole_number
from bayes_lrmf.comparison import paired_difference
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
from bayes_lrmf.methods import METHODS, Background, run_method
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import Responses
from bayes_lrmf.scoring import per_model, score

__all__ = [
    "HIGHER_IS_BETTER",
    "HOLDOUTS",
    "Evaluation",
    "Setting",
    "evaluate",
    "readable_table",
]

HOLDOUTS = ("cold", "cells", "time", "roots")
HIGHER_IS_BETTER = {"auc", "accuracy", "pearson", "pearson_pooled", "pearson_within", "spearman"}
SHOWN = ("log_loss", "auc", "pearson", "pearson_within", "mae", "coverage_90", "width_90")
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    metrics : DataFrame
        ``holdout, seed, method, metric, value``: those of `scoring.score`, ``seconds`` (of the
        choice of settings and the fit) and ``n_models``.
    losses : DataFrame
        ``holdout, seed, method, model, family, log_loss, abs_error``, for paired comparisons.
    settings : DataFrame
        ``holdout, seed, method, settings``: what was chosen on validation cells, as JSON.
    """

    metrics: pd.DataFrame
    losses: pd.DataFrame
    settings: pd.DataFrame

    def difference(
        self, first: str, second: str, *, holdout: str, loss: str
    ) -> tuple[float, float]:
        """Return the mean loss of one method minus another's, and its standard error.

        Models are paired, over all seeds; families are resampled. With a single family there is
        no standard error: NaN.
        """
        here = self.losses[self.losses["holdout"] == holdout]
        index = ["seed", "model"]
        a, b = (here[here["method"] == m].set_index(index) for m in (first, second))
        both = a.join(b[[loss]], rsuffix="_second", how="inner")
        one, two = both[loss].to_numpy(), both[f"{loss}_second"].to_numpy()
        if both["family"].nunique() < 2:
            return float(np.mean(one - two)), float("nan")
        found = paired_difference(one, two, both["family"].to_numpy(), seed=0)
        return found.estimate, found.standard_error


def evaluate(
    responses: Responses,
    background: Background,
    settings: Sequence[Setting],
    methods: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    tune: bool = True,
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
    folder : Path, optional
        Where each finished cell of the grid is kept, and looked up before it is run.
    progress : Progress, optional

    Raises
    ------
    InputError
        For an unknown method, or a design that the table cannot bear.
    """
    for name in methods:
        one_of(name, METHODS, name="method")
    seeds = [whole_number(seed, name="seed", minimum=0) for seed in seeds]
    progress = progress or Progress("evaluate", enabled=False)
    family = families(responses, background.lineage)
    about = _fingerprint(responses, background, tune)
    total, done = len(settings) * len(seeds) * len(methods), 0
    found: list[dict[str, pd.DataFrame]] = []
    for setting in settings:
        for seed in seeds:
            split = validation = None
            for name in methods:
                progress.update(done, of=total, holdout=setting.name, seed=seed, method=name)
                done += 1
                label: dict[str, Any] = {"holdout": setting.name, "seed": seed, "method": name}
                part = None if folder is None else folder / _part_name(about, label)
                if part is not None and part.is_file():
                    found.append(_read_part(part))
                    continue
                if split is None:
                    split = setting.split(responses, background, seed=seed)
                if validation is None and tune and len(METHODS[name].grid) > 1:
                    validation = setting.validation(
                        split.train, background, seed=seed + _VALIDATION_SEED
                    )
                tables = _cell(name, split, validation, background, family, seed)
                tables = {k: t.assign(**label)[[*label, *t]] for k, t in tables.items()}
                found.append(tables)
                if part is not None:
                    _write_part(part, tables)
    progress.update(done, of=total)
    names = ("metrics", "losses", "settings")
    return Evaluation(*(pd.concat([f[n] for f in found], ignore_index=True) for n in names))


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
    return {
        "metrics": pd.DataFrame({"metric": list(figures), "value": list(figures.values())}),
        "losses": losses.assign(family=family[losses["model"]].to_numpy()),
        "settings": pd.DataFrame({"settings": [json.dumps(dict(run.settings))]}),
    }


def _fingerprint(responses: Responses, background: Background, tune: bool) -> str:
    """Return what two runs must share for the results of one to serve the other."""
    digest = hashlib.sha256(responses.fingerprint().encode())
    tree = background.lineage
    for text in (tree.nodes[tree.child], tree.nodes[tree.parent], tree.relation):
        digest.update("\0".join(map(str, text)).encode())
    digest.update(tree.weight.tobytes())
    if background.features is not None:
        digest.update(background.features.sort_index().to_csv().encode())
    if background.item_adjacency is not None:
        digest.update(background.item_adjacency.indices.tobytes())
    digest.update(bytes([tune]))
    return digest.hexdigest()


def _part_name(about: str, label: Mapping[str, object]) -> str:
    text = json.dumps([about, *label.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:20] + ".json"


def _write_part(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({k: t.to_dict("list") for k, t in tables.items()}))


def _read_part(path: Path) -> dict[str, pd.DataFrame]:
    return {k: pd.DataFrame(t) for k, t in json.loads(path.read_text()).items()}


def remove_parts(folder: Path) -> None:
    """Remove what `evaluate` kept to resume from."""
    shutil.rmtree(folder, ignore_errors=True)


def readable_table(found: Evaluation, holdout: str, shown: Sequence[str] = SHOWN) -> pd.DataFrame:
    """Return methods x metrics of one hold-out as text: means over seeds, the best marked ``*``.

    The last column is the log loss minus that of the best method, with the standard error of the
    difference, models paired and families resampled.
    """
    here = found.metrics[found.metrics["holdout"] == holdout]
    order = list(dict.fromkeys(here["method"]))
    wide = here.pivot_table("value", "method", "metric", sort=False).reindex(order)
    wide = wide.reindex(columns=[m for m in shown if m in wide])
    text = pd.DataFrame(index=pd.Index(order, name="method"))
    for metric in wide:
        values = wide[metric]
        best = _best(str(metric), values)
        cells = ["" if np.isnan(v) else f"{v:.3f}" for v in values]
        marks = ["*" if m == best else " " for m in order]
        text[metric] = [c and c + m for c, m in zip(cells, marks, strict=True)]
    best = _best("log_loss", wide["log_loss"])
    column = []
    for name in order:
        if name == best:
            column.append("")
            continue
        gap, error = found.difference(name, str(best), holdout=holdout, loss="log_loss")
        column.append(f"{gap:+.3f}" + ("" if np.isnan(error) else f" ± {error:.3f}"))
    text["log_loss - best"] = column
    return text.reset_index()


def _best(metric: str, values: pd.Series) -> object:
    if metric.startswith("coverage"):
        nominal = float(metric.rpartition("_")[2]) / 100
        values = -(values - nominal).abs()
    elif metric not in HIGHER_IS_BETTER:
        values = -values
    return None if values.isna().all() else values.idxmax()
