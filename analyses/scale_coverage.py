"""Whether intervals of NUTS hold the scales, tails and coefficients that drew directed families."""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

CI_PROB = 0.9
N_MODELS, N_ITEMS, TRIALS = 40, 12, 60
N_DRAWS = 1000
TARGET_ACCEPT = 0.98


def shown(values: dict[str, np.ndarray], present: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is identified: sizes of steps, tails, and the coefficients of effects.

    Parameters
    ----------
    values : mapping
        Sites of the program, each (..., shape of the site).
    present : int array
        Kinds of step that the lineage has.

    Returns
    -------
    dict
        Arrays (..., n) by kind of quantity.
    """
    variance = np.diagonal(values["step_factor_covariance"], axis1=-2, axis2=-1).sum(-1)
    return {
        "sd of factor steps": np.sqrt(variance)[..., present],
        "sd of effect steps": np.sqrt(values["step_effect_variance"].mean(-1))[..., present],
        "tail of factor steps": values["step_factor_tail"][..., present],
        "tail of effect steps": values["step_effect_tail"][..., present],
        "coefficient of size, effects": values["step_coefficient"][..., 1, 1:],
    }


def covered(seed: int) -> tuple[dict[str, list[bool]], bool, str]:
    """Draw a family with scales from their priors, fit it, and say which intervals hold them."""
    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.inference import fit_nuts
    from bayes_lrmf.simulate import simulate
    from bayes_lrmf.spec import read_spec

    jax.clear_caches()
    spec = dataclasses.replace(read_spec("directed"), rank=1, features=("params_b",), kind=None)
    n_bases = max(1, N_MODELS // 12)
    names = [f"sim/{'base' if i < n_bases else 'model'}-{i}" for i in range(N_MODELS)]
    size = np.random.default_rng(seed).lognormal(2, 1, N_MODELS)
    features = pd.DataFrame({"params_b": size}, index=names)
    data = simulate(
        spec, key=jax.random.key(seed), n_models=N_MODELS, n_items=N_ITEMS, trials=TRIALS,
        n_benchmarks=2, density=0.9, sampled_hyperparameters=True, features=features,
    )  # fmt: skip
    design = make_design(data.responses, spec, lineage=data.lineage, features=features)
    # Scales of a few steps have funnels, which long steps jump over.
    fitted = fit_nuts(design, spec, key=jax.random.key(seed), target_accept=TARGET_ACCEPT)
    drawn: dict[str, Any] = fitted.draws(N_DRAWS, key=jax.random.key(0))
    present = np.unique(design.directed.step)
    truth, found = shown(data.values, present), shown(drawn, present)
    tail = (1 - CI_PROB) / 2
    hits = {}
    for name, value in truth.items():
        lower, upper = np.quantile(found[name], [tail, 1 - tail], axis=0)
        hits[name] = ((lower <= value) & (value <= upper)).ravel().tolist()
    return hits, fitted.record.converged, fitted.record.message


def main() -> None:
    """Print by quantity how many intervals hold the truth, of all data sets and of some."""
    parser = argparse.ArgumentParser(prog="python -m analyses.scale_coverage", description=__doc__)
    parser.add_argument("--sets", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    hits_of, is_good = [], []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, mp_context=context) as pool:
        for seed, (hits, converged, message) in enumerate(pool.map(covered, range(given.sets))):
            print(f"{seed:3d}  {'' if converged else 'not converged: '}{message}", flush=True)
            hits_of.append(hits)
            is_good.append(converged)
    good = [hits for hits, converged in zip(hits_of, is_good, strict=True) if converged]
    for of, chosen in (("all", hits_of), ("those that converged", good)):
        print(f"{CI_PROB:.0%} intervals over {of}, {len(chosen)} data sets:")
        for name in chosen[0] if chosen else ():
            # Quantities of one data set are not independent: the error is over data sets.
            shares = np.array([np.mean(hits[name]) for hits in chosen])
            n = sum(len(hits[name]) for hits in chosen)
            error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
            print(f"  {name:30s} {shares.mean():.3f} +- {error:.3f} of {n}")


if __name__ == "__main__":
    main()
