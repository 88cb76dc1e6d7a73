"""What numbers of parameters and dates add beside lineage."""

from __future__ import annotations

import pandas as pd

from analyses import study
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.evaluation import readable_table

METHODS = (
    "lineage_mean",
    "scaling",
    "lrmf_map",
    "lrmf_scaling",
    "lrmf_svi",
    "vb",
    "vb_features",
)
SHOWN = ("log_loss", "auc", "pearson", "pearson_within", "mae", "coverage_90", "width_90")


def script(quick: bool) -> pd.DataFrame:
    """Write ``table_scaling.csv`` and ``.md``.

    ``lrmf_scaling`` averages the log-odds of lrmf_map and of the scaling law, whose share (0 is
    among the candidates) is chosen on validation models.
    """
    methods = METHODS[:4] if quick else METHODS
    long, text, kept = [], [], []
    for name in study.SIMULATED[:1] if quick else study.REAL:
        data = study.load(name)
        found = study.run(data, [Setting("cold")], methods, seeds=(0,))
        long.append(found.metrics.assign(data=name))
        kept.append(study.figures(name, found, ("log_loss", "pearson")))
        table = readable_table(
            found, "cold", SHOWN, reference="lrmf_map", compared=("pearson", "log_loss")
        )
        chosen = found.settings[found.settings["method"] == "lrmf_scaling"]
        shares = ", ".join(f"seed {s}: {t}" for s, t in chosen[["seed", "settings"]].to_numpy())
        text.append(f"## {name}, cold\n\n{study.markdown(table)}\nlrmf_scaling: {shares}\n")
    study.write_table(pd.concat(long), "table_scaling")
    path = study.FOLDER / "table_scaling.md"
    path.write_text("\n".join(text), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return pd.concat(kept)


if __name__ == "__main__":
    study.command(script, __doc__)
