"""`mergekit`, `leaderboard` and `hub`: lineages, and results, that others publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bayes_lrmf.checks import InputError
from bayes_lrmf.commands.importing import at_hand
from bayes_lrmf.console import TABLES, checked_output, checked_outputs, emit, model_names, say

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["hub", "leaderboard", "mergekit"]


@click.command()
@click.argument("recipe")
@click.option("--child", required=True, metavar="NAME", help="The name of the merge.")
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet; by default standard output.")
def mergekit(recipe: str, child: str, output: str | None) -> None:
    """Write the parents of a merge and their shares, from its mergekit RECIPE.

    The table has the columns child, parent, relation and weight, as --lineage takes it.
    """
    checked_outputs({"-o": output}, suffixes=TABLES, inputs=[recipe])
    if not child.strip():
        raise InputError("the merge has no name", where="--child", fix="name it as owner/name")
    from bayes_lrmf.sources.mergekit import last_merge

    merge = last_merge(recipe)
    if child.strip() in merge.parents:
        raise InputError(
            f"{child.strip()} is one of its own parents", where="--child", fix="choose another name"
        )
    _say_notes(merge.notes)
    emit(merge.edges(child.strip()), output)


@click.command()
@click.argument("table")
@click.option("-o", "--output", required=True, metavar="FILE", help="Counts, as `fit` takes them.")
@click.option("--models-out", metavar="FILE", help="Features, for fit --models-table.")
@click.option("--lineage-out", metavar="FILE", help="child, parent, relation.")
@click.option("--keep-flagged", is_flag=True, help="Keep models that the leaderboard flagged.")
@click.option("--responses", metavar="FILE", help="Earlier table, or posterior, to match.")
@click.option("--lineage", metavar="FILE", help="Lineage to match.")
@click.option("--aliases", metavar="FILE", help="alias, name: other names of models.")
def leaderboard(
    table: str,
    output: str,
    models_out: str | None,
    lineage_out: str | None,
    keep_flagged: bool,
    responses: str | None,
    lineage: str | None,
    aliases: str | None,
) -> None:
    """Read results, models and lineage from TABLE, that of the Open LLM Leaderboard v2."""
    outputs = {"-o": output, "--models-out": models_out, "--lineage-out": lineage_out}
    checked_outputs(outputs, suffixes=TABLES, inputs=[table])
    from bayes_lrmf.lineage import lineage_from_frame
    from bayes_lrmf.sources.imported import Imported, reconciliation
    from bayes_lrmf.sources.leaderboard import read_leaderboard
    from bayes_lrmf.sources.runs import responses_of

    tree, known = at_hand(lineage, aliases, responses)
    found = read_leaderboard(table, keep_flagged=keep_flagged, aliases=aliases)
    _say_notes(found.notes)
    no_items, _ = responses_of(())
    imported = Imported(no_items, found.responses, renamed=found.renamed)
    for line in reconciliation(imported, lineage=tree, known=known):
        say(line)
    if tree is None and len(found.lineage):
        say(f"by base model: {lineage_from_frame(found.lineage).summary(imported.models)}")
    emit(found.responses, output)
    if models_out is not None:
        emit(found.models, models_out)
    if lineage_out is not None:
        if len(found.lineage) == 0:
            say(f"note: no base model is named; {lineage_out} holds no edge")
        emit(found.lineage, lineage_out)


@click.command()
@click.argument("models", metavar="A,B|@FILE")
@click.option("-o", "--output", required=True, metavar="FILE", help="child, parent, relation.")
@click.option("--cache", metavar="DIR", help="Keep answers there, and ask for none again.")
@click.option("--offline", is_flag=True, help="Answer from the cache alone.")
@click.option("--responses", metavar="FILE", help="Results, or a posterior, to match.")
@click.option("--lineage", metavar="FILE", help="Earlier lineage to match.")
def hub(
    models: str,
    output: str,
    cache: str | None,
    offline: bool,
    responses: str | None,
    lineage: str | None,
) -> None:
    """Write the lineage that the Hugging Face Hub records for MODELS, up to their roots.

    Only the card of each model is asked for, once. An access token is taken from the usual place of
    huggingface_hub. Stopped early, the answers so far are in the cache.
    """
    checked_output(output, suffixes=TABLES)
    if offline and cache is None:
        raise InputError("no cache to answer from", where="--offline", fix="give --cache")
    names = model_names(models, "MODELS") or []
    from bayes_lrmf.lineage import lineage_from_frame
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.sources.hub import read_hub_lineage
    from bayes_lrmf.sources.imported import lineage_reconciliation

    tree, known = at_hand(lineage, None, responses)
    with Progress("hub", enabled=True) as progress:
        edges, notes = read_hub_lineage(names, cache=cache, offline=offline, progress=progress)
    _say_notes(notes)
    if len(edges):
        found = lineage_from_frame(edges)
        for line in lineage_reconciliation(found, names, lineage=tree, known=known):
            say(line)
    else:
        say(f"no parent is recorded of any model; {output} holds no edge")
    emit(edges, output)


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")
