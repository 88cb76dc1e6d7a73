"""`predict`, `add` and `flag`: what a posterior says, learns, and wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bayes_lrmf.checks import InputError, nearest, one_of
from bayes_lrmf.console import (
    SEED,
    TABLES,
    checked_output,
    emit,
    limit_options,
    model_names,
    say,
    was_given,
)

if TYPE_CHECKING:
    import pandas as pd

    from bayes_lrmf.lineage import Lineage
    from bayes_lrmf.posterior import Posterior
    from bayes_lrmf.responses import Responses

__all__ = ["add", "flag", "predict"]

LEVELS = ("benchmark", "item", "rank")
_MOST_NAMED = 3


@click.command()
@click.argument("posterior")
@click.option("--level", default="benchmark", show_default=True, metavar="benchmark|item|rank")
@click.option("--models", metavar="A,B|@FILE", help="By default all, cold-start models too.")
@click.option("--merge", "recipe", metavar="FILE.yml", help="A recipe of mergekit, run or not.")
@click.option("--ci-prob", type=float, default=0.9, show_default=True)
@click.option("--draws", type=click.IntRange(2), default=400, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet; by default standard output.")
def predict(
    posterior: str,
    level: str,
    models: str | None,
    recipe: str | None,
    ci_prob: float,
    draws: int,
    seed: int,
    output: str | None,
) -> None:
    """Predict scores, responses or ranks from POSTERIOR, with intervals.

    With --merge, predict the scores of a merge that need not exist, and the probabilities that it
    beats each parent and the best of them.
    """
    checked_output(output, suffixes=TABLES, inputs=(models, recipe))
    one_of(level, LEVELS, name="level")
    if recipe is not None:
        for option in ("models", "level"):
            if was_given(option):
                raise InputError(
                    "not for a merge", where=f"--{option}", fix="leave it out, or --merge"
                )
        emit(_merge_outlook(posterior, recipe, ci_prob, draws, seed), output)
        return
    names = model_names(models)
    import jax

    from bayes_lrmf.predict import predict as predictions
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.storage import read_posterior

    fitted = read_posterior(posterior)
    with Progress("predict", enabled=True) as progress:
        table = predictions(
            fitted,
            level,
            key=jax.random.key(seed),
            models=names,
            ci_prob=ci_prob,
            n_draws=draws,
            progress=progress,
        )
    if fitted.is_point:
        say("note: a point estimate has no intervals; sd, lower and upper are empty")
    emit(table, output)


def _merge_outlook(
    posterior: str, recipe: str, ci_prob: float, draws: int, seed: int
) -> pd.DataFrame:
    """Return scores of a merge and the probabilities that it beats its parents."""
    from bayes_lrmf.sources.mergekit import last_merge

    merge = last_merge(recipe)
    for note in merge.notes:
        say(f"note: {note}")
    import jax

    from bayes_lrmf.outlook import predict_merge
    from bayes_lrmf.storage import read_posterior

    fitted = read_posterior(posterior)
    for parent in merge.parents:
        one_of(parent, fitted.design.periphery.index, name="model", where=recipe)
    shares = dict(zip(merge.parents, merge.weights, strict=True))
    say(f"{merge.method}: " + ", ".join(f"{share:.3g} {name}" for name, share in shares.items()))
    outlook = predict_merge(
        fitted, shares, key=jax.random.key(seed), ci_prob=ci_prob, n_draws=draws
    )
    if fitted.is_point:
        say("note: a point estimate has no intervals and probabilities; they are empty")
    named = {c: f"beats:{c}" for c in outlook.beats.columns if c != "benchmark"}
    return outlook.scores.merge(outlook.beats.rename(columns=named), on="benchmark")


@click.command()
@click.argument("posterior")
@click.option("--lineage", metavar="FILE", help="child, parent, relation[, weight].")
@click.option("--aliases", metavar="FILE", help="alias, name: other names of models.")
@click.option("--responses", metavar="FILE", help="Of old and new models, on items of the fit.")
@click.option("--guard", "plan", metavar="PLAN.csv", help="Compare with its runs at random.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="For posteriors of draws.")
@click.option("-o", "--output", required=True, metavar="NEW.nc")
def add(
    posterior: str,
    lineage: str | None,
    aliases: str | None,
    responses: str | None,
    plan: str | None,
    seed: int,
    output: str,
) -> None:
    """Add models and results to POSTERIOR, without fitting again.

    Models without responses are predicted from their parents; responses update their model and its
    kin. Items and hyper-parameters stay as they were fitted. --guard prints scores from the runs of
    a plan that were drawn at random, which hold however wrong the fit is, beside those of the fit.
    """
    checked_output(output, suffixes=(".nc",))
    if lineage is None and responses is None:
        raise InputError("nothing to add", fix="give --lineage, --responses or both")
    if plan is not None and responses is None:
        raise InputError("a plan without results", where="--guard", fix="give --responses")
    import jax

    from bayes_lrmf.coldstart import add as grow
    from bayes_lrmf.guard import at_random, guard
    from bayes_lrmf.layouts import counted
    from bayes_lrmf.lineage import Lineage, read_lineage
    from bayes_lrmf.responses import read_responses
    from bayes_lrmf.storage import read_posterior, write_posterior

    tree = None if lineage is None else read_lineage(lineage, aliases=aliases)
    table = None if responses is None else read_responses(responses)
    for note in (*(tree.notes if tree else ()), *(table.notes if table else ())):
        say(f"note: {note}")
    planned = None if plan is None else _table(plan, "plan")
    drawn = None if planned is None or table is None else at_random(table, planned)
    fitted = read_posterior(posterior)
    _say_roots(fitted, tree, table)
    grown = grow(fitted, lineage=tree, responses=table, key=jax.random.key(seed))
    for note in grown.design.notes[len(fitted.design.notes) :]:
        say(f"note: {note}")
    compared = None
    if drawn is not None and table is not None:
        known = grow(fitted, lineage=tree) if tree is not None else fitted
        strangers = [m for m in table.models if m not in known.design.periphery.index]
        if strangers:
            known = grow(known, lineage=Lineage.empty(strangers))
        compared = guard(known, drawn[0], key=jax.random.key(0), updated=grown)
    write_posterior(grown, output)
    n_models = len(grown.design.models) - len(fitted.design.models)
    n_cells = grown.design.responses.n_observed - fitted.design.responses.n_observed
    what = f"{counted(range(n_models), 'model')} and {counted(range(n_cells), 'response')}"
    say(f"{what} added, written to {output}")
    if compared is not None and drawn is not None:
        _show_comparison(compared, drawn[1])


def _say_roots(fitted: Posterior, tree: Lineage | None, table: Responses | None) -> None:
    """Tell of new models without a recorded parent, which misspelt ones are, and of near names."""
    known = fitted.design.periphery.index
    named = [*(tree.nodes if tree else ()), *(table.models if table else ())]
    children = set(tree.nodes[tree.child]) if tree else set()
    roots = [m for m in dict.fromkeys(named) if m not in known and m not in children]
    if not roots:
        return
    shown = []
    for name in roots[:_MOST_NAMED]:
        close = nearest(name, known)
        shown.append(f"{name} (not {close}?)" if close else name)
    more = f" and {len(roots) - len(shown):,} more" if len(roots) > len(shown) else ""
    say(f"note: new, and without a recorded parent: {', '.join(shown)}{more}")


def _table(path: str, what: str) -> pd.DataFrame:
    """Return the table of a plan, or of costs."""
    from bayes_lrmf.tables import read_table

    text = ("model", "benchmark", "item", "reason")
    return read_table(path, key="model", text=text, what=what).frame


def _show_comparison(found: pd.DataFrame, n_missing: int) -> None:
    """Print scores from runs at random beside those of the fit, and warn where they disagree."""
    if n_missing:
        say(
            f"note: {n_missing:,} runs at random lack a result: those at hand may be no fair sample"
        )
    emit(found, None)
    for row in found[found["disagree"]].to_dict("records"):
        say(
            f"warning: {row['model']} on {row['benchmark']}: runs at random say {row['mean']:.3f} "
            f"[{row['lower']:.3f}, {row['upper']:.3f}], the fit {row['model_mean']:.3f}: more than "
            "chance; do not rely on the fit here"
        )


@click.command()
@click.argument("posterior")
@click.option("--models", metavar="A,B|@FILE", help="By default all, cold-start models too.")
@limit_options
@click.option("--ci-prob", type=float, default=0.9, show_default=True)
@click.option("--budget", type=float, help="Plan this many runs, or runs of this cost, instead.")
@click.option("--run", "runnable", metavar="A,B|@FILE", help="Models to run; by default --models.")
@click.option("--costs", metavar="FILE", help="cost by model, benchmark, item, or any of these.")
@click.option("--whole-benchmarks", is_flag=True, help="Plan all items of a benchmark together.")
@click.option("--at-random", type=float, default=0.0, help="Share of the budget, for add --guard.")
@click.option("--lm-eval", metavar="F.json", help="The plan, for lm_eval --samples.")
@click.option("--inspect", metavar="F.txt", help="The plan, for inspect eval --sample-id.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet; by default standard output.")
def flag(
    posterior: str,
    models: str | None,
    max_width: float | None,
    threshold: float | None,
    top_k: int | None,
    ci_prob: float,
    budget: float | None,
    runnable: str | None,
    costs: str | None,
    whole_benchmarks: bool,
    at_random: float,
    lm_eval: str | None,
    inspect: str | None,
    seed: int,
    output: str | None,
) -> None:
    """List predictions from POSTERIOR that should not be relied on, and why.

    Always among them are models without results and relatives, models whose results contradict
    their recorded parents, and models that leave their kin on one benchmark. With --budget, list
    what to run instead: results chosen so that scores of --models (by default all evaluated ones)
    become known best, or, with --max-width, --threshold or --top-k, so that what these ask is
    decided.
    """
    checked_output(output, suffixes=TABLES, inputs=(models, runnable, costs))
    if sum(rule is not None for rule in (max_width, threshold, top_k)) > 1:
        raise InputError(
            "more than one of --max-width, --threshold and --top-k", fix="give one of them"
        )
    names = model_names(models)
    if budget is None:
        for_plans = {
            "--run": runnable,
            "--costs": costs,
            "--whole-benchmarks": whole_benchmarks,
            "--at-random": at_random,
            "--lm-eval": lm_eval,
            "--inspect": inspect,
        }
        for option, value in for_plans.items():
            if value:
                raise InputError("only for a plan", where=option, fix="add --budget")
    checked_output(lm_eval, suffixes=(".json",))
    checked_output(inspect, suffixes=(".txt",), inputs=(models, runnable))
    import jax

    from bayes_lrmf.storage import read_posterior

    if budget is not None:
        from bayes_lrmf.plan import make_plan
        from bayes_lrmf.progress import Progress

        table = None if costs is None else _table(costs, "table of costs")
        fitted = read_posterior(posterior)
        with Progress("plan", enabled=True) as progress:
            plan = make_plan(
                fitted,
                key=jax.random.key(seed),
                budget=budget,
                models=names,
                runnable=model_names(runnable, "--run"),
                max_width=max_width,
                threshold=threshold,
                top_k=top_k,
                ci_prob=ci_prob,
                costs=table,
                whole_benchmarks=whole_benchmarks,
                at_random=at_random,
                progress=progress,
            )
        # First: what cannot be handed over is refused before anything is written.
        _hand_over(plan, fitted, {"lm-eval": lm_eval, "inspect": inspect})
        emit(plan, output)
        say(f"{len(plan):,} runs of {plan['model'].nunique():,} models planned")
        if plan.empty:
            say("note: no run that the budget pays for would tell anything that is asked")
        return
    from bayes_lrmf.flag import flag as flags

    table = flags(
        read_posterior(posterior),
        key=jax.random.key(seed),
        models=names,
        max_width=max_width,
        threshold=threshold,
        top_k=top_k,
        ci_prob=ci_prob,
    )
    emit(table, output)
    counts = ", ".join(
        f"{n:,} {rule}" for rule, n in table["rule"].value_counts(sort=False).items()
    )
    say(f"{table['model'].nunique():,} models flagged: {counts or 'none'}")


def _hand_over(plan: pd.DataFrame, posterior: Posterior, wanted: dict[str, str | None]) -> None:
    """Write a plan for those who run it."""
    from bayes_lrmf.handover import expanded, write_hand_over

    for form, path in wanted.items():
        if path is not None:
            for model, place in write_hand_over(expanded(plan, posterior.design), path, form):
                say(f"{form}: {model} in {place}")
