"""Pictures from prediction tables."""

from __future__ import annotations

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["plot_coverage", "plot_family", "plot_predictions", "plot_shots"]

_BLUE, _ORANGE = "#0072B2", "#D55E00"  # colour-blind safe (Okabe & Ito)
_COLOURS = (_BLUE, _ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<P"
_STATUS = {"evaluated": ("o", "evaluated"), "hidden": ("s", "hidden"), "latent": ("D", "not run")}


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
    _legend_below(figure, axes[0][0])
    return figure


def plot_shots(table: pd.DataFrame) -> Figure:
    """Plot a measure against the number of items run, a line a method, a panel a measure.

    Parameters
    ----------
    table : DataFrame
        ``method, shots, measure, value, standard_error``; bands are one standard error.
    """
    measures = list(dict.fromkeys(table["measure"]))
    figure, axes = plt.subplots(
        1, len(measures), figsize=(4.6 * len(measures), 4), squeeze=False, layout="constrained"
    )
    shots = np.sort(table["shots"].unique())
    at = {k: i for i, k in enumerate(shots)}
    for axis, measure in zip(axes[0], measures, strict=True):
        here = table[table["measure"] == measure]
        for i, method in enumerate(dict.fromkeys(table["method"])):
            line = here[(here["method"] == method) & here["value"].notna()].sort_values("shots")
            x, y = line["shots"].map(at), line["value"]
            error = line["standard_error"].fillna(0)
            colour = _COLOURS[i % len(_COLOURS)]
            axis.fill_between(x, y - error, y + error, color=colour, alpha=0.2, lw=0)
            axis.plot(x, y, color=colour, marker=_MARKERS[i % len(_MARKERS)], ms=5, label=method)
        axis.set_xticks(range(len(shots)), [f"{k:g}" for k in shots])
        axis.set(xlabel="items run of each model (not to scale)", ylabel=fill(measure, 30))
        axis.grid(alpha=0.3)
    _legend_below(figure, axes[0][0])
    return figure


def plot_coverage(table: pd.DataFrame) -> Figure:
    """Plot actual against nominal coverage of intervals, and their width, a column a hold-out.

    Parameters
    ----------
    table : DataFrame
        ``holdout, method, nominal, coverage, width`` and, for the range over seeds, ``lowest``
        and ``highest`` coverage.
    """
    holdouts = list(dict.fromkeys(table["holdout"]))
    figure, axes = plt.subplots(
        2,
        len(holdouts),
        figsize=(1 + 3.2 * len(holdouts), 6.6),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, holdout in enumerate(holdouts):
        above, below = axes[:, column]
        above.plot([0.4, 1], [0.4, 1], color="0.5", lw=1, ls="--", label="as stated")
        for i, method in enumerate(dict.fromkeys(table["method"])):
            line = table[(table["holdout"] == holdout) & (table["method"] == method)]
            line = line.sort_values("nominal")
            look = {
                "color": _COLOURS[i % len(_COLOURS)],
                "marker": _MARKERS[i % len(_MARKERS)],
                "ms": 5,
                "label": method,
            }
            spread = [line["coverage"] - line["lowest"], line["highest"] - line["coverage"]]
            above.errorbar(line["nominal"], line["coverage"], spread, capsize=3, **look)
            below.plot(line["nominal"], line["width"], **look)
        above.set_title(holdout)
        below.set(xlabel="stated probability of the interval", xlim=(0.45, 1))
        for axis in (above, below):
            axis.grid(alpha=0.3)
    # At the end: a limit set before a line is drawn cuts it off.
    axes[1][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel("share of scores inside")
    axes[1][0].set_ylabel("mean width (score, 0 to 1)")
    _legend_below(figure, axes[0][0])
    return figure


def plot_family(table: pd.DataFrame, edges: pd.DataFrame) -> Figure:
    """Draw a family as an indented tree, coloured by score and, beside it, by interval width.

    Parameters
    ----------
    table : DataFrame
        A line a model: ``model, row, depth`` (see `Lineage.layout`), ``mean`` and ``width`` of the
        predicted score, and ``status``: evaluated, hidden (predicted without its results) or
        latent (never run).
    edges : DataFrame
        ``child, parent``, names of models.
    """
    table = table.sort_values("row").reset_index(drop=True)
    place = {m: (x, y) for y, (m, x) in enumerate(table[["model", "depth"]].to_numpy())}
    depth = max(int(table["depth"].max()), 1)
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(6.6 + 1.1 * depth, 2 + 0.2 * len(table)),
        sharey=True,
        layout="constrained",
    )
    panels = (
        ("mean", "predicted score (0 to 1)", "viridis"),
        ("width", "width of the 90 % interval", "cividis"),
    )
    for axis, (column, label, colours) in zip(axes, panels, strict=True):
        for child, parent in edges[["child", "parent"]].to_numpy():
            (x, y), (u, v) = place[child], place[parent]
            axis.plot([u, u, x], [v, y, y], color="0.75", lw=1, zorder=1)
        low, high = table[column].min(), table[column].max()
        for status, (marker, name) in _STATUS.items():
            some = table[table["status"] == status]
            if some.empty:
                continue
            points = axis.scatter(
                some["depth"],
                some.index,
                c=some[column],
                cmap=colours,
                vmin=low,
                vmax=high,
                marker=marker,
                s=60 if status == "hidden" else 40,
                edgecolors=_ORANGE if status == "hidden" else "0.3",
                linewidths=1.8 if status == "hidden" else 0.6,
                label=name,
                zorder=2,
            )
        figure.colorbar(points, ax=axis, location="top", label=label, shrink=0.9, pad=0.01)
        axis.set_xticks(range(depth + 1))
        axis.set(xlabel="steps from the base", xlim=(-0.4, depth + 0.4))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(table)), table["model"], fontsize=7)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    for tick, status in zip(axes[0].get_yticklabels(), table["status"], strict=True):
        tick.set_fontweight("bold" if status == "hidden" else "normal")
    _legend_below(figure, axes[0])
    return figure


def _legend_below(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=8
    )
