"""Coordinates of a fixed gauge keep psi and the density."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from bayes_lrmf.inference.gauge import FixedGauge
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.program import components

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.mark.slow
def test_reference_keeps_psi_of_the_mode_and_its_gauge(problem):
    spec, _, design = problem(3, 0)
    mode = fit_map(design, spec, key=jax.random.key(0), precision="float64")
    with jax.enable_x64(True):
        gauge = FixedGauge(design, spec, dict(mode.state.values))
        start = gauge.start()
        values_at = jax.jit(lambda z: gauge.values(z)[0])
        values = values_at(start)
        rows, cols = components(design, values)
        psi = np.asarray(rows.T @ cols)
        rows, cols = components(design, mode.state.values)
        np.testing.assert_allclose(psi, np.asarray(rows.T @ cols), atol=1e-8)
        noise = jax.random.normal(jax.random.key(1), start["loading"].shape)
        values = values_at(start | {"loading": noise})
    share = gauge.scale["loading"] ** 2
    inherited = share * np.asarray(values["loading_mean"])[:, design.item_groups]
    own = np.asarray(values["loading"]) - inherited
    turned = own / gauge.scale["loading"] ** 2 @ gauge.own.T
    assert np.abs(noise).max() > 1
    np.testing.assert_allclose(turned, turned.T, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "ability"), [(1, True), (2, False), (3, False)])
def test_jacobian_is_that_of_the_map_without_rotation(problem, rank, ability):
    # With the angles of a rotation in place of the coordinates along it, the map is one to one;
    # its log determinant must be ours but for a constant.
    spec, _, design = problem(rank, 1, n_models=4, n_items=4)
    spec = dataclasses.replace(spec, ability=ability)
    mode = fit_map(design, spec, key=jax.random.key(0), precision="float64")
    with jax.enable_x64(True):
        gauge = FixedGauge(design, spec, dict(mode.state.values))
        tangent = gauge.tangent.reshape(len(gauge.tangent), -1) if rank > 1 else np.zeros((1, 4))
        across = scipy.linalg.null_space(tangent)
        start = gauge.start()
        start["loading"] = jnp.zeros(across.shape[1])
        flat, unravel = jax.flatten_util.ravel_pytree(start)
        first, second = np.triu_indices(rank, 1)

        def coordinates(z):
            z = unravel(z)
            return z | {"loading": (across @ z["loading"]).reshape(rank, design.n_items)}

        def whole(z):
            values, _ = gauge.values(coordinates(z[: len(flat)]))
            generator = jnp.zeros((rank, rank)).at[first, second].set(z[len(flat) :])
            turn = jax.scipy.linalg.expm(generator - generator.T)
            for name in ("factor", "loading", "loading_mean"):
                values[name] = turn @ values[name]
            return jax.flatten_util.ravel_pytree({n: values[n] for n in sorted(values)})[0]

        @jax.jit
        def gap(z):
            # The volume along rotations is the same at every angle: take it at none.
            matrix = jax.jacfwd(whole)(jnp.append(z, jnp.zeros(len(first))))
            assert matrix.shape[0] == matrix.shape[1]
            return jnp.linalg.slogdet(matrix)[1] - gauge.values(coordinates(z))[1]

        gaps = []
        for seed in range(3):
            gaps.append(gap(flat + 0.3 * jax.random.normal(jax.random.key(seed), flat.shape)))
    assert np.ptp(gaps) < 1e-8
