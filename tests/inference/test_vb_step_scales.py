"""Scales of steps from noisy looks at where the models of a lineage are."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bayes_lrmf.design import make_design
from bayes_lrmf.inference.vb_step_scales import Evidence, _posterior, with_learned_steps
from bayes_lrmf.inference.vb_steps import DirectedPrior
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.scale_mixture import SCALE_GRID
from bayes_lrmf.simulate import simulate, simulated_lineage
from bayes_lrmf.spec import read_spec

RANK, N, STEP, NOISE = 2, 600, 0.25, 0.3


@pytest.fixture(scope="module", params=["mixture", pytest.param("student", marks=pytest.mark.slow)])
def looked_at(request):
    """A prior with steps that are too small, a lineage, and a noisy look at each of its nodes."""
    spec = dataclasses.replace(
        read_spec("directed"), rank=RANK, step_shape=request.param, features=(), kind=""
    )
    rng = np.random.default_rng(0)
    lineage = simulated_lineage(N, rng=rng)
    data = simulate(spec, key=jax.random.key(0), lineage=lineage, n_items=8, cold_share=0)
    design = make_design(data.responses, spec, lineage=lineage, extra_models=lineage.nodes)
    size = RANK + len(design.effect_benchmarks)
    step = design.directed.step
    sd = np.where(step == 0, 0.8, STEP)[:, None]
    values = design.directed.values_of(rng.standard_normal((len(step), size)) * sd)
    prior = DirectedPrior.start(design, spec, values)
    known = np.tile(np.eye(size) / NOISE**2, (len(step), 1, 1))
    seen = values + NOISE * rng.standard_normal(values.shape)
    ratio = np.where(np.arange(len(prior.scales.factor_covariance)) == 0, 1, 16)
    covariance = prior.scales.factor_covariance / ratio[:, None, None]
    small = dataclasses.replace(prior.scales, factor_covariance=covariance)
    start = dataclasses.replace(prior, scales=small, marginal=True)
    return start, design.core, Evidence(known, seen / NOISE**2)


def test_the_sizes_of_steps_are_found_through_the_noise(looked_at):
    start, core, told = looked_at
    found = with_learned_steps(start, core, told)

    def variance(prior):
        s = prior.scales
        unit = np.trace(s.factor_covariance, axis1=1, axis2=2) / RANK
        return (unit * (s.factor_shares @ SCALE_GRID))[1:]

    used = np.unique(start.graph.step)
    used = used[used > 0] - 1
    assert (variance(start)[used] < 0.3 * STEP**2).all()
    # Looks are no nearer than a step is long.
    ratio = variance(found)[used] / STEP**2
    assert 0.6 < ratio.min() < ratio.max() < 1.3
    assert 0.7 < ratio.mean() < 1.2


def test_roots_stay_as_they_are(looked_at):
    start, core, told = looked_at
    found = with_learned_steps(start, core, told)
    for name in ("factor_covariance", "effect_variance", "factor_shares", "effect_tail"):
        np.testing.assert_array_equal(
            getattr(found.scales, name)[0], getattr(start.scales, name)[0]
        )
    np.testing.assert_array_equal(found.scales.coefficient, start.scales.coefficient)


def test_no_other_size_has_more_evidence(looked_at):
    start, core, told = looked_at
    found = with_learned_steps(start, core, told)

    def evidence(prior):
        for _ in range(30):
            moments, value = _posterior(prior, told)
            prior = prior.updated(moments, learn=False)
        return prior.settled + value

    def resized(by):
        s = found.scales
        scales = dataclasses.replace(s, factor_covariance=s.factor_covariance * by)
        return evidence(dataclasses.replace(found, scales=scales))

    best = evidence(found)
    assert max(resized(0.6), resized(1.7)) < best
    assert evidence(start) < best - 20


def test_without_lineage_there_is_nothing_to_learn(looked_at):
    start, core, told = looked_at
    none = Lineage(
        core.nodes, *(part[:0] for part in (core.child, core.parent, core.relation, core.weight))
    )
    assert with_learned_steps(start, none, told) is start
