"""NUTS: the posterior of plain NUTS, and intervals that hold the truth of simulated data."""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import MCMC, NUTS, init_to_value

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.nuts import fit_nuts
from bayes_lrmf.posterior import diagnose_draws
from bayes_lrmf.predict import predict_items
from bayes_lrmf.program import program
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


def test_a_penalty_is_refused(problem, key):
    _, _, design = problem(1, 0)
    with pytest.raises(InputError, match="point estimate"):
        fit_nuts(design, read_spec("paper"), key=key)


@pytest.mark.slow
def test_short_run_is_judged_not_converged_and_is_reproducible(problem):
    spec, _, design = problem(1, 2, n_models=6, n_items=4)
    options = {"num_warmup": 20, "num_samples": 20, "num_chains": 2}
    one = fit_nuts(design, spec, key=jax.random.key(1), **options)
    two = fit_nuts(design, spec, key=jax.random.key(1), **options)
    assert not one.record.converged
    assert one.state.values["factor"].shape == (2, 20, 1, 6)
    for name, value in one.state.values.items():
        np.testing.assert_array_equal(value, two.state.values[name])


@pytest.mark.slow
def test_same_posterior_of_psi_as_plain_nuts_on_the_program(problem):
    spec, _, design = problem(2, 4, n_models=12, n_items=6)
    ours = fit_nuts(
        design, spec, key=jax.random.key(0), num_warmup=1000, num_samples=3000, num_chains=2
    )
    with jax.enable_x64(True):
        mode = fit_map(design, spec, key=jax.random.key(0), precision="float64")
        start = {n: jnp.asarray(v) for n, v in mode.state.values.items()}
        plain = MCMC(
            NUTS(program, init_strategy=init_to_value(values=start), max_tree_depth=9),
            num_warmup=1500, num_samples=6000, progress_bar=False,
        )  # fmt: skip
        plain.run(jax.random.key(1), design, spec)
        draws = {n: np.asarray(v) for n, v in plain.get_samples().items()}
    rows, cols = ours.psi_cells
    reference = ours.psi(draws, rows, cols)
    values = ours.draws(6000, key=jax.random.key(0))
    psi = ours.psi(values, rows, cols)
    assert diagnose_draws(ours)[0], ours.record.message
    spread = reference.std(0)
    assert np.abs(psi.mean(0) - reference.mean(0)).max() < 0.2 * spread.max()
    np.testing.assert_allclose(psi.std(0), spread, rtol=0.2)
    for name in ("factor_sd", "kappa", "intercept_sd"):
        a, b = np.log(values[name]), np.log(draws[name])
        assert abs(a.mean() - b.mean()) < 0.25 * b.std()


def _covered(seed: int) -> float | None:
    """Return the share of cell probabilities in their 90 % intervals; None if not converged."""
    # Every data set is compiled anew, and compiled code is never given back by itself.
    jax.clear_caches()
    spec = dataclasses.replace(read_spec("laplacian"), rank=1)
    data = simulate(
        spec, key=jax.random.key(seed), n_models=24, n_items=10, trials=50, n_benchmarks=2,
        density=0.8, sampled_hyperparameters=True,
    )  # fmt: skip
    design = make_design(data.responses, spec, lineage=data.lineage)
    fitted = fit_nuts(design, spec, key=jax.random.key(seed))
    print(seed, fitted.record.message)  # noqa: T201 (evidence)
    if not fitted.record.converged:
        return None
    items = predict_items(fitted, key=jax.random.key(0), ci_prob=0.9, n_draws=1000)
    both = items.merge(data.truth, on=["model", "benchmark", "item"])
    inside = (both["lower"] <= both["probability"]) & (both["probability"] <= both["upper"])
    return float(inside.mean())


@pytest.mark.slow
def test_intervals_of_cell_probabilities_hold_the_truth():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        shares = list(pool.map(_covered, range(24)))
    inside = [share for share in shares if share is not None]
    coverage = np.mean(inside)
    print(f"90 % intervals of psi cover {coverage:.3f} over {len(inside)} sets")  # noqa: T201
    assert len(inside) >= 20
    assert 0.87 <= coverage <= 0.93
