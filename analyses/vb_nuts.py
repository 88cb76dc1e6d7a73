"""Compare closed-form variational Bayes with NUTS on the same simulated responses."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

TABLES = ("counts", "items", "directed")


def main() -> None:
    """Simulate, fit both ways, print gaps of probabilities and ratios of their spreads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--num-warmup", type=int, default=300)
    parser.add_argument("--num-samples", type=int, default=300)
    given = parser.parse_args()

    import numpyro

    numpyro.set_host_device_count(2)
    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.inference import fit_nuts, fit_vb
    from bayes_lrmf.predict import predict_items
    from bayes_lrmf.simulate import simulate

    for name in TABLES if given.only is None else (given.only,):
        spec, sizes = _table(name)
        data = simulate(spec, key=jax.random.key(0), density=0.8, **sizes)
        design = make_design(data.responses, spec, lineage=data.lineage)
        lengths = {"num_warmup": given.num_warmup, "num_samples": given.num_samples}
        predictions, seconds, records = [], [], []
        for fit, options in ((fit_vb, {}), (_fit_bound, {}), (fit_nuts, lengths)):
            started = time.perf_counter()
            posterior = fit(design, spec, key=jax.random.key(1), **options)
            seconds.append(time.perf_counter() - started)
            records.append(posterior.record)
            table = predict_items(posterior, key=jax.random.key(2), n_draws=500)
            predictions.append(table.merge(data.truth, on=["model", "benchmark", "item"]))
        print(f"== {name}: {data.responses!r}, spec {spec.name}, rank {spec.rank}")
        print(f"vb {seconds[0]:.0f} s, nuts {seconds[2]:.0f} s; nuts: {records[2].message}")
        evaluated = list(design.responses.models)
        _report(predictions[0], predictions[2], evaluated=evaluated)
        print("vb with the covariances of its bound:")
        _report(predictions[1], predictions[2], evaluated=evaluated)


def _fit_bound(*given: Any, **options: Any) -> Any:
    """Fit by vb, without the final step to covariances of the expected curvature."""
    from unittest.mock import patch

    from bayes_lrmf.inference import fit_vb
    from bayes_lrmf.inference.vb_fit import VariationalFit

    with patch.object(VariationalFit, "with_expected_curvature", lambda fit: fit):
        return fit_vb(*given, **options)


def _table(name: str) -> tuple[Any, dict[str, int]]:
    from bayes_lrmf.spec import read_spec

    laplacian = dataclasses.replace(read_spec("laplacian"), rank=2, likelihood="logit_normal")
    if name == "items":
        return laplacian, {"n_models": 200, "n_items": 200}
    if name == "counts":
        return laplacian, {"n_models": 300, "n_items": 40, "trials": 200}
    directed = dataclasses.replace(read_spec("directed"), rank=1)
    return directed, {"n_models": 100, "n_items": 20, "trials": 200}


def _report(vb: Any, nuts: Any, *, evaluated: list[str]) -> None:
    """Print by kind of cell: gap of the means, ratio of sd, error and coverage of both.

    The truth has no noise on its log-odds, so intervals of counts should cover more than 90 %.
    """
    import numpy as np

    cold = ~nuts["model"].isin(evaluated)
    seen = nuts["observed"].notna()
    for label, at in (("observed", seen), ("not run", ~seen & ~cold), ("cold", cold)):
        a, b = vb[at], nuts[at]
        gap = np.sqrt(np.mean((a["mean"] - b["mean"]) ** 2))
        ratio = (a["sd"] / b["sd"]).mean()
        inside = [t["probability"].between(t["lower"], t["upper"]).mean() for t in (a, b)]
        errors = [np.sqrt(np.mean((t["mean"] - t["probability"]) ** 2)) for t in (a, b)]
        print(
            f"{label:9s} {at.sum():6d} cells: RMS gap of means {gap:.4f}, mean ratio of sd "
            f"{ratio:.2f}; RMSE vb {errors[0]:.4f}, nuts {errors[1]:.4f}; 90 % intervals cover "
            f"vb {inside[0]:.3f}, nuts {inside[1]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
