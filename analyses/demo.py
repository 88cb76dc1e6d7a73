"""Demo on simulated data: fit a family of models, diagnose, predict, compare with the truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import pandas as pd

from bayes_lrmf.design import make_design
from bayes_lrmf.diagnose import diagnose
from bayes_lrmf.inference import fit_vb
from bayes_lrmf.plots import plot_predictions
from bayes_lrmf.predict import predict_benchmarks
from bayes_lrmf.progress import Progress
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import write_posterior

FOLDER = Path("build/demo")
_N_SHOWN = 12


def main() -> None:
    """Simulate, fit, diagnose, predict, plot."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    truth_spec = dataclasses.replace(read_spec("directed"), rank=2)
    data = simulate(truth_spec, key=jax.random.key(7), n_models=60, n_items=200, density=0.5)
    print("Simulated data, not real models:", data.responses)
    print(data.lineage.summary(list(data.lineage.nodes)))
    spec = read_spec("lrmf")
    design = make_design(data.responses, spec, lineage=data.lineage)
    with Progress("fit vb") as progress:
        posterior = fit_vb(design, spec, key=jax.random.key(0), progress=progress)
    write_posterior(posterior, FOLDER / "posterior.nc")
    print("\n".join(diagnose(posterior).lines))

    table = predict_benchmarks(posterior, key=jax.random.key(1), ci_prob=0.9)
    truth = data.truth.groupby(["model", "benchmark"], sort=False)[["successes", "trials"]].sum()
    score = (truth["successes"] / truth["trials"]).rename("truth").reset_index()
    table = table.merge(score, on=["model", "benchmark"])
    table["inside"] = (table["lower"] <= table["truth"]) & (table["truth"] <= table["upper"])
    table.to_csv(FOLDER / "predictions.csv", index=False)
    cold = table[table["n_observed"] == 0]
    columns = ["model", "benchmark", "mean", "lower", "upper", "truth", "inside"]
    print(f"\nModels without a single result ({_N_SHOWN} of {len(cold)} rows):")
    with pd.option_context("display.float_format", "{:.3f}".format):
        print(cold[columns].head(_N_SHOWN).to_string(index=False))
    for name, part in (("evaluated", table[table["n_observed"] > 0]), ("cold-start", cold)):
        inside = part["inside"].mean()
        print(f"90 % intervals of {name} models hold {inside:.0%} of {len(part)} true scores")
    plot_predictions(cold, truth="truth").savefig(FOLDER / "cold_start.png", dpi=120)
    print(f"Picture: {FOLDER / 'cold_start.png'}")


if __name__ == "__main__":
    main()
