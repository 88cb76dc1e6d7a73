"""What an evaluation found: metrics, paired differences of methods, a readable table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_lrmf import metrics
from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.comparison import bootstrap_difference, bootstrap_error, paired_difference
from bayes_lrmf.scoring import mean_over_benchmarks

__all__ = ["COMPARED", "HIGHER_IS_BETTER", "Evaluation", "readable_table"]

HIGHER_IS_BETTER = {"auc", "accuracy", "pearson", "pearson_pooled", "pearson_within", "spearman"}
COMPARED = ("log_loss", "abs_error", "pearson")
SHOWN = ("log_loss", "auc", "pearson", "pearson_within", "mae", "coverage_90", "width_90")
_N_BOOT = 500


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    metrics : DataFrame
        ``holdout, seed, method, metric, value``: those of `scoring.score`, ``seconds`` (of the
        choice of settings and the fit) and ``n_models``.
    losses : DataFrame
        ``holdout, seed, method, model, family, trials, log_loss, abs_error``: of each model.
    scores : DataFrame
        ``holdout, seed, method, model, family, benchmark, observed, predicted``: of each pair
        that `scoring.benchmark_scores` scores.
    settings : DataFrame
        ``holdout, seed, method, settings``: what was chosen on validation cells, as JSON.
    parts : tuple of Path
        Files that keep it, cell by cell.
    """

    metrics: pd.DataFrame
    losses: pd.DataFrame
    scores: pd.DataFrame
    settings: pd.DataFrame
    parts: tuple[Path, ...] = ()

    def difference(
        self, first: str, second: str, *, holdout: str, metric: str
    ) -> tuple[float, float]:
        """Return a metric of one method minus that of another, and the standard error.

        Models are paired, over all seeds; families are resampled. With a single family there is
        no standard error: NaN.

        Parameters
        ----------
        first, second : str
            Methods.
        holdout : str
        metric : {"log_loss", "abs_error", "pearson"}
            Means over models, each counting once, of the log loss of their responses or the
            absolute error of their benchmark scores; or Pearson's r of benchmark scores, mean over
            benchmarks and seeds.

        Raises
        ------
        InputError
            For an unknown metric, or methods without a model in common.
        """
        one_of(metric, COMPARED, name="metric")
        if metric == "pearson":
            (x, y, family), (u, v, _) = _paired(
                self._wide(first, holdout), self._wide(second, holdout)
            )
            if len(np.unique(family)) < 2:
                return _pearson(x, y) - _pearson(u, v), float("nan")
            found = bootstrap_difference(_pearson, (x, y), (u, v), family, seed=0, n_boot=_N_BOOT)
            return found.estimate, found.standard_error
        a, b = (self._losses(m, holdout) for m in (first, second))
        both = a.join(b[metric].rename("second"), how="inner").dropna(subset=[metric])
        _refuse_nothing(len(both))
        one, two = both[metric].to_numpy(), both["second"].to_numpy()
        if both["family"].nunique() < 2:
            return float(np.mean(one - two)), float("nan")
        found = paired_difference(one, two, both["family"].to_numpy(), seed=0)
        return found.estimate, found.standard_error

    def estimate(self, method: str, *, holdout: str, metric: str) -> tuple[float, float]:
        """Return a metric of one method as `difference` takes it, and its standard error."""
        one_of(metric, COMPARED, name="metric")
        if metric == "pearson":
            wide = self._wide(method, holdout)
            family = wide[0].index.get_level_values("family").to_numpy()
            arrays = [part.to_numpy() for part in wide]
            return bootstrap_error(_pearson, arrays, family, seed=0, n_boot=_N_BOOT)
        losses = self._losses(method, holdout).dropna(subset=[metric])
        values, family = losses[metric].to_numpy(), losses["family"].to_numpy()
        return bootstrap_error(np.mean, [values], family, seed=0, n_boot=_N_BOOT)

    def _losses(self, method: str, holdout: str) -> pd.DataFrame:
        here = self.losses[self.losses["holdout"] == holdout]
        return here[here["method"] == method].set_index(["seed", "model"])

    def _wide(self, method: str, holdout: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return observed and predicted scores, models by seeds and benchmarks."""
        here = self.scores[self.scores["holdout"] == holdout]
        here = here[here["method"] == method]
        _refuse_nothing(len(here))
        rows, columns = ["model", "family"], ["seed", "benchmark"]
        return (
            here.pivot_table("observed", rows, columns),
            here.pivot_table("predicted", rows, columns),
        )


def _pearson(observed: np.ndarray, predicted: np.ndarray) -> float:
    return mean_over_benchmarks(metrics.pearson, observed, predicted)


def _paired(
    a: tuple[pd.DataFrame, pd.DataFrame], b: tuple[pd.DataFrame, pd.DataFrame]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return observed and predicted scores and families of the models and columns of both."""
    rows = a[0].index.intersection(b[0].index)
    columns = a[0].columns.intersection(b[0].columns)
    _refuse_nothing(len(rows) * len(columns))
    family = rows.get_level_values("family").to_numpy()
    parts = ([t.loc[rows, columns].to_numpy() for t in pair] for pair in (a, b))
    return [(observed, predicted, family) for observed, predicted in parts]


def _refuse_nothing(n: int) -> None:
    if not n:
        raise InputError("no model to compare on", fix="evaluate both methods on this hold-out")


def readable_table(
    found: Evaluation,
    holdout: str,
    shown: Sequence[str] = SHOWN,
    *,
    reference: str | None = None,
    compared: Sequence[str] = ("log_loss",),
) -> pd.DataFrame:
    """Return methods x metrics of one hold-out as text: means over seeds, the best marked ``*``.

    The last columns are differences of a method from a reference, method minus reference, with
    their standard errors (`Evaluation.difference`).

    Parameters
    ----------
    found : Evaluation
    holdout : str
    shown : sequence of str
        Metrics; those that were not found are left out.
    reference : str, optional
        A method; by default that of least log loss, called ``best``.
    compared : sequence of str
        Of `COMPARED`.
    """
    here = found.metrics[found.metrics["holdout"] == holdout]
    order = list(dict.fromkeys(here["method"]))
    wide = here.pivot_table("value", "method", "metric", sort=False).reindex(order)
    text = pd.DataFrame(index=pd.Index(order, name="method"))
    for metric in [m for m in shown if m in wide]:
        values = wide[metric]
        best = _best(str(metric), values)
        cells = ["" if np.isnan(v) else f"{v:.3f}" for v in values]
        marks = ["*" if m == best else " " for m in order]
        text[metric] = [c and c + m for c, m in zip(cells, marks, strict=True)]
    other = str(_best("log_loss", wide["log_loss"])) if reference is None else reference
    for metric in compared:
        column = []
        for name in order:
            if name == other:
                column.append("")
                continue
            gap, error = found.difference(name, other, holdout=holdout, metric=metric)
            plus = "" if np.isnan(error) else f" ± {error:.3f}"
            column.append("" if np.isnan(gap) else f"{gap:+.3f}{plus}")
        text[f"{metric} - {reference or 'best'}"] = column
    return text.reset_index()


def _best(metric: str, values: pd.Series) -> object:
    if metric.startswith("coverage"):
        nominal = float(metric.rpartition("_")[2]) / 100
        values = -(values - nominal).abs()
    elif metric not in HIGHER_IS_BETTER:
        values = -values
    return None if values.isna().all() else values.idxmax()
