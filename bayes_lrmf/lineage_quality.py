"""Recorded parents that responses contradict, and parents that the record seems to lack."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.agreement import agreement, expected_agreement
from bayes_lrmf.checks import probability
from bayes_lrmf.directed import STEPS
from bayes_lrmf.item_space import mean_lengths
from bayes_lrmf.kinship import Kin
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.random_parents import parent_ranks
from bayes_lrmf.responses import Responses

__all__ = ["likely_parents", "lineage_quality", "recorded_parents"]

_DOUBTFUL_TAIL = 0.05
_DOUBTFUL_GAP = 0.5
_NO_NEARER = 0.5
_CLOSE = 0.9
_CLEAR = 3.0

KINDS = ("doubtful parent", "likely parent")


def recorded_parents(
    posterior: Posterior, *, key: jax.Array, n_draws: int = 100, ci_prob: float = 0.9
) -> pd.DataFrame:
    r"""Return how far each evaluated child lies from its recorded parents, doubtful ones first.

    The distance between models u and v is ``sqrt(mean_i (psi_ui - psi_vi)^2)``, in log-odds, over
    the items of the table; that of a merge is to the weighted mean of its parents.

    Parameters
    ----------
    posterior : Posterior
        Of the directed prior, from which the steps' distribution is taken.
    key : jax key
    n_draws : int
    ci_prob : float

    Returns
    -------
    DataFrame
        One line a child: ``model, parents, relation, distance, lower, upper, tail_probability,
        share_nearer, nearest, nearest_distance, n_shared, agreement, doubtful, reason``.
        Distances are posterior means. `tail_probability` is the posterior mean of the probability
        of a step at least as long under the fitted distribution of the relation's steps, drift
        included. `share_nearer` is that of random parents that lie nearer to the child than those
        recorded, see `parent_ranks`. `nearest` is the closest other evaluated model that is no
        descendant. `agreement` is one less the mean absolute difference of observed shares
        correct, over `n_shared` items that the child and an evaluated parent have both run;
        parents by weight, `n_shared` the fewest.
        `doubtful` are steps with a tail probability of at most 5 % by children that have another
        model at less than half the distance: one in twenty steps from true parents is as long. So
        are children to which more than half of random parents are nearer: where many recorded
        parents are wrong, the distribution of steps has learned from these to expect long ones.

    Raises
    ------
    InputError
        For a point estimate, a fit without lineage, or one of another prior.
    """
    kin = Kin.of(posterior, key=key, n_draws=n_draws)
    ranks = parent_ranks(posterior, key=key)
    return _recorded_parents(kin, ranks.share_nearer, probability(ci_prob, name="ci_prob"))


def likely_parents(posterior: Posterior, *, key: jax.Array, n_draws: int = 100) -> pd.DataFrame:
    """Return models without a parent in the fit that lie next to another model, clearest first.

    The other is the one with the clearest agreement (z below) of the five evaluated models of
    least expected squared distance that are no descendants. A pair is listed if the posterior means
    of psi are closer than in 90 % of recorded children and parents, and if more of its agreement
    goes beyond ability, ``(agreement - expected) / (1 - expected)``, than in the median of these
    and more than chance: z above 3, where z is ``agreement - expected`` divided by the standard
    error of the agreement of models whose responses are independent given their abilities.
    Distance alone says little: many models are as able, and one without parents is shrunk
    less than a recorded child. Recorded children are those of evaluated parents, not of ancestors
    at unknown distances, if there are any. Lines are in the order of z.

    Such a model may descend from the other, or it from the model, or both from a third; of two
    without parents the one with fewer recorded children is taken for the child. A recorded parent
    that joins no two models of the table is not in the fit.

    Parameters
    ----------
    posterior : Posterior
        Of the directed prior.
    key : jax key
    n_draws : int

    Returns
    -------
    DataFrame
        ``model, other, distance, percentile, n_shared, agreement, expected_agreement, reason``.
        `distance` is the root mean square over items, in log-odds. `percentile` is the share of
        recorded children as close to their parents or closer. `expected_agreement` is the mean of
        `agreement` when responses are drawn anew from the posterior, independently given psi.

    Raises
    ------
    InputError
        For a point estimate, a fit without lineage, or one of another prior.
    """
    kin = Kin.of(posterior, key=key, n_draws=n_draws)
    return _likely_parents(kin)


def lineage_quality(posterior: Posterior, *, key: jax.Array, n_draws: int = 100) -> pd.DataFrame:
    """Return doubtful and likely parents in one table, the strongest evidence of each first.

    Parameters
    ----------
    posterior : Posterior
        Of the directed prior.
    key : jax key
    n_draws : int

    Returns
    -------
    DataFrame
        ``kind, model, other, relation, distance, tail_probability, n_shared, agreement, reason``.
        For a ``doubtful parent`` other is the recorded one, or all of a merge joined by `` + ``;
        for a ``likely parent``, which has no relation, the model that lies closest, and
        `tail_probability` is the percentile of `likely_parents`.

    Raises
    ------
    InputError
        For a point estimate, a fit without lineage, or one of another prior.
    """
    kin = Kin.of(posterior, key=key, n_draws=n_draws)
    nearer = parent_ranks(posterior, key=key).share_nearer
    doubtful, likely = _recorded_parents(kin, nearer, 0.9), _likely_parents(kin)
    doubtful = doubtful[doubtful["doubtful"]].rename(columns={"parents": "other"})
    likely = likely.rename(columns={"percentile": "tail_probability"}).assign(relation="")
    parts = [
        table.reset_index(drop=True).assign(kind=kind)
        for kind, table in zip(KINDS, (doubtful, likely), strict=True)
    ]
    # The two kinds of evidence have no common scale: they take turns.
    table = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    columns = ["kind", "model", "other", "relation", "distance", "tail_probability"]
    return table[[*columns, "n_shared", "agreement", "reason"]]


def _recorded_parents(kin: Kin, share_nearer: np.ndarray, ci_prob: float) -> pd.DataFrame:
    design, names = kin.posterior.design, kin.names
    tail = kin.tail_probabilities()
    lower, upper = _interval(kin.moved, ci_prob)
    parents: dict[int, list[str]] = {}
    mine = design.core.child < design.n_evaluated
    for c, p in zip(design.core.child[mine].tolist(), design.core.parent[mine], strict=True):
        parents.setdefault(c, []).append(names[p])
    n_shared, agreed = _agreement_with_parents(design.responses, design.core, kin.children)
    table = pd.DataFrame(
        {
            "model": names[kin.children],
            "parents": [" + ".join(parents[c]) for c in kin.children.tolist()],
            "relation": np.array(STEPS, object)[kin.step],
            "distance": kin.moved.mean(0),
            "lower": lower,
            "upper": upper,
            "tail_probability": tail,
            "share_nearer": share_nearer,
            "nearest": names[kin.candidates[kin.children, 0]],
            "nearest_distance": kin.near[:, kin.children].mean(0),
            "n_shared": n_shared,
            "agreement": agreed,
        }
    )
    closer = table["nearest_distance"] < _DOUBTFUL_GAP * table["distance"]
    too_long = closer & (table["tail_probability"] <= _DOUBTFUL_TAIL)
    table["doubtful"] = too_long | (table["share_nearer"] > _NO_NEARER)
    table["reason"] = [
        f"{far:.2f} log-odds from the recorded parent, like {share:.2%} of such steps ({relation})"
        + f", farther than {nearer:.0%} of models at random" * bool(nearer > _NO_NEARER)
        + f": another parent, or a broken or retrained model; {name} is at {near:.2f}" * flag
        for far, share, nearer, relation, name, near, flag in zip(
            table["distance"],
            tail,
            share_nearer,
            table["relation"],
            table["nearest"],
            table["nearest_distance"],
            table["doubtful"],
            strict=True,
        )
    ]
    order = ["doubtful", "tail_probability", "distance"]
    table = table.sort_values(order, ascending=[False, True, False], kind="stable")
    return table.reset_index(drop=True)


def _likely_parents(kin: Kin) -> pd.DataFrame:
    design, names = kin.posterior.design, kin.names
    n, core = design.n_evaluated, design.core
    usual = kin.with_known_parents()
    rows, cols = kin.drawn.rows.mT, kin.drawn.cols
    recorded = np.sort(mean_lengths(kin.steps[:, usual], cols))
    root = np.setdiff1d(np.arange(n), kin.children)
    candidates = kin.candidates[root]
    left, right = np.repeat(root, candidates.shape[1]), candidates.ravel()
    n_shared, agreed, expected, error = _agreements(kin, left, right)
    clear = (agreed - expected) / np.maximum(error, 1e-9)
    strength = np.where((left == right) | np.isnan(clear), -np.inf, clear)
    best = strength.reshape(candidates.shape).argmax(1) + np.arange(len(root)) * len(candidates.T)
    other = np.arange(n)
    other[root] = right[best]
    distance = mean_lengths(rows[:, root] - rows[:, other[root]], cols)
    mine = np.isin(core.child, kin.children[usual]) & (core.parent < n)
    _, *both, _ = _agreements(kin, core.child[mine], core.parent[mine])
    beyond = _beyond_ability(*both)
    least = np.median(beyond[np.isfinite(beyond)]) if np.isfinite(beyond).any() else 0.0
    kept = strength[best] > _CLEAR
    kept &= distance < np.quantile(recorded, _CLOSE)
    kept &= _beyond_ability(agreed, expected)[best] > least
    kept &= ~_first_of_two(root, other, np.bincount(core.parent, minlength=design.n_core), names)
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.argsort(-strength[best][chosen], kind="stable")]
    at = best[chosen]
    table = pd.DataFrame(
        {
            "model": names[left[at]],
            "other": names[right[at]],
            "distance": distance[chosen],
            "percentile": np.searchsorted(recorded, distance[chosen], "right") / len(recorded),
            "n_shared": n_shared[at],
            "agreement": agreed[at],
            "expected_agreement": expected[at],
        }
    )
    alone = np.where(np.isin(right[at], root), "neither has a", "it has no")
    table["reason"] = [
        f"{who} parent in the fit; {far:.2f} log-odds apart, closer than {1 - share:.0%} of "
        f"recorded children and parents; agree by {same:.1%} on {shared:,} items, {able:.1%} "
        "expected of models as able"
        for who, far, share, shared, same, able in zip(
            alone,
            table["distance"],
            table["percentile"],
            table["n_shared"],
            table["agreement"],
            table["expected_agreement"],
            strict=True,
        )
    ]
    return table


def _first_of_two(
    root: np.ndarray, other: np.ndarray, n_children: np.ndarray, names: np.ndarray
) -> np.ndarray:
    """Return which roots are the likelier parent of a pair of roots closest to each other."""
    of = other[root]
    mutual = np.isin(of, root) & (other[of] == root)
    more = n_children[root] > n_children[of]
    tie = n_children[root] == n_children[of]
    return np.asarray(mutual & (more | (tie & (names[root].astype(str) < names[of].astype(str)))))


def _agreements(kin: Kin, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return shared items, agreement, what is expected of it and the error of that."""
    responses = kin.posterior.design.responses
    return (
        *agreement(responses, left, right),
        *expected_agreement(responses, kin.drawn, left, right, rng=kin.rng),
    )


def _beyond_ability(agreed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return 0 for agreement by ability alone, 1 for exact copies: the form of Cohen's kappa."""
    return np.asarray((agreed - expected) / np.maximum(1 - expected, 1e-9))


def _interval(draws: np.ndarray, ci_prob: float) -> tuple[np.ndarray, np.ndarray]:
    tail = (1 - ci_prob) / 2
    lower, upper = np.quantile(draws, [tail, 1 - tail], axis=0)
    return lower, upper


def _agreement_with_parents(
    responses: Responses, core: Lineage, children: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    mine = (core.child < responses.n_models) & (core.parent < responses.n_models)
    child, weight = core.child[mine], core.weight[mine]
    n_shared, agreed = agreement(responses, child, core.parent[mine])
    some = n_shared > 0
    place = np.searchsorted(children, child[some])
    fewest = np.full(len(children), np.iinfo(np.int64).max)
    np.minimum.at(fewest, place, n_shared[some])
    total = np.bincount(place, weight[some], len(children))
    mean = np.bincount(place, weight[some] * agreed[some], len(children))
    known = total > 0
    mean[known] /= total[known]
    return np.where(known, fewest, 0), np.where(known, mean, np.nan)
