"""The command line: its commands, and errors to one line."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from bayes_lrmf.checks import InputError, nearest
from bayes_lrmf.commands.comparing import evaluate
from bayes_lrmf.commands.deciding import add, flag, predict
from bayes_lrmf.commands.fitting import diagnose, fit, simulate
from bayes_lrmf.commands.importing import import_group
from bayes_lrmf.commands.importing_lineage import hub, leaderboard, mergekit
from bayes_lrmf.commands.reporting import report
from bayes_lrmf.console import Commands, say
from bayes_lrmf.interruption import EXIT_CODE, answered

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bayes-lrmf")
def _cli() -> None:
    """Predict results of language models from the results and the family tree at hand."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, 2 (the user's mistake), 3 (not converged) or 130."""
    if not sys.stdout.isatty():
        # A file of names in the encoding of a terminal would not be read back.
        with contextlib.suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    given = sys.argv[1:] if arguments is None else arguments
    if any("\0" in word for word in given):
        _fail("an argument holds a null character, which no name or path has; correct it")
    try:
        with answered(lambda line: say(f"bayes-lrmf: {line}")):
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
        print("bayes-lrmf: interrupted; no output was written", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except UnicodeEncodeError as error:
        _fail(f"{error.object!r} is no text in UTF-8; give names and paths in UTF-8")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{where}cannot be read or written ({error.strerror or error}); make room, or check it"
        )
    except MemoryError:
        _fail(
            "not enough memory; choose fewer models with --models, fewer --draws, or a lower rank"
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str) -> None:
    print(f"bayes-lrmf: {line}", file=sys.stderr)
    sys.exit(2)


for _command in (simulate, fit, diagnose, predict, add, flag, report, evaluate, import_group):
    _cli.add_command(_command)
for _command in (leaderboard, hub, mergekit):
    import_group.add_command(_command)


if __name__ == "__main__":
    main()
