"""`import`: results of other tools as tables of responses."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

from bayes_lrmf.checks import InputError
from bayes_lrmf.console import TABLES, Commands, checked_outputs, emit, listed, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from bayes_lrmf.lineage import Lineage
    from bayes_lrmf.posterior import Posterior
    from bayes_lrmf.responses import Responses
    from bayes_lrmf.sources.imported import Imported

__all__ = ["at_hand", "import_group", "metric_option", "show", "table_options"]


@click.group("import", cls=Commands)
def import_group() -> None:
    """Read results and lineages that others wrote into tables of this package.

    The table goes to -o, for results of harnesses by default to standard output; what was chosen,
    united or passed over to standard error.
    """


def table_options[**P, R](command: Callable[P, R]) -> Callable[P, R]:
    """Add the options that every import of results has."""
    for option in (
        click.option("-o", "--output", metavar="FILE", help="CSV or Parquet; by default printed."),
        click.option("--counts", metavar="FILE", help="For benchmarks known only as a whole."),
        click.option("--responses", metavar="FILE", help="Earlier table, or posterior, to match."),
        click.option("--lineage", metavar="FILE", help="Lineage to match."),
        click.option("--aliases", metavar="FILE", help="alias, name: other names of models."),
    ):
        command = option(command)
    return command


def metric_option(given: str | None) -> str | dict[str, str] | None:
    """Return the value of an option ``M`` or ``TASK=M,TASK=M``."""
    if given is None:
        return None
    parts = listed(given, "--metric")
    if len(parts) == 1 and "=" not in parts[0]:
        return parts[0]
    metrics: dict[str, str] = {}
    for part in parts:
        task, sign, metric = (piece.strip() for piece in part.partition("="))
        if not (task and sign and metric) or task in metrics:
            what = "is named twice" if task in metrics else "is no TASK=METRIC"
            raise InputError(
                f"{part!r} {what}", where="--metric", fix="give one name, or TASK=METRIC,..."
            )
        metrics[task] = metric
    return metrics


def show(
    imported: Imported,
    output: str | None,
    *,
    counts: str | None = None,
    lineage: Lineage | None = None,
    known: Responses | Posterior | None = None,
) -> None:
    """Write the tables of an import, and say what it was and how it fits."""
    from bayes_lrmf.sources.imported import reconciliation

    for note in imported.notes:
        say(f"note: {note}")
    for line in reconciliation(imported, lineage=lineage, known=known):
        say(line)
    only_counts = imported.responses.empty
    if counts is not None:
        if imported.counts.empty:
            say(f"note: no counts of whole benchmarks; {counts} was not written")
        else:
            emit(imported.counts, counts)
    elif not only_counts and not imported.counts.empty:
        say("note: counts of whole benchmarks were not written; write them with --counts FILE")
    if not only_counts:
        emit(imported.responses, output)
    elif counts is None:
        emit(imported.counts, output)
    else:
        say("note: no responses; nothing else was written")


def at_hand(
    lineage: str | None, aliases: str | None, responses: str | None
) -> tuple[Lineage | None, Responses | Posterior | None]:
    """Return what an import is compared with."""
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.responses import read_responses

    tree = None if lineage is None else read_lineage(lineage, aliases=aliases)
    known: Responses | Posterior | None = None
    if responses is not None and responses.endswith(".nc"):
        from bayes_lrmf.storage import read_posterior

        known = read_posterior(responses)
    elif responses is not None:
        known = read_responses(responses)
    for note in tree.notes if tree else ():
        say(f"note: {note}")
    return tree, known


def _import(
    source: str, paths: tuple[str, ...], places: dict[str, str | None], **wishes: object
) -> None:
    """Read results with a function of `bayes_lrmf.sources`, and show them."""
    output, counts = places["output"], places["counts"]
    checked_outputs({"-o": output, "--counts": counts}, suffixes=TABLES, inputs=paths)
    module, name = source.split(".")
    read = getattr(import_module(f"bayes_lrmf.sources.{module}"), name)
    tree, known = at_hand(places["lineage"], places["aliases"], places["responses"])
    imported = read(paths, aliases=places["aliases"], **wishes)
    show(imported, output, counts=counts, lineage=tree, known=known)


@import_group.command("lm-eval")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--metric", metavar="M|TASK=M,...", help="By default acc_norm, acc, exact_match, ...")
@click.option("--filter", "filter_name", metavar="NAME", help="By default strict-match, none, ...")
@table_options
def lm_eval(
    paths: tuple[str, ...], metric: str | None, filter_name: str | None, **places: str | None
) -> None:
    """Read what lm-evaluation-harness wrote to PATH: folders, or results_*.json, samples_*.jsonl.

    Run it with --log_samples: results alone give counts of successes, without items.
    """
    wish = metric_option(metric)
    _import("lm_eval.read_lm_eval", paths, places, metric=wish, filter_name=filter_name)


@import_group.command("inspect")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--metric", metavar="M|TASK=M,...", help="Scorer; by default the first of a task.")
@table_options
def inspect(paths: tuple[str, ...], metric: str | None, **places: str | None) -> None:
    """Read what Inspect logged to PATH: folders, or .eval and .json logs.

    It takes Inspect's own reader: pip install 'bayes-lrmf[inspect]'.
    """
    _import("inspect_ai_logs.read_inspect", paths, places, metric=metric_option(metric))


@import_group.command("lighteval")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--metric", metavar="M|TASK=M,...", help="By default acc_norm, acc, exact_match, ...")
@table_options
def lighteval(paths: tuple[str, ...], metric: str | None, **places: str | None) -> None:
    """Read what LightEval wrote to PATH: folders, or details_*.parquet, results_*.json.

    Run it with --save-details: results alone give counts of successes, without items.
    """
    _import("lighteval.read_lighteval", paths, places, metric=metric_option(metric))


@import_group.command("details")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--metric", metavar="M|TASK=M,...", help="By default acc_norm, acc, exact_match, ...")
@click.option("--filter", "filter_name", metavar="NAME", help="By default none, ...")
@table_options
def details(
    paths: tuple[str, ...], metric: str | None, filter_name: str | None, **places: str | None
) -> None:
    """Read what the Open LLM Leaderboards, v1 and v2, keep of each model on each question.

    PATH are folders with datasets of details as downloaded from the Hub.
    """
    _import(
        "leaderboard_details.read_leaderboard_details",
        paths,
        places,
        metric=metric_option(metric),
        filter_name=filter_name,
    )


@import_group.command("every-eval-ever")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--metric", metavar="M|TASK=M,...", help="By default acc_norm, acc, exact_match, ...")
@click.option("--filter", "filter_name", metavar="NAME", help="By default strict-match, none, ...")
@table_options
def every_eval_ever(
    paths: tuple[str, ...], metric: str | None, filter_name: str | None, **places: str | None
) -> None:
    """Read records in the schema of Every Eval Ever: folders, or *.json and *_samples.jsonl.

    Records without samples give counts of successes, where they say of how many samples.
    """
    _import(
        "every_eval_ever.read_every_eval_ever",
        paths,
        places,
        metric=metric_option(metric),
        filter_name=filter_name,
    )
