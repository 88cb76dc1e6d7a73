"""Kept reference draws: sound, of the tables they name, and what each method makes of these."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from analyses import reference_draws, reference_predictions
from analyses.reference_draws import (
    CASES,
    ESS_LIMIT,
    RHAT_LIMIT,
    probabilities,
    quantities,
    read_reference,
)
from analyses.reference_predictions import read_predictions
from bayes_lrmf.inference import fit_method
from bayes_lrmf.posterior import DrawsState

REFERENCE = "kept draws of NumPyro's NUTS"
NUTS = {"num_warmup": 400, "num_samples": 800, "target_accept": 0.95}
N_DRAWS = 8000


@functools.cache
def drawn(name):
    return CASES[name].drawn()


@pytest.mark.ledger
@pytest.mark.parametrize("name", CASES)
def test_kept_diagnostics_are_sound(name, claim):
    kept = read_reference(name)
    case, told, table = CASES[name], kept.told, kept.summary
    assert (told["spec"], told["changes"]) == (case.spec, _as_json(case.changes))
    assert told["quantities"] == len(table) == len(table.index.unique())
    assert told["greatest R-hat"] == pytest.approx(table["rhat"].max(), abs=1e-4)
    ess = table[["ess bulk", "ess tail"]].min(axis=None)
    assert min(told["least bulk ESS"], told["least tail ESS"]) == round(ess)
    share = told["divergences"] / (told["chains"] * told["draws a chain"])
    # Well below what a mean of probabilities is asked to be within.
    error = table.loc[table.index.str.startswith("probability "), "mcse mean"].max()
    for what, measured, tolerance in (
        ("greatest R-hat, less one", table["rhat"].max() - 1, RHAT_LIMIT - 1),
        (f"{ESS_LIMIT} by the least effective sample size, bulk or tail", ESS_LIMIT / ess, 1),
        ("share of draws that diverged", share, 1e-3),
        ("greatest Monte Carlo error of a mean of probability", error, ASKED[0] / 3),
    ):
        claim(
            f"Reference draws of four posteriors: {what}",
            "diagnostics of ArviZ",
            measured,
            tolerance,
        )


@pytest.mark.parametrize("name", CASES)
def test_thinned_draws_are_of_the_posterior_that_the_summary_is_of(name):
    import arviz as az

    kept = read_reference(name)
    chains = kept.arrays["draws"].astype(float)
    draws = chains.reshape(-1, chains.shape[-1])
    same = kept.summary.loc[list(kept.arrays["drawn"])]
    off = (draws.mean(0) - same["mean"]) / same["sd"]
    assert off.abs().max() < 6 / len(draws) ** 0.5
    # Scores have light tails, so that some 300 draws tell their sd to 4 %.
    scores = same.index.str.startswith("score ")
    assert np.abs(draws.std(0) / same["sd"] - 1)[scores].max() < 0.2
    assert az.rhat(chains, chain_axis=0, draw_axis=1).max() < 1.05


@pytest.mark.parametrize("name", reference_predictions.CASES)
def test_kept_predictions_are_of_sound_draws(name):
    case, kept = reference_predictions.CASES[name], read_predictions(name)
    told = kept.told
    assert (told["spec"], told["changes"]) == (case.spec, _as_json(case.changes))
    assert (told["simulated"], told["options"]) == (case.sizes, case.options)
    # What `fit_nuts` asks of draws that it calls converged.
    assert told["greatest R-hat"] < 1.02
    assert told["least bulk ESS"] > ESS_LIMIT
    assert told["divergences"] == 0
    assert told["draws"] == 2 * case.options["num_samples"]
    table = kept.table()
    n_cells = case.sizes["n_models"] * case.sizes["n_items"]
    assert len(table) == table.index.nunique() == n_cells
    assert table["mean"].between(0, 1).all()
    assert (table["sd"] > 0).all()


def test_kept_references_take_little_room():
    sizes = [path.stat().st_size for path in reference_draws.FOLDER.iterdir()]
    assert sum(sizes) < 1_000_000


def test_kept_table_is_what_the_simulator_draws():
    kept = read_reference("counts")
    assert kept.is_of(drawn("counts"))
    kept.arrays["successes"][0, 0] += 1
    assert not kept.is_of(drawn("counts"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "counts"])
def test_other_kept_tables_too(name):
    assert read_reference(name).is_of(drawn(name))


MEASURES = (
    "RMS gap of means of probabilities",
    "mean ratio of sds of probabilities, gap from one",
    "mean ratio of sds of benchmark scores, gap from one",
)
ASKED = (0.01, 0.15, 0.15)
# Some 1.5 times the worst of three keys, or what is asked where that is less and they meet it. What
# nuts is off by is the error of some 400 draws, what the others are off by is their approximation.
BOUNDS = {
    ("counts", "nuts"): (0.01, 0.1, 0.1),
    ("counts", "svi"): (0.01, 0.07, 0.12),
    ("counts", "vb"): (0.01, 0.05, 0.05),
    ("items", "svi"): (0.025, 0.07, 0.15),
    ("items", "vb"): (0.04, 0.12, 0.28),
    ("irt", "nuts"): (0.01, 0.1, 0.1),
    ("irt", "svi"): (0.02, 0.15, 0.4),
    ("irt", "vb"): (0.03, 0.3, 0.7),
    ("directed", "nuts"): (0.01, 0.1, 0.1),
    ("directed", "vb"): (0.02, 0.15, 0.15),
}
CAUSES = {
    "svi": "models and items are taken for independent, and so are the columns of factors",
    "vb": "models and items are taken for independent, and scales are points",
}


def gaps(kept, found):
    """Return `MEASURES` of draws of `quantities`; gaps of what is too wide are negative."""
    ratios = {}
    for kind, named in (("probability", probabilities(found)), ("score", found)):
        draws = {n: v for n, v in named.items() if n.startswith(f"{kind} ")}
        table = kept.summary.loc[list(draws)]
        off = np.array([v.mean() for v in draws.values()]) - table["mean"]
        sd = np.array([v.std() for v in draws.values()])
        ratios[kind] = 1 - float((sd / table["sd"]).mean())
        if kind == "probability":
            rms = float(np.sqrt((off**2).mean()))
    return rms, ratios["probability"], ratios["score"]


@pytest.mark.ledger
@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), BOUNDS)
def test_methods_against_reference_draws(name, method, claim):
    case, kept = CASES[name], read_reference(name)
    data, spec = drawn(name), case.declared()
    assert kept.is_of(data)
    design = case.design(data)
    options = NUTS if method == "nuts" else {}
    if (name, method) == ("directed", "nuts"):
        # Short steps: at the usual ones a draw in a thousand diverges.
        options = NUTS | {"target_accept": 0.98}
    fitted = fit_method(method, design, spec, key=jax.random.key(0), **options)
    assert fitted.record.converged, fitted.record.message
    n_draws = fitted.state.n_draws if isinstance(fitted.state, DrawsState) else N_DRAWS
    found = quantities(design, spec, fitted.draws(n_draws, key=jax.random.key(1)))
    measured = gaps(kept, found)
    for what, gap, bound, asked in zip(
        MEASURES, measured, BOUNDS[name, method], ASKED, strict=True
    ):
        falls_short = bound > asked
        claim(
            f"{method}, {name}: {what}",
            REFERENCE,
            abs(gap),
            asked if falls_short else bound,
            bound=bound,
            cause=CAUSES[method] if falls_short else "",
        )
        # Approximations fall short by being too narrow; else the bound is out of date.
        assert not falls_short or gap > 0.8 * asked, f"{method}, {name}: {what} is only {gap}"


def _as_json(changes):
    return {n: list(v) if isinstance(v, tuple) else v for n, v in changes.items()}
