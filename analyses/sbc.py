"""Simulation-based calibration of a method: whether posteriors are right on average over the prior.

Hyper-parameters, factors and counts are drawn from the program of a spec, along one lineage; the
method is fitted to each data set. Where it is exact, the rank of a true value among posterior draws
is uniform (Talts et al. 2018). What is ranked is identified: psi and expected benchmark scores, of
models with results and without, and hyper-parameters.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import binomtest

# Ranks cost hours: those of each data set are kept with the pages they are told on.
FOLDER = Path("docs/calibration")
SPECS, METHODS = ("laplacian", "directed"), ("nuts", "svi", "vb")
SIZE = (24, 8)
N_COLD, N_BENCHMARKS, TRIALS = 2, 2, 40
N_RANKED = 99
CI_PROB = 0.9
_N_CELLS, _N_NULL, _SEED = 8, 20_000, 0
_NUTS = {"num_warmup": 500, "num_samples": 1000, "target_accept": 0.95}
_RHAT, _ESS = 1.03, N_RANKED
_TOLD = ("seed", "date", "converged", "said", "rhat", "ess")


def replicated(
    spec_name: str, method: str, seed: int, size: tuple[int, int] = SIZE
) -> dict[str, Any]:
    """Draw a data set of so many models and items, fit it, and rank the truth among its draws."""
    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.draws import rows_and_columns
    from bayes_lrmf.inference import fit_method
    from bayes_lrmf.posterior import DrawsState
    from bayes_lrmf.simulate import simulate, simulated_lineage
    from bayes_lrmf.spec import read_spec

    spec = dataclasses.replace(read_spec(spec_name), rank=1)
    if method == "vb":
        # It has no Beta-Binomial counts.
        spec = dataclasses.replace(spec, likelihood="logit_normal")
    rng = np.random.default_rng(_SEED)
    n_models, n_items = size
    lineage = simulated_lineage(n_models, rng=rng)
    features = None
    if spec_name == "directed":
        # Over-dispersion doubles the time of a step; the other spec has it.
        spec = dataclasses.replace(spec, features=("params_b",), kind="", likelihood="binomial")
        params = rng.lognormal(2, 1, n_models)
        features = pd.DataFrame({"params_b": params}, index=lineage.nodes)
    data_key, fit_key, draw_key = jax.random.split(jax.random.key(seed), 3)
    data = simulate(
        spec, key=data_key, lineage=lineage, n_items=n_items, trials=TRIALS,
        n_benchmarks=N_BENCHMARKS, density=1, cold_share=0, sampled_hyperparameters=True,
        features=features,
    )  # fmt: skip
    leaves = np.setdiff1d(np.arange(n_models), lineage.parent)
    cold = rng.choice(leaves, N_COLD, replace=False)
    results = data.responses.hide(models=data.responses.models[cold])
    results = results.select_models(np.delete(data.responses.models, cold))
    design = make_design(
        results, spec, lineage=lineage, features=features, extra_models=lineage.nodes
    )
    options = _NUTS if method == "nuts" else {}
    fitted = fit_method(method, design, spec, key=fit_key, **options)
    truth = _quantities((data.rows.T @ data.cols)[None], _batched(data.values), design, cold)
    place = {name: at for at, name in enumerate(design.models)}
    order = [place[name] for name in lineage.nodes]

    def quantities(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows, cols = rows_and_columns(fitted, drawn, rng=np.random.default_rng(seed))
        return _quantities(np.einsum("dkm,dki->dmi", rows[:, :, order], cols), drawn, design, cold)

    found = quantities(fitted.draws(N_RANKED, key=draw_key))
    # A method may hold some hyper-parameters at a point, or none at all.
    ranked = [name for name in truth if name in found and np.ptp(found[name]) > 0]
    ranks = {name: int((found[name] < truth[name][0]).sum()) for name in ranked}
    record = fitted.record
    out = {
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "converged": bool(record.converged),
        "said": record.message,
        "ranks": ranks,
    }
    if not isinstance(fitted.state, DrawsState):
        return out
    of_chains = fitted.state.values
    n_chains, n_draws = of_chains["loading"].shape[:2]
    every = quantities({n: v.reshape(-1, *v.shape[2:]) for n, v in of_chains.items()})
    return out | _mixing({n: v.reshape(n_chains, n_draws) for n, v in every.items()})


def _mixing(draws: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the worst R-hat and the least ESS, bulk and of tails, of what is ranked.

    Parameters
    ----------
    draws : mapping of arrays, shape (n_chains, n_draws)
    """
    import arviz as az

    every = np.stack(list(draws.values()), axis=2)
    rhat = az.rhat(every, chain_axis=0, draw_axis=1)
    axes = {"chain_axis": 0, "draw_axis": 1}
    bulk = az.ess(every, method="bulk", **axes)
    tail = az.ess(every, method="tail", prob=(0.05, 0.95), **axes)
    return {"rhat": float(np.max(rhat)), "ess": float(min(np.min(bulk), np.min(tail)))}


def _batched(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value)[None] for name, value in values.items()}


def _quantities(
    psi: np.ndarray, values: dict[str, np.ndarray], design: Any, cold: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what is ranked, each of shape (n_draws,), by name.

    Parameters
    ----------
    psi : array, shape (n_draws, n_models, n_items)
    values : mapping
        Draws of the sites.
    design : Design
    cold : int array
        Models without results.
    """
    rng = np.random.default_rng(_SEED)
    _, n_models, n_items = psi.shape
    told = rng.choice(np.setdiff1d(np.arange(n_models), cold), _N_CELLS, replace=False)
    out = {f"psi of a cell, {i}": psi[:, m, i % n_items] for i, m in enumerate(told)}
    out |= {f"psi of a cold cell, {i}": psi[:, m, i] for i, m in enumerate(cold)}
    probability = expit(psi)
    for b, name in enumerate(design.benchmarks):
        score = probability[:, :, design.benchmark_index == b].mean(2)
        out |= {f"score on {name}, {i}": score[:, m] for i, m in enumerate(told[:2])}
        out |= {f"score on {name}, cold": score[:, cold[0]]}
    return out | dict(_hyperparameters(values, design))


def _hyperparameters(
    values: dict[str, np.ndarray], design: Any
) -> Iterator[tuple[str, np.ndarray]]:
    names = ("factor_sd", "kappa", "ability_sd", "benchmark_sd", "intercept_sd")
    for name in names:
        if name in values:
            yield name, values[name]
    for name in ("overdispersion_sd", "concentration"):
        for b in range(len(design.benchmarks)):
            if name in values:
                yield f"{name}, {b}", values[name][:, b]
    if "step_factor_covariance" not in values:
        return
    variance = np.diagonal(values["step_factor_covariance"], axis1=-2, axis2=-1).sum(-1)
    for step in np.unique(design.directed.step):
        yield f"variance of factor steps, {step}", variance[:, step]
        yield f"variance of effect steps, {step}", values["step_effect_variance"][:, step].mean(-1)
        yield f"tail of factor steps, {step}", values["step_factor_tail"][:, step]
        yield f"tail of effect steps, {step}", values["step_effect_tail"][:, step]
    for b in range(values["step_coefficient"].shape[-1] - 1):
        yield f"coefficient of size, effect {b}", values["step_coefficient"][:, 1, 1 + b]


def p_values(ranks: np.ndarray) -> np.ndarray:
    """Return p-values of the greatest gap between the ranks' distribution and the uniform one.

    Parameters
    ----------
    ranks : int array, shape (n_sets, n_quantities)

    Returns
    -------
    array, shape (n_quantities,)
        By simulation of as many uniform ranks, so that ties count as they are.
    """
    rng = np.random.default_rng(_SEED)
    null = np.concatenate(
        [_gap(rng.integers(0, N_RANKED + 1, (len(ranks), 1000))) for _ in range(_N_NULL // 1000)]
    )
    larger = (null[:, None] >= _gap(ranks)).sum(0)
    return np.asarray((larger + 1) / (len(null) + 1))


def _gap(ranks: np.ndarray) -> np.ndarray:
    counts = np.stack([np.bincount(column, minlength=N_RANKED + 1) for column in ranks.T])
    uniform = np.arange(1, N_RANKED + 2) / (N_RANKED + 1)
    return np.asarray(np.abs(counts.cumsum(1) / len(ranks) - uniform).max(1))


def summary(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row a quantity: what 90 % intervals hold, its error, p-values.

    `p` is of the ranks' distribution, `p held` (binomial, two-sided) of what the intervals hold.
    """
    names = list(found[0]["ranks"])
    ranks = np.array([[one["ranks"][name] for name in names] for one in found])
    tail = (1 - CI_PROB) / 2 * (N_RANKED + 1)
    held = (ranks >= tail) & (ranks < N_RANKED + 1 - tail)
    share = held.mean(0)
    return pd.DataFrame(
        {
            "quantity": names,
            "held": share,
            "error": np.sqrt(CI_PROB * (1 - CI_PROB) / len(ranks)),
            "mean rank": ranks.mean(0) / N_RANKED,
            "p": p_values(ranks),
            "p held": [binomtest(int(h.sum()), len(h), CI_PROB).pvalue for h in held.T],
        }
    )


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for their number (Holm 1979)."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)[np.argsort(order)]


def well_mixed(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the data sets whose chains have the draws that ranks ask for.

    Given the data, which these are has nothing to do with the truth: where their draws are from the
    posterior, ranks are uniform among them.
    """
    return [one for one in found if one.get("ess", 0) > _ESS and one["rhat"] < _RHAT]


def _line(name: str, part: pd.DataFrame) -> str:
    return (
        f"{name:26s} {len(part):3d}  held {part['held'].mean():.3f}"
        f" ({part['held'].min():.3f} to {part['held'].max():.3f})"
        f"  least p of ranks {part['p'].min():.4f}, adjusted {part['p, adjusted'].min():.3f}"
        f"; of what is held {part['p held'].min():.4f}, {part['p held, adjusted'].min():.3f}"
    )


def _report(found: list[dict[str, Any]]) -> None:
    table = summary(found)
    for name in ("p", "p held"):
        table[f"{name}, adjusted"] = adjusted(table[name].to_numpy())
    kind = table["quantity"].str.extract(r"^([^,]*)", expand=False)
    kind = kind.str.replace(r" on .*| \d+$| effect \d+", "", regex=True)
    print(f"{len(found)} data sets, {CI_PROB:.0%} intervals, error {table['error'][0]:.3f}:")
    for name, part in table.groupby(kind, sort=False):
        print("  " + _line(str(name), part))
    print("  " + _line("all", table))


def _path(spec: str, method: str, size: tuple[int, int]) -> Path:
    return FOLDER / f"{spec}-{method}{'' if size == SIZE else '-{}x{}'.format(*size)}.csv"


def kept(spec: str, method: str, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """Return what `replicated` found, of all data sets so far."""
    path = _path(spec, method, size)
    if not path.exists():
        return []
    table = pd.read_csv(path).sort_values("seed")
    told = [name for name in table if name in _TOLD]
    ranks = table.drop(columns=told).to_dict("records")
    rows = table[told].to_dict("records")
    return [row | {"ranks": of_set} for row, of_set in zip(rows, ranks, strict=True)]


def keep(spec: str, method: str, one: dict[str, Any], size: tuple[int, int] = SIZE) -> None:
    """Add what `replicated` found to what is kept."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = _path(spec, method, size)
    row = {name: one[name] for name in _TOLD if name in one} | one["ranks"]
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Print what the intervals hold, of all data sets and of those whose chains mix well."""
    parser = argparse.ArgumentParser(prog="python -m analyses.sbc", description=__doc__)
    parser.add_argument("--spec", choices=SPECS, default="laplacian")
    parser.add_argument("--method", choices=METHODS, default="nuts")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--models", type=int, default=SIZE[0])
    parser.add_argument("--items", type=int, default=SIZE[1])
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    size = (given.models, given.items)
    known = {one["seed"] for one in kept(given.spec, given.method, size)}
    seeds = [seed for seed in range(given.sets) if seed not in known]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, mp_context=context) as pool:
        n = len(seeds)
        of_sets = [given.spec] * n, [given.method] * n, seeds, [size] * n
        for one in pool.map(replicated, *of_sets):
            keep(given.spec, given.method, one, size)
            print(f"{one['seed']:3d}  {one['said']}", flush=True)
    found = kept(given.spec, given.method, size)[: given.sets]
    _report(found)
    good = well_mixed(found)
    if good and len(good) < len(found):
        print(f"those of R-hat below {_RHAT} and ESS above {_ESS} for all that is ranked:")
        _report(good)


if __name__ == "__main__":
    main()
