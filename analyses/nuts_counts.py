"""Sample the posterior of connected models of the subtask counts with NUTS, and judge it."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path


def main() -> None:
    """Choose models by size of their families, fit, print time and verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=600)
    parser.add_argument("--num-warmup", type=int, default=500)
    parser.add_argument("--num-samples", type=int, default=800)
    given = parser.parse_args()
    folder = Path(os.environ.get("BAYES_LRMF_DATA", "../shared/data"))
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: name the folder of real data in BAYES_LRMF_DATA")

    import numpyro

    numpyro.set_host_device_count(2)
    import jax
    import numpy as np

    from bayes_lrmf.design import make_design
    from bayes_lrmf.diagnose import diagnose
    from bayes_lrmf.inference import fit_nuts
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.responses import read_responses
    from bayes_lrmf.spec import read_spec

    responses = read_responses(folder / "subtasks/counts.csv")
    lineage = read_lineage(folder / "lineage/edges.csv")
    family = lineage.core(list(responses.models)).components()[: responses.n_models]
    size = np.bincount(family)[family]
    chosen = np.lexsort((family, -size))[: given.models]
    chosen = chosen[size[chosen] > 1]
    spec = read_spec("laplacian")
    table = responses.select_models([responses.models[i] for i in sorted(chosen)])
    design = make_design(table, spec, lineage=lineage)
    print(f"{table!r}, rank {spec.rank}")
    started = time.perf_counter()
    with Progress("fit nuts") as progress:
        posterior = fit_nuts(
            design,
            spec,
            key=jax.random.key(0),
            num_warmup=given.num_warmup,
            num_samples=given.num_samples,
            progress=progress,
        )
    print(f"seconds {time.perf_counter() - started:.0f}")
    print("\n".join(diagnose(posterior).lines))


if __name__ == "__main__":
    main()
