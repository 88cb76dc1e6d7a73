"""L-BFGS: the numbers of scipy, in one go and resumed anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from bayes_lrmf.inference import lbfgs
from bayes_lrmf.inference.checkpoint import Checkpoint, Interrupted
from bayes_lrmf.inference.lbfgs import Found, minimise
from bayes_lrmf.progress import Progress

FIRST = np.tile([-1.2, 1.0], 4)


def rosen(x):
    return float(scipy.optimize.rosen(x)), scipy.optimize.rosen_der(x)


def nothing(*_):
    pass


def search(evaluate=rosen, *, saved=None, tolerance=1e-9, max_iterations=500, report=nothing):
    from bayes_lrmf.inference.checkpoint import Saved

    saved = saved or Saved(None, 0.0, dict, Progress("map", enabled=False))
    loaded = saved.load("search")
    return minimise(
        evaluate, FIRST, tolerance=tolerance, max_iterations=max_iterations, report=report,
        saved=saved, partial=lambda found: found, stage="search",
        loaded=None if loaded is None else loaded[1],
    )  # fmt: skip


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_iterations": 9},
        {"max_iterations": 1},
        {"tolerance": 1e-3},
        {"tolerance": 1e-5},
        {"tolerance": 1e-300},
    ],
)
def test_same_as_scipy_to_the_last_bit(limits):
    trace, points, n_called, n_of_scipy = [], [], [0], [0]

    def counted(count):
        def evaluate(x):
            count[0] += 1
            return rosen(x)

        return evaluate

    def note(intermediate_result):
        trace.append(float(intermediate_result.fun))
        points.append(intermediate_result.x.copy())

    tolerance, n = limits.get("tolerance", 1e-9), limits.get("max_iterations", 500)
    expected = scipy.optimize.minimize(
        counted(n_of_scipy),
        FIRST,
        jac=True,
        method="L-BFGS-B",
        callback=note,
        options={"maxcor": 20, "ftol": 0.0, "gtol": 1e-8, "maxiter": n, "maxfun": 2 * n},
    )
    found = search(counted(n_called), **limits)
    settled = [
        i for i in range(10, len(trace))
        if trace[i - 10] - trace[i] <= 10 * tolerance * max(trace[i - 10], 1.0)
    ]  # fmt: skip
    if settled:
        last = settled[0]
        assert found.trace == trace[: last + 1]
        assert (found.value, found.success) == (trace[last], True)
        assert "ten iterations" in found.message
        np.testing.assert_array_equal(found.x, points[last])
        return
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.trace == trace
    assert (found.value, found.success, found.message) == (
        float(expected.fun),
        bool(expected.success),
        expected.message,
    )
    assert n_called == n_of_scipy


@pytest.mark.parametrize("routine", [True, False])
def test_a_search_that_no_step_leads_on_is_judged_by_its_gradient(monkeypatch, routine):
    """The value never falls: as at rest where the gradient is small, else as a failure."""
    if not routine:
        monkeypatch.setattr(lbfgs, "_step", None)
    for size, at_rest in ((1e-4, True), (1.0, False)):
        found = search(
            lambda x, size=size: (100.0, np.full(len(x), size)), tolerance=1e-6, max_iterations=50
        )
        assert found.success == at_rest, found.message


def test_a_plateau_of_a_few_iterations_is_no_end():
    """One iteration in mid-search gains next to nothing; the ten around it gain enough."""
    whole = search(tolerance=1e-300).trace
    gains = -np.diff(whole)
    poor = int(np.argmin(gains[3:15])) + 3
    tolerance = 1.01 * gains[poor] / max(whole[poor], 1.0)
    assert len(search(tolerance=tolerance).trace) > poor + 2


def test_a_limit_of_evaluations_counts_as_scipy_does():
    """A function that is hard along lines takes many evaluations an iteration."""

    def hard(x):
        return float(np.abs(x).sum() ** 1.5), 1.5 * np.sqrt(np.abs(x).sum()) * np.sign(x)

    for n in (4, 8, 12):
        expected = scipy.optimize.minimize(
            hard, FIRST, jac=True, method="L-BFGS-B",
            options={"maxcor": 20, "ftol": 0.0 + 1e-300, "gtol": 1e-8, "maxiter": n,
                     "maxfun": 2 * n},
        )  # fmt: skip
        found = search(hard, tolerance=1e-300, max_iterations=n)
        np.testing.assert_array_equal(found.x, expected.x)
        assert found.message == expected.message


def test_without_the_routine_of_scipy_there_is_scipy_itself(monkeypatch):
    expected = search()
    monkeypatch.setattr(lbfgs, "_step", None)
    found = search()
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.trace == expected.trace
    assert found.message == expected.message


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 2, 7, 26, 61])
def test_resumed_after_any_evaluation(tmp_path, at, error):
    expected, n_called = search(), [0]

    def fragile(x):
        n_called[0] += 1
        if n_called[0] == at:
            raise error
        return rosen(x)

    def fit(evaluate):
        with Checkpoint(tmp_path / "c", seconds=0) as checkpoint:
            return search(evaluate, saved=checkpoint.of(dict, Progress("map", enabled=False)))

    with pytest.raises((error, Interrupted)) as caught:
        fit(fragile)
    if error is KeyboardInterrupt and at > 2:
        partial = caught.value.posterior()
        assert isinstance(partial, Found)
        assert not partial.success
        assert rosen(partial.x)[0] == partial.value == partial.trace[-1]
        assert partial.trace == expected.trace[: len(partial.trace)]
    found = fit(rosen)
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.trace == expected.trace
    assert not (tmp_path / "c").exists()
