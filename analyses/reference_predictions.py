"""What `fit_nuts` predicts of two simulated tables, kept for faster methods to be held against.

These posteriors are larger than those of `analyses.reference_draws`, and include models without
responses; sampling one takes minutes, and a test that asks what vb makes of the table seconds.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analyses.reference_draws import FOLDER, Problem, kept_table
from bayes_lrmf.files import written_whole
from bayes_lrmf.provenance import package_versions
from bayes_lrmf.simulate import Simulation

_KEYS = ["model", "benchmark", "item"]
_FOUND = ["mean", "sd"]
_VERDICT = re.compile(r"R-hat at most ([\d.]+), bulk ESS at least (\d+), (\d+) divergences")


@dataclass(frozen=True)
class Case(Problem):
    """A problem, and the options of `fit_nuts`."""

    options: dict[str, Any]
    seed: ClassVar[int] = 1
    always: ClassVar[dict[str, Any]] = {}


CASES = {
    "laplacian": Case(
        "laplacian",
        {"rank": 1, "likelihood": "logit_normal"},
        {"n_models": 24, "n_items": 16, "trials": 50, "n_benchmarks": 2},
        {"num_warmup": 800, "num_samples": 1000},
    ),
    # Short steps: at the usual ones a draw in a thousand diverges.
    "directed": Case(
        "directed",
        {"rank": 1, "likelihood": "binomial"},
        {"n_models": 36, "n_items": 12, "trials": 100, "n_benchmarks": 3, "density": 0.8},
        {"num_warmup": 500, "num_samples": 700, "target_accept": 0.97},
    ),
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is kept of a case.

    Attributes
    ----------
    arrays : mapping
        The table, and the predictions.
    told : mapping
        How they were made, and diagnostics of the draws.
    """

    arrays: dict[str, np.ndarray]
    told: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """Return ``mean, sd`` of the probability of every cell, by model, benchmark and item."""
        columns = {name: self.arrays[f"predicted_{name}"] for name in (*_KEYS, *_FOUND)}
        return pd.DataFrame(columns).set_index(_KEYS)

    def is_of(self, data: Simulation) -> bool:
        """Return whether these are the table and the lineage that were fitted."""
        return all(np.array_equal(self.arrays[n], v) for n, v in kept_table(data).items())


def read_predictions(name: str, folder: Path = FOLDER) -> Predictions:
    """Return what is kept of a case."""
    with np.load(folder / f"predicted-{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    told = json.loads((folder / f"predicted-{name}.json").read_text(encoding="utf-8"))
    return Predictions(arrays, told)


def sampled(name: str) -> None:
    """Sample the posterior of a case, and write predictions and diagnostics."""
    import jax

    from bayes_lrmf.inference import fit_nuts
    from bayes_lrmf.predict import predict_items

    case = CASES[name]
    data = case.drawn()
    design = case.design(data)
    fitted = fit_nuts(design, case.declared(), key=jax.random.key(0), **case.options)
    verdict = _VERDICT.search(fitted.record.message)
    if not fitted.record.converged or verdict is None:
        raise SystemExit(f"{name} is not kept: {fitted.record.message}")
    draws = fitted.state.n_draws
    found = predict_items(fitted, key=jax.random.key(2), n_draws=draws)
    arrays = {f"predicted_{n}": found[n].to_numpy().astype(str) for n in _KEYS}
    arrays |= {f"predicted_{n}": found[n].to_numpy(np.float32) for n in _FOUND}
    told = {
        "spec": case.spec,
        "changes": case.changes,
        "seed": case.seed,
        "simulated": case.sizes,
        "options": case.options,
        "draws": draws,
        "greatest R-hat": float(verdict[1]),
        "least bulk ESS": int(verdict[2]),
        "divergences": int(verdict[3]),
        "versions": package_versions(),
        "command": f"python -m analyses.reference_predictions --only {name}",
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    with written_whole(FOLDER / f"predicted-{name}.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays, **kept_table(data))
    with written_whole(FOLDER / f"predicted-{name}.json") as part:
        part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(name, fitted.record.message, flush=True)


def main() -> None:
    """Sample both posteriors anew, or one."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.reference_predictions", description=__doc__
    )
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    for name in CASES if given.only is None else (given.only,):
        sampled(name)


if __name__ == "__main__":
    main()
