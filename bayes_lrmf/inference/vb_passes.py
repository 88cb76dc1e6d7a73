"""What Polya-Gamma variables of cells add to the sums of a sweep; compiled passes over chunks."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayes_lrmf.devices import summed_over

__all__ = [
    "BY_CHUNK",
    "cell_curvature",
    "cell_terms",
    "curvature_pass",
    "item_pass",
    "model_pass",
    "run_pass",
]

BY_CHUNK = ("panel", "items", "item_means", "noise", "tables")
"""Parts of the input of a pass that there is one of for every chunk."""

_LEAST_SQUARE = 1e-8
_NOISE_STEPS = 12
_RUN = 32
_NODES, _NODE_SHARES = np.polynomial.hermite_e.hermegauss(9)
_NODE_SHARES = _NODE_SHARES / _NODE_SHARES.sum()


def cell_terms(xp: Any, centred: Any, trials: Any, square: Any, mean: Any, noise: Any) -> Any:
    r"""Return weight, linear coefficient, bound and noise of cells.

    Jaakkola & Jordan's bound, which Polya-Gamma factors reach (Polson, Scott & Windle 2013;
    Durante & Rigon 2019). With k the successes less half the trials n, and omega the mean of
    PG(n, xi), ``log p >= k psi - omega (psi^2 - xi^2) / 2 + n (log sigmoid(xi) - xi / 2)``, tight
    at xi^2 = E psi^2. Normal noise of variance v on the log-odds, integrated out given omega,
    leaves a weight ``omega / (1 + v omega)`` and a coefficient ``k / (1 + v omega)``. Without
    noise the bound lacks the linear term, which is cheaper to sum elsewhere.
    """
    xi = xp.sqrt(xp.maximum(square, _LEAST_SQUARE))
    if noise is None:
        omega = trials * xp.tanh(xi / 2) / (2 * xi)
        bound = -trials * (xi / 2 + xp.log1p(xp.exp(-xi)))
        return omega, centred, bound, None
    for _ in range(8):
        omega = trials * xp.tanh(xi / 2) / (2 * xi)
        shrink = 1 / (1 + noise * omega)
        within = square - mean**2 + (mean + noise * centred) ** 2
        xi = xp.sqrt(xp.maximum(noise * shrink + shrink**2 * within, _LEAST_SQUARE))
    omega = trials * xp.tanh(xi / 2) / (2 * xi)
    shrink = 1 / (1 + noise * omega)
    bound = -trials * (xi / 2 + xp.log1p(xp.exp(-xi))) + omega * xi**2 / 2
    bound = bound + 0.5 * xp.log(shrink) + 0.5 * shrink * noise * centred**2
    bound = bound + shrink * (centred * mean - omega * square / 2)
    left = centred**2 - 2 * centred * omega * mean + omega**2 * square
    squares = noise * shrink + (noise * shrink) ** 2 * left
    seen = trials > 0
    return omega * shrink, centred * shrink, xp.where(seen, bound, 0.0), xp.where(seen, squares, 0)


def cell_curvature(xp: Any, centred: Any, trials: Any, square: Any, mean: Any, noise: Any) -> Any:
    r"""Return weight and noise of cells: the expected curvature of their log-likelihood.

    That is ``n E[p (1 - p)]``, psi being normal with the moments that models and items give it.
    Normal noise on the log-odds is put at its best Gaussian first; of a weight omega it leaves
    ``omega / (1 + v omega)``.
    """
    variance = xp.maximum(square - mean**2, _LEAST_SQUARE)
    if noise is None:
        return trials * _probability(xp, mean, variance)[1], 0.0

    def terms(centre: Any, spread: Any) -> tuple[Any, Any, Any]:
        half, bend = _probability(xp, centre, spread)
        omega = trials * bend
        return omega, 1 / (1 + noise * omega), centred - trials * half + omega * centre

    def step(_: int, state: tuple[Any, Any]) -> tuple[Any, Any]:
        centre, spread = state
        _, shrink, pull = terms(centre, spread)
        # Half steps: the mode of a count far from its prior is approached, not jumped over.
        return (
            0.5 * (centre + shrink * (mean + noise * pull)),
            0.5 * (spread + noise * shrink + shrink**2 * variance),
        )

    state = mean, variance + noise
    if xp is np:
        for i in range(_NOISE_STEPS):
            state = step(i, state)
    else:
        # Unrolled, it takes a quarter of a minute to compile.
        state = jax.lax.fori_loop(0, _NOISE_STEPS, step, state)
    omega, shrink, pull = terms(*state)
    left = pull**2 - 2 * pull * omega * mean + omega**2 * square
    squares = noise * shrink + (noise * shrink) ** 2 * left
    return omega * shrink, xp.where(trials > 0, squares, 0.0)


def _probability(xp: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
    """Return E p - 1/2 and E[p (1 - p)], psi being normal, by quadrature."""
    sd = xp.sqrt(variance)
    p, curvature = 0.0, 0.0
    for node, share in zip(_NODES.tolist(), _NODE_SHARES.tolist(), strict=True):
        half = xp.tanh((mean + sd * node) / 2) / 2
        p = p + share * half
        curvature = curvature + share * (0.25 - half**2)
    return p, curvature


def _chunk(x: Any, part: Any, *, with_mean: bool) -> Any:
    """Return features of models for the panel of a chunk, and what its cells are made of."""
    at = part["panel"]
    g = jnp.concatenate([x["models"], x["effects"][at]], axis=1)
    g_mean = jnp.concatenate([x["model_means"], x["effect_means"][at][:, None]], axis=1)
    h = (part["items"] * x["multiplicity"]).T
    square = g @ h
    dtype = square.dtype
    if len(part["tables"]) == 1:
        y = part["tables"][0]
        trials = (y >= 0).astype(dtype)
        centred = y.astype(dtype) * trials - trials / 2
    else:
        centred, trials = part["tables"]
    mean, noise = None, part["noise"]
    if with_mean or noise is not None:
        mean = g_mean @ part["item_means"].T
    if noise is not None:
        noise = noise[None]
    return g, g_mean, (jnp, centred, trials, square, mean, noise)


def _parts(x: dict[str, Any]) -> dict[str, Any]:
    return {n: x[n] for n in BY_CHUNK}


def item_pass(x: dict[str, Any]) -> Any:
    """List sums over models by item: of squares, linear terms, bounds and noise."""

    def step(carry: Any, part: Any) -> Any:
        g, g_mean, cells = _chunk(x, part, with_mean=False)
        weight, linear, bound, spread = cell_terms(*cells)
        pulled = linear.T @ g_mean
        if spread is not None:
            total, noise = bound.sum(0), spread.sum(0)
        else:
            if len(part["tables"]) == 1:
                bound = _bound_of_single_trials(part["tables"][0] >= 0, cells[3])
            total = noise = bound.sum(0) + (pulled * part["item_means"]).sum(1)
        return carry, (weight.T @ g, pulled, total, noise)

    return (), jax.lax.scan(step, 0, _parts(x))[1]


def _bound_of_single_trials(seen: Any, square: Any) -> Any:
    """Return the bounds of `cell_terms` at one trial without noise, summed over runs of models.

    ``xi / 2 + log(1 + exp(-xi)) = xi / 2 + log 2 - log(1 + tanh(xi / 2))``, whose logarithm is
    taken once for a product of many: it costs more than all else in a cell.
    """
    xi = jnp.sqrt(jnp.maximum(square, _LEAST_SQUARE))
    grown = jnp.where(seen, (1 + jnp.tanh(xi / 2)) / 2, 1.0)
    runs = (min(_RUN, seen.shape[0]), 1)
    product = jax.lax.reduce_window(
        grown, np.array(1, grown.dtype), jax.lax.mul, runs, runs, "SAME"
    )
    return jnp.log(product).sum(0)[None] - jnp.where(seen, xi / 2, 0.0).sum(0)[None]


def _no_squares(x: dict[str, Any]) -> Any:
    return jnp.zeros_like(x["models"]), jnp.zeros_like(x["effects"])


def _with_squares(squares: Any, part: Any, weight: Any) -> Any:
    """Add a chunk to sums by model, of all items and of those of its panel."""
    shared, effect = squares
    found, n_shared = weight @ part["items"], shared.shape[1]
    return shared + found[:, :n_shared], effect.at[part["panel"]].add(found[:, n_shared:])


def model_pass(x: dict[str, Any]) -> Any:
    """Sum squares and linear terms by model over items, those of effects by panel."""
    empty = _no_squares(x), jnp.zeros_like(x["model_means"]), jnp.zeros_like(x["effect_means"])

    def step(carry: Any, part: Any) -> Any:
        squares, pulled, effect_pulled = carry
        _, _, cells = _chunk(x, part, with_mean=False)
        weight, linear, _, _ = cell_terms(*cells)
        found = linear @ part["item_means"]
        squares = _with_squares(squares, part, weight)
        effect_pulled = effect_pulled.at[part["panel"]].add(found[:, -1])
        return (squares, pulled + found[:, :-1], effect_pulled), None

    squares, pulled, effect_pulled = jax.lax.scan(step, empty, _parts(x))[0]
    return (*squares, pulled, effect_pulled), ()


def curvature_pass(x: dict[str, Any]) -> Any:
    """Sum curvatures by model as `model_pass` does, and list those by item and their noise."""

    def step(carry: Any, part: Any) -> Any:
        g, _, cells = _chunk(x, part, with_mean=True)
        weight, squares = cell_curvature(*cells)
        squares = (squares + jnp.zeros_like(weight)).sum(0)
        return _with_squares(carry, part, weight), (weight.T @ g, squares)

    return jax.lax.scan(step, _no_squares(x), _parts(x))


@partial(jax.jit, static_argnames=("over", "mesh"))
def run_pass(x: dict[str, Any], *, over: Any, mesh: Mesh | None) -> Any:
    """Return what a pass sums over chunks, and what it lists by chunk, on every device."""
    return summed_over(over, mesh, ({name: name in BY_CHUNK for name in x},))(x)
