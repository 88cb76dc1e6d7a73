"""NUTS: the posterior of plain NUTS, and intervals that hold the truth of simulated data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import MCMC, NUTS, init_to_value

from analyses import nuts_coverage
from bayes_lrmf.checks import InputError
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.nuts import fit_nuts
from bayes_lrmf.posterior import diagnose_draws
from bayes_lrmf.program import program
from bayes_lrmf.spec import read_spec


def test_a_penalty_is_refused(pair, key):
    with pytest.raises(InputError, match="point estimate"):
        fit_nuts(pair, read_spec("paper"), key=key)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_short_run_is_judged_not_converged_and_is_reproducible(problem):
    spec, _, design = problem(1, 2, n_models=6, n_items=4)
    options = {"num_warmup": 20, "num_samples": 20, "num_chains": 2}
    one = fit_nuts(design, spec, key=jax.random.key(1), **options)
    two = fit_nuts(design, spec, key=jax.random.key(1), **options)
    assert not one.record.converged
    assert one.state.values["factor"].shape == (2, 20, 1, 6)
    for name, value in one.state.values.items():
        np.testing.assert_array_equal(value, two.state.values[name])


@pytest.mark.ledger
@pytest.mark.slow
def test_same_posterior_of_psi_as_plain_nuts_on_the_program(problem, claim):
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
    claim(
        "nuts: greatest gap of means of psi, in sd",
        "plain NUTS of NumPyro on the program",
        np.abs(psi.mean(0) - reference.mean(0)).max() / spread.max(),
        0.2,
    )
    claim(
        "nuts: greatest relative gap of sd of psi",
        "plain NUTS of NumPyro on the program",
        np.abs(psi.std(0) / spread - 1).max(),
        0.2,
    )
    for name in ("factor_sd", "kappa", "intercept_sd"):
        a, b = np.log(values[name]), np.log(draws[name])
        assert abs(a.mean() - b.mean()) < 0.25 * b.std()


@pytest.mark.slow
def test_intervals_of_cell_probabilities_hold_the_truth():
    # Two of the data sets that the script counts, in one process, which compiles once for both;
    # the share of one has a sd of .04.
    found = [nuts_coverage.covered(seed) for seed in range(2)]
    assert all(one.converged for one in found), [one.message for one in found]
    assert abs(np.mean([one.share for one in found]) - nuts_coverage.CI_PROB) < 0.07
