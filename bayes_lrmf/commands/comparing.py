"""`evaluate`: methods compared on a table of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.console import (
    TABLES,
    checked_output,
    emit,
    listed,
    numbers,
    say,
    warn_of_strangers,
    was_given,
)

__all__ = ["evaluate"]


@click.command()
@click.argument("responses")
@click.option("--lineage", required=True, metavar="FILE", help="child, parent, relation[, weight].")
@click.option("--aliases", metavar="FILE", help="alias, name: other names of models.")
@click.option("--models-table", metavar="FILE", help="model and features (parameters, date, type).")
@click.option("--items-table", metavar="FILE", help="Item text or embeddings, for method paper.")
@click.option("--holdout", default="cold", show_default=True, metavar="cold|cells|time|roots")
@click.option("--shots", default="0", show_default=True, help="For cold: items run, as 0,10,100.")
@click.option("--density", default="0.1", show_default=True, help="For cells: shares observed.")
@click.option("--methods", help="Comma-separated; an unknown name lists them all.")
@click.option("--seeds", default="0", show_default=True, help="Of the hold-outs, as 0,1,2.")
@click.option("--no-tuning", is_flag=True, help="Take each method's first settings.")
@click.option("-o", "--output", required=True, metavar="METRICS.csv")
def evaluate(
    responses: str,
    lineage: str,
    aliases: str | None,
    models_table: str | None,
    items_table: str | None,
    holdout: str,
    shots: str,
    density: str,
    methods: str | None,
    seeds: str,
    no_tuning: bool,
    output: str,
) -> None:
    """Hide some of RESPONSES, predict them by each method, and score the predictions.

    Finished parts are kept beside the output until all are done: the same command goes on after an
    interruption.
    """
    inputs = (responses, lineage, aliases, models_table, items_table)
    checked_output(output, suffixes=TABLES, inputs=inputs)
    from bayes_lrmf import evaluate as study
    from bayes_lrmf.evaluation import readable_table
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.methods import DEFAULT_METHODS, METHODS, Background
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.responses import read_responses

    one_of(holdout, study.HOLDOUTS, name="holdout")
    for option, of in (("shots", "cold"), ("density", "cells")):
        if holdout != of and was_given(option):
            say(f"note: --{option} is for --holdout {of}; hold-out {holdout} does not use it")
    chosen = list(DEFAULT_METHODS) if methods is None else listed(methods, "--methods")
    for name in chosen:
        if name not in METHODS:
            known = ", ".join(METHODS)
            raise InputError(f"unknown method {name!r}", fix=f"choose among {known}")
    values = {
        "cold": numbers(shots, "--shots", whole=True),
        "cells": numbers(density, "--density"),
    }
    settings = [study.Setting(holdout, value) for value in values.get(holdout, [0.0])]
    draws = [int(seed) for seed in numbers(seeds, "--seeds", whole=True)]
    table = read_responses(responses)
    say(f"{table!r}")
    tree = read_lineage(lineage, aliases=aliases)
    for note in (*table.notes, *tree.notes):
        say(f"note: {note}")
    say(tree.summary(list(table.models)))
    warn_of_strangers(tree, table)
    features = None
    if models_table is not None:
        from bayes_lrmf.features import read_features

        features = read_features(models_table)
    adjacency = None
    if items_table is not None:
        from bayes_lrmf.similarity import item_graph, read_item_texts

        adjacency, note = item_graph(table.items, read_item_texts(items_table))
        say(f"note: {note}")
    folder = Path(output + ".parts")
    try:
        with Progress("evaluate", enabled=True) as progress:
            found = study.evaluate(
                table,
                Background(tree, features, adjacency),
                settings,
                chosen,
                seeds=draws,
                tune=not no_tuning,
                folder=folder,
                progress=progress,
            )
    except KeyboardInterrupt:
        if folder.is_dir():
            say(f"finished parts are in {folder}; the same command goes on from there")
        raise
    is_coverage = found.metrics["metric"].str.startswith("coverage")
    if found.metrics.loc[is_coverage, "value"].isna().all():
        say(
            "note: no coverage of intervals: these methods have none, or no hidden model was run "
            "in full on a benchmark, so that there is no score to hold them against"
        )
    for name in dict.fromkeys(found.metrics["holdout"]):
        print(f"{name}, seeds {','.join(map(str, dict.fromkeys(draws)))}; * best")
        print(readable_table(found, name).to_string(index=False))
    if len(chosen) > 1:
        print("Differences weigh each hidden model alike (columns: each cell), ± over families.")
    emit(found.metrics, output)
    study.remove_parts(found.parts)
