"""`simulate`, `fit` and `diagnose`: from tables to a posterior and a verdict on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.console import (
    SEED,
    TABLES,
    checked_output,
    emit,
    say,
    warn_of_strangers,
    was_given,
)
from bayes_lrmf.interruption import EXIT_CODE

if TYPE_CHECKING:
    from bayes_lrmf.inference.checkpoint import Interrupted

__all__ = ["diagnose", "fit", "simulate"]

METHODS = ("map", "svi", "nuts", "vb")
_ONLY_OF = {
    "num_warmup": ("nuts",),
    "num_samples": ("nuts",),
    "num_chains": ("nuts",),
    "max_steps": ("map", "svi", "vb"),
}
NOT_CONVERGED = 3


@click.command()
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write to.")
@click.option("--models", type=click.IntRange(2), default=60, show_default=True)
@click.option("--items", type=click.IntRange(2), default=200, show_default=True)
@click.option("--density", type=float, default=0.5, show_default=True, help="Share observed.")
@click.option("--rank", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--trials", type=click.IntRange(1, 2**24), default=1, show_default=True, help="Per cell."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
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


@click.command()
@click.argument("responses")
@click.option("--lineage", metavar="FILE", help="child, parent, relation[, weight].")
@click.option("--aliases", metavar="FILE", help="alias, name: other names of models.")
@click.option("--models-table", metavar="FILE", help="model and features, for specs that use them.")
@click.option("--items-table", metavar="FILE", help="Item text or embeddings, for spec paper.")
@click.option("--spec", help="Name or TOML file; by default lrmf for vb, laplacian for others.")
@click.option("--method", metavar="map|svi|nuts|vb", help="By default the best sound one.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--num-warmup", type=click.IntRange(1), default=500, show_default=True)
@click.option("--num-samples", type=click.IntRange(1), default=800, show_default=True)
@click.option("--num-chains", type=click.IntRange(1), default=2, show_default=True)
@click.option("--max-steps", type=click.IntRange(1), help="Limit of map, svi and vb.")
@click.option(
    "--checkpoint/--no-checkpoint",
    default=True,
    show_default=True,
    help="Save a long fit to POST.nc.checkpoint, from which the same command goes on.",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Least time between two checkpoints.",
)
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
    checkpoint: bool,
    checkpoint_seconds: float,
    output: str,
) -> int:
    """Fit a model to RESPONSES and write its posterior.

    Ctrl-C writes the posterior so far to POST.partial.nc.
    """
    checked_output(output, suffixes=(".nc",))
    if method is not None:
        one_of(method, METHODS, name="method")
    import numpyro

    numpyro.set_host_device_count(num_chains)
    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.files import locked, remove_leftovers
    from bayes_lrmf.inference import best_method, fit_method
    from bayes_lrmf.inference.checkpoint import Checkpoint, Interrupted
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
        method = best_method(table, named)
    declared = named or read_spec(default_spec(method))
    if chosen:
        say(f"method {method}, spec {declared.name}: chosen for this table")
    _say_unused(method)
    tree = features = None
    if lineage is not None:
        tree = read_lineage(lineage, aliases=aliases)
        for note in tree.notes:
            say(f"note: {note}")
        say(tree.summary(list(table.models)))
        warn_of_strangers(tree, table)
    elif aliases is not None:
        raise InputError("aliases without a lineage", where="--aliases", fix="give --lineage")
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
    try:
        with contextlib.ExitStack() as stack:
            if checkpoint:
                saved = Checkpoint(_checkpoint_of(output), seconds=checkpoint_seconds)
                options["checkpoint"] = stack.enter_context(saved)
            else:
                fix = "wait until it has ended, or name another output"
                stack.enter_context(locked(_checkpoint_of(output), fix=fix))
            remove_leftovers(output)
            # Inside: what stands beside the output is this process's own until it has spoken.
            stack.enter_context(_said(output, seed, goes_on=checkpoint))
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
    except Interrupted:
        return EXIT_CODE
    record = posterior.record
    say(f"{method}: {record.message} ({record.seconds:.0f} s), written to {output}")
    if not record.converged:
        say(f"not converged; `bayes-lrmf diagnose {output}` says what to do")
        return NOT_CONVERGED
    return 0


def _say_unused(method: str) -> None:
    for name, methods in _ONLY_OF.items():
        if method not in methods and was_given(name):
            option = "--" + name.replace("_", "-")
            say(f"note: {option} is for {', '.join(methods)}; method {method} does not use it")


def _checkpoint_of(output: str) -> str:
    return f"{output}.checkpoint"


@contextlib.contextmanager
def _said(output: str, seed: int, *, goes_on: bool) -> Iterator[None]:
    """Write what the fit had when Ctrl-C came, and say so in one line; it is `Interrupted` then."""
    from bayes_lrmf.inference.checkpoint import Interrupted

    try:
        yield
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Interrupted) else Interrupted("between two steps")
        _interrupted(stop, output, seed, goes_on=goes_on)
        raise stop from error


def _interrupted(stop: Interrupted, output: str, seed: int, *, goes_on: bool) -> None:
    import dataclasses

    from bayes_lrmf.storage import write_posterior

    line = f"bayes-lrmf: interrupted {stop.when}"
    partial = str(Path(output).with_suffix(".partial.nc"))
    if stop.posterior is not None:
        # A second Ctrl-C ends this as well.
        with contextlib.suppress(KeyboardInterrupt):
            try:
                write_posterior(dataclasses.replace(stop.posterior(), seed=seed), partial)
                line += f"; the posterior so far, not converged, is in {partial}"
            except InputError as error:
                line += f"; the posterior so far is lost: {error}"
    if goes_on and Path(_checkpoint_of(output)).exists():
        line += f"; the same command goes on from {_checkpoint_of(output)}"
    say(line if "; " in line else f"{line}; nothing was written")


@click.command()
@click.argument("posterior")
@click.option("--lineage", is_flag=True, help="List doubtful and missing parents instead.")
@click.option("--provenance", is_flag=True, help="Print which data, spec and code made it instead.")
@click.option("-o", "--output", metavar="FILE", help="CSV or Parquet, for --lineage.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="For --lineage.")
def diagnose(posterior: str, lineage: bool, provenance: bool, output: str | None, seed: int) -> int:
    """Print a verdict on the fit POSTERIOR, from quantities that rotation leaves alone.

    With a lineage also the share of ability that children inherit, by relation. --lineage lists
    recorded parents that the responses contradict and close models without a recorded parent.
    --provenance prints digests of the data, the spec and the code, and versions.
    """
    checked_output(output, suffixes=TABLES)
    if output is not None and not lineage:
        raise InputError("a verdict is not a table", where=output, fix="add --lineage, or drop -o")
    if lineage and provenance:
        raise InputError("--lineage and --provenance are two answers", fix="ask for one of them")
    from bayes_lrmf.storage import read_posterior

    fitted = read_posterior(posterior)
    if provenance:
        told = fitted.provenance
        for name, value in told.items():
            print(f"{name:{max(map(len, told))}}  {value}")
        return 0
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
