"""Kept reference draws: sound, of the tables they name, and what each method makes of these."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.special import expit

from analyses import reference_draws
from analyses.reference_draws import CASES, ESS_LIMIT, RHAT_LIMIT, quantities, read_reference
from bayes_lrmf.inference import fit_method
from bayes_lrmf.posterior import DrawsState

NUTS = {"num_warmup": 400, "num_samples": 800}


@pytest.mark.parametrize("name", CASES)
def test_kept_diagnostics_are_sound(name):
    kept = read_reference(name)
    case, told, table = CASES[name], kept.told, kept.summary
    assert (told["spec"], told["changes"]) == (case.spec, _as_json(case.changes))
    assert told["quantities"] == len(table) == len(table.index.unique())
    assert told["greatest R-hat"] == pytest.approx(table["rhat"].max(), abs=1e-4)
    assert table["rhat"].max() < RHAT_LIMIT
    assert table[["ess bulk", "ess tail"]].min(axis=None) > ESS_LIMIT
    assert told["divergences"] <= 1e-3 * told["chains"] * told["draws a chain"]
    # The thinned draws are of the posterior that the summary is of.
    draws = kept.arrays["draws"].reshape(-1, len(kept.arrays["drawn"]))
    same = table.loc[list(kept.arrays["drawn"])]
    off = (draws.mean(0) - same["mean"]) / same["sd"]
    assert off.abs().max() < 6 / len(draws) ** 0.5


def test_kept_references_take_little_room():
    sizes = [path.stat().st_size for path in reference_draws.FOLDER.iterdir()]
    assert sum(sizes) < 1_000_000


def test_kept_table_is_what_the_simulator_draws():
    data = CASES["counts"].drawn()
    kept = read_reference("counts")
    assert kept.is_of(data)
    kept.arrays["successes"][0, 0] += 1
    assert not kept.is_of(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "counts"])
def test_other_kept_tables_too(name):
    assert read_reference(name).is_of(CASES[name].drawn())


# Gaps of means and of ratios of sd. NUTS has the error of some 400 draws; what the others are off
# by is their approximation.
TOLERANCES = {
    ("counts", "nuts"): (0.01, 0.1),
}


@pytest.mark.ledger
@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), TOLERANCES)
def test_methods_against_reference_draws(name, method, claim):
    case, kept = CASES[name], read_reference(name)
    data, spec = case.drawn(), case.declared()
    assert kept.is_of(data)
    design = case.design(data)
    options = NUTS if method == "nuts" else {}
    fitted = fit_method(method, design, spec, key=jax.random.key(0), **options)
    n_draws = fitted.state.n_draws if isinstance(fitted.state, DrawsState) else 2000
    found = quantities(design, spec, fitted.draws(n_draws, key=jax.random.key(1)))
    psi = {n: expit(v) for n, v in found.items() if n.startswith("psi ")}
    table = kept.summary.loc[[n.replace("psi", "probability", 1) for n in psi]]
    mean = np.array([v.mean() for v in psi.values()])
    sd = np.array([v.std() for v in psi.values()])
    by_mean, by_sd = TOLERANCES[name, method]
    reference = "kept draws of NumPyro's NUTS"
    claim(
        f"{method}, {name}: RMS gap of means of probabilities",
        reference,
        float(np.sqrt(((mean - table["mean"]) ** 2).mean())),
        by_mean,
    )
    claim(
        f"{method}, {name}: mean ratio of sds of probabilities, gap from one",
        reference,
        abs(float((sd / table["sd"]).mean()) - 1),
        by_sd,
    )


def _as_json(changes):
    return {n: list(v) if isinstance(v, tuple) else v for n, v in changes.items()}
