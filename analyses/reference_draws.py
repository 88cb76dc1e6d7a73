"""Reference draws of four small posteriors, by long runs of NumPyro's NUTS on the bare program.

The tables are simulated and small; what is kept of each posterior, with its own diagnostics, is
what other methods and later versions are held against. Coordinates are NumPyro's own, so that
`fit_nuts` shares the program with these draws, and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit

from bayes_lrmf.design import Design, make_design
from bayes_lrmf.files import written_whole
from bayes_lrmf.program import components, hyperparameters
from bayes_lrmf.provenance import package_versions
from bayes_lrmf.simulate import Simulation, simulate
from bayes_lrmf.spec import Spec, read_spec

FOLDER = Path("tests/reference")
N_CHAINS, N_KEPT = 4, 100
RHAT_LIMIT, ESS_LIMIT = 1.01, 400
_SEED = 20_250_419
_CI = (0.05, 0.5, 0.95)
_LINEAGE = ("nodes", "child", "parent", "relation", "weight")
_ITEMS = ("benchmark", "item", "trials")
COLUMNS = (
    "mean", "sd", *(f"q{q:g}" for q in _CI), "mcse mean", "mcse sd",
    *(f"mcse q{q:g}" for q in _CI), "rhat", "ess bulk", "ess tail",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A table to draw and a spec to sample.

    Attributes
    ----------
    spec : str
    changes : mapping
        Of the spec.
    sizes : mapping
        For `simulate`, beside those of `always`.
    """

    spec: str
    changes: dict[str, Any]
    sizes: dict[str, Any]
    seed: ClassVar[int] = _SEED
    always: ClassVar[dict[str, Any]] = {"density": 0.9, "cold_share": 0}

    def declared(self) -> Spec:
        """Return the spec."""
        return dataclasses.replace(read_spec(self.spec), **self.changes)

    def drawn(self) -> Simulation:
        """Return the data, which a seed fixes."""
        import jax

        key = jax.random.key(self.seed)
        return simulate(self.declared(), key=key, **(self.always | self.sizes))

    def design(self, data: Simulation) -> Design:
        """Return the design of data."""
        return make_design(data.responses, self.declared(), lineage=data.lineage)


@dataclass(frozen=True)
class Case(Problem):
    """A problem, and how it is sampled.

    Attributes
    ----------
    num_warmup, num_samples : int
        Of each chain.
    target_accept : float
    """

    num_warmup: int = 1000
    num_samples: int = 2000
    target_accept: float = 0.98


_COUNTS = {"n_models": 10, "n_items": 6, "n_benchmarks": 2, "trials": 20}
_BITS = {"n_models": 10, "n_items": 10, "n_benchmarks": 2}
CASES = {
    "counts": Case("laplacian", {"rank": 1, "likelihood": "binomial"}, _COUNTS),
    "items": Case("laplacian", {"rank": 1}, _BITS, target_accept=0.995),
    "directed": Case("directed", {"rank": 1, "likelihood": "binomial", "features": ()}, _COUNTS),
    "irt": Case("irt", {}, {"n_models": 12, "n_items": 10, "n_benchmarks": 1}),
}


def quantities(design: Design, spec: Spec, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what rotations leave alone, each of shape (n_draws,), by name.

    Parameters
    ----------
    values : mapping of arrays, shape (n_draws, ...)
        Sites of the program, and what it makes of them.
    """
    rows, cols = components(design, values)
    psi = np.einsum("dkm,dki->dmi", rows, cols)[:, : design.n_evaluated]
    labels = (design.items["benchmark"] + ":" + design.items["item"]).to_list()
    models = design.responses.models
    out = {
        f"psi {name} | {label}": psi[:, m, i]
        for m, name in enumerate(models)
        for i, label in enumerate(labels)
    }
    for b, benchmark in enumerate(design.benchmarks):
        score = expit(psi[:, :, design.benchmark_index == b]).mean(2)
        out |= {f"score {name} | {benchmark}": score[:, m] for m, name in enumerate(models)}
    for name in hyperparameters(design, spec):
        if name in values:
            of_benchmark = values[name].reshape(len(psi), -1).T
            out |= {f"{name} {b}".removesuffix(" 0"): v for b, v in enumerate(of_benchmark)}
    if "step_factor_covariance" in values:
        for step in np.unique(design.directed.step):
            out[f"step_factor_variance {step}"] = values["step_factor_covariance"][:, step, 0, 0]
    return out


def probabilities(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return probabilities of cells from their psi."""
    psi = {name: v for name, v in named.items() if name.startswith("psi ")}
    return {name.replace("psi", "probability", 1): expit(value) for name, value in psi.items()}


def sampled(name: str) -> None:
    """Sample the posterior of a case, and write draws, summaries and diagnostics."""
    import jax
    from numpyro.infer import MCMC, NUTS

    from bayes_lrmf.program import program

    case = CASES[name]
    data, spec = case.drawn(), case.declared()
    design = case.design(data)
    with jax.enable_x64(True):
        run = MCMC(
            NUTS(program, target_accept_prob=case.target_accept, max_tree_depth=10),
            num_warmup=case.num_warmup, num_samples=case.num_samples, num_chains=N_CHAINS,
            chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        run.run(jax.random.key(_SEED), design, spec)
        values = {n: np.asarray(v) for n, v in run.get_samples().items()}
        extra = run.get_extra_fields()
    named = quantities(design, spec, values)
    table = _summary(named | probabilities(named))
    every = np.stack(list(named.values()), axis=-1).reshape(N_CHAINS, case.num_samples, -1)
    thin = case.num_samples // N_KEPT
    FOLDER.mkdir(parents=True, exist_ok=True)
    arrays = {
        "draws": every[:, thin - 1 :: thin].astype(np.float32),
        "drawn": np.array(list(named), str),
        "summarised": np.array(table.index, str),
        "summary": table.to_numpy(np.float32),
        **kept_table(data),
    }
    with written_whole(FOLDER / f"{name}.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    told = {
        "spec": case.spec,
        "changes": case.changes,
        "seed": _SEED,
        "simulated": case.sizes | {"density": 0.9, "cold_share": 0},
        "chains": N_CHAINS,
        "warm-up": case.num_warmup,
        "draws a chain": case.num_samples,
        "target acceptance": case.target_accept,
        "quantities": len(table),
        "greatest R-hat": round(float(table["rhat"].max()), 5),
        "least bulk ESS": round(float(table["ess bulk"].min())),
        "least tail ESS": round(float(table["ess tail"].min())),
        "divergences": int(np.sum(extra["diverging"])),
        "versions": package_versions(),
        "command": f"python -m analyses.reference_draws --only {name}",
    }
    with written_whole(FOLDER / f"{name}.json") as part:
        part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(name, json.dumps({n: told[n] for n in list(told)[8:13]}), flush=True)


def _summary(named: dict[str, np.ndarray]) -> pd.DataFrame:
    import arviz as az

    every = np.stack(list(named.values()), axis=-1)
    chains = every.reshape(N_CHAINS, -1, every.shape[-1])
    axes = {"chain_axis": 0, "draw_axis": 1}
    columns = [
        every.mean(0),
        every.std(0, ddof=1),
        *np.quantile(every, _CI, axis=0),
        az.mcse(chains, method="mean", **axes),
        az.mcse(chains, method="sd", **axes),
        *(az.mcse(chains, method="quantile", prob=q, **axes) for q in _CI),
        az.rhat(chains, **axes),
        az.ess(chains, method="bulk", **axes),
        az.ess(chains, method="tail", prob=(_CI[0], _CI[-1]), **axes),
    ]
    return pd.DataFrame(np.stack(columns, axis=1), index=list(named), columns=list(COLUMNS))


def kept_table(data: Simulation) -> dict[str, np.ndarray]:
    """Return results and lineage as arrays of numbers and of text."""
    cells = data.responses.to_cells()
    shape = data.responses.shape
    successes, trials = np.zeros((2, *shape), np.int16)
    successes[cells.rows, cells.cols] = cells.successes
    trials[cells.rows, cells.cols] = 1 if cells.trials is None else cells.trials
    items, kin = data.responses.items, data.lineage
    out = {"successes": successes, "trials": trials, "models": data.responses.models.astype(str)}
    out |= {f"items_{name}": _plain(items[name].to_numpy()) for name in _ITEMS}
    return out | {f"lineage_{name}": _plain(getattr(kin, name)) for name in _LINEAGE}


def _plain(values: np.ndarray) -> np.ndarray:
    return values if np.issubdtype(values.dtype, np.number) else values.astype(str)


@dataclass(frozen=True, eq=False)
class Reference:
    """What is kept of a posterior.

    Attributes
    ----------
    name : str
    arrays : mapping
    told : mapping
        How it was made, and its diagnostics.
    """

    name: str
    arrays: dict[str, np.ndarray]
    told: dict[str, Any]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row a quantity."""
        names = self.arrays["summarised"]
        return pd.DataFrame(self.arrays["summary"], index=list(names), columns=list(COLUMNS))

    def is_of(self, data: Simulation) -> bool:
        """Return whether these are the table and the lineage that it was made from."""
        return all(np.array_equal(self.arrays[n], v) for n, v in kept_table(data).items())


def read_reference(name: str, folder: Path = FOLDER) -> Reference:
    """Return what is kept of a posterior."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    told = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Reference(name, arrays, told)


def main() -> None:
    """Sample all posteriors anew, or some."""
    parser = argparse.ArgumentParser(prog="python -m analyses.reference_draws", description=__doc__)
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    for name in CASES if given.only is None else (given.only,):
        sampled(name)


if __name__ == "__main__":
    main()
