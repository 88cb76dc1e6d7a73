"""Simulated families of models, and responses drawn from the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pandas as pd
from numpyro import handlers

from bayes_lrmf.cells import Cells, held
from bayes_lrmf.checks import InputError, one_of, probability, whole_number
from bayes_lrmf.descent import central_scales
from bayes_lrmf.design import Design, make_design
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.program import (
    components,
    fixed_hyperparameters,
    noise_of_items,
    program,
)
from bayes_lrmf.responses import Responses
from bayes_lrmf.spec import Spec

__all__ = [
    "PARTNERS",
    "Simulation",
    "drawn_sites",
    "drawn_successes",
    "grown_lineage",
    "simulate",
    "simulated_lineage",
]

PARTNERS = ("any", "family", "kin")
"""Whom a simulated merge takes as its second parent."""

_BLOCK_CELLS = 4_000_000


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated data set and its truth.

    Attributes
    ----------
    responses : Responses
        The observed part; some leaf models have none.
    lineage : Lineage
    values : mapping
        The sites of the program.
    items : DataFrame
        ``benchmark, item, trials``.
    successes : int array, shape (n_models, n_items)
        Of every cell, run or not, models in the order of the lineage.
    rows, cols : arrays, shapes (n_components, n_models) and (n_components, n_items)
        Whose products are the log-odds.
    """

    responses: Responses
    lineage: Lineage
    values: dict[str, np.ndarray]
    items: pd.DataFrame
    successes: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    def probability(self, models: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the probability of success of each cell of some models, by position."""
        return np.asarray(1 / (1 + np.exp(-_log_odds(self.rows[:, models], self.cols))))

    @cached_property
    def truth(self) -> pd.DataFrame:
        """Every cell, run or not: ``model, benchmark, item, probability, successes, trials``."""
        n_models, n_items = self.successes.shape
        cells = {"model": np.repeat(self.lineage.nodes, n_items)}
        for name in ("benchmark", "item"):
            cells[name] = np.tile(self.items[name].to_numpy(object), n_models)
        return pd.DataFrame(
            {
                **cells,
                "probability": self.probability().ravel(),
                "successes": self.successes.ravel().astype(np.int64),
                "trials": np.tile(self.items["trials"].to_numpy(), n_models),
            }
        )


def _log_odds(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return np.asarray(rows.T @ cols, float)


def simulated_lineage(
    n_models: int, *, rng: np.random.Generator, merge_share: float = 0.15
) -> Lineage:
    """Return a random family tree: a few base models, preferential attachment, some merges.

    Parameters
    ----------
    n_models : int
    rng : numpy Generator
    merge_share : float
        Probability that a model which is no base is a merge of two others.
    """
    n_roots = max(1, n_models // 12)
    edges: list[tuple[int, int, str, float]] = []
    tickets = list(range(n_roots))
    for child in range(n_roots, n_models):
        first = int(rng.choice(tickets))
        others = [t for t in set(tickets) if t != first]
        if others and rng.random() < merge_share:
            second = int(rng.choice(others))
            share = float(rng.uniform(0.3, 0.7))
            edges += [(child, first, "merge", share), (child, second, "merge", 1 - share)]
        else:
            relation = str(rng.choice(["finetune", "adapter", "quantized"], p=[0.7, 0.15, 0.15]))
            edges.append((child, first, relation, 1.0))
        tickets += [first, child]
    names = np.array([f"sim/{'base' if i < n_roots else 'model'}-{i}" for i in range(n_models)])
    children, parents, relations, weights = zip(*edges, strict=True)
    return Lineage(
        names.astype(object),
        np.array(children, np.int32),
        np.array(parents, np.int32),
        np.array(relations, dtype=object),
        np.array(weights, float),
    )


def grown_lineage(
    n_models: int,
    *,
    rng: np.random.Generator,
    merge_share: float = 0.15,
    partner: str = "kin",
    n_roots: int | None = None,
) -> Lineage:
    """Return a large random lineage in time linear in its models, parents before children.

    The first parent of each model is drawn by preferential attachment: in proportion to one plus
    the number of earlier models that have it as theirs.

    Parameters
    ----------
    n_models : int
    rng : numpy Generator
    merge_share : float
        Probability that a model which is no base has a second parent, where there is one to be had.
    partner : str
        The second parent, among earlier models: ``any``, in proportion to children as the first;
        ``family``, any of the same base; ``kin``, a sibling of the first parent or, where it has
        none, its parent, and of a base a child.
    n_roots : int, optional
        Bases; one in twelve models by default.

    Returns
    -------
    Lineage

    Raises
    ------
    InputError
        For numbers out of range or another partner.

    References
    ----------
    Barabasi and Albert (1999), Emergence of scaling in random networks.
    """
    n = whole_number(n_models, name="n_models", minimum=2)
    one_of(partner, PARTNERS, name="partner")
    if merge_share not in (0, 1):
        probability(merge_share, name="merge_share")
    roots = max(1, n // 12) if n_roots is None else whole_number(n_roots, name="n_roots")
    if roots >= n:
        raise InputError(f"n_roots is {roots}, n_models {n}", fix="give fewer roots than models")
    child = np.arange(roots, n)
    # Of the tickets after the roots' own, those with odd numbers name a child, the others its
    # first parent, whose own ticket is looked up until it names a model.
    n_tickets = roots + 2 * np.arange(n - roots)
    first = _named(drawn := rng.integers(n_tickets), drawn, roots)
    merged = np.flatnonzero(rng.random(n - roots) < merge_share)
    if partner == "any":
        second = _named(rng.integers(n_tickets[merged]), drawn, roots)
        while (again := np.flatnonzero((second == first[merged]) & (child[merged] > 1))).size:
            second[again] = _named(rng.integers(n_tickets[merged[again]]), drawn, roots)
    else:
        second = _relative(partner, child, first, merged, rng)
    some = second != first[merged]
    merged, second = merged[some], second[some]
    relation = rng.choice(
        np.array(["finetune", "adapter", "quantized"], object), n - roots, p=_OF_TREE
    )
    relation[merged] = "merge"
    weight = np.ones(n - roots)
    weight[merged] = rng.uniform(0.3, 0.7, len(merged))
    names = [f"sim/{'base' if i < roots else 'model'}-{i}" for i in range(n)]
    return Lineage(
        np.array(names, dtype=object),
        np.concatenate([child, child[merged]]).astype(np.int32),
        np.concatenate([first, second]).astype(np.int32),
        np.concatenate([relation, relation[merged]]),
        np.concatenate([weight, 1 - weight[merged]]),
    )


_OF_TREE = (0.7, 0.15, 0.15)


def _named(ticket: np.ndarray, drawn: np.ndarray, n_roots: int) -> np.ndarray:
    """Return the models that tickets name; `drawn` are the tickets of the first parents."""
    ticket = ticket.copy()
    while (of_parent := (ticket >= n_roots) & ((ticket - n_roots) % 2 == 0)).any():
        ticket[of_parent] = drawn[(ticket[of_parent] - n_roots) // 2]
    return np.where(ticket < n_roots, ticket, n_roots + (ticket - n_roots) // 2)


def _relative(
    partner: str, child: np.ndarray, first: np.ndarray, merged: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a relative of the first parent of each merge, or that parent where it has none."""
    n = int(child[-1]) + 1
    above = np.concatenate([np.arange(n - len(child)), first])
    if partner == "family":
        group = above
        while (group != above[group]).any():
            group = above[group]
        wanted = group[first[merged]]
    else:
        group, wanted = above, above[first[merged]]
    keys = np.sort(group.astype(np.int64) * n + np.arange(n))
    start = np.searchsorted(keys, wanted * n)
    stop = np.searchsorted(keys, wanted * n + child[merged])
    own = np.searchsorted(keys, wanted * n + first[merged])
    chosen = start + (rng.random(len(merged)) * (stop - start - 1)).astype(np.int64)
    chosen += (chosen >= own) & (stop - start > 1)
    alone = wanted if partner == "kin" else first[merged]
    return np.where(stop - start > 1, keys[chosen] % n, alone)


def simulate(
    spec: Spec,
    *,
    key: jax.Array,
    n_models: int = 60,
    n_items: int = 200,
    n_benchmarks: int = 4,
    density: float = 0.5,
    trials: int = 1,
    cold_share: float = 0.15,
    merge_share: float = 0.15,
    sampled_hyperparameters: bool = False,
    features: pd.DataFrame | None = None,
    lineage: Lineage | None = None,
) -> Simulation:
    """Draw a family of models and their responses from the program of `spec`.

    Parameters
    ----------
    spec : Spec
        Without a penalty.
    key : jax key
    n_models, n_items, n_benchmarks : int
    density : float
        Share of the cells of evaluated models that are observed.
    trials : int
        Trials per cell.
    cold_share : float
        Share of the childless models that have no responses at all.
    merge_share : float
        Share of the models that are merges of two others; without merges families stay apart.
    sampled_hyperparameters : bool
        Draw hyper-parameters from their priors; by default they are at their medians, and the
        scales of a directed prior where `central_scales` puts them.
    features : DataFrame, optional
        Features of models, ``sim/base-0`` and so on by place, for the columns that the spec names.
    lineage : Lineage, optional
        Of the models, which are then its nodes, whatever `n_models` is; by default one is drawn.

    Raises
    ------
    InputError
        For numbers out of range, or a spec with a penalty.
    """
    n_models = whole_number(n_models, name="n_models", minimum=2)
    n_items = whole_number(n_items, name="n_items", minimum=2)
    n_benchmarks = min(whole_number(n_benchmarks, name="n_benchmarks"), n_items)
    trials = whole_number(trials, name="trials")
    if density != 1:
        probability(density, name="density")
    for name, share in (("cold_share", cold_share), ("merge_share", merge_share)):
        if share not in (0, 1):
            probability(share, name=name)
    if spec.penalty is not None:
        raise InputError(f"spec {spec.name} is not a generative model", fix="choose spec laplacian")
    tree_key, program_key = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(tree_key)).tolist())
    if lineage is None:
        lineage = simulated_lineage(n_models, rng=rng, merge_share=merge_share)
    n_models = len(lineage.nodes)
    bench = np.sort(np.arange(n_items) % n_benchmarks)
    items = pd.DataFrame(
        {
            "benchmark": [f"bench{b + 1}" for b in bench],
            "item": [f"q{i + 1}" for i in range(n_items)],
        }
    )
    items["trials"] = trials
    design = make_design(
        _one_result_each(lineage.nodes, items), spec, lineage=lineage, features=features
    )
    fixed: dict[str, np.ndarray] = {}
    if not sampled_hyperparameters:
        fixed = fixed_hyperparameters(design, spec)
        if spec.lineage == "directed":
            fixed |= central_scales(design, spec)

    values = _drawn_values(design, spec, fixed, program_key)
    rows, cols = components(design, values)
    successes = np.empty((n_models, n_items), np.int8 if trials == 1 else np.int64)
    for block in _blocks(n_models, n_items if trials == 1 else 0):
        psi = _log_odds(rows[:, block], cols)
        successes[block] = drawn_successes(design, psi, values, trials=trials, rng=rng)
    childless = np.setdiff1d(np.arange(n_models), lineage.parent)
    childless = np.intersect1d(childless, lineage.child)
    cold = rng.choice(childless, round(cold_share * len(childless)), replace=False)
    seen = np.empty((n_models, n_items), bool)
    for block in _blocks(n_models, n_items):
        seen[block] = rng.random((block.stop - block.start, n_items)) < density
    seen[cold] = False
    if not seen.any():
        raise InputError(
            f"density is {density!r}: no cell is observed", fix="raise it, or draw more models"
        )
    return Simulation(
        _observed(lineage.nodes, items, successes, seen),
        lineage,
        {name: np.asarray(v) for name, v in values.items()},
        items,
        successes,
        np.asarray(rows),
        np.asarray(cols),
    )


def _drawn_values(
    design: Design, spec: Spec, fixed: dict[str, np.ndarray], key: jax.Array
) -> dict[str, np.ndarray]:
    # It runs once, and takes longer to optimise than to run.
    unoptimised = {"xla_backend_optimization_level": 0}
    draw = jax.jit(
        lambda key: drawn_sites(design, spec, fixed, key=key), compiler_options=unoptimised
    )
    drawn = draw(key)
    # Those that the spec fixes are no sites of the program, drawn or not.
    return fixed_hyperparameters(design, spec) | jax.device_get(drawn)


def drawn_sites(
    design: Design, spec: Spec, fixed: Mapping[str, Any], *, key: jax.Array
) -> dict[str, jax.Array]:
    """Draw the sites of the program, and what it makes of them; JAX can trace it.

    Parameters
    ----------
    design : Design
        Whose responses play no part.
    spec : Spec
    fixed : mapping
        Sites that are not drawn.
    key : jax key
    """
    seeded = handlers.seed(handlers.substitute(program, data=fixed), key)
    trace = handlers.trace(seeded).get_trace(design, spec)
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] in ("sample", "deterministic") and name != "responses"
    }


def drawn_successes(
    design: Design,
    psi: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    trials: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the successes of cells given all sites.

    Parameters
    ----------
    design : Design
    psi : array, shape (..., n_models, n_items)
        Log-odds.
    values : mapping
        Over-dispersion, if the spec has it, of as many dimensions in front.
    trials : int
        Of each cell.
    rng : numpy Generator
    """
    # Heavy tails reach log-odds whose exponential overflows: its inverse is zero.
    with np.errstate(over="ignore"):
        drawn = 1 / (1 + np.exp(-psi))
        if trials > 1 and "concentration" in values:
            spread = np.asarray(values["concentration"])[..., None, design.benchmark_index]
            drawn = rng.beta(drawn * spread + 1e-9, (1 - drawn) * spread + 1e-9)
        if trials > 1 and "overdispersion_sd" in values:
            sd = np.asarray(noise_of_items(design, values["overdispersion_sd"]), float)
            drawn = 1 / (1 + np.exp(-psi - sd[..., None, :] * rng.standard_normal(psi.shape)))
    return rng.binomial(trials, np.clip(drawn, 0, 1))


def _blocks(n_models: int, n_items: int) -> Iterator[slice]:
    """Yield blocks of models of a few million cells; all at once where `n_items` is 0."""
    size = max(1, _BLOCK_CELLS // n_items) if n_items else n_models
    for start in range(0, n_models, size):
        yield slice(start, min(start + size, n_models))


def _one_result_each(models: np.ndarray, items: pd.DataFrame) -> Responses:
    """Return a table of every model and item, for a design whose results are not drawn yet."""
    rows = np.arange(len(models), dtype=np.int32)
    trials = items["trials"].to_numpy(np.float32)[rows % len(items)]
    is_binary = bool((items["trials"] == 1).all())
    successes = np.zeros(len(rows), np.int8 if is_binary else np.float32)
    cells = Cells(rows, rows % len(items), successes, None if is_binary else trials)
    return Responses(models, items, None, cells)


def _observed(
    models: np.ndarray, items: pd.DataFrame, successes: np.ndarray, seen: np.ndarray
) -> Responses:
    """Return the results at `seen`; items in the order of their first one, as files are read."""
    full = items["trials"].to_numpy()
    if (full == 1).all():
        content: np.ndarray | Cells = np.where(seen, successes, np.int8(-1))
    else:
        rows, cols = (at.astype(np.int32) for at in np.nonzero(seen))
        trials = full[cols].astype(np.float32)
        content = Cells(rows, cols, successes[rows, cols].astype(np.float32), trials)
    dense, cells = held(content, seen.shape, full_trials=full)
    table = Responses(models, items, dense, cells)
    first = np.argsort(seen.argmax(0), kind="stable")
    table = table.select_items(first[seen.any(0)[first]])
    return table.select_models(models[seen.any(1)])
