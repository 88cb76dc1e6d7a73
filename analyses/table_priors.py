"""Which lineage prior and which fit predicts cold models best, over five hold-outs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import xlog1py, xlogy

from analyses import study
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.evaluation import readable_table
from bayes_lrmf.holdouts import hold_out_cold

METHODS = ("lrmf_map", "lrmf_svi", "ncf_factors", "vb_laplacian", "vb_student", "vb")
SEEDS = {"v1": (0, 1, 2, 3, 4), "subtasks": (0, 1, 2, 3, 4)}
SHOWN = ("log_loss", "pearson", "mae", "coverage_50", "coverage_90", "width_90")


def least_log_loss(data: study.Data, seed: int) -> float:
    """Return the log loss of hidden counts predicted at the very shares that are observed.

    No prediction has less. That of 0/1 results is zero, and says nothing.
    """
    split = hold_out_cold(data.responses, data.background.lineage, seed=seed)
    k, n = split.truth.matrices(split.truth.models)
    share = k / np.maximum(n, 1)
    return float(-(xlogy(k, share) + xlog1py(n - k, -share)).sum() / n.sum())


def script(quick: bool) -> pd.DataFrame:
    """Write ``table_priors.csv`` and ``.md``, with paired differences from ``vb``."""
    methods = tuple(m for m in METHODS if m != "ncf_factors") if quick else METHODS
    long, text, kept = [], [], []
    for name in study.SIMULATED[:1] if quick else study.REAL:
        data = study.load(name)
        found = study.run(data, [Setting("cold")], methods, seeds=SEEDS.get(name, (0,)))
        long.append(found.metrics.assign(data=name))
        kept.append(study.figures(name, found, ("log_loss", "pearson")))
        compared = ("log_loss", "pearson")
        table = readable_table(found, "cold", SHOWN, reference="vb", compared=compared)
        text.append(f"## {name}, cold\n\n{study.markdown(table)}")
        print(text[-1], flush=True)
        if not data.responses.is_binary:
            floor = np.mean([least_log_loss(data, seed) for seed in SEEDS.get(name, (0,))])
            text.append(f"Predicted at the shares observed, log loss would be {floor:.4f}.\n")
            for method in methods[:-1]:
                gap, error = found.difference(method, "vb", holdout="cold", metric="log_loss")
                text.append(f"{method} above vb: {gap:.5f} ± {error:.5f}\n")
            print("".join(text[-len(methods) :]), flush=True)
    study.write_table(pd.concat(long), "table_priors")
    (study.FOLDER / "table_priors.md").write_text("\n".join(text), encoding="utf-8")
    return pd.concat(kept)


if __name__ == "__main__":
    study.command(script, __doc__)
