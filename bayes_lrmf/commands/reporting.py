"""`report`: a fit as one HTML page."""

from __future__ import annotations

import click

from bayes_lrmf.console import SEED, checked_output, limit_options, model_names, say

__all__ = ["report"]


@click.command()
@click.argument("posterior")
@click.option("-o", "--output", required=True, metavar="REPORT.html")
@click.option("--models", metavar="A,B|@FILE", help="By default evaluated ones and their kin.")
@click.option(
    "--most",
    type=click.IntRange(1),
    default=3000,
    show_default=True,
    help="Of models, unless --models names them.",
)
@limit_options
@click.option("--ci-prob", type=float, default=0.9, show_default=True)
@click.option("--title", metavar="TEXT", help="Heading of the page.")
@click.option("--seed", type=SEED, default=0, show_default=True)
def report(
    posterior: str,
    output: str,
    models: str | None,
    most: int,
    max_width: float | None,
    threshold: float | None,
    top_k: int | None,
    ci_prob: float,
    title: str | None,
    seed: int,
) -> None:
    """Write POSTERIOR as one HTML page: scores, ranks, family tree, checks and flags.

    The page loads nothing from elsewhere. It needs the extra `report`. Flags are those that `flag`
    lists for the models of the page; --max-width, --threshold and --top-k may be given together.
    """
    checked_output(output, suffixes=(".html", ".htm"))
    names = model_names(models)
    import jax

    from bayes_lrmf.progress import Progress
    from bayes_lrmf.report import write_report
    from bayes_lrmf.storage import read_posterior

    with Progress("report", enabled=True) as progress:
        data = write_report(
            read_posterior(posterior),
            output,
            key=jax.random.key(seed),
            models=names,
            ci_prob=ci_prob,
            title=title,
            most=most,
            max_width=max_width,
            threshold=threshold,
            top_k=top_k,
            progress=progress,
        )
    for note in data.notes:
        say(f"note: {note}")
    say(f"{len(data.models):,} models written to {output}")
