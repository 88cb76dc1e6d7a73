"""What closes a fit of the bound: noise from either side, scales at rest, and told if not."""

from __future__ import annotations

import dataclasses
import functools
from unittest.mock import patch

import jax
import numpy as np
import pytest

from analyses.corrections import mean_psi
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_vb, vb_closing
from bayes_lrmf.inference.vb_closing import close, close_briefly
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import HyperPrior, read_spec

NOISE = 0.4
COUNTS = {
    name: dataclasses.replace(read_spec(name), rank=1, likelihood="logit_normal")
    for name in ("laplacian", "directed")
}


@pytest.fixture(scope="module")
def counts():
    """Counts whose log-odds are noisy; the specs of the fits expect less noise."""
    spec = dataclasses.replace(COUNTS["laplacian"], overdispersion_sd=HyperPrior(NOISE))
    return simulate(spec, key=jax.random.key(4), n_models=40, n_items=24, n_benchmarks=3, trials=60)


def designed(data, spec):
    return make_design(data.responses, spec, lineage=data.lineage)


@pytest.fixture(scope="module")
def bound_of(counts):
    """Return what fits the bound under a prior, and does not close it."""

    @functools.cache
    def fitted(prior):
        with patch("bayes_lrmf.inference.vb.close", side_effect=close_briefly_and(kept := [])):
            fit_vb(designed(counts, COUNTS[prior]), COUNTS[prior], key=jax.random.key(0))
        return kept[0]

    return fitted


def close_briefly_and(kept):
    def closing(fit, _):
        kept.append(fit)
        return close_briefly(fit)

    return closing


@pytest.mark.parametrize("prior", COUNTS)
def test_scales_are_the_best_for_the_covariances_of_the_curvature(prior, bound_of):
    bound, told = bound_of(prior), []
    closed = close(bound, told.append)
    fit = closed.fit
    assert closed.settled
    assert told == list(range(1, closed.n_rounds + 1))
    again = dataclasses.replace(fit, items=fit.items.with_scales())
    if prior == "laplacian":
        again = dataclasses.replace(again, prior=fit.prior.updated(fit.moments, learn=True))
    of_fit, of_again = (vb_closing._log_scales(f) for f in (fit, again))
    np.testing.assert_allclose(of_again, of_fit, atol=0.05)
    # The bound takes itself for sure, and leaves less to be explained by noise.
    assert (fit.noise_sd > bound.noise_sd).all()
    # Each is known to about a quarter.
    assert np.mean(fit.noise_sd) == pytest.approx(NOISE, rel=0.2)


@pytest.mark.parametrize("prior", COUNTS)
def test_means_are_those_of_the_bound_at_the_new_scales(prior, bound_of):
    bound = bound_of(prior)
    fit = close(bound).fit
    rested = vb_closing._with_scales_of(bound, fit)
    for _ in range(100):
        rested, _ = rested.swept(learn=False)
    before, now, rest = (mean_psi(f) for f in (bound, fit, rested))
    # Those of a directed prior are a step of Newton from there.
    left = {"laplacian": 0.2, "directed": 0.25}[prior]
    assert np.abs(now - rest).max() < left * np.abs(now - before).max()


def test_weights_of_steps_come_to_rest_where_results_contradict_the_parents(counts):
    spec = dataclasses.replace(COUNTS["directed"], step_shape="mixture")
    lineage, responses = counts.lineage, counts.responses
    childless = np.setdiff1d(lineage.child, lineage.parent)
    odd = [m for m in lineage.nodes[childless] if m in set(responses.models)][:3]
    frame = responses.to_frame()
    mine = frame["model"].isin(odd)
    frame.loc[mine, "successes"] = (frame["trials"] - frame["successes"])[mine]
    few = frame.groupby("model").cumcount() < 10
    table = responses_from_frame(frame[~mine | few])
    kept = []
    with patch("bayes_lrmf.inference.vb.close", side_effect=close_briefly_and(kept)):
        fit_vb(make_design(table, spec, lineage=lineage), spec, key=jax.random.key(0))
    closed = close(kept[0])
    again, held = closed.fit, closed.fit
    for _ in range(8):
        again = again.with_curvature(closed.bound)
        at = held.moments._replace(mean=closed.bound.moments.mean)
        held = dataclasses.replace(held, moments=at).with_curvature(closed.bound)
    assert again.prior.change_of_weights(closed.fit.prior) < 0.2
    sd = np.sqrt(np.diagonal(again.moments.variance, axis1=1, axis2=2))
    assert (np.abs(again.moments.mean - closed.fit.moments.mean) / sd).max() < 0.1
    # With means of other weights they rest elsewhere.
    assert held.prior.change_of_weights(again.prior) > 0.5


@dataclasses.dataclass(frozen=True)
class Swinging:
    """A weight whose best value lies on the other side of zero, or always as far ahead."""

    at: float = 1.0
    damping: float = 0.5
    ahead: float = 0.0

    def damped(self):
        return dataclasses.replace(self, damping=self.damping / 2)

    def change_of_weights(self, before):
        return abs(self.at - before.at)

    def swung(self):
        other = -1.0 if self.at > 0 else 1.0
        target = self.at + self.ahead if self.ahead else other
        return dataclasses.replace(self, at=self.at + self.damping * (target - self.at))


@dataclasses.dataclass(frozen=True)
class Passing:
    """A fit that is nothing but its weight."""

    prior: Swinging
    noise_sd: None = None

    def with_curvature(self, bound):
        return dataclasses.replace(self, prior=self.prior.swung())


def test_weights_that_go_back_and_forth_are_brought_to_rest(monkeypatch):
    fit, settled = vb_closing._with_passes(Passing(Swinging()), None)
    assert settled
    assert abs(fit.prior.at) < 0.1
    # Short steps alone are no rest.
    assert not vb_closing._with_passes(Passing(Swinging(ahead=1.5)), None)[1]
    monkeypatch.setattr(vb_closing, "_DAMPED_AT", ())
    assert not vb_closing._with_passes(Passing(Swinging()), None)[1]


def test_damped_weights_take_shorter_steps(bound_of):
    bound = dataclasses.replace(bound_of("directed"))
    prior = dataclasses.replace(
        bound.prior, factor_weight=np.full_like(bound.prior.factor_weight, 0.3)
    )
    whole, half = (p.updated(bound.moments, learn=False) for p in (prior, prior.damped()))
    steps = [np.log(p.factor_weight / 0.3) for p in (whole, half)]
    np.testing.assert_allclose(steps[1], steps[0] / 2, rtol=1e-6, atol=1e-9)
    assert np.abs(steps[0]).max() > 0.1


@pytest.mark.parametrize("closing", [close, close_briefly])
def test_noise_is_found_from_next_to_nothing_and_from_above(closing, bound_of):
    bound = bound_of("laplacian")
    found = [
        closing(dataclasses.replace(bound, noise_sd=np.full(3, sd))).fit.noise_sd
        for sd in (1e-3, 1.0)
    ]
    np.testing.assert_allclose(*found, rtol=0.1)
    assert np.mean(found[0]) == pytest.approx(NOISE, rel=0.2)


def test_scales_that_do_not_settle_make_a_fit_that_has_not_converged(counts, monkeypatch):
    monkeypatch.setattr(vb_closing, "_SCALE_ROUNDS", 1)
    spec = COUNTS["laplacian"]
    record = fit_vb(designed(counts, spec), spec, key=jax.random.key(0)).record
    assert "scales of the expected curvature after 1 rounds, still moving" in record.message
    assert not record.converged


@pytest.mark.slow
def test_weights_that_do_not_settle_make_a_fit_that_has_not_converged(monkeypatch):
    spec = dataclasses.replace(read_spec("directed"), rank=1)
    data = simulate(spec, key=jax.random.key(1), n_models=20, n_items=12, n_benchmarks=2)
    monkeypatch.setattr(vb_closing, "_MOST_PASSES", 4)
    monkeypatch.setattr(vb_closing, "_WEIGHT_CHANGE", 0.0)
    record = fit_vb(designed(data, spec), spec, key=jax.random.key(0)).record
    assert record.message.endswith("integrated out, still moving")
    assert not record.converged


def test_single_trials_under_a_directed_prior_need_no_rounds(monkeypatch):
    spec = dataclasses.replace(read_spec("directed"), rank=1)
    data = simulate(spec, key=jax.random.key(1), n_models=20, n_items=12, n_benchmarks=2)
    monkeypatch.setattr(vb_closing, "_with_scales_of", None)
    record = fit_vb(designed(data, spec), spec, key=jax.random.key(0)).record
    assert record.converged
    assert "scales" not in record.message


def test_what_is_left_of_a_geometric_row():
    before, last = np.array([1.0, -0.4, 0.2, 0.0, 1.0]), np.array([0.5, -0.1, -0.1, 0.3, 2.0])
    # One that turns, one from nowhere, and one that grows, which goes nine steps and no further.
    left = [0.5, -0.1 / 3, 0.0, 0.0, 18.0]
    np.testing.assert_allclose(vb_closing._rest(before, last), left)


@pytest.mark.parametrize("prior", COUNTS)
def test_scales_are_set_as_they_are_read(prior, bound_of):
    fit = bound_of(prior)
    logs = vb_closing._log_scales(fit)
    wanted = logs + np.linspace(-1, 1, len(logs))
    moved = vb_closing._with_log_scales(fit, wanted)
    np.testing.assert_allclose(vb_closing._log_scales(moved), wanted)
    # Intercepts, noise of three benchmarks; of a field kappa and scales of factors and effects.
    assert len(logs) == 1 + 3 + (3 if prior == "laplacian" else 0)
