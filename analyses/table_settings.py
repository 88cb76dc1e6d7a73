"""Methods in three settings: sparse, mixed and cold; by responses and by benchmark scores."""

from __future__ import annotations

import pandas as pd

from analyses import study
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.evaluation import readable_table

BASELINES = ("item_mean", "lineage_mean", "nearest", "scaling", "irt", "mf")
METHODS = (*BASELINES, "ncf", "ncf_factors", "paper", "lrmf_map", "lrmf_svi", "vb")
QUICK_METHODS = ("item_mean", "lineage_mean", "nearest", "scaling", "mf", "lrmf_map")
SETTINGS = {
    "v1": (Setting("cells", 0.02), Setting("cold", 50), Setting("cold")),
    "subtasks": (Setting("cells", 0.1), Setting("cold", 10), Setting("cold")),
    "simulated items": (Setting("cells", 0.1), Setting("cold", 10), Setting("cold")),
    "simulated counts": (Setting("cold"),),
}
SHOWN = (
    "log_loss",
    "auc",
    "accuracy",
    "ece",
    "pearson",
    "pearson_within",
    "spearman",
    "mae",
    "coverage_90",
    "width_90",
    "seconds",
)


def script(quick: bool) -> pd.DataFrame:
    """Write ``table_settings.csv`` and a Markdown table for each table and setting."""
    methods = QUICK_METHODS if quick else METHODS
    reference = "lrmf_map" if quick else study.lineage_method()
    long, text, kept = [], [], []
    for name in study.SIMULATED if quick else study.REAL:
        data = study.load(name)
        found = study.run(data, SETTINGS[name], methods, seeds=(0,), tune=not quick)
        long.append(found.metrics.assign(data=name))
        kept.append(study.figures(name, found, ("log_loss", "pearson")))
        for holdout in dict.fromkeys(found.metrics["holdout"]):
            table = readable_table(
                found, holdout, SHOWN, reference=reference, compared=("pearson", "log_loss")
            )
            text.append(f"## {name}, {holdout}\n\n{study.markdown(table)}")
    study.write_table(pd.concat(long), "table_settings")
    notes = (
        "Best in bold. The last columns are the method minus the reference, ± the standard error "
        "over families (the log loss there counts every model once). Correlation is that of "
        "benchmark scores over models, mean over benchmarks.\n"
    )
    path = study.FOLDER / "table_settings.md"
    path.write_text("\n".join([notes, *text]), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return pd.concat(kept)


if __name__ == "__main__":
    study.command(script, __doc__)
