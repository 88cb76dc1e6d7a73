"""Whether leave-one-out by smoothed importance weights is that of leaving cells out one by one.

One small table, sampled whole and once without each of its cells: chains of Hamiltonian Monte
Carlo on the bare program, all at once. Weights are those of `Posterior.datatree` and ArviZ.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import binom

from analyses.plain_program import PlainProgram
from bayes_lrmf.design import Design, make_design
from bayes_lrmf.posterior import DrawsState, FitRecord, Posterior
from bayes_lrmf.program import components
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.simulate import drawn_sites, simulate
from bayes_lrmf.spec import Spec, read_spec

SIZES = {"n_models": 6, "n_items": 4, "n_benchmarks": 2, "trials": 20}
N_CHAINS, N_WHOLE, N_WARMUP, N_DRAWS = 4, 16, 300, 1500
K_LIMIT = 0.7
_STEP_SIZES, _LEAPFROGS, _SEED = (0.03, 0.3), 12, 3


def surprising() -> tuple[Design, Spec]:
    """Return a design of counts, of which the likeliest is the other way round."""
    spec = dataclasses.replace(read_spec("laplacian"), rank=1, likelihood="binomial")
    data = simulate(spec, key=jax.random.key(_SEED), density=1, cold_share=0, **SIZES)
    frame = data.truth[["model", "benchmark", "item", "successes", "trials"]].copy()
    at = int(data.truth["probability"].argmax())
    frame.loc[at, "successes"] = frame.loc[at, "trials"] - frame.loc[at, "successes"]
    return make_design(responses_from_frame(frame), spec, lineage=data.lineage), spec


@dataclass(frozen=True, eq=False)
class Left:
    """Cells left out, one by one.

    Attributes
    ----------
    table : DataFrame
        A row a cell: expected log predictive density by refits and by weights, k-hat, the Monte
        Carlo error of the refit.
    warned : bool
        Whether ArviZ said that some k-hat are too large.
    """

    table: pd.DataFrame
    warned: bool

    @property
    def good(self) -> pd.DataFrame:
        """The cells whose weights can be relied upon."""
        return self.table[self.table["k-hat"] <= K_LIMIT]

    @property
    def gap(self) -> float:
        """What the sums over `good` differ by."""
        return float((self.good["weights"] - self.good["refit"]).sum())

    @property
    def se(self) -> float:
        """Standard error of the sum over `good` by weights, as ArviZ has that over all cells."""
        return float(np.sqrt(len(self.good) * self.good["weights"].var(ddof=0)))


def left_out() -> Left:
    """Sample with and without each cell, and compare."""
    import arviz as az

    design, spec = surprising()
    plain = PlainProgram(design, spec)
    whole = plain.table()
    n_cells = whole[0].size
    tables = np.repeat(whole[None], n_cells + 1, axis=0)
    for cell in range(n_cells):
        tables[1 + cell, :, *np.unravel_index(cell, whole[0].shape)] = 0
    # Weights ask more of their draws than means do.
    n_chains = np.array([N_WHOLE] + [N_CHAINS] * n_cells)
    drawn = _sampled(plain, np.repeat(tables, n_chains, axis=0))
    full = {n: v[:N_WHOLE] for n, v in drawn.items()}
    values = {n: v[N_WHOLE:].reshape(n_cells, N_CHAINS, *v.shape[1:]) for n, v in drawn.items()}
    names = set(plain.sites())
    kept = {n: v.astype(np.float32) for n, v in full.items() if n in names}
    posterior = Posterior(design, spec, DrawsState(kept), FitRecord("nuts", True, ""))
    tree = posterior.datatree()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = az.loo(tree, pointwise=True)
    left = [{n: v[cell] for n, v in values.items()} for cell in range(n_cells)]
    held = np.stack([_log_likelihood(plain, one, cell) for cell, one in enumerate(left)])
    density = np.exp(held - held.max((1, 2), keepdims=True))
    error = [az.mcse(d, method="mean", chain_axis=0, draw_axis=1) / d.mean() for d in density]
    table = pd.DataFrame(
        {
            "refit": logsumexp(held, axis=(1, 2)) - np.log(held[0].size),
            "weights": np.asarray(found.elpd_i.values).ravel(),
            "k-hat": np.asarray(found.pareto_k.values).ravel(),
            "error": error,
        },
        index=list(tree["log_likelihood"]["observed_cell"].values),
    )
    warned = any("shape parameter" in str(w.message) for w in caught)
    return Left(table, warned)


def _log_likelihood(plain: PlainProgram, values: dict[str, np.ndarray], cell: int) -> np.ndarray:
    """Return the binomial log-likelihood of a cell in draws, worked out from psi alone."""
    successes, trials = plain.table()
    m, i = np.unravel_index(cell, successes.shape)
    rows, cols = components(plain.design, values)
    psi = (rows[..., m] * cols[..., i]).sum(-1)
    return np.asarray(binom.logpmf(successes[m, i], trials[m, i], 1 / (1 + np.exp(-psi))))


def _sampled(plain: PlainProgram, tables: np.ndarray) -> dict[str, np.ndarray]:
    """Return draws of all sites of a chain given each table, (n_tables, n_draws, ...)."""
    init, sample = plain.sampler("HMC")
    n = len(tables)

    def chain(key: jax.Array, table: Any, z: Any) -> Any:
        def step(z: Any, key: jax.Array) -> Any:
            size_key, key = jax.random.split(key)
            low, high = np.log(_STEP_SIZES)
            size = jnp.exp(jax.random.uniform(size_key, minval=low, maxval=high))
            state = init(
                z, 0, trajectory_length=_LEAPFROGS * size, num_steps=_LEAPFROGS,
                adapt_step_size=False, adapt_mass_matrix=False, model_args=(table,), rng_key=key,
            )  # fmt: skip
            z = sample(state, (table,)).z
            return z, z

        _, drawn = jax.lax.scan(step, z, jax.random.split(key, N_WARMUP + N_DRAWS))
        return jax.vmap(plain.values)({n: v[N_WARMUP:] for n, v in drawn.items()})

    spec, design = plain.spec, plain.design
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(_SEED), 2 * n)
        start = jax.jit(jax.vmap(lambda key: drawn_sites(design, spec, {}, key=key)))(keys[:n])
        names = plain.sites()
        z = jax.vmap(plain.unconstrained)({name: start[name] for name in names})
        drawn = jax.jit(jax.vmap(chain))(keys[n:], jnp.asarray(tables), z)
        return {n: np.asarray(v) for n, v in drawn.items()}


def main() -> None:
    """Print each cell, and sums."""
    parser = argparse.ArgumentParser(prog="python -m analyses.leave_one_out", description=__doc__)
    parser.parse_args()
    found = left_out()
    print(found.table.sort_values("k-hat").round(3).to_string())
    good = found.good
    print(
        f"{len(good)} of {len(found.table)} cells have k-hat of {K_LIMIT} or less: sum by weights "
        f"{good['weights'].sum():.2f}, by refits {good['refit'].sum():.2f}, gap {found.gap:.3f}; "
        f"standard error of the sum {found.se:.2f}"
    )


if __name__ == "__main__":
    main()
