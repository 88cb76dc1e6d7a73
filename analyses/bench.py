"""Time fits against each other on one simulated table: ratios inside one run."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import jax

from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_map, fit_svi
from bayes_lrmf.predict import predict_benchmarks
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

FOLDER = Path("build/bench")


def main() -> None:
    """Fit and predict a simulated table of 1,000 models and 500 items; print seconds and ratios."""
    spec = read_spec("laplacian")
    data = simulate(spec, key=jax.random.key(0), n_models=1000, n_items=500, density=0.7)
    design = make_design(data.responses, spec, lineage=data.lineage)
    seconds = {}
    started = time.perf_counter()
    point = fit_map(design, spec, key=jax.random.key(0))
    seconds["fit map"] = time.perf_counter() - started
    started = time.perf_counter()
    gaussian = fit_svi(design, spec, key=jax.random.key(0), max_steps=600)
    seconds["fit svi"] = time.perf_counter() - started
    for name, posterior in (("predict map", point), ("predict svi", gaussian)):
        started = time.perf_counter()
        predict_benchmarks(posterior, key=jax.random.key(1))
        seconds[name] = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"simulated: {data.responses}")
    for name, value in seconds.items():
        print(f"{name:12} {value:7.2f} s {value / seconds['fit map']:6.2f} of fit map")
    print(f"peak memory  {peak:.2f} GB")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "bench.json").write_text(json.dumps({"seconds": seconds, "peak_gb": peak}, indent=1))


if __name__ == "__main__":
    main()
