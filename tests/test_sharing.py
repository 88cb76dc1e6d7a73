"""Programs that are compiled once: equal exactly where they compute the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_lrmf.sharing import shared, traced

X = jnp.arange(3.0)


def weighted(weights, power=2):
    return lambda x: {"value": (x[np.array([0, 2])] ** power * weights).sum()}


def test_other_constants_are_the_same_program():
    one, constants = traced(weighted(np.array([1.0, 2.0])), X)
    two, others = traced(weighted(np.array([5.0, 7.0])), X)
    assert one == two
    for program in (one, two):
        assert program.call(constants, X)["value"] == pytest.approx(8)
        assert program.call(others, X)["value"] == pytest.approx(28)


@pytest.mark.parametrize(
    "other",
    [
        weighted(np.array([1.0, 2.0]), power=3),
        weighted(np.float32(2.0)),
        lambda x: (x[np.array([0, 2])] ** 2 * np.array([1.0, 2.0])).sum(),
        lambda x: {"other": (x[np.array([0, 2])] ** 2 * np.array([1.0, 2.0])).sum()},
    ],
    ids=["power", "shape", "form", "name"],
)
def test_what_computes_otherwise_is_another_program(other):
    assert traced(weighted(np.array([1.0, 2.0])), X)[0] != traced(other, X)[0]


def test_constants_without_use_keep_their_places():
    """Both read two arrays of three, and use another one of them."""
    a, b = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])

    def of(used):
        def function(x):
            kept = jnp.asarray(a) * x, jnp.asarray(b) * x
            return kept[used].sum()

        return function

    for used, expected in ((0, 8.0), (1, 17.0)):
        assert shared(of(used))(X) == pytest.approx(expected)


def test_functions_of_one_value_and_other_gradients_are_told_apart():
    def stopped(x):
        return jax.lax.stop_gradient(x).sum()

    def whole(x):
        return x.sum()

    programs = [traced(f, X, gradient=True)[0] for f in (stopped, whole)]
    assert programs[0] != programs[1]


def test_it_compiles_once_for_all_constants_and_anew_for_shapes_and_types():
    n_traced = []

    def made(weights):
        def function(x):
            n_traced.append(1)
            return (weights * x).sum()

        return shared(function)

    first, second = made(np.ones(3)), made(2 * np.ones(3))
    assert float(first(X)) == 3
    before = _compilations()
    assert float(second(X)) == 6
    assert _compilations() == before
    assert float(first(np.ones(3, np.float64))) == 3
    with jax.enable_x64(True):
        assert first(jnp.ones(3)).dtype == np.float64
    # The arrays of NumPy that were traced at 64 bits are of 32 again.
    assert first(jnp.ones(3)).dtype == np.float32
    assert len(n_traced) == 3


def _compilations():
    count = getattr(_compilations, "count", None)
    if count is None:
        count = _compilations.count = [0]

        def listen(event, _, **__):
            if event.endswith("backend_compile_duration"):
                count[0] += 1

        jax.monitoring.register_event_duration_secs_listener(listen)
    return count[0]
