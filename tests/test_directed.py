"""The directed prior against dense matrices, and its draws against their moments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.covariates import covariates
from bayes_lrmf.directed import STEPS, DirectedGraph, StepScales, step_index
from bayes_lrmf.lineage import Lineage, lineage_from_frame
from bayes_lrmf.reduced import reduced_gaussian
from bayes_lrmf.scale_mixture import student_shares
from bayes_lrmf.simulate import grown_lineage

EDGES = """
a base finetune
b base quantized
ab a merge 3
ab b merge 1
c ab adapter
"""


def family() -> Lineage:
    rows = [(*line.split(), "nan")[:4] for line in EDGES.strip().splitlines()]
    frame = pd.DataFrame(rows, columns=["child", "parent", "relation", "weight"])
    return lineage_from_frame(frame.astype({"weight": float}))


def scales(rng, k=2, e=1, n_columns=1, n_kinds=1, tail=5.0):
    n, size = len(STEPS), k + e
    root = rng.normal(size=(n, k, k))
    return StepScales(
        coefficient=rng.normal(size=(n_columns, size)),
        drift=rng.normal(size=(n, n_kinds, size)),
        factor_covariance=root @ root.mT + np.eye(k),
        effect_variance=rng.uniform(0.5, 2, (n, e)),
        factor_shares=student_shares(np.full(n, tail)),
        effect_shares=student_shares(np.full(n, tail)),
        factor_tail=np.full(n, tail),
        effect_tail=np.full(n, tail),
    )


def test_steps_follow_relations_and_several_parents_merge():
    lineage = family()
    named = dict(zip(lineage.nodes, [STEPS[s] for s in step_index(lineage)], strict=True))
    assert named == {
        "base": "root", "a": "finetune", "b": "quantized", "ab": "merge", "c": "adapter"
    }  # fmt: skip


def dense_twin(graph, step_precision, centre):
    """Return (I - W)' P (I - W) and its linear term, written out."""
    n, size = centre.shape
    own = np.eye(n)
    own[graph.child, graph.parent] -= graph.weight
    whole = np.kron(own, np.eye(size))
    precision = np.zeros((n * size, n * size))
    for j in range(n):
        at = slice(j * size, (j + 1) * size)
        precision[at, at] = step_precision[j]
    return whole, whole.T @ precision @ whole, whole.T @ precision @ centre.ravel()


@pytest.mark.ledger
def test_precision_and_step_covariance_are_those_of_the_dense_matrix(rng, claim):
    graph = DirectedGraph(family())
    n, size = graph.n_nodes, 3
    root = rng.normal(size=(n, size, size))
    p, centre = root @ root.mT + np.eye(size), rng.normal(size=(n, size))
    diagonal, off, linear = graph.precision(p, centre)
    own, dense, pull = dense_twin(graph, p, centre)
    whole = dense.reshape(n, size, n, size)
    at, order = np.arange(n), graph.blocks.order
    claim(
        "Directed prior: precision of a family with merges, gap",
        "dense (I - W)' P (I - W)",
        max(
            np.abs(diagonal - whole[at, :, at]).max(),
            np.abs(off - whole[order.neighbour, :, order.owner]).max(),
        ),
        1e-12,
    )
    np.testing.assert_allclose(linear.ravel(), pull, atol=1e-12)
    value, gradient = graph.log_determinant_and_gradient(p)
    assert value == pytest.approx(np.linalg.slogdet(dense)[1])
    moved = p.copy()
    moved[2, 0, 1] = moved[2, 1, 0] = p[2, 0, 1] + 1e-6
    slope = (graph.log_determinant_and_gradient(moved)[0] - value) / 1e-6
    assert slope == pytest.approx(2 * gradient[2, 0, 1], rel=1e-4, abs=1e-5)
    evidence = 2.0 * np.eye(size)
    factor = graph.blocks.factor(diagonal + evidence, off)
    covariance = graph.step_covariance(*graph.blocks.selected_inverse(factor))
    joint = np.linalg.inv(dense + 2.0 * np.eye(n * size))
    expected = (own @ joint @ own.T).reshape(n, size, n, size)[at, :, at]
    claim(
        "Directed prior: posterior covariances of steps, gap",
        "dense inverse",
        np.abs(covariance - expected).max(),
        1e-10,
    )
    values = rng.normal(size=(n, size))
    np.testing.assert_allclose(graph.steps_of(values).ravel(), own @ values.ravel())
    np.testing.assert_allclose(graph.pulls_of(values).ravel(), own.T @ values.ravel())
    walked = np.linalg.solve(own, values.ravel()).reshape(values.shape)
    np.testing.assert_allclose(graph.values_of(values), walked)
    np.testing.assert_allclose(graph.values_of(values[:, 0]), walked[:, 0])


def test_centre_and_precision_of_steps(rng):
    s = scales(rng, n_columns=2, n_kinds=2)
    frame = pd.DataFrame({"size": [1.0, 3.0, 5.0], "kind": ["x", None, "x"]}, index=list("abc"))
    known, _ = covariates(frame, list("abc"), features=["size"], kind="kind")
    step = np.array([0, 1, 2])
    centre = s.centre(step, known, np.arange(3))
    np.testing.assert_allclose(centre[0], known.values[0] @ s.coefficient)
    np.testing.assert_array_equal(centre[1:], [s.drift[1, 0], s.drift[2, 1]])
    precision = s.precision(step, np.array([1.0, 2.0, 3.0]), np.array([[4.0], [5.0], [6.0]]))
    np.testing.assert_allclose(precision[1, :2, :2], 2 * np.linalg.inv(s.factor_covariance[1]))
    np.testing.assert_allclose(precision[2, 2], [0, 0, 6 / s.effect_variance[2, 0]])


def test_draws_of_steps_have_the_moments_of_student_t(rng):
    s = scales(rng, tail=8.0)
    drawn = s.draw(np.array([1, 3]), 40_000, rng)
    for at, step in enumerate((1, 3)):
        found = np.cov(drawn[:, :, at].T.astype(float))
        expected = np.zeros((3, 3))
        expected[:2, :2] = s.factor_covariance[step] * 8 / 6
        expected[2, 2] = s.effect_variance[step, 0] * 8 / 6
        # Kurtosis 4.5 of t_8: relative standard error of a variance about 1.4 %.
        np.testing.assert_allclose(found, expected, atol=0.07 * expected.max())
    # Each effect has a weight of its own, factors share one.
    square = drawn[:, :, 0].astype(float) ** 2
    shared, own = np.corrcoef(square.T)[0, 1], np.corrcoef(square.T)[0, 2]
    assert abs(own) < 0.05 < shared


def test_scales_survive_a_mapping(rng):
    s = scales(rng)
    again = StepScales.from_values(s.to_values())
    for field in dataclasses.fields(s):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(s, field.name))


def test_features_are_standardised_and_missing_ones_are_the_mean():
    frame = pd.DataFrame(
        {
            "Params_B": [0.5, 7.0, np.nan, 70.0],
            "date": pd.to_datetime(["2024-01-01", "2024-01-03", None, "2024-01-02"]),
            "type": ["chat"] * 4,
        },
        index=["m1", "m2", "m3", "m4"],
    )
    known, notes = covariates(
        frame, ["m1", "m2", "m3", "m4", "new"], features=["params_b", "date", "age"], kind="type"
    )
    assert known.names == ("intercept", "params_b", "date")
    logs = np.log([0.5, 7, 70])
    expected = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(known.values[[0, 1, 3], 1], expected)
    np.testing.assert_allclose(known.values[[0, 1, 3], 2], np.array([-1, 1, 0]) * np.sqrt(1.5))
    np.testing.assert_array_equal(known.values[[2, 4], 1:], 0)
    assert known.kinds == ("unknown", "chat")
    assert known.kind.tolist() == [1, 1, 1, 1, 0]
    assert notes == ["the models table has no column 'age': left out"]


def test_a_level_of_a_category_needs_ten_models():
    frame = pd.DataFrame({"arch": ["a"] * 12 + ["b"] * 11 + ["c"] * 2}, index=map(str, range(25)))
    known, _ = covariates(frame, list(frame.index), features=["arch"])
    assert known.names == ("intercept", "arch=a", "arch=b")
    np.testing.assert_allclose(known.values[:, 1:].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(known.values[:, 1:].std(0), 1)


def test_a_model_twice_in_the_table_is_refused():
    frame = pd.DataFrame({"size": [1.0, 2.0]}, index=["m", "m"])
    with pytest.raises(InputError, match="'m' stands twice"):
        covariates(frame, ["m"], features=["size"])


def test_a_directed_prior_that_fills_in_is_solved_in_part(rng):
    lineage = grown_lineage(200, rng=rng, partner="any", merge_share=0.5)
    graph = DirectedGraph(lineage, max_degree=3)
    assert 10 < len(graph.order.kept) < 100
    p = rng.uniform(0.5, 2, (200, 1, 1))
    diagonal, off, _ = graph.precision(p, np.zeros((200, 1)))
    gaussian = reduced_gaussian(graph.order, diagonal[:, 0, 0] + 0.5, off[:, 0, 0])
    _, dense, _ = dense_twin(graph, p, np.zeros((200, 1)))
    right = rng.normal(size=200)
    expected = np.linalg.solve(dense + 0.5 * np.eye(200), right)
    np.testing.assert_allclose(gaussian.solve(right), expected, rtol=1e-7, atol=1e-8)
    with pytest.raises(ValueError, match="nodes are kept: eliminate without max_degree"):
        _ = graph.blocks


def test_levels_come_in_the_order_of_generations():
    chain = lineage_from_frame(
        pd.DataFrame(
            [(f"m{i + 1}", f"m{i}", "finetune") for i in reversed(range(2000))]
            + [("m7", "m2000b", "merge"), ("m2000", "m1", "merge")],
            columns=["child", "parent", "relation"],
        )
    )
    graph = DirectedGraph(chain)
    assert sorted(np.concatenate(graph.levels)) == list(range(len(chain.child)))
    done = np.zeros(graph.n_nodes, bool)
    done[np.setdiff1d(np.arange(graph.n_nodes), graph.child)] = True
    for edges in graph.levels:
        assert done[graph.parent[edges]].all()
        assert not done[graph.child[edges]].any()
        done[graph.child[edges]] = True
    assert done.all()
    assert len(graph.levels) == 2000
    first = chain.index["m0"]
    values = graph.values_of((np.arange(graph.n_nodes) == first).astype(float))
    # Half of what comes down reaches m7, whose other parent is a base.
    assert values[chain.index["m6"]] == 1
    assert values[chain.index["m1999"]] == 0.5
    assert values[chain.index["m2000"]] == 0.75
