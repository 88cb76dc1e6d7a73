"""One family with some models hidden: predicted scores, and how sure they are."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd

from analyses import study
from bayes_lrmf.design import make_design
from bayes_lrmf.evaluate import Setting
from bayes_lrmf.inference import fit_method
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.plots import plot_family
from bayes_lrmf.predict import score_draws
from bayes_lrmf.spec import read_spec

SIZE = (20, 45)


def script(quick: bool) -> pd.DataFrame:
    """Write ``figure_family.csv``, the edges beside it, and ``figure_family.png``."""
    data = study.load("simulated items" if quick else "v1")
    split = Setting("cold").split(data.responses, data.background, seed=0)
    base, family = _family(data.background.lineage.core(list(data.responses.models)), split.models)
    spec = read_spec("laplacian")
    design = make_design(
        split.train, spec, lineage=data.background.lineage, extra_models=split.models
    )
    posterior = fit_method("svi", design, spec, key=jax.random.key(0))
    draws = score_draws(posterior, key=jax.random.key(1), models=list(family.nodes), n_draws=400)
    average = draws.scores.mean(axis=2, dtype=np.float64)
    lower, upper = equal_tailed(average, 0.9)
    successes, trials = data.responses.totals()
    observed = pd.Series(
        (successes / np.where(trials > 0, trials, np.nan)).mean(axis=1), data.responses.models
    )
    table = family.layout()
    hidden = table["model"].isin(split.models)
    evaluated = table["model"].isin(split.train.models)
    table = table.assign(
        mean=average.mean(axis=0),
        lower=lower,
        upper=upper,
        width=upper - lower,
        status=np.select([hidden, evaluated], ["hidden", "evaluated"], "latent"),
        observed=observed.reindex(table["model"]).to_numpy(),
    )
    edges = pd.DataFrame(
        {"child": family.nodes[family.child], "parent": family.nodes[family.parent]}
    )
    study.write_table(table.sort_values("row"), "figure_family")
    study.write_table(edges.assign(relation=family.relation), "figure_family_edges")
    plot_family(table, edges).savefig(study.FOLDER / "figure_family.png", dpi=150)
    some = table[hidden & table["observed"].notna()]
    inside = ((some["lower"] <= some["observed"]) & (some["observed"] <= some["upper"])).mean()
    error = (some["mean"] - some["observed"]).abs().mean()
    print(
        f"{base}: {len(table)} models, {len(some)} hidden with results; mean absolute error "
        f"{error:.3f}, {inside:.0%} inside their 90 % interval"
    )
    return pd.DataFrame(
        {
            "data": data.name,
            "holdout": "cold",
            "method": "lrmf_svi",
            "metric": ["mae", "n_models"],
            "value": [error, len(table)],
        }
    )


def _family(core: Lineage, hidden: tuple[str, ...]) -> tuple[str, Lineage]:
    """Return a model with a few dozen descendants, grandchildren among them, and its family.

    That with most of them hidden; the choice sees no score.
    """
    best = ("", Lineage.empty(), -1)
    for base in core.nodes[np.unique(core.parent)]:
        names = list(core.descendants([base]).nodes)
        n_hidden = len(set(names) & set(hidden))
        if not SIZE[0] <= len(names) <= SIZE[1] or n_hidden <= best[2]:
            continue
        family = core.among(names)
        if family.depth().max() > 1:
            best = (base, family, n_hidden)
    return best[0], best[1]


if __name__ == "__main__":
    study.command(script, __doc__)
