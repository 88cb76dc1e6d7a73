"""Pictures say what their table says."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")

from bayes_lrmf.plots import plot_predictions


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
