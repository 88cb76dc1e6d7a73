"""Recorded parents that are no better than random ones are counted, right ones are not."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import networkx as nx
import numpy as np
import pytest
from families import family
from scipy.stats import binom

from bayes_lrmf.design import make_design
from bayes_lrmf.diagnose import diagnose
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.lineage_quality import recorded_parents
from bayes_lrmf.posterior import DrawsState, FitRecord, Posterior
from bayes_lrmf.random_parents import ParentRanks, parent_ranks
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

KEY = jax.random.key(3)


def ranks(n_beyond, n):
    return ParentRanks(np.arange(n), np.where(np.arange(n) < n_beyond, 0.9, 0.1))


def test_twice_the_share_beyond_half_is_that_of_random_parents():
    found = ranks(15, 100)
    assert found.share_random == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(2 * (0.15 * 0.85 / 100) ** 0.5)
    uniform = ParentRanks(np.arange(1000), np.linspace(0, 1, 1000))
    assert uniform.share_random == pytest.approx(1.0)


def test_as_many_as_one_parent_in_fifty_at_random_explains_are_no_reason_to_warn():
    n = 300
    tail = [sum(binom.pmf(np.arange(k, n + 1), n, 0.01)) for k in range(12)]
    assert [ranks(k, n).too_many for k in range(12)] == [p < 0.01 for p in tail]


def test_shares_are_those_of_all_allowed_parents():
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    data = simulate(
        spec, key=jax.random.key(1), n_models=14, n_items=10, density=0.9, cold_share=0
    )  # fmt: skip
    rng = np.random.default_rng(0)
    lineage = data.lineage.shuffled(rng)
    design = make_design(data.responses, spec, lineage=lineage)
    # Of no fit: any draws have distances.
    values = {
        name: v + 0.3 * (name in ("factor", "loading")) * rng.standard_normal((1, 6, *v.shape))
        for name, v in data.values.items()
    }
    posterior = Posterior(design, spec, DrawsState(values), FitRecord("nuts", True, ""))
    n, core = design.n_evaluated, design.core
    cells = np.divmod(np.arange(design.n_core * design.n_items), design.n_items)
    psi = posterior.psi(posterior.draws(6, key=KEY), *cells).reshape(6, design.n_core, -1)
    graph = nx.DiGraph(zip(core.parent.tolist(), core.child.tolist(), strict=True))
    found = parent_ranks(posterior, key=KEY, n_draws=6, n_random=1500)
    n_merges = 0
    for child, share in zip(found.children.tolist(), found.share_nearer, strict=True):
        mine = core.child == child
        weight, parents = core.weight[mine], core.parent[mine]

        def distance(others, *, child=child, weight=weight):
            step = psi[:, child] - np.einsum("p,dpi->di", weight, psi[:, list(others)])
            return (step**2).mean()

        barred = {child, *parents.tolist(), *nx.descendants(graph, child)}
        allowed = [m for m in range(n) if m not in barred]
        every = list(itertools.product(allowed, repeat=len(parents)))
        exact = np.mean([distance(others) < distance(parents) for others in every])
        # 1,500 random ones, fewer where some are barred: a standard error of 0.02 at most.
        assert share == pytest.approx(exact, abs=0.07)
        n_merges += len(parents) > 1
    assert n_merges
    assert np.ptp(found.share_nearer) > 0.3


@pytest.fixture(scope="module")
def fits():
    """The same responses along the recorded lineage, and with three in ten parents changed."""
    drawn = family(np.random.default_rng(5), n_children=80, n_items=24, trials=20)
    spec = dataclasses.replace(read_spec("lrmf"), rank=2)
    lineage, rng = drawn.lineage, np.random.default_rng(1)
    parent, changed = lineage.parent.copy(), rng.random(len(lineage.parent)) < 0.3
    # Names are in order of birth: an earlier model is no descendant.
    birth = np.array([list(drawn.psi.index).index(m) for m in lineage.nodes])
    for edge in np.flatnonzero(changed):
        earlier = np.flatnonzero(birth < birth[lineage.child[edge]])
        mine = parent[lineage.child == lineage.child[edge]]
        parent[edge] = rng.choice(np.setdiff1d(earlier, mine))
    wrong = dataclasses.replace(lineage, parent=parent)
    fitted = [
        fit_vb(make_design(drawn.responses, spec, lineage=told), spec, key=KEY, max_sweeps=60)
        for told in (lineage, wrong)
    ]
    return *fitted, set(lineage.nodes[np.unique(lineage.child[changed])])


@pytest.mark.slow
def test_diagnose_warns_of_a_wrong_lineage_and_not_of_a_right_one(fits):
    right, wrong, changed = fits
    found = diagnose(right)
    assert found.warnings == ()
    assert any("as good as random" in line for line in found.lines)
    found = diagnose(wrong)
    [line] = found.warnings
    assert found.lines[1] == line
    assert "lineage may be wrong: diagnose --lineage" in line
    share = parent_ranks(wrong, key=KEY)
    truth = len(changed) / len(share.children)
    assert abs(share.share_random - truth) < 3 * share.standard_error
    assert parent_ranks(right, key=KEY).share_random <= 0.05


@pytest.mark.slow
def test_wrong_parents_are_listed_although_steps_have_learned_from_them(fits):
    right, wrong, changed = fits
    table = recorded_parents(wrong, key=KEY)
    far = table[table["share_nearer"] > 0.5]
    assert far["doubtful"].all()
    assert far["model"].isin(changed).mean() > 0.8
    assert far["reason"].str.contains("of models at random: another parent").all()
    assert recorded_parents(right, key=KEY)["doubtful"].mean() < 0.1
