"""What each contestant says of the hidden models, in one form, whoever made it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import scipy.special

from analyses.bench.contestants import Contestant
from analyses.bench.tables import Table, point_spec
from bayes_lrmf.design import Design, make_design
from bayes_lrmf.forecast import Forecast, posterior_forecast
from bayes_lrmf.posterior import FitRecord, PointState, Posterior
from bayes_lrmf.predict import ScoreDraws


def point_of(folder: Path) -> dict[str, np.ndarray]:
    """Return factors (rank, n_core) and loadings (rank, n_items) of a point estimate."""
    with np.load(folder / "point.npz") as found:
        return {name: found[name] for name in ("factor", "loading")}


def forecast_of(contestant: Contestant, table: Table, folder: Path) -> Forecast:
    """Return the forecast of the hidden models that a run left in `folder`.

    A point is carried down the lineage as the prior has it, whoever found it.
    """
    models = list(table.split.models)
    if contestant.kind == "point":
        design = point_design(table)
        values = point_of(folder)
        posterior = Posterior(design, point_spec(), PointState(values), FitRecord("map", True, ""))
        return posterior_forecast(posterior, models, key=jax.random.key(1))
    items = table.split.train.items
    if contestant.name == "smurff":
        return _of_gibbs_draws(table, folder)
    with np.load(folder / "forecast.npz") as found:
        scores = ScoreDraws(
            np.array(models, dtype=object),
            table.split.train.benchmarks,
            found["scores"],
            found["n_items"],
            found["n_observed"],
            "predictive",
        )
        return Forecast(items, found["probabilities"], scores)


def point_design(table: Table) -> Design:
    """Return the design of the objective that points share."""
    return make_design(table.split.train, point_spec(), lineage=table.lineage)


def _of_gibbs_draws(table: Table, folder: Path) -> Forecast:
    """Return probabilities and scores of probit draws; responses of a full run are drawn."""
    train, models = table.split.train, list(table.split.models)
    rng = np.random.default_rng(0)
    member = np.eye(len(train.benchmarks))[train.benchmark_index]
    n_items = np.tile(member.sum(0).astype(np.int64), (len(models), 1))
    with np.load(folder / "draws.npz") as found:
        pairs = list(zip(found["models"], found["items"], strict=True))
    total = np.zeros((len(models), train.n_items))
    scores = np.empty((len(pairs), *n_items.shape), np.float32)
    for at, (u, v) in enumerate(pairs):
        p = scipy.special.ndtr(u.astype(float) @ v.T.astype(float))
        total += p
        scores[at] = (rng.random(p.shape) < p) @ member / n_items
    draws = ScoreDraws(
        np.array(models, dtype=object),
        train.benchmarks,
        scores,
        n_items,
        np.zeros_like(n_items),
        "predictive",
    )
    return Forecast(train.items, total / len(pairs), draws)
