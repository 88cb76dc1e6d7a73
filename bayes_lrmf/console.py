"""What commands share: groups, outputs checked and written whole, tables shown, lists parsed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bayes_lrmf.checks import InputError, one_of, printable

if TYPE_CHECKING:
    import pandas as pd

    from bayes_lrmf.lineage import Lineage
    from bayes_lrmf.responses import Responses

__all__ = [
    "SEED",
    "TABLES",
    "Commands",
    "checked_output",
    "checked_outputs",
    "emit",
    "limit_options",
    "listed",
    "model_names",
    "numbers",
    "say",
    "warn_of_strangers",
    "was_given",
]

SEED = click.IntRange(0, 2**32 - 1)
TABLES = (".csv", ".csv.gz", ".parquet", ".pq")
TERMINAL_ROWS = 40
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Commands(click.Group):
    """A group that names the nearest of its commands where one is unknown."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return what click finds, or raise `InputError`."""
        if args and args[0] not in self.commands:
            one_of(args[0], list(self.commands), name="command")
        return super().resolve_command(ctx, args)


def limit_options[**P, R](command: Callable[P, R]) -> Callable[P, R]:
    """Add the limits beyond which a prediction is flagged, alike for every command that flags."""
    for option in (
        click.option(
            "--top-k", type=int, help="Flag models not known to be among the best, or not."
        ),
        click.option("--threshold", type=float, help="Flag scores not known to be above or below."),
        click.option("--max-width", type=float, help="Flag scores of wider intervals."),
    ):
        command = option(command)
    return command


def was_given(option: str) -> bool:
    """Whether an option, by the name of its parameter, stands on the command line."""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def say(line: str) -> None:
    """Print a line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


def warn_of_strangers(lineage: Lineage, table: Responses) -> None:
    """Warn if a lineage knows no model of a table, and name the nearest."""
    if not len(lineage.nodes) or any(name in lineage.index for name in table.models):
        return
    from bayes_lrmf.checks import nearest

    name = str(table.models[0])
    close = nearest(name, lineage.nodes)
    hint = f"; {name} is not there, {close} is" if close else ""
    say(f"warning: the lineage knows no model of the table{hint}: see --aliases")


def checked_output(
    path: str | None, *, suffixes: tuple[str, ...], inputs: Iterable[str | None] = ()
) -> None:
    """Refuse an output that cannot be written, or is an input, before the work, not after it.

    Inputs may be names of files after an @, as options have them, or None.
    """
    if path is None:
        return
    place = os.path.realpath(path)
    if any(given and place == os.path.realpath(given.removeprefix("@")) for given in inputs):
        raise InputError("the output would replace an input", where=path, fix="name them apart")
    target = Path(path)
    if target.is_dir():
        raise InputError("the output is a folder", where=path, fix="name a file")
    if not target.parent.is_dir():
        raise InputError("the folder of the output does not exist", where=path, fix="create it")
    if not os.access(target.parent, os.W_OK):
        raise InputError("cannot write there", where=path, fix="choose another folder")
    if not path.lower().endswith(suffixes):
        raise InputError("unknown kind of output", where=path, fix="end it in " + suffixes[0])


def checked_outputs(
    outputs: Mapping[str, str | None],
    *,
    suffixes: tuple[str, ...],
    inputs: Sequence[str | None] = (),
) -> None:
    """Refuse outputs, by option, as `checked_output` does, and those that are one file."""
    taken: dict[str, str] = {}
    for option, path in outputs.items():
        checked_output(path, suffixes=suffixes, inputs=inputs)
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(
                f"{option} and {taken[place]} are one file", where=path, fix="name them apart"
            )
        taken[place] = option


def emit(table: pd.DataFrame, output: str | None) -> None:
    """Write a table to a file, or print it: as text on a terminal, else as CSV.

    Names stay as they are, so that they are read back the same; where one begins as a formula does,
    a warning says so, as a spreadsheet would run it whatever quotes stand around it.
    """
    if output is not None:
        from bayes_lrmf.files import written_whole

        with written_whole(output) as temporary:
            if output.lower().endswith((".parquet", ".pq")):
                table.to_parquet(temporary, index=False)
            else:
                table.to_csv(temporary, index=False, float_format="%.6g")
                _warn_of_formulas(table, output)
        say(f"{len(table):,} rows written to {output}")
    elif sys.stdout.isatty():
        shown = table.head(TERMINAL_ROWS)
        print(shown.map(_shown).to_string(index=False))
        if len(table) > TERMINAL_ROWS:
            say(f"{len(table) - TERMINAL_ROWS:,} more rows; all of them with -o FILE")
    else:
        table.to_csv(sys.stdout, index=False, float_format="%.6g")


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _warn_of_formulas(table: pd.DataFrame, output: str) -> None:
    import pandas as pd

    texts = [table[c].dropna() for c in table.select_dtypes(["object", "str"])]
    found = [name for column in texts for name in pd.unique(column) if _is_formula(name)]
    if found:
        say(
            f"warning: {len(found):,} names begin as a formula does, such as {found[0]!r}: open "
            f"{output} in a spreadsheet as text, or write Parquet"
        )


def _is_formula(value: Any) -> bool:
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def model_names(given: str | None, option: str = "--models") -> list[str] | None:
    """Return the names of an option ``A,B`` or ``@FILE``; None if it was not given."""
    if given is None:
        return None
    if given.startswith("@"):
        from bayes_lrmf.files import existing_file

        file = existing_file(given[1:], what="file of model names")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                "not a UTF-8 text file", where=given[1:], fix="save it as UTF-8"
            ) from error
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise InputError("no model named", where=option, fix="give names, or leave it out")
    return names


def listed(given: str, option: str) -> list[str]:
    """Return the parts of a comma-separated option."""
    names = [part.strip() for part in given.split(",") if part.strip()]
    if not names:
        raise InputError("nothing named", where=option, fix="give names, or leave it out")
    return names


def numbers(given: str, option: str, *, whole: bool = False) -> list[float]:
    """Return the numbers of a comma-separated option, 0 or more."""
    try:
        found = [float(part) for part in listed(given, option)]
    except ValueError as error:
        raise InputError(
            f"{given!r} is no list of numbers", where=option, fix="give numbers as 0,10,100"
        ) from error
    if whole and any(number % 1 for number in found):
        raise InputError(f"{given!r} is not all whole", where=option, fix="give whole numbers")
    if any(not 0 <= number < 2**32 for number in found):
        raise InputError(
            f"{given!r} holds a number out of range", where=option, fix="give 0 or more"
        )
    return found
