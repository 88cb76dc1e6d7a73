"""Program and simulator: one joint distribution of parameters and data, drawn both ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analyses import geweke
from analyses.plain_program import PlainProgram
from bayes_lrmf.simulate import simulate

pytestmark = pytest.mark.usefixtures("unoptimised")


def test_the_marginal_draw_is_that_of_the_simulator():
    spec = geweke.tiny("laplacian")
    design = geweke.whole_design(spec)
    key = jax.random.key(5)
    data = simulate(
        spec, key=key, lineage=geweke.family(), n_items=geweke.N_ITEMS, trials=geweke.TRIALS,
        n_benchmarks=geweke.N_BENCHMARKS, density=1, cold_share=0, sampled_hyperparameters=True,
    )  # fmt: skip
    _, program_key = jax.random.split(key)
    again = jax.jit(lambda k: geweke.drawn_sites(design, spec, {}, key=k))(program_key)
    assert again.keys() == data.values.keys()
    for name, value in data.values.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5, atol=1e-6)


def test_data_of_many_draws_are_over_dispersed_as_each_says():
    spec = geweke.tiny("laplacian")
    design = geweke.whole_design(spec)
    n = 4000
    spread = np.tile([[2.0, 1e6]], (n, 1))
    psi = np.zeros((n, 6, geweke.N_ITEMS))
    drawn = geweke.drawn_successes(
        design, psi, {"concentration": spread}, trials=12, rng=np.random.default_rng(0)
    )
    # Beta-Binomial: n p q (1 + (n - 1) / (concentration + 1)).
    variance = drawn.var((0, 1))
    expected = np.where(design.benchmark_index == 0, 3 * (1 + 11 / 3), 3)
    np.testing.assert_allclose(variance, expected, rtol=0.03)


@pytest.mark.ledger
@pytest.mark.slow
@pytest.mark.parametrize("name", geweke.SPECS)
def test_both_ways_draw_one_joint_distribution(name, claim):
    found = geweke.compared(name)
    # Chains that hardly move would stay where they began.
    assert found.acceptance > 0.5
    claim(
        f"Program and simulator, spec {name}: greatest z, either sign, of {len(found.table)} joint "
        "moments",
        f"Geweke's test; limit is of their number at {geweke.LEVEL:.0%}",
        found.worst,
        round(found.limit, 2),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("laplacian", "prior of intercept_sd"),
        ("laplacian", "log-odds of data"),
        ("directed", "prior of overdispersion_sd"),
    ],
)
def test_what_is_wrong_is_seen(name, wrong):
    found = geweke.WRONG[name][wrong](name)
    assert found.worst > 1.5 * found.limit


@pytest.mark.slow
def test_no_rounding_makes_a_likelihood_that_holds_a_chain_astray():
    # Where noise was e^30 and more, k odds - n log(1 + exp(odds)) rounded to either side of zero.
    name = "directed"
    spec = geweke.tiny(name)
    plain = PlainProgram(geweke.whole_design(spec), spec)
    start = geweke.marginal(plain.design, spec, 512, seed=1)
    coordinates, _, _ = geweke._compiled(name)
    trials = np.full(start.psi.shape, float(geweke.TRIALS))
    table = np.stack([start.successes, trials], axis=1)
    far = np.random.default_rng(0).uniform(30, 90, (len(trials), 2))
    with jax.enable_x64(True):
        z = dict(coordinates({n: jnp.asarray(v) for n, v in start.values.items()}))
        z["overdispersion_sd"] = jnp.asarray(far)
        value, _ = jax.jit(jax.vmap(jax.value_and_grad(plain.potential)))(z, table)
    assert np.asarray(value).min() > 0
