"""Progress of long work: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

__all__ = ["Progress"]

_FIRST_INTERVAL = 2.0
_LONGEST_INTERVAL = 60.0


class Progress:
    """Report how far work has come.

    Parameters
    ----------
    description : str
    total : int, optional
        Steps in all, where known.
    stream : text file, optional
        Standard error by default.
    enabled : bool
        With False nothing is printed: what library functions do unless told.
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
        self._stream = stream if stream is not None else sys.stderr
        self._bar = None
        self._interval, self._next = _FIRST_INTERVAL, time.monotonic() + _FIRST_INTERVAL
        if enabled and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task(description, total=total, figures="")

    def __enter__(self) -> Progress:
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

    def update(self, completed: int, **figures: float) -> None:
        """Say that `completed` steps are done, with figures worth watching."""
        if not self.enabled:
            return
        shown = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, figures=f"{completed:,} {shown}")
        elif time.monotonic() >= self._next:
            # Ever rarer lines: a log of an hour should stay readable.
            self._interval = min(1.5 * self._interval, _LONGEST_INTERVAL)
            self._next = time.monotonic() + self._interval
            of = f"/{self.total:,}" if self.total else ""
            print(f"{self.description}: {completed:,}{of} {shown}", file=self._stream, flush=True)

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=self._stream, flush=True)
