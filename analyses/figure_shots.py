"""What a few items run are worth: error and correlation against the number of items run."""

from __future__ import annotations

import pandas as pd

from analyses import study
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.plots import plot_shots

SHOTS = (0, 5, 10, 25, 50, 100, 200)
METHODS = ("item_mean", "lineage_mean", "mf", "lrmf_svi", "vb")
QUICK_METHODS = ("item_mean", "lineage_mean", "mf", "lrmf_map")
MEASURES = {
    "abs_error": "mean absolute error of scores (0 to 1)",
    "pearson": "Pearson r of scores, mean over benchmarks",
}


def script(quick: bool) -> pd.DataFrame:
    """Write ``figure_shots.csv`` and ``figure_shots.png``."""
    data = study.load("simulated items" if quick else "v1")
    settings = [Setting("cold", k) for k in ((0, 10, 50) if quick else SHOTS)]
    methods = study.at_hand(QUICK_METHODS if quick else METHODS)
    found = study.run(data, settings, methods, seeds=(0,), tune=not quick)
    lines = []
    for setting in settings:
        for method in methods:
            for metric, measure in MEASURES.items():
                value, error = found.estimate(method, holdout=setting.name, metric=metric)
                lines.append((data.name, method, setting.value, measure, value, error))
    columns = ["data", "method", "shots", "measure", "value", "standard_error"]
    table = pd.DataFrame(lines, columns=columns)
    study.write_table(table, "figure_shots")
    plot_shots(table).savefig(study.FOLDER / "figure_shots.png", dpi=150)
    return study.figures(data.name, found, ("mae", "pearson"))


if __name__ == "__main__":
    study.command(script, __doc__)
