"""The command line: flags and files to library functions, and errors to one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bayes_lrmf.checks import InputError, nearest, one_of
from bayes_lrmf.console import checked_output, emit, listed, model_names, numbers, say

if TYPE_CHECKING:
    from bayes_lrmf.spec import Spec

__all__ = ["main"]

METHODS = ("map", "svi", "nuts", "vb")
LEVELS = ("benchmark", "item", "rank")
NOT_CONVERGED = 3
_AFFORDABLE_NUTS_CELLS = 30_000
_SEED = click.IntRange(0, 2**32 - 1)


class _Commands(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            one_of(args[0], list(self.commands), name="command")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bayes-lrmf")
def _cli() -> None:
    """Predict results of language models from the results and the family tree at hand."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0 (good), 2 (the user's mistake) or 3 (not converged)."""
    try:
        code = _cli.main(arguments, prog_name="bayes-lrmf", standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except click.NoSuchOption as error:
        options = [o for p in error.ctx.command.params for o in p.opts] if error.ctx else []
        close = nearest(error.option_name, options)
        hint = f"did you mean {close}?" if close else "see --help"
        _fail(f"{error.message.rstrip('.')}; {hint}")
    except click.exceptions.NoArgsIsHelpError:
        _fail("no command given; see --help")
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()).rstrip(".") + "; see --help")
    except (click.Abort, KeyboardInterrupt):
        print("bayes-lrmf: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError:
        _fail("not enough memory; choose fewer models with --models, or a lower rank")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str) -> None:
    print(f"bayes-lrmf: {line}", file=sys.stderr)
    sys.exit(2)


@_cli.command()
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write to.")
@click.option("--models", type=click.IntRange(2), default=60, show_default=True)
@click.option("--items", type=click.IntRange(2), default=200, show_default=True)
@click.option("--density", type=float, default=0.5, show_default=True, help="Share observed.")
@click.option("--rank", type=click.IntRange(1), default=2, show_default=True)
@click.option("--trials", type=click.IntRange(1), default=1, show_default=True, help="Per cell.")
@click.option("--seed", type=_SEED, default=0, show_default=True)
def simulate(
    output: str, models: int, items: int, density: float, rank: int, trials: int, seed: int
) -> None:
    """Draw a simulated family of models: responses.parquet, lineage.csv, truth.parquet."""
    import dataclasses

    import jax

    from bayes_lrmf.lineage import write_lineage
    from bayes_lrmf.responses import write_responses
    from bayes_lrmf.simulate import simulate as draw
    from bayes_lrmf.spec import read_spec

    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError("the output is a file", where=output, fix="name a folder")
    if any(above.is_file() for above in folder.parents):
        raise InputError("the output lies inside a file", where=output, fix="name a folder")
    spec = dataclasses.replace(read_spec("laplacian"), rank=rank)
    drawn = draw(
        spec,
        key=jax.random.key(seed),
        n_models=models,
        n_items=items,
        density=density,
        trials=trials,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_responses(drawn.responses, folder / "responses.parquet")
    write_lineage(drawn.lineage, folder / "lineage.csv")
    emit(drawn.truth, str(folder / "truth.parquet"))
    say(f"simulated: {drawn.responses!r}, {drawn.lineage!r}")


def _best_method(spec: Spec | None, n_observed: int, *, counts: bool) -> str:
    """Return the best sound method for a spec, or any, and a table."""
    affordable = counts and n_observed <= _AFFORDABLE_NUTS_CELLS
    if spec is None:
        return "nuts" if affordable else "vb"
    if spec.penalty is not None:
        return "map"
    if spec.lineage == "directed" or (counts and spec.likelihood == "logit_normal"):
        return "vb"
    return "nuts" if affordable else "svi"


@_cli.command()
@click.argument("responses")
@click.option("--lineage", metavar="FILE", help="child, parent, relation[, weight].")
@click.option("--aliases", metavar="FILE", help="alias, name: other names of models.")
@click.option("--models-table", metavar="FILE", help="model and features, for specs that use them.")
@click.option("--items-table", metavar="FILE", help="Item text or embeddings, for specs/paper.")
@click.option("--spec", help="Name or TOML file; by default lrmf for vb, laplacian for others.")
@click.option("--method", metavar="map|svi|nuts|vb", help="By default the best sound one.")
@click.option("--seed", type=_SEED, default=0, show_default=True)
@click.option("--num-warmup", type=click.IntRange(1), default=500, show_default=True)
@click.option("--num-samples", type=click.IntRange(1), default=800, show_default=True)
@click.option("--num-chains", type=click.IntRange(1), default=2, show_default=True)
@click.option("--max-steps", type=click.IntRange(1), help="Limit of map, svi and vb.")
@click.option("-o", "--output", required=True, metavar="POST.nc")
def fit(
    responses: str,
    lineage: str | None,
    aliases: str | None,
    models_table: str | None,
    items_table: str | None,
    spec: str | None,
    method: str | None,
    seed: int,
    num_warmup: int,
    num_samples: int,
    num_chains: int,
    max_steps: int | None,
    output: str,
) -> int:
    """Fit a model to RESPONSES and write its posterior."""
    checked_output(output, suffixes=(".nc",))
    if method is not None:
        one_of(method, METHODS, name="method")
    import numpyro

    numpyro.set_host_device_count(num_chains)
    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.inference import fit_method
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.responses import read_responses
    from bayes_lrmf.spec import default_spec, read_spec
    from bayes_lrmf.storage import write_posterior

    named = None if spec is None else read_spec(spec)
    table = read_responses(responses)
    say(f"{table!r}")
    for note in table.notes:
        say(f"note: {note}")
    chosen = method is None
    if method is None:
        counts = bool((table.items["trials"] > 1).any())
        method = _best_method(named, table.n_observed, counts=counts)
    declared = named or read_spec(default_spec(method))
    if chosen:
        say(f"method {method}, spec {declared.name}: chosen for this table")
    tree = features = None
    if lineage is not None:
        tree = read_lineage(lineage, aliases=aliases)
        for note in tree.notes:
            say(f"note: {note}")
        say(tree.summary(list(table.models)))
    if models_table is not None:
        from bayes_lrmf.features import read_features

        features = read_features(models_table)
        if not (declared.features or declared.kind):
            say(f"note: spec {declared.name} names no model features; {models_table} is not used")
    adjacency = None
    if items_table is not None:
        from bayes_lrmf.similarity import item_graph, read_item_texts

        adjacency, note = item_graph(table.items, read_item_texts(items_table))
        say(f"note: {note}")
    design = make_design(table, declared, lineage=tree, item_adjacency=adjacency, features=features)
    for note in design.notes:
        say(f"note: {note}")
    options: dict[str, Any] = {}
    if method == "nuts":
        options = {
            "num_warmup": num_warmup,
            "num_samples": num_samples,
            "num_chains": num_chains,
        }
    elif max_steps is not None:
        limit = {"map": "max_iterations", "svi": "max_steps", "vb": "max_sweeps"}
        options = {limit[method]: max_steps}
    with Progress(f"fit {method}", enabled=True) as progress:
        posterior = fit_method(
            method,
            design,
            declared,
            key=jax.random.key(seed),
            seed=seed,
            progress=progress,
            **options,
        )
    write_posterior(posterior, output)
    record = posterior.record
    say(f"{method}: {record.message} ({record.seconds:.0f} s), written to {output}")
    if not record.converged:
        say(f"not converged; `bayes-lrmf diagnose {output}` says what to do")
        return NOT_CONVERGED
    return 0


@_cli.command()
@click.argument("posterior")
@click.option("--lineage", is_flag=True, help="List doubtful and missing parents instead.")
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet, for --lineage.")
@click.option("--seed", type=_SEED, default=0, show_default=True, help="For --lineage.")
def diagnose(posterior: str, lineage: bool, output: str | None, seed: int) -> int:
    """Print a verdict on the fit POSTERIOR, from quantities that rotation leaves alone.

    With a lineage also the share of ability that children inherit, by relation. --lineage lists
    recorded parents that the responses contradict and close models without a recorded parent.
    """
    checked_output(output, suffixes=(".csv", ".csv.gz", ".parquet", ".pq"))
    if output is not None and not lineage:
        raise InputError("a verdict is not a table", where=output, fix="add --lineage, or drop -o")
    from bayes_lrmf.storage import read_posterior

    fitted = read_posterior(posterior)
    if lineage:
        import jax

        from bayes_lrmf.lineage_quality import lineage_quality

        table = lineage_quality(fitted, key=jax.random.key(seed))
        emit(table, output)
        if not fitted.record.converged:
            say(f"not converged; `bayes-lrmf diagnose {posterior}` says what to do")
            return NOT_CONVERGED
        return 0
    from bayes_lrmf.diagnose import diagnose as judge

    found = judge(fitted)
    print("\n".join(found.lines))
    if len(found.hyperparameters):
        print(found.hyperparameters.round(4).to_string(index=False))
    if len(found.inheritance):
        print("share of the variance of log-odds among models that children inherit:")
        print(found.inheritance.round(3).to_string(index=False))
    return 0 if found.good else NOT_CONVERGED


@_cli.command()
@click.argument("posterior")
@click.option("--level", default="benchmark", show_default=True, metavar="benchmark|item|rank")
@click.option("--models", metavar="A,B|@FILE", help="By default all, cold-start models too.")
@click.option("--ci-prob", type=float, default=0.9, show_default=True)
@click.option("--draws", type=click.IntRange(2), default=200, show_default=True)
@click.option("--seed", type=_SEED, default=0, show_default=True)
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet; by default standard output.")
def predict(
    posterior: str,
    level: str,
    models: str | None,
    ci_prob: float,
    draws: int,
    seed: int,
    output: str | None,
) -> None:
    """Predict scores, responses or ranks from POSTERIOR, with intervals."""
    checked_output(output, suffixes=(".csv", ".csv.gz", ".parquet", ".pq"))
    one_of(level, LEVELS, name="level")
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


@_cli.command()
@click.argument("posterior")
@click.option("--lineage", metavar="FILE", help="child, parent, relation[, weight].")
@click.option("--aliases", metavar="FILE", help="alias, name: other names of models.")
@click.option("--responses", metavar="FILE", help="Of old and new models, on items of the fit.")
@click.option("-o", "--output", required=True, metavar="NEW.nc")
def add(
    posterior: str, lineage: str | None, aliases: str | None, responses: str | None, output: str
) -> None:
    """Add models and results to POSTERIOR, without fitting again.

    Models without responses are predicted from their parents; responses update their model and its
    kin. Items and hyper-parameters stay as they were fitted.
    """
    checked_output(output, suffixes=(".nc",))
    if lineage is None and responses is None:
        raise InputError("nothing to add", fix="give --lineage, --responses or both")
    from bayes_lrmf.coldstart import add as grow
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.responses import read_responses
    from bayes_lrmf.storage import read_posterior, write_posterior

    tree = None if lineage is None else read_lineage(lineage, aliases=aliases)
    table = None if responses is None else read_responses(responses)
    for note in (*(tree.notes if tree else ()), *(table.notes if table else ())):
        say(f"note: {note}")
    fitted = read_posterior(posterior)
    grown = grow(fitted, lineage=tree, responses=table)
    for note in grown.design.notes[len(fitted.design.notes) :]:
        say(f"note: {note}")
    write_posterior(grown, output)
    n_models = len(grown.design.models) - len(fitted.design.models)
    n_cells = grown.design.responses.n_observed - fitted.design.responses.n_observed
    say(f"{n_models:,} models and {n_cells:,} responses added, written to {output}")


@_cli.command()
@click.argument("posterior")
@click.option("--models", metavar="A,B|@FILE", help="By default all, cold-start models too.")
@click.option("--max-width", type=float, help="Flag scores of wider intervals.")
@click.option("--threshold", type=float, help="Flag scores not known to be above or below.")
@click.option("--top-k", type=int, help="Flag models not known to be among the best, or not.")
@click.option("--ci-prob", type=float, default=0.9, show_default=True)
@click.option("--seed", type=_SEED, default=0, show_default=True)
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet; by default standard output.")
def flag(
    posterior: str,
    models: str | None,
    max_width: float | None,
    threshold: float | None,
    top_k: int | None,
    ci_prob: float,
    seed: int,
    output: str | None,
) -> None:
    """List predictions from POSTERIOR that should not be relied on, and why.

    Models without results and relatives, and models whose results contradict their recorded
    parents, are always among them.
    """
    checked_output(output, suffixes=(".csv", ".csv.gz", ".parquet", ".pq"))
    if sum(rule is not None for rule in (max_width, threshold, top_k)) > 1:
        raise InputError(
            "more than one of --max-width, --threshold and --top-k", fix="give one of them"
        )
    names = model_names(models)
    import jax

    from bayes_lrmf.flag import flag as flags
    from bayes_lrmf.storage import read_posterior

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


@_cli.command()
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
    checked_output(output, suffixes=(".csv", ".csv.gz", ".parquet", ".pq"))
    from bayes_lrmf import evaluate as study
    from bayes_lrmf.evaluation import readable_table
    from bayes_lrmf.lineage import read_lineage
    from bayes_lrmf.methods import DEFAULT_METHODS, METHODS, Background
    from bayes_lrmf.progress import Progress
    from bayes_lrmf.responses import read_responses

    one_of(holdout, study.HOLDOUTS, name="holdout")
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
    say(tree.summary(list(table.models)))
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
    for name in dict.fromkeys(found.metrics["holdout"]):
        print(f"{name}, seeds {seeds}; * best")
        print(readable_table(found, name).to_string(index=False))
    emit(found.metrics, output)
    study.remove_parts(folder)


if __name__ == "__main__":
    main()
