"""Whether intervals hold what they state: nominal against actual coverage, and width."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses import study
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.plots import plot_coverage
from bayes_lrmf.scoring import COVERAGE_AT

METHODS = ("mf_svi", "lrmf_svi", "vb")
CONFORMAL = ("lineage_mean_conformal", "ncf_factors_conformal", "paper_conformal")
# Of the method that the others are compared with: half of a few families is a small sample.
MORE_SEEDS = (1, 2, 3, 4)
SETTINGS = (Setting("cold"), Setting("cold", 10), Setting("roots"))


def script(quick: bool) -> pd.DataFrame:
    """Write ``figure_coverage.csv`` and a picture for each table."""
    tables, kept = [], []
    for name in study.SIMULATED[:1] if quick else study.REAL:
        data = study.load(name)
        settings = SETTINGS[:1] if quick else SETTINGS
        methods = (*METHODS, *(CONFORMAL[:1] if quick else CONFORMAL))
        found = study.run(data, settings, methods, seeds=(0,))
        metrics = [found.metrics]
        if not quick:
            more = study.run(data, settings, (study.lineage_method(),), seeds=MORE_SEEDS)
            metrics.append(more.metrics)
        table = coverage_by_nominal(pd.concat(metrics))
        table["reference_width"] = _reference_width(table, study.lineage_method())
        tables.append(table.assign(data=name))
        picture = study.FOLDER / f"{study.file_name('figure_coverage', name)}.png"
        plot_coverage(table).savefig(picture, dpi=150)
        kept.append(study.figures(name, found, ("coverage_90", "width_90")))
    study.write_table(pd.concat(tables), "figure_coverage")
    return pd.concat(kept)


def coverage_by_nominal(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return coverage and width by stated probability: mean and range over seeds."""
    by = ["holdout", "method"]
    lines = []
    for key, part in metrics.groupby(by, sort=False):
        for nominal in COVERAGE_AT:
            inside = part.loc[part["metric"] == f"coverage_{100 * nominal:.0f}", "value"]
            width = part.loc[part["metric"] == f"width_{100 * nominal:.0f}", "value"].mean()
            lines.append((*key, nominal, inside.mean(), width, inside.min(), inside.max()))
    columns = [*by, "nominal", "coverage", "width", "lowest", "highest"]
    return pd.DataFrame(lines, columns=columns)


def _reference_width(table: pd.DataFrame, method: str) -> pd.Series:
    """Return how wide intervals of a method are that cover what those of each row do.

    Between stated probabilities by interpolation; NaN beyond them.
    """
    width = pd.Series(np.nan, index=table.index)
    for _, part in table.groupby("holdout", sort=False):
        known = part[part["method"] == method].sort_values("coverage")
        coverage, of = np.append(0.0, known["coverage"]), np.append(0.0, known["width"])
        width[part.index] = np.interp(part["coverage"], coverage, of, right=np.nan)
    return width


if __name__ == "__main__":
    study.command(script, __doc__)
