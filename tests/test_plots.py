"""Pictures say what their table says."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.plots import plot_coverage, plot_family, plot_predictions, plot_shots


def test_a_panel_a_benchmark_with_intervals_and_truth(tmp_path):
    table = pd.DataFrame(
        {
            "model": ["a", "a", "b", "b"],
            "benchmark": ["x", "y", "x", "y"],
            "mean": [0.4, 0.5, 0.6, 0.7],
            "lower": [0.3, 0.4, 0.5, 0.6],
            "upper": [0.5, 0.6, 0.7, 0.8],
            "true": [0.45, 0.55, 0.9, 0.65],
        }
    )
    figure = plot_predictions(table, truth="true")
    assert [axis.get_title() for axis in figure.axes] == ["x", "y"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    # The best model on the first benchmark stands at the top, which is the last row.
    assert labels == ["a", "b"]
    predicted, true = (line.get_xdata() for line in figure.axes[0].lines)
    np.testing.assert_array_equal(predicted, [0.4, 0.6])
    np.testing.assert_array_equal(true, [0.45, 0.9])
    segments = figure.axes[1].collections[0].get_segments()
    assert [list(segment[:, 0]) for segment in segments] == [[0.4, 0.6], [0.6, 0.8]]
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_the_most_are_shown():
    names = [f"m{i}" for i in range(9)]
    table = pd.DataFrame({"model": names, "benchmark": "x", "mean": np.arange(9) / 10})
    table = table.assign(lower=table["mean"] - 0.1, upper=table["mean"] + 0.1)
    figure = plot_predictions(table, most=3)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["m6", "m7", "m8"]


def family_table() -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = pd.DataFrame({"child": ["b", "c", "d"], "parent": ["a", "a", "b"]})
    lineage = lineage_from_frame(frame.assign(relation="finetune"))
    table = lineage.layout().assign(
        mean=[0.4, 0.3, 0.5, 0.6],
        width=[0.05, 0.2, 0.3, 0.4],
        status=["evaluated", "latent", "hidden", "hidden"],
    )
    return table, frame


def test_family_is_a_tree_with_scores_and_widths_side_by_side(tmp_path):
    table, edges = family_table()
    figure = plot_family(table, edges)
    scores, widths = figure.axes[:2]
    labels = [t.get_text() for t in scores.get_yticklabels()]
    assert labels == list(table.sort_values("row")["model"])
    bold = {t.get_text() for t in scores.get_yticklabels() if t.get_fontweight() == "bold"}
    assert bold == set(table.loc[table["status"] == "hidden", "model"])
    for axis, column in ((scores, "mean"), (widths, "width")):
        drawn = {}
        for points in axis.collections:
            for place, value in zip(points.get_offsets(), points.get_array(), strict=True):
                drawn[labels[int(place[1])]] = (place[0], value)
        expected = table.set_index("model")[["depth", column]].apply(tuple, axis=1)
        assert drawn == expected.to_dict()
        assert len(axis.lines) == len(edges)
    # An edge goes from the parent's place to the child's.
    row = table.set_index("model")["row"]
    x, y = scores.lines[2].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (1, row["b"], 2, row["d"])
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {
        "evaluated",
        "hidden",
        "not run",
    }
    figure.savefig(tmp_path / "family.png")


def test_shots_are_lines_of_methods_with_bands():
    lines = [(m, k, "error", 0.1 + k / 100, 0.01) for m in ("p", "q") for k in (10, 0)]
    lines[0] = ("p", 10, "error", np.nan, np.nan)
    columns = ["method", "shots", "measure", "value", "standard_error"]
    figure = plot_shots(pd.DataFrame(lines, columns=columns))
    [axis] = figure.axes
    assert axis.get_ylabel() == "error"
    assert [t.get_text() for t in axis.get_xticklabels()] == ["0", "10"]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[0, 0.1]])
    np.testing.assert_allclose(axis.lines[1].get_xydata(), [[0, 0.1], [1, 0.2]])
    heights = axis.collections[1].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.09)
    assert heights.max() == pytest.approx(0.21)


def test_coverage_stands_above_width_by_hold_out():
    table = pd.DataFrame(
        {
            "holdout": ["cold", "cold", "roots", "roots"],
            "method": "p",
            "nominal": [0.9, 0.5, 0.5, 0.9],
            "coverage": [0.85, 0.6, 0.55, 0.9],
            "width": [0.4, 0.2, 0.3, 0.8],
        }
    ).assign(lowest=lambda t: t["coverage"] - 0.02, highest=lambda t: t["coverage"] + 0.03)
    figure = plot_coverage(table)
    cold, roots, cold_width, _ = figure.axes
    assert (cold.get_title(), roots.get_title()) == ("cold", "roots")
    np.testing.assert_array_equal(cold.lines[1].get_xydata(), [[0.5, 0.6], [0.9, 0.85]])
    [bars] = cold.containers[0].lines[2]
    np.testing.assert_allclose([s[:, 1] for s in bars.get_segments()], [[0.58, 0.63], [0.83, 0.88]])
    np.testing.assert_array_equal(cold_width.lines[0].get_xydata(), [[0.5, 0.2], [0.9, 0.4]])
    # The widest interval is of another column, and still inside the shared axis.
    assert cold_width.get_ylim()[0] == 0
    assert cold_width.get_ylim()[1] > 0.8
