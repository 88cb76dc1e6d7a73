"""Coordinates of the curvature keep the density of a directed program."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bayes_lrmf.design import make_design
from bayes_lrmf.inference.curvature import CurvatureCoordinates
from bayes_lrmf.inference.vb import fit_vb
from bayes_lrmf.program import components
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


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
