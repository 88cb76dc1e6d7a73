"""Whether flags mean something: errors of hidden models by the width of their intervals."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd

from analyses import study
from bayes_lrmf.comparison import bootstrap_error
from bayes_lrmf.design import make_design
from bayes_lrmf.flag import flag
from bayes_lrmf.forecast import posterior_forecast
from bayes_lrmf.holdouts import families, hold_out_cold
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.scoring import benchmark_scores
from bayes_lrmf.spec import read_spec

SEEDS = (0,)
THIRDS = ("least uncertain third", "middle third", "flagged third")


def errors(data: study.Data, seed: int) -> pd.DataFrame:
    """Return ``model, benchmark, width, error`` of the scores of hidden models."""
    lineage, spec = data.background.lineage, read_spec("lrmf")
    split = hold_out_cold(data.responses, lineage, seed=seed)
    design = make_design(split.train, spec, lineage=lineage)
    posterior = fit_vb(design, spec, key=jax.random.key(seed))
    models, key = list(split.models), jax.random.key(seed + 1000)
    # Every interval is wider than nothing: all of them, with their ends, widest first.
    flagged = flag(posterior, key=key, models=models, max_width=1e-9)
    flagged = flagged[flagged["rule"] == "width"].set_index(["model", "benchmark"])["value"]
    observed, predicted = benchmark_scores(posterior_forecast(posterior, models, key=key), split)
    pairs = pd.MultiIndex.from_product([models, split.test.benchmarks], names=flagged.index.names)
    error = pd.Series(np.abs(observed - predicted).ravel(), pairs)
    table = pd.DataFrame({"width": flagged, "error": error}).dropna()
    return table.reset_index().assign(seed=seed)


def thirds(table: pd.DataFrame, family: pd.Series) -> pd.DataFrame:
    """Return errors by third of the width, and how many times that of the least uncertain."""
    cuts = table["width"].quantile([1 / 3, 2 / 3]).to_numpy()
    table = table.assign(third=np.searchsorted(cuts, table["width"]))
    low = table["third"] == 0
    groups = table["model"].map(family).to_numpy()
    lines = []
    for at, name in enumerate(THIRDS):
        mine = table["third"] == at
        ratio, error = bootstrap_error(
            lambda e, a, b: float(e[a].mean() / e[b].mean()),
            [table["error"], mine, low],
            groups,
            seed=0,
            n_boot=1000,
        )
        some = table[mine]
        lines.append((name, len(some), some["width"].mean(), some["error"].mean(), ratio, error))
    return pd.DataFrame(lines, columns=["scores", "n", "width_90", "mae", "times", "times_error"])


def script(quick: bool) -> pd.DataFrame:
    """Write ``table_flags.csv`` and ``.md``."""
    found = []
    for name in study.SIMULATED[:1] if quick else study.REAL:
        data = study.load(name)
        family = families(list(data.responses.models), data.background.lineage)
        table = pd.concat([errors(data, seed) for seed in (SEEDS[:1] if quick else SEEDS)])
        found.append(thirds(table, family).assign(data=name))
        print(found[-1].round(4).to_string(index=False), flush=True)
    whole = pd.concat(found)
    study.write_table(whole, "table_flags")
    path = study.FOLDER / "table_flags.md"
    path.write_text(study.markdown(whole.round(4)), encoding="utf-8")
    return whole


if __name__ == "__main__":
    study.command(script, __doc__)
