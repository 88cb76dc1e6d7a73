"""Hide half of the leaf children, fit, and print how well their results are predicted."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

TABLES = {"v1": "oll_v1/responses.parquet", "subtasks": "subtasks/counts.csv"}


def main() -> None:
    """Run one method on one table and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=TABLES, default="v1")
    parser.add_argument("--method", default="vb", help="map, svi, vb, nuts; NumPyro's autonormal")
    parser.add_argument("--spec", help="by default the one that fits the method")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(os.environ.get("BAYES_LRMF_DATA", "../shared/data"))
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: name the folder of real data in BAYES_LRMF_DATA")

    import numpyro

    numpyro.set_host_device_count(2)
    import jax

    from analyses.bench.autonormal import fit_autonormal
    from bayes_lrmf.design import make_design
    from bayes_lrmf.forecast import posterior_forecast
    from bayes_lrmf.holdouts import families, hold_out_cold
    from bayes_lrmf.inference import fit_method
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.responses import read_responses
    from bayes_lrmf.scoring import score
    from bayes_lrmf.spec import default_spec, read_spec

    is_peer = given.method == "autonormal"
    spec = read_spec(given.spec or default_spec("svi" if is_peer else given.method))
    responses = read_responses(folder / TABLES[given.table])
    lineage = read_lineage(folder / "lineage/edges.csv")
    split = hold_out_cold(responses, lineage, seed=given.seed)
    print(f"{given.table}: {len(split.models)} of {responses.n_models:,} models hidden")
    started = time.perf_counter()
    design = make_design(split.train, spec, lineage=lineage)
    key = jax.random.key(given.seed)
    if is_peer:
        posterior = fit_autonormal(design, spec, key=key)
    else:
        with Progress(f"fit {given.method}") as progress:
            posterior = fit_method(given.method, design, spec, key=key, progress=progress)
    print(f"{given.method}, {spec.name}: {posterior.record.message}")
    print(f"seconds {time.perf_counter() - started:.0f}")
    forecast = posterior_forecast(posterior, split.models, key=jax.random.key(1))
    for name, value in score(forecast, split, families(list(responses.models), lineage)).items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
