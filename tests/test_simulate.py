"""Simulated families: reproducible, of the shape asked for, and drawn from what the truth says."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.program import components
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import PARTNERS, grown_lineage, simulate, simulated_lineage
from bayes_lrmf.spec import HyperPrior, read_spec

KEY = jax.random.key(7)
SPEC = dataclasses.replace(read_spec("laplacian"), rank=2)
# One size and one key nearly everywhere: JAX compiles anew for every other tree.
N_MODELS, N_ITEMS, N_BENCHMARKS, DENSITY = 60, 80, 4, 0.4


def draw(spec=SPEC, *, key=KEY, **options):
    sizes = {"n_models": N_MODELS, "n_items": N_ITEMS, "n_benchmarks": N_BENCHMARKS}
    return simulate(spec, key=key, **{**sizes, "density": DENSITY, **options})


@pytest.fixture(scope="module")
def drawn():
    return draw(cold_share=0.25)


@pytest.fixture(scope="module")
def counts():
    spec = dataclasses.replace(SPEC, concentration=HyperPrior(12.0, 0.5))
    return draw(spec, trials=40, density=1)


def test_same_key_same_data(drawn):
    again = draw(cold_share=0.25)
    assert again.responses.fingerprint() == drawn.responses.fingerprint()
    pd.testing.assert_frame_equal(again.truth, drawn.truth)
    for name in ("nodes", "child", "parent", "relation", "weight"):
        np.testing.assert_array_equal(getattr(again.lineage, name), getattr(drawn.lineage, name))
    assert again.values.keys() == drawn.values.keys()
    for name, value in drawn.values.items():
        np.testing.assert_array_equal(again.values[name], value)


def test_other_key_other_data(drawn):
    other = draw(key=jax.random.key(8))
    assert not np.array_equal(other.lineage.parent, drawn.lineage.parent)
    assert abs(other.truth["probability"] - drawn.truth["probability"]).mean() > 0.05
    assert other.responses.fingerprint() != drawn.responses.fingerprint()


def test_shapes(drawn):
    assert len(drawn.lineage.nodes) == N_MODELS
    assert len(drawn.truth) == N_MODELS * N_ITEMS
    assert drawn.responses.n_items == N_ITEMS
    assert drawn.responses.is_binary
    sizes = drawn.responses.items["benchmark"].value_counts()
    assert sizes.to_dict() == {f"bench{b}": N_ITEMS // N_BENCHMARKS for b in (1, 2, 3, 4)}
    shapes = {name: value.shape for name, value in drawn.values.items()}
    assert shapes["factor"] == (2, N_MODELS)
    assert shapes["loading"] == (2, N_ITEMS)
    assert shapes["effect_unit"] == (N_BENCHMARKS, N_MODELS)


def test_truth_covers_every_cell_once(drawn):
    cells = drawn.truth[["model", "benchmark", "item"]]
    assert not cells.duplicated().any()
    assert set(cells["model"]) == set(drawn.lineage.nodes)
    assert cells.groupby("model").size().eq(N_ITEMS).all()
    assert drawn.truth["probability"].between(0, 1, inclusive="neither").all()
    assert drawn.truth["trials"].eq(1).all()


def test_responses_are_a_part_of_the_truth(drawn):
    keys = ["model", "benchmark", "item"]
    truth = drawn.truth.set_index(keys)["successes"]
    observed = drawn.responses.to_frame().set_index(keys)["successes"]
    np.testing.assert_array_equal(truth.loc[observed.index], observed)


@pytest.mark.parametrize(("density", "trials"), [(DENSITY, 1), (0.05, 1), (0.3, 7)])
def test_responses_are_as_a_file_of_them_is_read(density, trials):
    drawn = draw(density=density, trials=trials)
    keys = ["model", "benchmark", "item"]
    seen = drawn.truth.merge(drawn.responses.to_frame()[keys], on=keys)
    assert 0 < len(seen) < len(drawn.truth)
    read = responses_from_frame(seen.drop(columns="probability"))
    assert read.fingerprint() == drawn.responses.fingerprint()


def test_density_counts_cells_of_evaluated_models(drawn):
    share = drawn.responses.n_observed / (drawn.responses.n_models * N_ITEMS)
    standard_error = (DENSITY * (1 - DENSITY) / (drawn.responses.n_models * N_ITEMS)) ** 0.5
    assert share == pytest.approx(DENSITY, abs=4 * standard_error)


def test_full_density_observes_all_but_cold_models():
    full = draw(density=1, cold_share=0)
    assert full.responses.n_observed == N_MODELS * N_ITEMS
    assert list(full.responses.models) == list(full.lineage.nodes)


def test_cold_models_are_childless_kin_without_responses(drawn):
    cold = sorted(set(drawn.lineage.nodes) - set(drawn.responses.models))
    childless = set(drawn.lineage.nodes) - set(drawn.lineage.nodes[drawn.lineage.parent])
    have_parents = set(drawn.lineage.nodes[drawn.lineage.child])
    assert len(cold) == round(0.25 * len(childless & have_parents)) > 0
    for model in cold:
        assert drawn.lineage.parents_of(model)
        assert not drawn.lineage.children_of(model)
    assert len(drawn.truth[drawn.truth["model"].isin(cold)]) == len(cold) * N_ITEMS


def test_probabilities_are_the_sigmoid_of_the_components(drawn):
    # All models, as when simulating: the design of the truth, not of what was observed.
    table = responses_from_frame(drawn.truth.drop(columns="probability"))
    design = make_design(table, SPEC, lineage=drawn.lineage)
    rows, cols = components(design, drawn.values)
    psi = np.asarray(rows, float).T @ np.asarray(cols, float)
    truth = drawn.truth["probability"].to_numpy().reshape(N_MODELS, N_ITEMS)
    np.testing.assert_allclose(truth, 1 / (1 + np.exp(-psi)), atol=1e-5)


def test_components_by_hand(drawn):
    """Recompute psi of one cell from the sites alone."""
    v, u, i = drawn.values, 5, 70
    bench = i // (N_ITEMS // N_BENCHMARKS)
    psi = (
        v["factor"][:, u] @ v["loading"][:, i]
        + v["benchmark_sd"] * v["effect_unit"][bench, u]
        + v["intercept"][i]
    )
    cell = drawn.truth.iloc[u * N_ITEMS + i]
    assert cell["model"] == drawn.lineage.nodes[u]
    assert cell["item"] == f"q{i + 1}"
    assert cell["benchmark"] == f"bench{bench + 1}"
    assert cell["probability"] == pytest.approx(1 / (1 + np.exp(-psi)), abs=1e-5)


def test_responses_follow_the_probabilities(drawn):
    truth = drawn.truth
    for low in np.arange(0, 1, 0.2):
        part = truth[truth["probability"].between(low, low + 0.2)]
        p = part["probability"].to_numpy()
        standard_error = np.sqrt((p * (1 - p)).sum()) / len(p)
        assert part["successes"].mean() == pytest.approx(p.mean(), abs=4 * standard_error)


def test_kin_are_closer_than_strangers(drawn):
    """A child's logits resemble its parent's: the lineage is in the draw, not beside it."""
    p = drawn.truth["probability"].to_numpy().reshape(N_MODELS, N_ITEMS)
    psi = np.log(p / (1 - p))
    psi -= psi.mean(0)
    lineage = drawn.lineage
    kin = np.mean((psi[lineage.child] - psi[lineage.parent]) ** 2)
    far = np.mean((psi[:, None] - psi[None]) ** 2)
    assert kin < 0.6 * far


def test_hyperparameters_are_at_their_medians_or_drawn(drawn):
    assert drawn.values["factor_sd"] == pytest.approx(SPEC.factor_sd.median)
    assert drawn.values["kappa"] == pytest.approx(SPEC.kappa.median)
    free = draw(sampled_hyperparameters=True)
    for name in ("factor_sd", "kappa", "benchmark_sd", "intercept_sd"):
        assert free.values[name] > 0
        assert abs(np.log(free.values[name] / getattr(SPEC, name).median)) > 1e-3


def test_hyperparameters_that_the_spec_fixes_stay_when_others_are_drawn():
    spec = dataclasses.replace(
        SPEC, benchmark_sd=HyperPrior(0.3), kappa=HyperPrior(0.2), concentration=HyperPrior(3.0)
    )
    free = draw(spec, trials=50, sampled_hyperparameters=True)
    assert free.values["benchmark_sd"] == pytest.approx(0.3)
    assert free.values["kappa"] == pytest.approx(0.2)
    np.testing.assert_allclose(free.values["concentration"], 3.0)
    assert _inflation(free.truth) == pytest.approx(1 + 49 / 4, rel=0.1)


def _inflation(truth: pd.DataFrame) -> float:
    """Return the variance of successes over that of a Binomial."""
    p, n = truth["probability"].to_numpy(), truth["trials"].to_numpy()
    kept = (p > 0.1) & (p < 0.9)
    squares = (truth["successes"].to_numpy() - n * p) ** 2 / (n * p * (1 - p))
    return float(squares[kept].mean())


def test_counts_have_the_variance_of_the_beta_binomial(counts):
    truth = counts.truth
    assert truth["trials"].eq(40).all()
    assert truth["successes"].between(0, 40).all()
    assert not counts.responses.is_binary
    p = truth["probability"].to_numpy()
    error = (truth["successes"] / 40 - p).to_numpy()
    assert abs(error.mean()) < 4 * error.std() / len(p) ** 0.5
    # Var k = n p (1 - p) (1 + (n - 1) rho) with rho = 1 / (1 + alpha + beta).
    assert _inflation(truth) == pytest.approx(1 + 39 / 13, rel=0.1)


def test_binomial_counts_are_not_over_dispersed():
    spec = dataclasses.replace(SPEC, likelihood="binomial")
    plain = draw(spec, trials=40)
    assert _inflation(plain.truth) == pytest.approx(1, rel=0.1)


def test_without_lineage_prior_the_tree_is_kept():
    plain = draw(dataclasses.replace(read_spec("mf"), rank=2))
    assert "kappa" not in plain.values
    np.testing.assert_array_equal(plain.lineage.parent, draw().lineage.parent)


def test_fewer_items_than_benchmarks():
    small = draw(n_items=2, n_benchmarks=5, density=1)
    assert len(small.responses.benchmarks) == 2


@pytest.mark.parametrize("n_models", [2, 3, 11, 30, 200])
def test_simulated_lineage_is_a_tree_with_merges(n_models, rng):
    lineage = simulated_lineage(n_models, rng=rng, merge_share=0.3)
    assert len(set(lineage.nodes)) == n_models
    assert (lineage.parent < lineage.child).all()
    n_roots = max(1, n_models // 12)
    n_parents = np.bincount(lineage.child, minlength=n_models)
    assert (n_parents[:n_roots] == 0).all()
    assert np.isin(n_parents[n_roots:], (1, 2)).all()
    total = np.bincount(lineage.child, lineage.weight, minlength=n_models)
    np.testing.assert_allclose(total[n_roots:], 1)
    merged = lineage.relation == "merge"
    np.testing.assert_array_equal(merged, n_parents[lineage.child] == 2)
    if n_models == 200:
        assert 0.15 < (n_parents == 2).mean() < 0.45
        assert set(lineage.relation) == {"finetune", "merge", "adapter", "quantized"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_models", 1),
        ("n_models", 2.5),
        ("n_items", 1),
        ("n_benchmarks", 0),
        ("trials", 0),
        ("density", 0),
        ("density", 1.2),
        ("density", float("nan")),
        ("density", 1e-12),
        ("cold_share", -0.1),
        ("cold_share", 1.5),
    ],
)
def test_numbers_out_of_range_are_refused(option, value):
    with pytest.raises(InputError, match=option) as caught:
        draw(**{option: value})
    assert caught.value.fix


def test_penalty_is_no_generative_model():
    with pytest.raises(
        InputError, match="spec paper is not a generative model; choose spec laplacian"
    ):
        draw(read_spec("paper"))


def test_components_of_draws_are_those_of_each_draw(drawn):
    spec = read_spec("laplacian")
    design = make_design(drawn.responses, spec, lineage=drawn.lineage)
    rng = np.random.default_rng(0)
    sites = {
        "factor": (2, design.n_core), "loading": (2, design.n_items),
        "ability_unit": (design.n_core,),
        "effect_unit": (len(design.effect_benchmarks), design.n_core), "ability_sd": (),
        "benchmark_sd": (), "intercept": (design.n_items,),
    }  # fmt: skip
    values = {n: rng.normal(size=(3, *shape)).astype(np.float32) for n, shape in sites.items()}
    rows, cols = components(design, values)
    for draw in range(3):
        one = components(design, {n: jnp.asarray(v[draw]) for n, v in values.items()})
        np.testing.assert_allclose(rows[draw], one[0], rtol=1e-6)
        np.testing.assert_allclose(cols[draw], one[1], rtol=1e-6)
    ability = values["ability_sd"][1] * values["ability_unit"][1]
    np.testing.assert_allclose(rows[1, 2], ability, rtol=1e-6)
    # The last effect stands before the ones of the intercepts.
    effect = values["benchmark_sd"][1] * values["effect_unit"][1, -1]
    np.testing.assert_allclose(rows[1, -2], effect, rtol=1e-6)


@pytest.mark.parametrize("partner", PARTNERS)
@pytest.mark.parametrize(("n_models", "n_roots"), [(2, None), (3, 1), (40, 39), (3000, None)])
def test_grown_lineages_merge_as_told(partner, n_models, n_roots, rng):
    lineage = grown_lineage(n_models, rng=rng, partner=partner, merge_share=0.3, n_roots=n_roots)
    roots = n_roots or max(1, n_models // 12)
    child, parent = lineage.child, lineage.parent
    assert len(set(lineage.nodes)) == n_models
    assert (parent < child).all()
    pairs = child.astype(int) * n_models + parent
    assert len(np.unique(pairs)) == len(pairs)
    n_parents = np.bincount(child, minlength=n_models)
    assert (n_parents[:roots] == 0).all()
    assert np.isin(n_parents[roots:], (1, 2)).all()
    total = np.bincount(child, lineage.weight, minlength=n_models)
    np.testing.assert_allclose(total[roots:], 1)
    np.testing.assert_array_equal(lineage.relation == "merge", n_parents[child] == 2)
    first = np.full(n_models, -1)
    first[child[: n_models - roots]] = parent[: n_models - roots]
    base = np.arange(n_models)
    for i in range(roots, n_models):
        base[i] = base[first[i]]
    second = slice(n_models - roots, None)
    for c, other in zip(child[second], parent[second], strict=True):
        f = first[c]
        if partner == "family":
            assert base[other] == base[f]
        if partner == "kin":
            assert other == first[f] or first[other] == (first[f] if first[f] >= 0 else f)
    if n_models == 3000:
        # Of 2750 with a share of 0.3, less those without a partner to be had.
        assert 0.2 < (n_parents[roots:] == 2).mean() < 0.34
        assert np.bincount(first[roots:]).max() > 15


def test_first_parents_are_drawn_by_preferential_attachment():
    # With two bases, the child of the second draws a: base 0 has weight 1 + its children.
    rng = np.random.default_rng(0)
    drawn = [grown_lineage(5, rng=rng, merge_share=0, n_roots=2).parent for _ in range(4000)]
    parents = np.array(drawn)
    assert parents.shape == (4000, 3)
    after = parents[(parents[:, 0] == 0) & (parents[:, 1] == 0)][:, 2]
    # Weights of models 0, 1, 2, 3: three, one, one, one. Standard error about 0.015.
    np.testing.assert_allclose(
        np.bincount(after) / len(after), np.array([3, 1, 1, 1]) / 6, atol=0.06
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partner": "twin"}, "partner"),
        ({"n_roots": 30}, "n_roots is 30, n_models 30; give fewer"),
        ({"merge_share": 1.5}, "merge_share"),
    ],
)
def test_grown_lineages_out_of_range_are_refused(options, message, rng):
    with pytest.raises(InputError, match=message):
        grown_lineage(30, rng=rng, **options)
