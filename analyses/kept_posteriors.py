"""Small posterior files of this format, one of each kind, that later versions have to open.

They are written once: files of a format stay as its first version wrote them. With each stands what
it said then, to compare with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bayes_lrmf.design import make_design
from bayes_lrmf.files import written_whole
from bayes_lrmf.inference import fit_method
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.predict import predict_benchmarks
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import Spec, read_spec
from bayes_lrmf.storage import FORMAT_VERSION, write_posterior

FOLDER = Path("tests/reference/posteriors")
N_DRAWS = 4000
_N_MODELS, _N_ITEMS, _SEED = 9, 6, 7
# What the draws of a file are thinned to, so that it stays small.
_N_KEPT = 40


@dataclasses.dataclass(frozen=True)
class Case:
    """A fit whose file is kept.

    Attributes
    ----------
    spec, method : str
    changes : mapping
        Of the spec.
    trials : int
    options : mapping
        Of the fit.
    """

    spec: str
    method: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    trials: int = 1
    options: dict[str, int] = dataclasses.field(default_factory=dict)

    def fitted(self) -> Posterior:
        """Return the fit of a simulated table."""
        import jax

        spec: Spec = dataclasses.replace(read_spec(self.spec), rank=1, **self.changes)
        key = jax.random.key(_SEED)
        sizes = {"n_models": _N_MODELS, "n_items": _N_ITEMS, "n_benchmarks": 2}
        features = None
        drawn = simulate(
            dataclasses.replace(spec, features=(), kind=""), key=key, trials=self.trials, **sizes
        )
        if spec.features:
            size = np.random.default_rng(_SEED).lognormal(2, 1, _N_MODELS)
            features = pd.DataFrame({"params_b": size}, index=drawn.lineage.nodes)
        design = make_design(
            drawn.responses, spec, lineage=drawn.lineage, features=features,
            extra_models=[*drawn.lineage.nodes, "lab/without-kin"],
        )  # fmt: skip
        return fit_method(self.method, design, spec, key=key, seed=_SEED, **self.options)


CASES = {
    "point": Case("laplacian", "map"),
    "gaussian": Case("laplacian", "svi", trials=20, options={"max_steps": 400}),
    "draws": Case(
        "irt", "nuts", options={"num_warmup": 100, "num_samples": _N_KEPT, "num_chains": 2}
    ),
    "variational": Case(
        "directed", "vb", {"features": ("params_b",), "kind": "", "likelihood": "logit_normal"},
        trials=20,
    ),
}  # fmt: skip


def path_of(name: str, version: int = FORMAT_VERSION) -> Path:
    """Return where the file of a case and format is kept; what it said stands beside it, JSON."""
    return FOLDER / f"format{version}-{name}.nc"


def told(posterior: Posterior) -> dict[str, Any]:
    """Return what a posterior says: digests, parameters in short, predicted scores."""
    import jax

    table = predict_benchmarks(posterior, key=jax.random.key(0), n_draws=N_DRAWS)
    columns = ["model", "benchmark", *(c for c in ("mean", "lower", "upper") if c in table)]
    return {
        "provenance": posterior.provenance,
        "converged": posterior.record.converged,
        "message": posterior.record.message,
        "parameters": {
            name: [list(np.shape(v)), float(np.abs(v).sum())]
            for name, v in posterior.state.values.items()
        },
        "scores": table[columns].round(5).to_dict("records"),
    }


def main() -> None:
    """Write what is not yet kept of this format."""
    parser = argparse.ArgumentParser(prog="python -m analyses.kept_posteriors", description=__doc__)
    parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        path = path_of(name)
        if path.exists():
            print(f"{path} is kept as it is")
            continue
        posterior = case.fitted()
        write_posterior(posterior, path)
        with written_whole(path.with_suffix(".json")) as part:
            part.write_text(json.dumps(told(posterior), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
