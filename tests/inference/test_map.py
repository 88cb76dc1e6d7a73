"""The point estimate against the paper's formula, computed on its own in NumPy."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from bayes_lrmf.design import make_design
from bayes_lrmf.inference.map import fit_map, objective
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.program import components
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import HyperPrior, Penalty, read_spec

RANK = 2
PENALTY = Penalty(models=0.7, items=0.4, ridge=0.25)


@pytest.fixture(scope="module")
def small():
    spec = dataclasses.replace(read_spec("laplacian"), rank=RANK)
    data = simulate(spec, key=jax.random.key(3), n_models=25, n_items=30, density=0.6)
    near = sp.random_array((30, 30), density=0.1, rng=np.random.default_rng(0))
    item_adjacency = ((near + near.T) > 0).astype(float).tolil()
    item_adjacency.setdiag(0)
    paper = dataclasses.replace(read_spec("paper"), rank=RANK, penalty=PENALTY)
    design = make_design(
        data.responses, paper, lineage=data.lineage, item_adjacency=sp.csr_array(item_adjacency)
    )
    return design, paper, np.asarray(item_adjacency.todense())


def formula(design, item_adjacency, m, x):
    """BCE(observed) + lambda_M tr(M'L_M M) + lambda_X tr(X'L_X X) + lambda_2 (|M|^2 + |X|^2)."""
    y = np.asarray(design.responses.dense, float)
    psi = m[:, : len(y)].T @ x
    p = 1 / (1 + np.exp(-psi))
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p))[y >= 0].sum()
    a = np.zeros((design.n_core, design.n_core))
    for c, p_ in zip(design.core.child, design.core.parent, strict=True):
        a[c, p_] = a[p_, c] = 1.0
    l_m = np.diag(a.sum(1)) - a
    l_x = np.diag(item_adjacency.sum(1)) - item_adjacency
    ridge = PENALTY.ridge * ((m**2).sum() + (x**2).sum())
    smooth = PENALTY.models * np.trace(m @ l_m @ m.T) + PENALTY.items * np.trace(x @ l_x @ x.T)
    return bce + smooth + ridge


@pytest.mark.ledger
def test_objective_is_the_papers_but_for_a_constant(small, claim):
    design, spec, item_adjacency = small
    rng = np.random.default_rng(1)
    gaps = []
    with jax.enable_x64(True):
        compiled = jax.jit(lambda values: objective(design, spec, values))
        for _ in range(5):
            m = rng.normal(size=(RANK, design.n_core))
            x = rng.normal(size=(RANK, design.n_items))
            ours = float(compiled({"factor": m, "loading": x}))
            gaps.append(ours - formula(design, item_adjacency, m, x))
    claim(
        "map, spec paper: objective but for a constant, relative gap",
        "the paper's formula in NumPy",
        np.ptp(gaps) / abs(formula(design, item_adjacency, m, x)),
        1e-6,
    )


def test_gradient_matches_finite_differences_of_the_formula(small):
    design, spec, item_adjacency = small
    rng = np.random.default_rng(2)
    m = rng.normal(size=(RANK, design.n_core))
    x = rng.normal(size=(RANK, design.n_items))
    with jax.enable_x64(True):
        values = {"factor": jnp.asarray(m), "loading": jnp.asarray(x)}
        gradient = jax.jit(jax.grad(lambda v: objective(design, spec, v)))(values)
    flat = np.concatenate([m.ravel(), x.ravel()])

    def at(z):
        cut = m.size
        return formula(design, item_adjacency, z[:cut].reshape(m.shape), z[cut:].reshape(x.shape))

    for i in rng.choice(len(flat), 12, replace=False):
        up, down = flat.copy(), flat.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        ours = np.concatenate([np.ravel(gradient["factor"]), np.ravel(gradient["loading"])])[i]
        assert (at(up) - at(down)) / 2e-5 == pytest.approx(ours, rel=1e-5, abs=1e-6)


def test_mode_equals_an_independent_optimisers(small):
    design, spec, item_adjacency = small
    fitted = fit_map(
        design,
        spec,
        key=jax.random.key(0),
        tolerance=1e-14,
        precision="float64",
        max_iterations=5000,
    )
    shape_m, shape_x = (RANK, design.n_core), (RANK, design.n_items)
    cut = RANK * design.n_core

    def at(z):
        return formula(design, item_adjacency, z[:cut].reshape(shape_m), z[cut:].reshape(shape_x))

    def slope(z):
        m, x = z[:cut].reshape(shape_m), z[cut:].reshape(shape_x)
        y = np.asarray(design.responses.dense, float)
        n = len(y)
        residual = np.where(y >= 0, 1 / (1 + np.exp(-(m[:, :n].T @ x))) - y, 0.0)
        l_m = design.core.laplacian().toarray()
        l_x = np.diag(item_adjacency.sum(1)) - item_adjacency
        g_m = 2 * PENALTY.models * m @ l_m + 2 * PENALTY.ridge * m
        g_m[:, :n] += x @ residual.T
        g_x = 2 * PENALTY.items * x @ l_x + 2 * PENALTY.ridge * x + m[:, :n] @ residual
        return np.concatenate([g_m.ravel(), g_x.ravel()])

    # The objective is not convex: the reference starts near our mode, turned, and must come back.
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    values = fitted.state.values
    start = np.concatenate([(turn @ values[n]).ravel() for n in ("factor", "loading")])
    start = start + 0.05 * np.random.default_rng(3).standard_normal(len(start))
    found = scipy.optimize.minimize(at, start, jac=slope, method="BFGS", options={"gtol": 1e-7})
    psi = values["factor"].T @ values["loading"]
    theirs = found.x[:cut].reshape(shape_m).T @ found.x[cut:].reshape(shape_x)
    assert np.abs(psi).max() > 0.5
    np.testing.assert_allclose(psi, theirs, atol=1e-3)


def test_bayesian_program_at_fixed_hyperparameters_has_the_same_mode(small):
    design, paper, _ = small
    # tau (L + kappa I) / 2 is lambda_M L + lambda_2 I, and x ~ N(0, 1) is a ridge of 1/2.
    ridge = Penalty(models=1.5, items=0.0, ridge=0.5)
    point = dataclasses.replace(paper, penalty=ridge, item_prior="independent")
    # The paper's adjacency is 0/1: equal parents have that in the Bayesian program as well.
    core = design.core
    n_parents = np.bincount(core.child, minlength=len(core.nodes))
    lineage = dataclasses.replace(core, weight=1 / n_parents[core.child])
    point_design = make_design(design.responses, point, lineage=lineage)
    kappa = ridge.ridge / ridge.models
    log_scale = float(point_design.graph.log_determinant_and_scale(kappa)[1])
    # The scaled field has precision s (L + kappa I) / sd^2.
    sd = float(np.sqrt(np.exp(log_scale) / (2 * ridge.models)))
    bayes = dataclasses.replace(
        read_spec("laplacian"),
        rank=RANK,
        intercept=False,
        benchmark_effects=False,
        kappa=HyperPrior(kappa),
        factor_sd=HyperPrior(sd),
        loading_mean=False,
    )
    bayes_design = make_design(design.responses, bayes, lineage=lineage)
    options = {"tolerance": 1e-14, "precision": "float64", "max_iterations": 5000}
    a = fit_map(point_design, point, key=jax.random.key(0), **options)
    values = {n: np.asarray(v) for n, v in a.state.values.items()}
    # The objective is not convex: the second search starts beside the first one's mode.
    rng = np.random.default_rng(0)
    near = {n: v + 0.05 * rng.standard_normal(v.shape) for n, v in values.items()}
    b = fit_map(bayes_design, bayes, key=jax.random.key(0), start=near, **options)
    with jax.enable_x64(True):
        rows, cols = components(bayes_design, b.state.values)
        psi = np.asarray(rows.T @ cols)
    np.testing.assert_allclose(values["factor"].T @ values["loading"], psi, atol=1e-3)


def test_same_key_same_point(small):
    design, spec, _ = small
    one = fit_map(design, spec, key=jax.random.key(5), max_iterations=20)
    two = fit_map(design, spec, key=jax.random.key(5), max_iterations=20)
    for name, value in one.state.values.items():
        np.testing.assert_array_equal(value, two.state.values[name])


def test_short_search_says_that_it_has_not_converged(small):
    design, spec, _ = small
    fitted = fit_map(design, spec, key=jax.random.key(0), max_iterations=2)
    assert not fitted.record.converged
    assert "stopped after 2" in fitted.record.message


def test_counts_are_weighted_by_their_trials():
    import pandas as pd

    frame = pd.DataFrame(
        {"model": ["a", "a", "b", "b"], "benchmark": ["p", "q"] * 2,
         "successes": [3, 50, 9, 20], "trials": [10, 100, 10, 100]}
    )  # fmt: skip
    spec = dataclasses.replace(
        read_spec("laplacian"), rank=1, likelihood="binomial", lineage="none"
    )
    design = make_design(responses_from_frame(frame), spec, lineage=Lineage.empty())
    rng = np.random.default_rng(0)
    shapes = {"factor": (1, 2), "loading": (1, 2), "loading_mean": (1, 1), "intercept": (2,),
              "intercept_mean": (1,)}  # fmt: skip
    hyper = {"factor_sd": 0.5, "intercept_sd": 1.0}
    with jax.enable_x64(True):
        v = {n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()}
        zero = dict(v, factor=v["factor"] * 0.0)
        ours = float(
            objective(design, spec, {**v, **hyper}) - objective(design, spec, {**zero, **hyper})
        )
    psi = np.asarray(v["factor"]).T @ np.asarray(v["loading"]) + np.asarray(v["intercept"])
    k, n = frame["successes"].to_numpy().reshape(2, 2), frame["trials"].to_numpy().reshape(2, 2)

    def loss(z):
        return -(k * z - n * np.log1p(np.exp(z))).sum()

    prior = 0.5 * (np.asarray(v["factor"]) ** 2).sum() / 0.25
    base = np.broadcast_to(np.asarray(v["intercept"]), (2, 2))
    assert ours == pytest.approx(loss(psi) - loss(base) + prior, rel=1e-9)


def test_a_search_that_begins_at_the_mode_ends_there(small):
    design, paper, _ = small
    fit = fit_map(design, paper, key=jax.random.key(0))
    for _ in range(2):
        best = fit.record.trace
        fit = fit_map(design, paper, key=jax.random.key(0), start=fit.state.values)
        assert fit.record.converged, fit.record.message
        assert len(fit.record.trace) <= len(best)
