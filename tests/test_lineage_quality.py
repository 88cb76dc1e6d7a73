"""Doubtful and missing parents: planted ones found, distances and tails against dense twins."""

from __future__ import annotations

import dataclasses

import jax
import networkx as nx
import numpy as np
import pytest
from families import family
from scipy.stats import norm

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.directed import STEPS, StepScales
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.kinship import Kin
from bayes_lrmf.lineage_quality import likely_parents, lineage_quality, recorded_parents
from bayes_lrmf.posterior import DrawsState, PointState
from bayes_lrmf.program import fixed_hyperparameters
from bayes_lrmf.scale_mixture import SCALE_GRID
from bayes_lrmf.spec import read_spec

MIXTURE = dataclasses.replace(read_spec("lrmf"), rank=2)
LRMF = dataclasses.replace(read_spec("laplacian"), rank=2)
KEY = jax.random.key(4)


@pytest.fixture(scope="module")
def planted():
    drawn = family(np.random.default_rng(2), wrong=True, copy=True)
    design = make_design(drawn.responses, MIXTURE, lineage=drawn.lineage)
    return fit_vb(design, MIXTURE, key=jax.random.key(0))


def dense_psi(posterior, kin):
    """Return psi of evaluated models in the draws of `kin`, without the items' intercepts."""
    rows = kin.drawn.rows[:, :, : posterior.design.n_evaluated].astype(float)
    return rows.mT @ kin.drawn.cols.astype(float)


def test_planted_parents_lead_the_table(planted):
    table = lineage_quality(planted, key=KEY)
    columns = "kind model other relation distance tail_probability n_shared agreement reason"
    assert list(table) == columns.split()
    first = table.groupby("kind").first()
    doubtful, likely = first.loc["doubtful parent"], first.loc["likely parent"]
    assert doubtful["model"] == "wrong"
    assert doubtful["relation"] == "quantized"
    assert doubtful["tail_probability"] < 0.02
    assert "another parent" in doubtful["reason"]
    assert {likely["model"], likely["other"]} == {"copy", "child7"}
    assert likely["agreement"] > 0.95
    assert "no parent in the fit" in likely["reason"]
    assert set(table["kind"].head(2)) == set(first.index)
    # Of 101 children 5 take a step that has a probability of 5 %.
    assert (table["kind"] == "doubtful parent").sum() <= 10


def test_distances_are_those_of_psi_cell_by_cell(planted):
    kin = Kin.of(planted, key=KEY, n_draws=20)
    psi, core = dense_psi(planted, kin), planted.design.core
    table = recorded_parents(planted, key=KEY, n_draws=20, ci_prob=0.5).set_index("model")
    assert len(table) == len(kin.children)
    for child in kin.children:
        edges = np.flatnonzero(core.child == child)
        step = psi[:, child] - np.einsum(
            "e,sei->si", core.weight[edges], psi[:, core.parent[edges]]
        )
        length = np.sqrt((step**2).mean(1))
        row = table.loc[core.nodes[child]]
        assert row["distance"] == pytest.approx(length.mean(), rel=1e-3)
        expected = np.quantile(length, [0.25, 0.75])
        assert [row["lower"], row["upper"]] == pytest.approx(expected, rel=1e-3)
        assert row["parents"] == " + ".join(core.nodes[core.parent[edges]])


def test_the_nearest_is_the_closest_that_is_neither_parent_nor_descendant(planted):
    kin = Kin.of(planted, key=KEY, n_draws=20)
    psi, core = dense_psi(planted, kin), planted.design.core
    graph = nx.DiGraph(zip(core.parent.tolist(), core.child.tolist(), strict=True))
    for u, near in enumerate(kin.candidates):
        square = ((psi - psi[:, [u]]) ** 2).mean((0, 2))
        square[u] = np.inf
        square[core.parent[core.child == u]] = np.inf
        square[list(nx.descendants(graph, u)) if u in graph else []] = np.inf
        np.testing.assert_allclose(square[near], np.sort(square)[: len(near)], rtol=1e-3)
        assert kin.near[:, u].mean() == pytest.approx(
            np.sqrt(((psi[:, near[0]] - psi[:, u]) ** 2).mean(1)).mean(), rel=1e-3
        )


def test_tails_of_gaussian_steps_are_those_of_the_normal_distribution():
    spec = dataclasses.replace(MIXTURE, rank=1, benchmark_effects=False)
    drawn = family(np.random.default_rng(3), n_children=40, n_items=40)
    design = make_design(drawn.responses, spec, lineage=drawn.lineage)
    posterior = fit_vb(design, spec, key=jax.random.key(0), max_sweeps=5)
    old = StepScales.from_values(posterior.state.values)
    share = np.zeros_like(old.factor_shares)
    share[:, np.flatnonzero(SCALE_GRID == 1)] = 1.0
    sd, drift = np.linspace(0.2, 0.7, len(STEPS)), np.linspace(-0.3, 0.3, len(STEPS))
    scales = dataclasses.replace(
        old,
        factor_shares=share,
        factor_covariance=(sd**2)[:, None, None],
        drift=np.broadcast_to(drift[:, None, None], old.drift.shape),
    )
    values = posterior.state.values | scales.to_values()
    posterior = dataclasses.replace(
        posterior, state=dataclasses.replace(posterior.state, values=values)
    )
    kin = Kin.of(posterior, key=KEY, n_draws=100)
    found = kin.tail_probabilities()
    unit = np.abs(kin.root[:, 0, 0])
    for r in np.unique(kin.step):
        mine = kin.step == r
        length = kin.moved[:, mine, None] / unit
        upper = norm.sf((length - drift[r]) / sd[r]) + norm.cdf((-length - drift[r]) / sd[r])
        # 20,000 steps: a standard error of at most 0.0035.
        np.testing.assert_allclose(found[mine], upper.mean((0, 2)), atol=0.015)


def test_unrelated_models_are_close_by_ability_but_do_not_agree_beyond_it(planted):
    table = likely_parents(planted, key=KEY)
    assert table["model"].iloc[0] in ("copy", "child7")
    beyond = (table["agreement"] - table["expected_agreement"]) / (1 - table["expected_agreement"])
    assert beyond.iloc[0] > 0.8
    assert len(table) == 1
    assert table["percentile"].between(0, 0.9).all()
    roots = set(planted.design.models) - set(planted.design.core.nodes[planted.design.core.child])
    assert set(table["model"]) <= roots


def test_distance_of_a_likely_parent_is_between_posterior_means(planted):
    line = likely_parents(planted, key=KEY, n_draws=50).iloc[0]
    kin = Kin.of(planted, key=KEY, n_draws=50)
    mean, names = dense_psi(planted, kin).mean(0), list(kin.names)
    apart = mean[names.index(line["model"])] - mean[names.index(line["other"])]
    assert line["distance"] == pytest.approx(np.sqrt((apart**2).mean()), rel=1e-3)
    children = [c for c in kin.children if planted.design.core.nodes[c] != line["model"]]
    core = planted.design.core
    closer = []
    for child in children:
        mine = core.child == child
        step = mean[child] - core.weight[mine] @ mean[core.parent[mine]]
        closer.append(np.sqrt((step**2).mean()) <= line["distance"])
    assert line["percentile"] == pytest.approx(np.mean(closer), abs=1e-6)


def test_what_has_no_steps_to_judge_by_is_refused(planted):
    responses, core = planted.design.responses, planted.design.core
    design = make_design(responses, LRMF, lineage=core)
    values = {n: v for n, v in planted.draws(2, key=KEY).items() if not n.startswith("step_")}
    values |= {n: np.stack([v, v]) for n, v in fixed_hyperparameters(design, LRMF).items()}
    drawn = dataclasses.replace(
        planted, design=design, spec=LRMF, state=DrawsState({n: v[None] for n, v in values.items()})
    )
    point = dataclasses.replace(drawn, state=PointState({n: v[0] for n, v in values.items()}))
    with pytest.raises(InputError, match="a point estimate has no draws"):
        lineage_quality(point, key=KEY)
    with pytest.raises(InputError, match="spec laplacian learns no distribution of steps"):
        lineage_quality(drawn, key=KEY)
    alone = dataclasses.replace(planted, design=make_design(responses, MIXTURE))
    with pytest.raises(InputError, match="no evaluated model has a parent in the fit"):
        lineage_quality(alone, key=KEY)
