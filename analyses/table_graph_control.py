"""Whether it is the lineage that helps: the true graph against controls that are told another."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses import study
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.evaluation import Evaluation, readable_table
from bayes_lrmf.lineage import RELATIONS

SHOWN = ("log_loss", "auc", "pearson", "pearson_within", "mae", "coverage_90", "width_90")
TRUE = "true graph"


def script(quick: bool) -> pd.DataFrame:
    """Write ``table_graph_control.csv`` and ``.md``; hold-outs are those of the true graph."""
    method = "lrmf_map" if quick else "lrmf_svi"
    without = "mf" if quick else "mf_svi"
    data = study.load("simulated items" if quick else "v1")
    tree, models = data.background.lineage, list(data.responses.models)
    core = tree.core(models)
    arms = {
        TRUE: (method, None),
        "no graph": (without, None),
        "shuffled graph": (method, core.shuffled(np.random.default_rng(0))),
        "direct edges": (method, tree.of_relations([r for r in RELATIONS if r != "ancestor"])),
        "no latent ancestors": (method, tree.among(models)),
    }
    found = []
    for arm, (name, told) in arms.items():
        one = study.run(data, [Setting("cold")], [name], seeds=(0,), tune=not quick, told=told)
        tables = (one.metrics, one.losses, one.scores, one.settings)
        found.append([table.assign(method=arm) for table in tables])
    joined = Evaluation(
        *(pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    )
    study.write_table(joined.metrics.assign(data=data.name), "table_graph_control")
    table = readable_table(joined, "cold", SHOWN, reference=TRUE, compared=("pearson", "log_loss"))
    counts = {arm: core if told is None else told.core(models) for arm, (_, told) in arms.items()}
    edges = [0 if arm == "no graph" else len(counts[arm].child) for arm in table["method"]]
    table.insert(1, "edges", edges)
    text = f"{data.name}, cold, {method} ({without} without a graph)\n\n{study.markdown(table)}"
    (study.FOLDER / "table_graph_control.md").write_text(text, encoding="utf-8")
    print(text)
    return study.figures(data.name, joined, ("log_loss", "pearson"))


if __name__ == "__main__":
    study.command(script, __doc__)
