"""Compare closed-form variational Bayes with NUTS on the same simulated responses."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any
from unittest.mock import patch

import arviz as az  # noqa: F401 (gives data arrays their statistics)
import numpy as np
import xarray as xr

from analyses.corrections import (
    JointGaussian,
    closings,
    independent_draw,
    linear_response,
    log_density,
    sd_psi,
)
from analyses.noise_free import without_overdispersion
from bayes_lrmf.inference.vb_closing import Closed, close_briefly
from bayes_lrmf.program import components

TABLES = ("counts", "items", "directed")
N_JOINT_DRAWS, N_RESPONSES, N_WEIGHTS = 400, 40, 1000


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
    from bayes_lrmf.simulate import simulate

    for name in TABLES if given.only is None else (given.only,):
        spec, sizes = _table(name)
        data = simulate(spec, key=jax.random.key(0), density=0.8, **sizes)
        design = make_design(data.responses, spec, lineage=data.lineage)
        print(f"== {name}: {data.responses!r}, spec {spec.name}, rank {spec.rank}")
        lengths = {"num_warmup": given.num_warmup, "num_samples": given.num_samples}
        nuts = _fitted(fit_nuts, design, spec, **lengths)
        with closings() as closed:
            fits = {"vb": _fitted(fit_vb, design, spec)}
        for label, closing in _LESS.items():
            with patch("bayes_lrmf.inference.vb.close", closing):
                fits[label] = _fitted(fit_vb, design, spec)
        _report_scales(fits, nuts)
        reference = _predicted(nuts, data)
        for label, posterior in fits.items():
            print(f"{label}:")
            _report(_predicted(posterior, data), reference, evaluated=list(design.responses.models))
        _compare_corrections(closed[-1], nuts)


_LESS: dict[str, Any] = {
    "vb, scales of the bound": lambda fit, _: close_briefly(fit),
    "vb, scales and covariances of the bound": lambda fit, _: Closed(fit, fit, 0, True),
}
"""By label what takes the place of `close`."""


def _fitted(fit: Any, design: Any, spec: Any, **options: Any) -> Any:
    import jax

    posterior = fit(design, spec, key=jax.random.key(1), **options)
    print(f"{posterior.record.seconds:.0f} s, {posterior.record.message}", flush=True)
    return posterior


def _predicted(posterior: Any, data: Any) -> Any:
    import jax

    from bayes_lrmf.predict import predict_items

    table = predict_items(without_overdispersion(posterior), key=jax.random.key(2), n_draws=500)
    return table.merge(data.truth, on=["model", "benchmark", "item"])


def _report_scales(fits: dict[str, Any], nuts: Any) -> None:
    """Print scales by each fit, and their posterior means and sd by NUTS."""
    draws = {n: v.reshape(-1, *v.shape[2:]) for n, v in nuts.state.values.items()}
    for name in ("factor_sd", "benchmark_sd", "kappa", "intercept_sd", "overdispersion_sd"):
        if name not in draws:
            continue
        print(f"{name}: nuts {draws[name].mean(0).round(3)} +- {draws[name].std(0).round(3)}")
        for label, posterior in fits.items():
            print(f"  {label}: {np.round(posterior.state.values[name], 3)}")


def _compare_corrections(closed: Closed, nuts: Any) -> None:
    """Print ratios of the sd of psi to that of NUTS, scales being those of vb throughout."""
    rng = np.random.default_rng(0)
    values = nuts.state.values
    rows, cols = components(
        nuts.design, {n: v.reshape(-1, *v.shape[2:]) for n, v in values.items()}
    )
    rows = rows[..., : nuts.design.n_evaluated]
    sd = np.stack([(rows[..., m, None] * cols).sum(1).std(0) for m in range(rows.shape[-1])])
    joint = JointGaussian.at(closed.fit)
    ways = {
        "covariances of the bound": sd_psi(closed.bound),
        "of the expected curvature": sd_psi(closed.fit),
        "joint Laplace step": joint.sd_psi(N_JOINT_DRAWS, rng),
    }
    cells = np.stack([rng.choice(n, N_RESPONSES) for n in sd.shape], axis=1)
    at = tuple(cells.T)
    response = linear_response(closed.bound, cells)
    print(f"sd of psi by that of nuts, all cells, and {N_RESPONSES} of them:")
    for label, way in ways.items():
        print(f"  {label:28s} {(way / sd).mean():.2f}  {(way / sd)[at].mean():.2f}")
    print(f"  {'linear response':28s}       {(response / sd[at]).mean():.2f}", flush=True)
    if closed.fit.spec.lineage == "directed":
        return
    log_p = log_density(closed.fit)
    for label, draw in (
        ("independent", lambda: independent_draw(closed.fit, rng)),
        ("joint", lambda: joint.draw(rng)),
    ):
        drawn = [draw() for _ in range(N_WEIGHTS)]
        logs = [log_p(models, items) - log_q for models, items, log_q in drawn]
        khat = float(xr.DataArray(logs, dims="draw").azstats.psislw(dim="draw")[1])
        print(f"  importance weights of {N_WEIGHTS} {label} draws: k-hat {khat:.1f}", flush=True)


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
