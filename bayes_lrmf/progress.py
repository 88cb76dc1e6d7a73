"""Progress of long work: a bar on a terminal, a few plain lines otherwise."""

from __future__ import annotations

import os
import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress"]

_FIRST_INTERVAL = 3.0
_LONGEST_INTERVAL = 60.0
_GROWTH = 1.5


class Progress:
    """Show how far a piece of work has come, on standard error.

    On a terminal a bar; otherwise plain lines: the first update, then one at ever longer intervals,
    and the last update when the context ends. Use it as a context manager. Library functions take
    an optional one and are silent without it.

    Parameters
    ----------
    description : str
        The work, e.g. ``"svi"``.
    total : int, optional
        Number of steps, where it is known.
    stream : text file, optional
        Where to write; standard error by default.
    enabled : bool
        With False nothing is ever written.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        stream: TextIO | None = None,
        enabled: bool = True,
    ) -> None:
        self.description, self.total, self.enabled = description, total, enabled
        self._stream = sys.stderr if stream is None else stream
        self._started = monotonic()
        self._interval, self._due = _FIRST_INTERVAL, self._started
        self._unwritten: str | None = None
        self._bar: Bar | None = None
        if enabled and _is_terminal(self._stream):
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task(description, total=total, figures="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._unwritten is not None:
            self._write(self._unwritten)

    def update(self, completed: int, **figures: float | str) -> None:
        """Say that `completed` steps are done, with named figures worth watching.

        Parameters
        ----------
        completed : int
            Steps done so far; it may fall when the next stage counts from its own start.
        **figures : float or str
            Shown beside the bar by their names, e.g. ``elbo=-1234.5``.
        """
        if not self.enabled:
            return
        shown = ", ".join(f"{name} {_figure(value)}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, figures=shown)
            return
        now = monotonic()
        done = f"{completed:,}" if self.total is None else f"{completed:,} of {self.total:,}"
        parts = [done, shown, f"{now - self._started:.0f} s"]
        line = f"{self.description}: {', '.join(part for part in parts if part)}"
        if now < self._due:
            self._unwritten = line
            return
        self._write(line)
        # Ever rarer lines: the log of an hour should stay readable.
        self._due = now + self._interval
        self._interval = min(_GROWTH * self._interval, _LONGEST_INTERVAL)

    def say(self, line: str) -> None:
        """Write one line at once, above the bar where there is one."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def _write(self, line: str) -> None:
        self._unwritten = None
        self.say(line)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _bar(stream: TextIO) -> Bar:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[figures]}", markup=False),
        progress.TimeElapsedColumn(),
        console=Console(file=stream),
        # Tables go to standard output, which is no place for a bar.
        redirect_stdout=False,
        redirect_stderr=stream is sys.stderr,
    )


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{float(value):,.6g}"
