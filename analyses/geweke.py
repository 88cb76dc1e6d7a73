"""The joint distribution of parameters and data, drawn in two ways.

Once by the simulator: parameters from the prior, data given these. And once by going to and fro: a
transition of Hamiltonian Monte Carlo of the parameters given the data, on the program, then data
anew from the simulator given the parameters. If prior and likelihood of the program are those of
the simulator, both are draws of one distribution (Geweke 2004). Every chain starts at a draw of the
first kind, so that it is stationary from there, and chains are independent: the spread of their
means is the error of the mean over all, however slowly each of them moves.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import norm

from analyses.plain_program import PlainProgram
from bayes_lrmf.design import Design, make_design
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.program import components, hyperparameters
from bayes_lrmf.simulate import drawn_sites, drawn_successes, simulate
from bayes_lrmf.spec import Spec, read_spec

SPECS = ("laplacian", "directed")
N_ITEMS, N_BENCHMARKS, TRIALS = 4, 2, 12
N_MARGINAL, N_TRANSITIONS = 20_000, 120
N_CHAINS = {"laplacian": 384, "directed": 128}
LEVEL = 0.01
MUTATED = 1.3
_STEP_SIZES = (0.03, 0.3)
_LEAPFROGS = 10
_HIGHEST = 1e30
_SEED = 0

Values = dict[str, np.ndarray]
Data = Callable[..., np.ndarray]


def family() -> Lineage:
    """Return six models: two bases, a child each, one more by another relation, and a merge."""
    names = ["sim/base-0", "sim/base-1", *(f"sim/model-{i}" for i in range(2, 6))]
    child, parent = [2, 3, 4, 5, 5], [0, 1, 2, 2, 1]
    relation = ["finetune", "finetune", "quantized", "merge", "merge"]
    return Lineage(
        np.array(names, object),
        np.array(child, np.int32),
        np.array(parent, np.int32),
        np.array(relation, object),
        np.array([1.0, 1.0, 1.0, 0.4, 0.6]),
    )


def tiny(name: str) -> Spec:
    """Return a spec of one factor, without features."""
    spec = dataclasses.replace(read_spec(name), rank=1)
    return dataclasses.replace(spec, features=()) if name == "directed" else spec


@dataclass(frozen=True, eq=False)
class Joint:
    """Draws of parameters and data.

    Attributes
    ----------
    values : mapping of arrays, shape (n_draws, ...)
    psi, successes : arrays, shape (n_draws, n_models, n_items)
    """

    values: Values
    psi: np.ndarray
    successes: np.ndarray


def whole_design(spec: Spec) -> Design:
    """Return a design of the family in which every cell was run."""
    data = simulate(
        spec, key=jax.random.key(_SEED), lineage=family(), n_items=N_ITEMS, trials=TRIALS,
        n_benchmarks=N_BENCHMARKS, density=1, cold_share=0,
    )  # fmt: skip
    return make_design(data.responses, spec, lineage=data.lineage)


def marginal(
    design: Design, spec: Spec, n_draws: int, *, seed: int, data: Data = drawn_successes
) -> Joint:
    """Draw parameters from the prior, and data given them, as the simulator does."""
    keys = jax.random.split(jax.random.key(seed), n_draws)
    draw = jax.jit(jax.vmap(lambda key: drawn_sites(design, spec, {}, key=key)))
    values = {name: np.asarray(v, float) for name, v in draw(keys).items()}
    return _with_data(design, values, np.random.default_rng(seed), data)


def _with_data(design: Design, values: Values, rng: np.random.Generator, data: Data) -> Joint:
    rows, cols = components(design, values)
    # Draws in single precision may be infinite where steps have next to no degrees of freedom.
    psi = np.clip(np.einsum("dkm,dki->dmi", rows, cols), -_HIGHEST, _HIGHEST)
    return Joint(values, psi, data(design, psi, values, trials=TRIALS, rng=rng))


@functools.lru_cache(maxsize=4)
def _compiled(name: str) -> tuple[Any, Any, Any]:
    """Return coordinates of values, a transition, and values of coordinates, of many chains."""
    spec = tiny(name)
    plain = PlainProgram(whole_design(spec), spec)
    sites = plain.sites()
    init, sample = plain.sampler("HMC")

    def transition(key: jax.Array, z: Any, table: Any, size: Any) -> Any:
        state = init(
            z, 0, trajectory_length=_LEAPFROGS * size, num_steps=_LEAPFROGS,
            adapt_step_size=False, adapt_mass_matrix=False, model_args=(table,), rng_key=key,
        )  # fmt: skip
        state = sample(state, (table,))
        return state.z, plain.values(state.z), state.accept_prob

    def coordinates(values: Any) -> Any:
        return plain.unconstrained({n: values[n] for n in sites})

    return (
        jax.jit(jax.vmap(coordinates)),
        jax.jit(jax.vmap(transition, in_axes=(0, 0, 0, 0))),
        plain.design,
    )


def successive(
    name: str, start: Joint, simulated: Spec, *, seed: int, data: Data = drawn_successes
) -> tuple[np.ndarray, float]:
    """Go to and fro between parameters and data, from `start`.

    Parameters
    ----------
    name : str
        Of the spec whose program makes the transitions.
    start : Joint
        A draw a chain.
    simulated : Spec
        Of the simulator.
    seed : int
    data : callable
        Which draws data anew.

    Returns
    -------
    array, shape (n_chains, n_moments)
        Means of `moments` over the second half of each chain.
    float
        Mean probability of acceptance.
    """
    coordinates, transition, design = _compiled(name)
    rng = np.random.default_rng(seed)
    n_chains = len(start.psi)
    trials = np.full(start.psi.shape, float(TRIALS))
    joint, total, accepted = start, 0.0, 0.0
    with jax.enable_x64(True):
        z = coordinates({n: jnp.asarray(v) for n, v in start.values.items()})
        for step in range(N_TRANSITIONS):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), n_chains)
            table = np.stack([joint.successes, trials], axis=1)
            size = np.exp(rng.uniform(*np.log(_STEP_SIZES), n_chains))
            z, values, probability = transition(keys, z, table, size)
            joint = _with_data(design, {n: np.asarray(v) for n, v in values.items()}, rng, data)
            accepted += float(probability.mean()) / N_TRANSITIONS
            if step >= N_TRANSITIONS // 2:
                total = total + moments(design, simulated, joint).to_numpy()
    return total / (N_TRANSITIONS - N_TRANSITIONS // 2), accepted


def moments(design: Design, spec: Spec, joint: Joint) -> pd.DataFrame:
    """Return what is compared, a row a draw.

    Means of skewed quantities over a hundred chains are far from normal, so there are roots and
    logarithms of these; and psi may have no fourth moment under Student-t steps, where its inverse
    hyperbolic sine has.
    """
    psi, share = np.arcsinh(joint.psi), joint.successes / TRIALS
    out: dict[str, np.ndarray] = {}
    for m, i in ((0, 0), (2, 1), (4, 2), (5, 3)):
        out[f"psi {m}, {i}"] = psi[:, m, i]
        out[f"response {m}, {i}"] = share[:, m, i]
        out[f"psi x response {m}, {i}"] = psi[:, m, i] * share[:, m, i]
    out["size of psi"] = _root_mean_square(psi)
    out["size of responses"] = _root_mean_square(share)
    out["variance of psi over models"] = np.log(joint.psi.var(1) + 1e-6).mean(1)
    out["variance of psi over items"] = np.log(joint.psi.var(2) + 1e-6).mean(1)
    graph = design.core
    step = joint.psi[:, graph.child] - joint.psi[:, graph.parent]
    out["size of a step of psi"] = np.log(step**2 + 1e-6).mean((1, 2))
    apart = share[:, graph.child] - share[:, graph.parent]
    out["step of responses"] = _root_mean_square(apart)
    within = (design.benchmark_index[:, None] == design.benchmark_index) & ~np.eye(
        N_ITEMS, dtype=bool
    )
    pairs = np.argwhere(np.triu(within))
    apart = share[:, :, pairs[:, 0]] - share[:, :, pairs[:, 1]]
    out["what a benchmark's items differ by"] = _root_mean_square(apart)
    residual = share - expit(joint.psi)
    out["size of a residual"] = _root_mean_square(residual)
    out["residual"] = residual.mean((1, 2))
    for b, name in enumerate(design.benchmarks):
        score = expit(joint.psi)[:, :, design.benchmark_index == b].mean(2)
        out |= {f"score on {name}": score[:, 5], f"square of score on {name}": score[:, 5] ** 2}
    for name, value in _scales(design, spec, joint.values):
        out |= {name: value, f"square of {name}": value**2}
    return pd.DataFrame(out)


def _root_mean_square(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).mean((1, 2)))


def _scales(design: Design, spec: Spec, values: Values) -> Any:
    for name in hyperparameters(design, spec):
        logs = np.log(values[name]).reshape(len(values[name]), -1)
        yield f"log {name}", logs[:, 0]
    for name in ("step_factor_covariance", "step_effect_variance", "step_factor_tail"):
        if name in values:
            logs = np.log(values[name]).reshape(len(values[name]), values[name].shape[1], -1)
            # Steps of roots, and of fine-tuned models.
            for step in (0, 1):
                yield f"log {name}, {step}", logs[:, step, 0]


@dataclass(frozen=True, eq=False)
class Compared:
    """Both ways compared.

    Attributes
    ----------
    table : DataFrame
        A row a moment: both means, z.
    acceptance : float
    """

    table: pd.DataFrame
    acceptance: float

    @property
    def worst(self) -> float:
        """The greatest |z|."""
        return float(self.table["z"].abs().max())

    @property
    def limit(self) -> float:
        """What the greatest |z| of as many surpasses with probability `LEVEL` at most."""
        return float(norm.isf(LEVEL / 2 / len(self.table)))


def compared(
    name: str,
    *,
    simulated: Spec | None = None,
    data: Data = drawn_successes,
    seed: int = _SEED,
) -> Compared:
    """Compare both ways of drawing, of a spec.

    Parameters
    ----------
    name : {"laplacian", "directed"}
    simulated : Spec, optional
        Whose simulator is held against the program of `name`; its own by default.
    data : callable
        The simulator's draw of data given parameters.
    seed : int
    """
    spec = tiny(name) if simulated is None else simulated
    design = whole_design(spec)
    first, start = (
        marginal(design, spec, n, seed=2 * seed + i, data=data)
        for i, n in enumerate((N_MARGINAL, N_CHAINS[name]))
    )
    a = moments(design, spec, first)
    b, acceptance = successive(name, start, spec, seed=seed, data=data)
    assert np.isfinite(a.to_numpy()).all()
    assert np.isfinite(b).all()
    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    table = pd.DataFrame({"simulator": a.mean(), "to and fro": b.mean(0), "error": error})
    table["z"] = (table["to and fro"] - table["simulator"]) / table["error"]
    return Compared(table, acceptance)


def scaled(spec: Spec, name: str, by: float) -> Spec:
    """Return the spec with the median of a prior moved."""
    prior = getattr(spec, name)
    return dataclasses.replace(spec, **{name: dataclasses.replace(prior, median=by * prior.median)})


def _of_prior(name: str) -> Callable[[str], Compared]:
    return lambda spec: compared(spec, simulated=scaled(tiny(spec), name, MUTATED))


def _of_data(change: Callable[[np.ndarray, Values], tuple[np.ndarray, Values]]) -> Any:
    def wrong(design: Design, psi: np.ndarray, values: Values, **given: Any) -> np.ndarray:
        return drawn_successes(design, *change(psi, values), **given)

    return lambda spec: compared(spec, data=wrong)


def _noisier(psi: np.ndarray, values: Values) -> tuple[np.ndarray, Values]:
    by = {"overdispersion_sd": MUTATED, "concentration": 1 / MUTATED**2}
    return psi, values | {name: by[name] * values[name] for name in by.keys() & values.keys()}


_COMMON = ("intercept_sd", "intercept_mean_sd", "loading_mean_sd", "factor_sd", "benchmark_sd")
WRONG: dict[str, dict[str, Callable[[str], Compared]]] = {
    spec: {f"prior of {name}": _of_prior(name) for name in (*_COMMON, *own)}
    | {
        "log-odds of data": _of_data(lambda psi, values: (MUTATED * psi, values)),
        "over-dispersion of data": _of_data(_noisier),
    }
    for spec, own in (
        ("laplacian", ("kappa", "concentration")),
        ("directed", ("step_sd", "tail", "overdispersion_sd")),
    )
}
"""By spec and by what is wrong, the comparison of a simulator where that is `MUTATED` times larger
with the program as it is."""


def main() -> None:
    """Print both means of each moment."""
    parser = argparse.ArgumentParser(prog="python -m analyses.geweke", description=__doc__)
    parser.add_argument("--spec", choices=SPECS, default="laplacian")
    parser.add_argument("--seed", type=int, default=_SEED)
    parser.add_argument("--wrong", action="store_true", help="whether what is wrong is seen, too")
    given = parser.parse_args()
    found = compared(given.spec, seed=given.seed)
    print(found.table.round(4).to_string())
    print(
        f"{N_CHAINS[given.spec]} chains of {N_TRANSITIONS} transitions, acceptance "
        f"{found.acceptance:.2f}: greatest |z| of {len(found.table)} {found.worst:.2f}, limit "
        f"{found.limit:.2f}"
    )
    for what, comparison in WRONG[given.spec].items() if given.wrong else ():
        one = comparison(given.spec)
        print(f"{what} {MUTATED:g} times: {one.worst:.1f}, {one.table['z'].abs().idxmax()}")


if __name__ == "__main__":
    main()
