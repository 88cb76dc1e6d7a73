"""Ways to widen a mean field agree with each other where the posterior is nearly Gaussian."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from analyses import corrections
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec


@pytest.fixture(scope="module", params=["binomial", "logit_normal"])
def closed(request):
    spec = dataclasses.replace(read_spec("laplacian"), rank=1, likelihood=request.param)
    data = simulate(spec, key=jax.random.key(0), n_models=20, n_items=8, trials=200, n_benchmarks=2)
    design = make_design(data.responses, spec, lineage=data.lineage)
    with corrections.closings() as found:
        fit_vb(design, spec, key=jax.random.key(1), tolerance=1e-8)
    return found[-1]


def test_linear_response_and_a_joint_step_agree_on_many_trials(closed):
    joint = corrections.JointGaussian.at(closed.fit)
    sd = joint.sd_psi(2000, np.random.default_rng(0))
    cells = np.array([[0, 0], [3, 5], [7, 2], [11, 7]])
    response = corrections.linear_response(closed.bound, cells)
    np.testing.assert_allclose(response, sd[tuple(cells.T)], rtol=0.15)
    # Models and items know of each other: each alone would seem surer than both are.
    assert (sd > 0.9 * corrections.sd_psi(closed.bound)).all()


def test_draws_have_the_moments_of_the_fit(closed):
    rng = np.random.default_rng(1)
    drawn = [corrections.independent_draw(closed.fit, rng) for _ in range(2000)]
    items = np.stack([items for _, items, _ in drawn])
    np.testing.assert_allclose(items.mean(0), closed.fit.items.mean, atol=0.1)
    variance = np.diagonal(closed.fit.items.covariance, axis1=1, axis2=2)
    np.testing.assert_allclose(items.var(0), variance, rtol=0.15)


@pytest.mark.ledger
def test_the_joint_step_is_the_curvature_of_the_log_density(closed, claim):
    """Along the line between two draws the density bends as the Gaussian says."""
    fit = closed.fit
    joint = corrections.JointGaussian.at(fit)
    precision = np.linalg.inv(joint.root @ joint.root.T)
    rng, n = np.random.default_rng(2), fit.moments.mean.size
    log_density = corrections.log_density(fit)
    step = 1e-2
    for _ in range(3):
        way = rng.standard_normal(len(precision))
        models = way[:n].reshape(fit.moments.mean.shape)
        items = way[n:].reshape(fit.items.mean.shape)
        at = [
            log_density(fit.moments.mean + t * models, fit.items.mean + t * items)
            for t in (-step, 0.0, step)
        ]
        bend = -(at[0] - 2 * at[1] + at[2]) / step**2
        claim(
            "vb: curvature of the joint posterior along random lines, relative gap",
            "second differences of the program's log density",
            abs(way @ precision @ way / bend - 1),
            0.1,
        )
