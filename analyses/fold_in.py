"""Fold hidden models into a fit, and compare with fitting again."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from analyses import study

SHOTS = (0, 10, 50)


def main() -> None:
    """Hide models, fit, add them with 0, 10 and 50 results, fit again with these, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=study.REAL, default="v1")
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        data = study.load(given.table)
    except study.DataAbsent as absent:
        raise SystemExit(str(absent)) from None

    import jax

    from bayes_lrmf.coldstart import add
    from bayes_lrmf.design import make_design
    from bayes_lrmf.holdouts import hold_out_cold, hold_out_shots
    from bayes_lrmf.inference import fit_vb
    from bayes_lrmf.spec import read_spec

    spec, key = read_spec("lrmf"), jax.random.key(given.seed)
    lineage = data.background.lineage
    cold = hold_out_cold(data.responses, lineage, seed=given.seed)
    models = list(cold.models)[: given.models]
    others = [m for m in lineage.nodes if m not in set(models)]

    def fit(design: Any, start: Any = None) -> Any:
        started = time.perf_counter()
        posterior = fit_vb(design, spec, key=key, start=start)
        print(f"fit: {time.perf_counter() - started:.1f} s, {posterior.record.message}")
        return posterior

    without = fit(make_design(cold.train, spec, lineage=lineage.among(others)))
    for k in SHOTS:
        split = cold if k == 0 else hold_out_shots(data.responses, lineage, seed=given.seed, k=k)
        seen = None
        if k:
            seen = split.train.select_models([m for m in models if m in split.train.models])
        started = time.perf_counter()
        grown = add(without, lineage=lineage, responses=seen)
        first = time.perf_counter() - started
        # From where it stands: two fits from afar may end in different optima of equal height.
        again = fit(grown.design, start=grown)
        _compare(grown, again, models, k, first)
        for whole in (True, False):
            _time_one(without, lineage, seen, models, whole)


def _time_one(posterior: Any, lineage: Any, seen: Any, models: list[str], whole: bool) -> None:
    from bayes_lrmf.coldstart import add

    seconds = []
    for model in models[:20]:
        if seen is not None and model not in seen.models:
            continue
        tree = lineage.among([model, *lineage.parents_of(model)])
        one = None if seen is None else seen.select_models([model])
        started = time.perf_counter()
        add(posterior, lineage=tree, responses=one, whole=whole)
        seconds.append(time.perf_counter() - started)
    kind = "the whole posterior" if whole else "its families alone"
    print(f"  one model, {kind}: median {1000 * np.median(seconds):.0f} ms")


def _compare(grown: Any, again: Any, models: list[str], k: int, seconds: float) -> None:
    import jax

    from bayes_lrmf.predict import predict_benchmarks, predict_items

    key = jax.random.key(1)
    a, b = (predict_items(p, key=key, models=models, n_draws=400) for p in (grown, again))
    left = a["observed"].isna()
    gap = np.sqrt(np.mean((a["mean"] - b["mean"])[left] ** 2))
    ratio = a["sd"][left].mean() / b["sd"][left].mean()
    s, t = (predict_benchmarks(p, key=key, models=models, n_draws=2000) for p in (grown, again))
    width = (s["upper"] - s["lower"]).mean() / (t["upper"] - t["lower"]).mean()
    score = np.sqrt(np.mean((s["mean"] - t["mean"]) ** 2))
    print(
        f"{len(models)} models with {k} results, added in {seconds:.2f} s: RMS gap to the refit "
        f"{gap:.4f} of probabilities, {score:.4f} of scores; sd {ratio:.3f} and width of score "
        f"intervals {width:.3f} of the refit's"
    )


if __name__ == "__main__":
    main()
