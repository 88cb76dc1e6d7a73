"""A simulated family: known steps by relation, a wrong parent and a hidden copy on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from bayes_lrmf.lineage import Lineage, lineage_from_frame
from bayes_lrmf.responses import Responses, responses_from_frame

STEP_SD = {"quantized": 0.05, "merge": 0.2, "finetune": 0.5}


@dataclass(frozen=True)
class Family:
    """True psi by model and item, and what is recorded."""

    psi: pd.DataFrame
    recorded: pd.DataFrame
    true_steps: dict[str, np.ndarray]
    responses: Responses

    @property
    def lineage(self) -> Lineage:
        return lineage_from_frame(self.recorded)


def family(rng, *, n_roots=8, n_children=100, n_items=120, trials=1, wrong=False, copy=False):
    """Draw t_child = mean of parents + step, two factors, and responses of two benchmarks."""
    t = {f"root{j}": 1.5 * rng.normal(size=2) for j in range(n_roots)}
    edges, steps = [], {relation: [] for relation in STEP_SD}
    for j in range(n_children):
        name, relation = f"child{j}", rng.choice(list(STEP_SD), p=[0.25, 0.25, 0.5])
        parents = rng.choice(list(t), 2 if relation == "merge" else 1, replace=False)
        t[name] = np.mean([t[p] for p in parents], axis=0)
        t[name] += STEP_SD[relation] * rng.normal(size=2)
        edges += [(name, p, relation) for p in parents]
        steps[relation].append((name, list(parents)))
    recorded = pd.DataFrame(edges, columns=["child", "parent", "relation"])
    if wrong:
        # A quantized copy of the lowest root, recorded as one of the highest.
        low, high = sorted((f"root{j}" for j in range(n_roots)), key=lambda m: t[m].sum())[::7]
        t["wrong"] = t[low] + 0.03 * rng.normal(size=2)
        recorded.loc[len(recorded)] = ("wrong", high, "quantized")
    if copy:
        t["copy"] = t["child7"] + 0.03 * rng.normal(size=2)
    x = np.array([[1.0], [0.3]]) + 0.6 * rng.normal(size=(2, n_items))
    names = list(t)
    items = [f"{'odd' if i % 2 else 'even'}:q{i}" for i in range(n_items)]
    psi = pd.DataFrame(np.stack(list(t.values())) @ x + rng.normal(size=n_items), names, items)
    y = rng.binomial(trials, expit(psi.to_numpy()))
    if copy:
        same = rng.random(n_items) < 0.97
        y[-1, same] = y[names.index("child7"), same]
    bench, item = np.array([name.split(":") for name in items]).T
    table = pd.DataFrame(
        {
            "model": np.repeat(names, n_items),
            "benchmark": np.tile(bench, len(names)),
            "item": np.tile(item, len(names)),
            "successes": y.ravel(),
            "trials": trials,
        }
    )
    return Family(psi, recorded, steps, responses_from_frame(table))
