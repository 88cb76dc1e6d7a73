"""Jumps on one benchmark: which steps are, which are not, and what leans on them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest

import bayes_lrmf.jumps as module
from analyses import jump_rates
from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.diagnose import diagnose
from bayes_lrmf.flag import flag
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.item_space import CoreDraws
from bayes_lrmf.jumps import benchmark_steps, jumps, more_than_usual, pulled
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

KEY = jax.random.key(0)
SPEC = dataclasses.replace(read_spec("directed"), rank=2)
BENCHMARKS = ("w", "x", "y", "z")


class Family:
    """Children of one base, and what else is added, with levels on each benchmark by hand."""

    def __init__(self, monkeypatch, n_children=30, benchmarks=BENCHMARKS):
        self.monkeypatch, self.benchmarks = monkeypatch, benchmarks
        self.rng = np.random.default_rng(1)
        self.level = {"base": np.zeros(len(benchmarks))}
        self.sd = {}
        self.edges = []
        self.untested = set()
        for u in range(n_children):
            self.add(f"c{u}", "base")

    def add(self, name, *parents, by=0.0, relation="finetune"):
        mean = np.mean([self.level[p] for p in parents], axis=0)
        noise = 0.1 * self.rng.standard_normal(len(self.benchmarks))
        self.level[name] = mean + noise + by
        self.edges += [(name, p, "merge" if len(parents) > 1 else relation) for p in parents]

    def cold(self, name, *parents, on=None):
        self.add(name, *parents)
        self.untested |= {(name, b) for b in on or self.benchmarks}

    def posterior(self, n_draws=400):
        rows = [
            (m, b, f"{b}{i}", i % 2)
            for m in self.level
            for b in self.benchmarks
            for i in range(2)
            if (m, b) not in self.untested
        ]
        frame = pd.DataFrame(rows, columns=["model", "benchmark", "item", "response"])
        edges = pd.DataFrame(self.edges, columns=["child", "parent", "relation"])
        design = make_design(
            responses_from_frame(frame),
            SPEC,
            lineage=lineage_from_frame(edges),
            extra_models=list(self.level),
        )
        place = [self.benchmarks.index(b) for b in design.benchmarks]
        mean = np.array([self.level[m] for m in design.core.nodes])[:, place]
        sd = np.array([self.sd.get(m, np.full(len(place), 0.02)) for m in design.core.nodes])
        sd = sd[:, place]
        noise = np.random.default_rng(2).standard_normal((n_draws, *mean.shape))
        rows = (mean + sd * noise).transpose(0, 2, 1).astype(np.float32)
        one = (design.benchmark_index == np.arange(len(place))[:, None]).astype(np.float32)
        cols = np.broadcast_to(one, (n_draws, *one.shape))
        intercept = np.full((n_draws, design.n_items), 5, np.float32)
        drawn = CoreDraws(rows, cols, intercept, None)
        self.monkeypatch.setattr(module, "core_draws", lambda *_, **__: drawn)
        return SimpleNamespace(design=design)

    def found(self):
        posterior = self.posterior()
        steps = benchmark_steps(posterior, key=KEY)
        return posterior, steps, jumps(steps)


@pytest.fixture
def family(monkeypatch):
    return Family(monkeypatch)


def named(found):
    return set(zip(found["model"], found["benchmark"], strict=True))


def test_nothing_jumps_where_nothing_does(family):
    posterior, steps, found = family.found()
    assert len(steps) == 30 * 4
    assert found.empty
    assert pulled(posterior, found).empty
    assert not more_than_usual(steps)


def test_z_is_that_of_its_definition(family):
    family.level["c3"][1] += 3
    _, steps, _ = family.found()
    level = np.array([family.level[f"c{u}"] for u in range(30)])
    others = np.delete(level, 1, axis=1)
    excess = level[:, 1] - np.median(others, axis=1)
    centre = np.median(excess)
    scale = 1.4826 * np.median(np.abs(excess - centre))
    spread = np.abs(others[3] - np.median(others[3])).max()
    # Of a child's draw, its parent's, and those of the median of three pairs: about 0.02 squared
    # times 2 and 0.45 * 2.
    sd = 0.02 * np.sqrt(2 * (1 + 0.449))
    z = (excess[3] - centre) / np.sqrt(scale**2 + sd**2 + (spread / 2) ** 2)
    row = steps[(steps["model"] == "c3") & (steps["benchmark"] == "x")].iloc[0]
    assert row["z"] == pytest.approx(z, rel=0.02)
    assert row["step"] == pytest.approx(level[3, 1], abs=0.01)
    # The mean over draws of a median of noisy steps is not quite the median of their means.
    assert row["excess"] == pytest.approx(excess[3], abs=0.02)
    assert row["elsewhere"] == pytest.approx(row["step"] - row["excess"])


@pytest.mark.parametrize(("by", "says"), [(3, "memorised, or"), (-3, "measured otherwise?")])
def test_a_child_that_leaves_on_one_benchmark_is_found(family, by, says):
    family.level["c3"][1] += by
    family.level["c4"] += by
    _, steps, found = family.found()
    assert named(found) == {("c3", "x")}
    assert np.sign(found["z"].iloc[0]) == np.sign(by)
    reason = found["reason"].iloc[0]
    assert f"log-odds {'above' if by > 0 else 'below'} base on x" in reason
    assert says in reason
    assert ("memorised" in reason) == (by > 0)
    # One of thirty is more than one in a thousand explains only at a level of 3 %.
    assert not more_than_usual(steps)
    family.level["c5"][0] += by
    assert more_than_usual(family.found()[1])


def test_noise_of_few_results_is_no_jump(family):
    family.level["c3"][1] += 3
    family.sd["c3"] = np.array([0.02, 1.0, 0.02, 0.02])
    assert family.found()[2].empty


def test_a_child_that_differs_everywhere_does_not_jump(family):
    family.level["c3"] += np.array([-2.0, 3.0, 0.0, 2.0])
    assert family.found()[2].empty


def test_few_children_or_benchmarks_make_no_rule(monkeypatch):
    for n_children, benchmarks in ((19, BENCHMARKS), (30, BENCHMARKS[:2])):
        few = Family(monkeypatch, n_children, benchmarks)
        few.level["c3"][1] += 5
        _, steps, found = few.found()
        assert steps.empty
        assert found.empty
        assert not more_than_usual(steps)
    for n_children, benchmarks in ((20, BENCHMARKS), (30, BENCHMARKS[:3])):
        enough = Family(monkeypatch, n_children, benchmarks)
        enough.level["c3"][1] += 5
        assert named(enough.found()[2]) == {("c3", "x")}


def test_relations_have_their_own_scale(family):
    for u in range(25):
        family.add(f"q{u}", "c0", relation="quantized")
        family.level[f"q{u}"] = family.level["c0"] + 0.01 * family.rng.standard_normal(4)
    family.level["q3"][1] += 0.6
    family.level["c3"][1] += 0.6
    assert named(family.found()[2]) == {("q3", "x")}
    # Three of a relation are judged with all others.
    for u in range(3):
        family.add(f"a{u}", "c1", relation="adapter")
    family.level["a0"][2] += 3
    assert ("a0", "y") in named(family.found()[2])


def test_merges_are_held_against_the_mean_of_their_parents(family):
    family.level["c3"][1] += 3
    family.add("between", "c3", "c4")
    family.add("back", "c3", "c4")
    family.level["back"][1] -= 1.5
    family.add("odd", "c5", "c6", by=np.array([0, 0, 2.0, 0]))
    _, _, found = family.found()
    # One that went back to the others is no second finding.
    assert named(found) == {("c3", "x"), ("odd", "y")}
    reason = found.set_index("model").loc["odd", "reason"]
    assert "above c5 + c6 on y" in reason


def test_children_that_go_back_tell_on_their_parent(family):
    family.level["c3"][1] += 3
    family.add("heir", "c3")
    family.add("honest", "c3", by=np.array([0, -3.0, 0, 0]))
    assert named(family.found()[2]) == {("c3", "x")}
    # A root that memorised has no parent to be held against.
    family.level["root"] = np.array([0, 4.0, 0, 0])
    for u in range(3):
        family.add(f"r{u}", "root", by=np.array([0, -4.0, 0, 0]))
    _, _, found = family.found()
    assert named(found) == {("c3", "x"), ("root", "x")}
    row = found.set_index("model").loc["root"]
    assert row["z"] > 7
    assert row["reason"].startswith("3 of 3 children are far below it on x, not elsewhere")
    assert row["reason"].endswith("memorised, or measured otherwise?")


def test_benchmarks_that_a_parent_has_not_run_are_not_compared(family):
    family.cold("partly", "c0", on=["x"])
    for name in ("partly", "last"):
        family.add(name + "/child", "partly" if name == "partly" else "c1")
    family.level["partly/child"][1] += 5
    _, steps, found = family.found()
    mine = steps[steps["model"] == "partly/child"]
    assert list(mine["benchmark"]) == ["w", "y", "z"]
    assert found.empty


def test_models_without_results_lean_on_their_kin(family):
    family.level["c3"][1] += 4
    family.cold("child", "c3")
    family.cold("grandchild", "child")
    family.add("tested", "c3")
    family.cold("below tested", "tested")
    family.cold("half", "c3", on=["x"])
    family.cold("elsewhere", "c3", on=["w"])
    family.cold("other", "c4")
    posterior, _, found = family.found()
    assert named(found) == {("c3", "x")}
    lean = pulled(posterior, found).set_index("model")
    assert set(lean.index) == {"child", "grandchild", "half"}
    assert set(lean["benchmark"]) == {"x"}
    assert (lean["z"] == found["z"].iloc[0]).all()
    assert lean.loc["child", "reason"] == "no results on x, where its parent c3 is far above kin"
    assert "its ancestor c3" in lean.loc["grandchild", "reason"]


def test_parents_without_results_lean_on_their_child(family):
    family.cold("partly", "c0", on=["x"])
    family.level["root"] = np.zeros(4)
    family.add("merged", "root", "c1")
    family.untested.add(("root", "x"))
    for u in range(3):
        family.add(f"m{u}", "merged")
    family.level["m0"][1] += 4
    family.untested.add(("merged", "y"))
    family.level["m1"][2] += 4
    posterior, _, found = family.found()
    assert named(found) == {("m0", "x")}
    assert pulled(posterior, found).empty
    odd = pd.DataFrame([("m1", "y", 9.0, "")], columns=["model", "benchmark", "z", "reason"])
    lean = pulled(posterior, odd)
    assert list(lean["model"]) == ["merged"]
    assert "its child m1 is far above kin" in lean["reason"].iloc[0]


@pytest.fixture(scope="module")
def world():
    """Eighty simulated models on counts, of which one has learned a hard benchmark by heart."""
    spec = dataclasses.replace(read_spec("lrmf"), rank=1)
    data = simulate(
        spec, key=jax.random.key(3), n_models=80, n_items=24, n_benchmarks=4, density=0.9, trials=50
    )
    frame = data.responses.to_frame()
    share = frame.groupby("benchmark")[["successes", "trials"]].sum()
    hard = (share["successes"] / share["trials"]).idxmin()
    cold = set(data.lineage.nodes) - set(data.responses.models)
    nodes, child, parent = data.lineage.nodes, data.lineage.child, data.lineage.parent
    edges = list(zip(nodes[child], nodes[parent], strict=True))
    # An evaluated child of an evaluated parent, with a child of its own that has no results.
    heirs = {p for c, p in edges if c in cold}
    who = next(c for c, p in edges if c in heirs and not {c, p} & cold)
    mine = (frame["benchmark"] == hard) & (frame["model"] == who)
    frame.loc[mine, "successes"] = (0.98 * frame.loc[mine, "trials"]).round()
    design = make_design(
        responses_from_frame(frame), spec, lineage=data.lineage,
        extra_models=list(data.lineage.nodes),
    )  # fmt: skip
    return data, fit_vb(design, spec, key=KEY), who, hard, cold


def test_flag_and_diagnose_tell_of_a_memorised_benchmark(world):
    data, posterior, who, benchmark, cold = world
    found = flag(posterior, key=KEY, n_draws=20)
    found = found[found["rule"] == "jump"]
    assert (who, benchmark) in named(found)
    row = found[(found["model"] == who) & (found["benchmark"] == benchmark)].iloc[0]
    assert row["value"] > 7
    assert row["lower"] <= row["mean"] <= row["upper"]
    children = {c for c in data.lineage.children_of(who) if c in cold}
    assert children
    assert {(c, benchmark) for c in children} <= named(found)
    lines = [line for line in diagnose(posterior).lines if "leave their kin" in line]
    assert len(lines) == 1
    some = flag(posterior, key=KEY, n_draws=20, models=[who])
    assert set(some["model"]) == {who}
    assert named(some[some["rule"] == "jump"]) == {(who, benchmark)}


def test_a_point_estimate_or_no_lineage_is_refused(kin_data):
    spec = dataclasses.replace(read_spec("laplacian"), rank=2)
    point = fit_map(make_design(kin_data.responses, spec, lineage=kin_data.lineage), spec, key=KEY)
    with pytest.raises(InputError, match="no draws"):
        benchmark_steps(point, key=KEY)
    alone = SimpleNamespace(design=make_design(kin_data.responses, SPEC))
    with pytest.raises(InputError, match="no evaluated model has a parent"):
        benchmark_steps(alone, key=KEY)


@pytest.mark.slow
def test_rates_are_of_every_contaminated_model_and_undisturbed_child(monkeypatch, tmp_path):
    monkeypatch.setitem(jump_rates.SIZES, "counts", jump_rates.SIZES["counts"] | {"n_models": 60})
    monkeypatch.setattr("analyses.robustness._PARTS", tmp_path)
    table = jump_rates.of_seed(0)
    told, _ = jump_rates.Run("lrmf", "counts", "contaminated", 0).made(jump_rates.SIZES)
    count = table.groupby(table["models"].str.split(",").str[0])["marked"].agg(["size", "sum"])
    assert count.loc["contaminated", "size"] == len(jump_rates.named(told, "contaminated")) > 0
    assert count.loc["undisturbed children", "size"] >= 20
    assert count.loc["undisturbed children", "sum"] <= 1
