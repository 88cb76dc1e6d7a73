"""Stochastic steps: unbiased, at their fixed point where sweeps are, resumable."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.inference.checkpoint import Checkpoint, Interrupted
from bayes_lrmf.inference.vb_batches import BatchSums
from bayes_lrmf.inference.vb_cells import CellTable
from bayes_lrmf.inference.vb_fit import VariationalFit
from bayes_lrmf.inference.vb_local import local_maps
from bayes_lrmf.predict import predict_items
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.vech import unvech, vech

KEY = jax.random.key(1)


@pytest.fixture(scope="module", params=["laplacian", "directed"])
def made(request):
    spec = dataclasses.replace(read_spec("lrmf"), rank=2, lineage=request.param)
    data = simulate(
        dataclasses.replace(read_spec("laplacian"), rank=2),
        key=jax.random.key(4), n_models=40, n_items=61, n_benchmarks=3, density=0.9,
    )  # fmt: skip
    return make_design(data.responses, spec, lineage=data.lineage), spec


@pytest.fixture(scope="module")
def whole(made):
    return fit_vb(*made, key=KEY)


def fit_of(design, spec, posterior, n_batches):
    values = posterior.state.centre()
    fit = VariationalFit.start(design, spec, values, n_batches=n_batches)
    return fit.resumed(posterior.state)


@pytest.mark.parametrize("n_batches", [2, 5])
def test_every_item_is_in_one_batch_of_about_its_share(made, n_batches):
    design, spec = made
    maps, panel = local_maps(design, spec)
    table = CellTable(design, spec, panel, spec.rank + 2, n_batches=n_batches)
    members = [table.members(b) for b in range(n_batches)]
    np.testing.assert_array_equal(np.sort(np.concatenate(members)), np.arange(design.n_items))
    of_panels = np.stack([np.bincount(panel[m], minlength=len(maps)) for m in members])
    assert (np.abs(of_panels - np.bincount(panel) / n_batches) < 1).all()
    shares = [table.share(b) for b in range(n_batches)]
    np.testing.assert_allclose(shares, [len(m) / design.n_items for m in members])


@pytest.mark.parametrize("n_batches", [2, 5])
def test_sums_over_batches_are_the_sums(made, whole, n_batches):
    design, spec = made
    one, many = (fit_of(design, spec, whole, n) for n in (1, n_batches))
    given = one.local(), one.items.local(), one.noise
    for name in ("about_items", "about_models", "curvature"):
        for ours, expected in zip(
            flat(getattr(many.cells, name)(*given)), flat(getattr(one.cells, name)(*given)),
            strict=True,
        ):  # fmt: skip
            if expected is not None:
                np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)
    by_item = one.cells.about_items(*given)
    by_model = one.cells.about_models(*given)
    total = [np.zeros_like(part) for part in flat(by_model)]
    for batch in range(n_batches):
        part = many.cells.about_items(*given, batch=batch)
        at = many.cells.members(batch)
        np.testing.assert_allclose(part.square, by_item.square[at], rtol=1e-9)
        np.testing.assert_allclose(part.linear, by_item.linear[at], rtol=1e-9, atol=1e-9)
        for so_far, added in zip(
            total, flat(many.cells.about_models(*given, batch=batch)), strict=True
        ):
            so_far += added
    for ours, expected in zip(total, flat(by_model), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


def flat(sums):
    """Return the arrays of named tuples within one another."""
    return [one for part in sums for one in (flat(part) if isinstance(part, tuple) else [part])]


def empty_sums(fit):
    n_panels, n_models, size = fit.local().effect_second.shape
    return BatchSums.empty(fit.cells.n_batches, n_panels, n_models, size)


def turned(sums, turn):
    """Return what items multiplied by `turn` tell, by dense matrices."""
    square = unvech(sums.square.shared)
    part = turn[:-1, :-1]
    return [
        vech(part @ square @ part.T), sums.square.effect @ turn.T, sums.linear @ part.T,
        sums.effect_linear,
    ]  # fmt: skip


def test_estimate_of_some_batches_is_by_their_share(made, whole):
    design, spec = made
    fit = fit_of(design, spec, whole, 3)
    given = fit.local(), fit.items.local(), fit.noise
    shares = np.array([fit.cells.share(b) for b in range(3)])
    sums = empty_sums(fit)
    both = [fit.cells.about_models(*given, batch=b) for b in (2, 0)]
    sums = sums.with_batch(2, both[0]).with_batch(0, both[1])
    parts = zip(flat(sums.estimate(shares)), flat(both[0]), flat(both[1]), strict=True)
    for ours, one, other in parts:
        # Sums are kept at 32 bits, of terms that may cancel.
        expected = (one + other) / (shares[2] + shares[0])
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_sums_follow_coordinates_and_replace_what_a_batch_told(made, whole):
    """Turned twice on the way, the sums are those of turned items."""
    design, spec = made
    fit = fit_of(design, spec, whole, 3)
    given = fit.local(), fit.items.local(), fit.noise
    rng = np.random.default_rng(0)
    size = spec.rank + 1
    changes = [np.eye(size) + 0.2 * rng.standard_normal((size, size)) for _ in range(2)]
    found = [fit.cells.about_models(*given, batch=b) for b in range(3)]
    sums = empty_sums(fit)
    sums = sums.with_batch(0, found[0]).with_batch(1, found[1]).turned(changes[0])
    # What batch 0 told is replaced by what batch 2 tells, in the coordinates of now.
    sums = sums.with_batch(0, found[2]).turned(changes[1])
    turns = np.zeros((2, size + 1, size + 1))
    turns[:, -1, -1] = 1
    turns[:, :-1, :-1] = changes
    parts = turned(found[1], turns[1] @ turns[0]), turned(found[2], turns[1])
    for ours, one, other in zip(flat(sums.total), *parts, strict=True):
        scale = np.abs(one + other).max()
        np.testing.assert_allclose(ours / scale, (one + other) / scale, atol=1e-6)
    again = BatchSums.of_arrays(sums.arrays())
    np.testing.assert_array_equal(again.turns, sums.turns)
    for ours, expected in zip(flat(again.parts), flat(sums.parts), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_steps_turn_what_was_told_as_they_turn_the_items(made, whole):
    design, spec = made
    fit = fit_of(design, spec, whole, 3)
    fit, sums = fit.stepped(0, empty_sums(fit))
    before = sums.total
    later, sums = fit.stepped(1, sums)
    k = spec.rank
    change = sums.turns[0][: k + 1, : k + 1]
    idle = fit.cells.members(2)
    np.testing.assert_allclose(
        later.items.mean[idle], fit.items.mean[idle] @ change.T, rtol=1e-9, atol=1e-12
    )
    if fit.prior.equivariant:
        assert np.abs(change - np.eye(k + 1)).max() > 1e-4
    told = [part[1] for part in flat(sums.parts)]
    for ours, old, new in zip(flat(sums.total), turned(before, sums.turns[0]), told, strict=True):
        np.testing.assert_allclose(ours, old + new, rtol=1e-6, atol=1e-6)


def test_items_are_placed_by_the_models(made, whole):
    design, spec = made
    values = whole.state.centre()
    values = values | {"loading": np.zeros_like(values["loading"])}
    fit = VariationalFit.start(design, spec, values, n_batches=3)
    bounds = [
        f.cells.about_items(f.local(), f.items.local()).bound for f in (fit, fit.with_items())
    ]
    assert bounds[1] > bounds[0] + 1


def test_the_bound_rises_once_all_batches_were_seen(made, whole):
    """By steps with everything else held; scales are learned, so a hair is allowed."""
    design, spec = made
    fit = fit_of(design, spec, whole, 3)
    rng = np.random.default_rng(0)
    rough = dataclasses.replace(
        fit.items, mean=fit.items.mean + 0.3 * rng.standard_normal(fit.items.mean.shape)
    )
    fit, sums = dataclasses.replace(fit, items=rough), empty_sums(fit)
    bounds = []
    for step in range(12):
        fit, sums = fit.stepped(step % 3, sums)
        if step >= 2:
            evidence = fit.cells.about_items(fit.local(), fit.items.local())
            bounds.append(evidence.bound + fit.items_and_models())
    if spec.lineage == "laplacian":
        assert (np.diff(bounds) > -0.05).all()
    assert bounds[-1] > bounds[0] + 1


@pytest.mark.parametrize("n_batches", [4])
def test_ends_where_sweeps_over_all_do(made, whole, n_batches):
    design, spec = made
    fit = fit_vb(design, spec, key=KEY, n_batches=n_batches)
    assert fit.record.converged
    # Another start may end at a better mode.
    assert fit.record.trace[-1] < whole.record.trace[-1] * (1 + 1e-3)
    first, second = (predict_items(f, key=KEY, n_draws=200) for f in (fit, whole))
    gap = first["mean"] - second["mean"]
    assert np.sqrt((gap**2).mean()) < 0.02


@pytest.mark.slow
def test_steps_alone_come_within_a_thousandth_of_the_bound():
    """Of 0.1 %: the first value of the trace is the bound after the steps."""
    spec = dataclasses.replace(read_spec("lrmf"), rank=2, lineage="laplacian")
    data = simulate(
        dataclasses.replace(read_spec("laplacian"), rank=2),
        key=jax.random.key(4), n_models=150, n_items=200, n_benchmarks=3, density=0.9,
    )  # fmt: skip
    design = make_design(data.responses, spec, lineage=data.lineage)
    best = fit_vb(design, spec, key=KEY).record.trace[-1]
    steps = fit_vb(design, spec, key=KEY, n_batches=8, n_epochs=8, max_sweeps=1)
    assert steps.record.trace[0] == pytest.approx(best, rel=1e-3)


def test_same_seed_same_fit_and_resumed(made, tmp_path):
    design, spec = made
    options = {"key": KEY, "n_batches": 3, "max_sweeps": 2}
    expected = fit_vb(design, spec, **options)

    class Stops:
        def __init__(self, at):
            self.at, self.said = at, []

        def update(self, n, stage=None, **_):
            if stage == "batches" and n == self.at:
                raise KeyboardInterrupt

        def say(self, text):
            self.said.append(text)

    path = tmp_path / "c"
    with pytest.raises(Interrupted), Checkpoint(path, seconds=0) as checkpoint:
        fit_vb(design, spec, **options, checkpoint=checkpoint, progress=Stops(5))
    later = Stops(None)
    with Checkpoint(path, seconds=0) as checkpoint:
        found = fit_vb(design, spec, **options, checkpoint=checkpoint, progress=later)
    assert later.said[0].startswith("resumed from step 5")
    for name, value in expected.state.values.items():
        np.testing.assert_array_equal(found.state.values[name], value)


def test_what_has_no_batches(made):
    design, spec = made
    with pytest.raises(InputError, match="whole number"):
        fit_vb(design, spec, key=KEY, n_batches=0)
    with pytest.raises(InputError, match="give n_batches of at most"):
        fit_vb(design, spec, key=KEY, n_batches=11)
    with pytest.raises(InputError, match="several devices"):
        fit_vb(design.on(jax.devices()), spec, key=KEY, n_batches=2)
    counts = simulate(read_spec("laplacian"), key=KEY, n_models=10, n_items=8, trials=30, density=1)
    with pytest.raises(InputError, match="dense 0/1"):
        fit_vb(make_design(counts.responses, spec), spec, key=KEY, n_batches=2)
