"""Simulation-based calibration: ranks that are uniform, ranks that are not, and one of each run."""

from __future__ import annotations

import numpy as np
import pytest

from analyses import sbc


def found(ranks):
    return [{"ranks": {"a": int(a), "b": int(b)}, "converged": True} for a, b in ranks]


def test_uniform_ranks_pass_and_others_do_not():
    rng = np.random.default_rng(0)
    uniform = rng.integers(0, sbc.N_RANKED + 1, 200)
    # Posteriors half as wide as they should be.
    narrow = np.clip(np.rint(99 * (0.5 + 2 * (rng.random(200) - 0.5))), 0, 99)
    p = sbc.p_values(np.column_stack([uniform, narrow]).astype(int))
    assert p[0] > 0.05
    assert p[1] < 0.001


def test_p_values_of_uniform_ranks_are_uniform():
    ranks = np.random.default_rng(1).integers(0, sbc.N_RANKED + 1, (60, 400))
    p = sbc.p_values(ranks)
    assert abs((p < 0.1).mean() - 0.1) < 0.05
    assert abs(p.mean() - 0.5) < 0.06


def test_intervals_hold_nine_of_ten_ranks():
    table = sbc.summary(found(zip(range(100), reversed(range(100)), strict=True)))
    assert table["held"].tolist() == [0.9, 0.9]
    assert table["mean rank"].tolist() == pytest.approx([0.5, 0.5])
    assert table["error"][0] == pytest.approx(0.03)
    one = sbc.summary(found([(4, 5), (94, 95)]))
    assert one["held"].tolist() == [0.5, 0.5]


def test_adjusted_for_their_number():
    p = np.array([0.04, 0.01, 0.5])
    np.testing.assert_allclose(sbc.adjusted(p), [0.08, 0.03, 0.5])


def test_sets_whose_chains_mix_badly_are_told():
    good = {"ess": 200.0, "rhat": 1.01}
    mixed = [good, good | {"ess": 50.0}, good | {"rhat": 1.2}, {}]
    assert sbc.well_mixed(mixed) == [good]


def test_draws_of_one_chain_elsewhere_do_not_mix():
    rng = np.random.default_rng(2)
    fine = {"a": rng.normal(size=(2, 500)), "b": rng.normal(size=(2, 500))}
    assert sbc._mixing(fine)["rhat"] < 1.02
    assert sbc._mixing(fine)["ess"] > 300
    apart = fine | {"b": fine["b"] + np.array([[0.0], [2.0]])}
    assert sbc._mixing(apart)["rhat"] > 1.2
    assert sbc._mixing(apart)["ess"] < 20


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "method"), [("laplacian", "svi"), ("directed", "vb")])
def test_a_replication_ranks_what_the_method_knows(spec, method):
    one, again = (sbc.replicated(spec, method, 3) for _ in range(2))
    assert one == again
    ranks = one["ranks"]
    assert all(0 <= rank <= sbc.N_RANKED for rank in ranks.values())
    assert ("kappa" in ranks) == (method == "svi")
    # Scales of steps are points under vb.
    assert not any("steps" in name for name in ranks)
    # A posterior is told by the results: cells with some are not all at its ends.
    cells = [rank for name, rank in ranks.items() if name.startswith("psi of a cell")]
    assert len(cells) == 8
    assert 0 < np.mean(cells) < sbc.N_RANKED
