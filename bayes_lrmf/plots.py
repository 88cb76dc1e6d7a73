"""Pictures from prediction tables."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

__all__ = ["plot_predictions"]

_BLUE, _ORANGE = "#0072B2", "#D55E00"  # colour-blind safe (Okabe & Ito)


def plot_predictions(table: pd.DataFrame, *, truth: str | None = None, most: int = 40) -> Figure:
    """Plot benchmark predictions as intervals, one panel a benchmark.

    Parameters
    ----------
    table : DataFrame
        Columns of `predict_benchmarks`.
    truth : str, optional
        Column with true scores, drawn beside the predictions.
    most : int
        Models shown, by predicted score on the first benchmark.
    """
    benchmarks = list(dict.fromkeys(table["benchmark"]))
    first = table[table["benchmark"] == benchmarks[0]].nlargest(most, "mean")
    models = list(first["model"])[::-1]
    height = 1.2 + 0.22 * len(models)
    figure, axes = plt.subplots(
        1,
        len(benchmarks),
        figsize=(2.2 + 2.2 * len(benchmarks), height),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    rows = np.arange(len(models))
    for axis, benchmark in zip(axes[0], benchmarks, strict=True):
        part = table[table["benchmark"] == benchmark].set_index("model").loc[models]
        label = "interval" if part["lower"].notna().any() else None
        axis.hlines(rows, part["lower"], part["upper"], color=_BLUE, lw=3, alpha=0.45, label=label)
        axis.plot(part["mean"], rows, "o", color=_BLUE, ms=4, label="predicted")
        if truth is not None:
            axis.plot(part[truth], rows, "x", color=_ORANGE, ms=5, label="true")
        axis.set(title=benchmark, xlabel="score", xlim=(0, 1))
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(rows, models, fontsize=7)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return figure
