"""Coordinates of the curvature keep the density of a directed program."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import gammaln

from bayes_lrmf.design import make_design
from bayes_lrmf.inference.curvature import CurvatureCoordinates
from bayes_lrmf.inference.nuts import fit_nuts
from bayes_lrmf.inference.vb import fit_vb
from bayes_lrmf.logit_normal import logit_normal
from bayes_lrmf.predict import predict_items
from bayes_lrmf.program import components
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

pytestmark = pytest.mark.usefixtures("unoptimised")


def fitted(rank, shape="student_t"):
    spec = dataclasses.replace(read_spec("directed"), rank=rank, step_shape=shape)
    data = simulate(
        spec, key=jax.random.key(1), n_models=8, n_items=4, n_benchmarks=2, trials=60, density=1,
        cold_share=0,
    )  # fmt: skip
    design = make_design(data.responses, spec, lineage=data.lineage)
    return design, spec, fit_vb(design, spec, key=jax.random.key(0), max_sweeps=20)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["student_t", "mixture"])
def test_the_reference_is_the_fit_and_the_jacobian_that_of_the_map(shape):
    design, spec, vb = fitted(1, shape)
    with jax.enable_x64(True):
        c = CurvatureCoordinates(design, spec, vb.state)
        assert c.told[0].any()
        values, _ = jax.jit(c.values)(c.start())
        rows, cols = components(design, values)
        psi = np.asarray(rows.T @ cols)
        rows, cols = components(design, vb.state.centre())
        # The fit is kept in single precision.
        np.testing.assert_allclose(psi, np.asarray(rows.T @ cols), atol=1e-4)

        def everything(flat):
            sites, _ = c._sites(flat)
            return ravel_pytree({n: sites[n] for n in sorted(sites)})[0]

        @jax.jit
        def gap(flat):
            matrix = jax.jacfwd(everything)(flat)
            return jnp.linalg.slogdet(matrix)[1] - c._sites(flat)[1]

        gaps = []
        for seed in range(2):
            z = 0.5 * jax.random.normal(jax.random.key(seed), c.reference.shape)
            flat = c._flat({"curved": z})
            gaps.append(float(gap(flat)))
        # Rotations of one factor are none.
        np.testing.assert_allclose(gaps, 0, atol=1e-8)


@pytest.mark.slow
def test_psi_of_two_factors_is_kept_in_the_slice():
    design, spec, vb = fitted(2)
    with jax.enable_x64(True):
        c = CurvatureCoordinates(design, spec, vb.state)
        z = 0.3 * jax.random.normal(jax.random.key(0), c.reference.shape)
        values, _ = jax.jit(c.values)({"curved": z})
        square = np.asarray(values["loading"]) @ c.rotation.reference.T
        np.testing.assert_allclose(square, square.T, atol=1e-8)
        assert set(values) >= {"factor", "effect_unit", "step_drift", "overdispersion_sd"}
        assert not any(name.startswith("white") for name in values)
        slope = jax.jit(jax.grad(c.potential))({"curved": z})["curved"]
        assert np.isfinite(np.asarray(slope)).all()
        # A fit of a neighbouring spec does for a start.
        other = dataclasses.replace(spec, likelihood="beta_binomial")
        c = CurvatureCoordinates(design, other, vb.state)
        assert "concentration" in c.positive
        assert np.isfinite(c.unit).all()


@pytest.mark.slow
def test_draws_survive_a_file_and_predict_models_without_responses(tmp_path):
    spec = dataclasses.replace(read_spec("lrmf"), rank=1)
    data = simulate(spec, key=jax.random.key(2), n_models=20, n_items=6, trials=30, cold_share=0.4)
    design = make_design(data.responses, spec, lineage=data.lineage)
    drawn = fit_nuts(design, spec, key=jax.random.key(0), num_warmup=20, num_samples=20)
    write_posterior(drawn, tmp_path / "p.nc")
    kept = read_posterior(tmp_path / "p.nc")
    for name, value in drawn.state.values.items():
        np.testing.assert_array_equal(kept.state.values[name], value)
    a, b = (predict_items(p, key=jax.random.key(1)) for p in (drawn, kept))
    np.testing.assert_allclose(a["mean"], b["mean"], atol=1e-6)
    spread = a.groupby("model")["sd"].mean()
    cold = ~spread.index.isin(design.responses.models)
    assert cold.any()
    assert spread[cold].mean() > spread[~cold].mean()
    # The log-likelihood of a cell has the noise integrated out.
    tree = drawn.datatree()
    found = np.asarray(tree["log_likelihood"]["response"])[0, 0]
    values = {n: v[0, 0] for n, v in drawn.state.values.items()}
    rows, cols = components(design, values)
    cells = design.responses.to_cells()
    psi = (np.asarray(rows)[:, cells.rows] * np.asarray(cols)[:, cells.cols]).sum(0)
    sd = values["overdispersion_sd"][design.benchmark_index[cells.cols]]
    k, n = cells.successes, cells.trials
    coefficient = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    np.testing.assert_allclose(found, logit_normal(psi, k, n, sd) + coefficient, atol=1e-3)
