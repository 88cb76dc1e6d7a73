"""The program of a spec against densities of SciPy, on dense matrices made by hand."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import numpyro
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats
from numpyro.infer.util import log_density
from scipy.special import expit

from bayes_lrmf.design import make_design
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.program import (
    components,
    fixed_hyperparameters,
    hyperparameters,
    noise_of_items,
    observed_rows,
    program,
)
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.spec import HyperPrior, Penalty, Spec

# Two children of a parent that was never run, a grandchild, and a model without kin.
EDGES = [("b", "root"), ("c", "root"), ("d", "b")]
EVALUATED = ["a", "b", "c", "d"]
ITEMS = [("w", "1", 1), ("x", "1", 6), ("x", "2", 3), ("z", "1", 9)]
OF_ITEM = [0, 1, 1, 2]
SIMILAR = [(0, 1, 0.7), (1, 3, 1.3)]
SPEC = Spec("all", rank=2, item_prior="laplacian", kappa=HyperPrior(0.3, 0.8))


@pytest.fixture(scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def counts():
    trials = np.array([n for *_, n in ITEMS])
    return np.random.default_rng(0).binomial(trials, 0.4, (len(EVALUATED), len(ITEMS))), trials


@pytest.fixture(scope="module")
def designed(x64, counts):
    def made(spec, edges=EDGES, similar=SIMILAR):
        successes, trials = counts
        bench, item, _ = zip(*ITEMS, strict=True)
        frame = pd.DataFrame(
            {
                "model": np.repeat(EVALUATED, len(ITEMS)),
                "benchmark": bench * len(EVALUATED),
                "item": item * len(EVALUATED),
                "successes": successes.ravel(),
                "trials": np.tile(trials, len(EVALUATED)),
            }
        )
        recorded = pd.DataFrame(edges, columns=["child", "parent"]).assign(relation="finetune")
        rows, cols, weights = zip(*similar, strict=True) if similar else ([], [], [])
        half = sp.coo_array((weights, (rows, cols)), shape=(len(ITEMS),) * 2)
        return make_design(
            responses_from_frame(frame),
            spec,
            lineage=lineage_from_frame(recorded) if edges else None,
            item_adjacency=sp.csr_array(half + half.T) if similar else None,
        )

    return made


def sites(design, spec, seed):
    """Return random values of all sites."""
    rng = np.random.default_rng(seed)
    k, n, m = spec.rank, design.n_core, design.n_items
    values = {
        name: np.exp(np.log(prior.median) + 0.3 * rng.normal(size=shape))
        for name, (prior, shape) in hyperparameters(design, spec).items()
        if prior.learned
    }
    return values | {
        "factor": rng.normal(size=(k, n)),
        "ability_unit": rng.normal(size=n),
        "effect_unit": rng.normal(size=(1, n)),
        **({"loading_mean": rng.normal(size=(k, 2))} if spec.loading_mean else {}),
        "loading": rng.normal(size=(k, m)),
        "intercept_mean": rng.normal(size=2),
        "intercept": rng.normal(size=m),
    }


def field(values, graph, tau, kappa):
    """Return the log density of a scaled field, by dense matrices."""
    precision = laplacian(graph, values.shape[-1]) + kappa * np.eye(values.shape[-1])
    precision *= tau * np.exp(np.log(np.diag(np.linalg.inv(precision))).mean())
    normal = scipy.stats.multivariate_normal(cov=np.linalg.inv(precision))
    return normal.logpdf(values).sum()


def laplacian(edges, n):
    out = np.zeros((n, n))
    for i, j, weight in edges:
        step = np.zeros(n)
        step[i], step[j] = 1, -1
        out += weight * np.outer(step, step)
    return out


def expected(design, spec, values, counts):
    """Return the log joint density but for binomial coefficients.

    Only benchmark x has two items, so that it alone has an effect and a group of items of its own.
    """
    normal, total = scipy.stats.norm, 0.0
    hyper = {}
    for name in ("kappa", "factor_sd", "ability_sd", "benchmark_sd", "intercept_sd",
                 "concentration", "overdispersion_sd"):  # fmt: skip
        prior = getattr(spec, name)
        hyper[name] = values.get(name, prior.median)
        if name not in values:
            continue
        if name == "kappa":
            ends = (np.log([1e-4, 1e2]) - np.log(prior.median)) / prior.log_sd
            cut = scipy.stats.truncnorm(*ends, np.log(prior.median), prior.log_sd)
            total += cut.logpdf(np.log(values[name])) - np.log(values[name])
        else:
            total += (
                scipy.stats.lognorm(prior.log_sd, scale=prior.median).logpdf(values[name]).sum()
            )
    place = {name: at for at, name in enumerate(design.core.nodes)}
    family = [(place[c], place[p], 1.0) for c, p in EDGES if p in place]
    for name, sd in (("factor", hyper["factor_sd"]), ("ability_unit", 1), ("effect_unit", 1)):
        if spec.lineage == "laplacian":
            total += field(values[name], family, sd**-2, hyper["kappa"])
        else:
            total += normal.logpdf(values[name], 0, sd).sum()
    of_item = np.array([0, 1, 1, 0])
    around = values["loading"]
    if spec.loading_mean:
        total += normal.logpdf(values["loading_mean"], 0, spec.loading_mean_sd.median).sum()
        around = around - values["loading_mean"][:, of_item]
    if spec.item_prior == "laplacian" and design.item_graph is not None:
        total += field(around, SIMILAR, 1, 0.1)
    else:
        total += normal.logpdf(around).sum()
    total += normal.logpdf(values["intercept_mean"], 0, spec.intercept_mean_sd.median).sum()
    level = values["intercept_mean"][of_item]
    total += normal.logpdf(values["intercept"], level, hyper["intercept_sd"]).sum()
    return total + likelihood(design, spec, values | hyper, counts)


def log_odds(values):
    psi = values["factor"].T @ values["loading"] + values["intercept"]
    psi += values["ability_sd"] * values["ability_unit"][:, None]
    psi[:, 1:3] += values["benchmark_sd"] * values["effect_unit"][0][:, None]
    return psi


def likelihood(design, spec, values, counts):
    successes, trials = counts
    psi = log_odds(values)[[list(design.core.nodes).index(name) for name in EVALUATED]]
    if spec.likelihood == "beta_binomial":
        c = values["concentration"][OF_ITEM]
        p = expit(psi)
        return scipy.stats.betabinom(trials, p * c, (1 - p) * c).logpmf(successes).sum()
    sd = np.where(trials > 1, values["overdispersion_sd"][OF_ITEM], 0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    p = expit(psi + sd * nodes[:, None, None])
    mass = scipy.stats.binom(trials, p).pmf(successes)
    return np.log(np.tensordot(weights / weights.sum(), mass, 1)).sum()


@pytest.mark.parametrize(
    ("changes", "similar", "tolerance"),
    [
        ({}, SIMILAR, 1e-8),
        ({"item_prior": "independent", "lineage": "none"}, SIMILAR, 1e-8),
        ({"likelihood": "logit_normal"}, SIMILAR, 1e-4),
        ({"benchmark_sd": HyperPrior(0.4), "kappa": HyperPrior(0.5)}, SIMILAR, 1e-8),
        ({"loading_mean": False}, [], 1e-8),
    ],
)
def test_density_is_that_of_scipy(changes, similar, tolerance, designed, counts):
    spec = dataclasses.replace(SPEC, **changes)
    design = designed(spec, similar=similar)
    # The parent that was never run joins two models of the table.
    assert design.n_core == 4 + (spec.lineage == "laplacian")
    found, by_hand = [], []
    density = jax.jit(lambda values: log_density(program, (design, spec), {}, values)[0])
    for seed in (1, 2):
        values = sites(design, spec, seed)
        found.append(float(density(values)))
        by_hand.append(expected(design, spec, values, counts))
    # Constants of the data drop out between two points.
    assert found[1] - found[0] == pytest.approx(by_hand[1] - by_hand[0], abs=tolerance)


@pytest.mark.parametrize("penalty", [Penalty(0.7, 0.4, 0.3), Penalty(0.0, 0.0, 0.3)])
@pytest.mark.parametrize("graphs", [True, False])
def test_penalised_density_is_the_objective(penalty, graphs, designed, counts):
    spec = Spec(
        "penalised", rank=2, likelihood="bernoulli", ability=False, benchmark_effects=False,
        intercept=False, loading_mean=False, item_prior="laplacian", penalty=penalty,
    )  # fmt: skip
    design = designed(spec, *(() if graphs else ([], [])))
    design = design.once_per_cell()
    place = {name: at for at, name in enumerate(design.core.nodes)}
    family = [(place[c], place[p], 1.0) for c, p in EDGES] if graphs else []
    similar = SIMILAR if graphs else []
    y = counts[0] / counts[1]
    found, by_hand = [], []
    density = jax.jit(lambda values: log_density(program, (design, spec), {}, values)[0])
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        m, x = rng.normal(size=(2, design.n_core)), rng.normal(size=(2, design.n_items))
        values = {"factor": m, "loading": x}
        found.append(float(density(values)))
        p = expit(m.T @ x)[[place[name] for name in EVALUATED]]
        smooth = [
            np.trace(v @ laplacian(g, v.shape[1]) @ v.T) for v, g in ((m, family), (x, similar))
        ]
        by_hand.append(
            (y * np.log(p) + (1 - y) * np.log(1 - p)).sum()
            - penalty.models * smooth[0]
            - penalty.items * smooth[1]
            - penalty.ridge * ((m**2).sum() + (x**2).sum())
        )
    # Fractions are kept in single precision.
    assert found[1] - found[0] == pytest.approx(by_hand[1] - by_hand[0], abs=1e-6)


def test_components_make_the_log_odds_one_by_one_and_in_batches(designed):
    design = designed(SPEC)
    both = [sites(design, SPEC, seed) for seed in (1, 2)]
    for values in both:
        rows, cols = components(design, values)
        assert isinstance(rows, np.ndarray)
        np.testing.assert_allclose(rows.T @ cols, log_odds(values))
        assert observed_rows(design, rows).shape == (len(rows), 4)
    batch = {name: np.stack([values[name] for values in both]) for name in both[0]}
    for stacked in (batch, jax.tree.map(jax.numpy.asarray, batch)):
        rows, cols = components(design, stacked)
        assert rows.dtype == cols.dtype == np.float64
        for at, values in enumerate(both):
            np.testing.assert_allclose(rows[at].T @ cols[at], log_odds(values))
    # Where scales are part of the values, none is applied.
    own = {name: value for name, value in both[0].items() if not name.endswith("_sd")}
    rows, cols = components(design, own)
    np.testing.assert_allclose(
        rows.T @ cols, log_odds(own | {"ability_sd": 1.0, "benchmark_sd": 1.0})
    )


def test_hyperparameters_are_those_that_the_table_and_the_spec_need(designed):
    def used(edges=EDGES, **changes):
        spec = dataclasses.replace(SPEC, **changes)
        return {
            name: shape for name, (_, shape) in hyperparameters(designed(spec, edges), spec).items()
        }

    every = {"factor_sd", "kappa", "ability_sd", "benchmark_sd", "intercept_sd", "concentration"}
    assert set(used()) == every
    assert used()["concentration"] == (3,)
    assert used()["kappa"] == ()
    assert set(used(edges=[])) == every - {"kappa"}
    assert set(used(ability=False)) == every - {"ability_sd"}
    assert set(used(benchmark_effects=False)) == every - {"benchmark_sd"}
    assert set(used(intercept=False)) == every - {"intercept_sd"}
    assert set(used(likelihood="binomial")) == every - {"concentration"}
    # Bernoulli counts a cell once, whatever its trials.
    assert set(used(likelihood="bernoulli")) == every - {"concentration"}
    assert used(likelihood="logit_normal")["overdispersion_sd"] == (3,)
    assert set(used(lineage="directed", item_prior="independent")) == {
        "intercept_sd",
        "concentration",
    }
    assert used(penalty=Penalty(1, 1, 1)) == {}
    fixed = fixed_hyperparameters(designed(SPEC), SPEC)
    np.testing.assert_array_equal(fixed["concentration"], [100.0] * 3)
    assert fixed["kappa"] == 0.3
    assert fixed["ability_sd"] == 0.5


def test_noise_is_that_of_the_benchmark_on_items_of_several_trials(designed):
    design = designed(SPEC)
    noise = noise_of_items(design, np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(noise, [0.0, 0.2, 0.2, 0.3])
    assert noise_of_items(design, None) is None
    twice = SimpleNamespace(
        items=design.items.assign(trials=[1, 2, 1, 3]), benchmark_index=design.benchmark_index
    )
    noise = noise_of_items(twice, np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(noise, [0.0, 0.2, 0.0, 0.3])


def sampled(design, spec, without=(), **options):
    """Return the sites of one run of the program, by name; values of most are given."""
    values = {name: v for name, v in sites(design, spec, 1).items() if name not in without}
    given = numpyro.handlers.substitute(program, data=values)
    return numpyro.handlers.trace(numpyro.handlers.seed(given, 0)).get_trace(
        design, spec, **options
    )


SMOOTH = dataclasses.replace(
    SPEC, likelihood="bernoulli", ability=False, benchmark_effects=False, intercept=False,
    loading_mean=False, penalty=Penalty(0.7, 0.4, 0.3),
)  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "n_core"),
    [
        (SPEC, 5),
        (dataclasses.replace(SPEC, lineage="none", item_prior="independent"), 4),
        (dataclasses.replace(SPEC, likelihood="logit_normal"), 5),
        (SMOOTH, 5),
        (dataclasses.replace(SMOOTH, penalty=Penalty(0.0, 0.0, 0.3)), 5),
    ],
)
def test_every_site_is_one_event_of_the_shape_it_is_said_to_have(spec, n_core, designed):
    design = designed(spec)
    found = sampled(design, spec)
    shapes = {"factor": (2, n_core), "loading": (2, 4)}
    if spec.penalty is None:
        shapes |= {
            "loading_mean": (2, 2), "intercept": (4,), "intercept_mean": (2,),
            "ability_unit": (n_core,), "effect_unit": (1, n_core),
        }  # fmt: skip
    shapes |= {name: shape for name, (_, shape) in hyperparameters(design, spec).items()}
    assert set(found) == {*shapes, "responses"}
    for name, shape in shapes.items():
        assert (found[name]["fn"].batch_shape, found[name]["fn"].event_shape) == ((), shape), name


def test_a_directed_prior_has_factors_and_effects_of_its_descent(designed, monkeypatch):
    spec = dataclasses.replace(SPEC, lineage="directed", item_prior="independent")
    design = designed(spec)
    made = {name: sites(design, spec, 2)[name] for name in ("factor", "ability_unit")}
    monkeypatch.setattr("bayes_lrmf.program.descend", lambda *_: made)
    found = sampled(design, spec, without=made)
    for name, value in made.items():
        assert found[name]["type"] == "deterministic"
        assert found[name]["value"] is value
    assert {"loading", "intercept", "intercept_sd", "concentration"} <= set(found)
    assert not {"kappa", "factor_sd", "ability_sd", "benchmark_sd", "effect_unit"} & set(found)


def test_the_likelihood_is_of_everything_or_of_as_many_batches_as_asked_for(designed):
    design = designed(SPEC)
    whole = sampled(design, SPEC)["responses"]["fn"].log_factor
    asked = []

    def estimate(key, rows, cols, concentration, n_batches, noise_sd):
        asked.append(n_batches)
        return -7.0

    table = SimpleNamespace(log_likelihood=design.table.log_likelihood, estimate=estimate)
    batched = design.holding(table)
    for n_batches in (2, 5):
        found = sampled(batched, SPEC, n_batches=n_batches)["responses"]["fn"]
        assert found.log_factor == -7.0
    assert asked == [2, 5]
    assert sampled(batched, SPEC, n_batches=1)["responses"]["fn"].log_factor == whole


def test_kappa_stays_within_what_data_can_tell_apart(designed):
    """Draws of a prior next to flat in log kappa fill the range, and stay in it."""
    spec = dataclasses.replace(SPEC, kappa=HyperPrior(0.3, 1e3))
    design = designed(spec)

    @jax.jit
    def drawn(key):
        return sampled(design, spec)["kappa"]["fn"].sample(key, (50_000,))

    # The log range is 13.8: of 50,000 draws 18 are expected within half a percent of an end.
    kappa = drawn(jax.random.key(1))
    assert 1e-4 <= kappa.min() < 1.005e-4
    assert 99.5 < kappa.max() <= 1e2 * (1 + 1e-12)
