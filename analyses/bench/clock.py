"""A clock that stands still while a fit is looked at; standard library alone, for peers too."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Clock:
    """Seconds since a fit began, by the wall and of all threads, and what it had reached when.

    Attributes
    ----------
    points : list of dict
        ``seconds, cpu_seconds`` and what `note` was told, in order.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self._away = [0.0, 0.0]
        self._start = (time.perf_counter(), time.process_time())

    def now(self) -> tuple[float, float]:
        """Return seconds by the wall and of processors."""
        wall = time.perf_counter() - self._start[0] - self._away[0]
        return wall, time.process_time() - self._start[1] - self._away[1]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still within the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._away[0] += time.perf_counter() - wall
            self._away[1] += time.process_time() - cpu

    def note(self, **reached: float) -> dict[str, float]:
        """Add a point of the trajectory, such as ``objective=...`` or ``held_out=...``."""
        wall, cpu = self.now()
        point = {"seconds": wall, "cpu_seconds": cpu}
        point |= {name: float(value) for name, value in reached.items()}
        self.points.append(point)
        return point


def peak_gigabytes() -> float:
    """Return the largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def write_result(folder: Path, clock: Clock, **about: Any) -> None:
    """Write ``result.json``: the trajectory and what else is known of the fit."""
    found = {"trajectory": clock.points, **about}
    (folder / "result.json").write_text(json.dumps(found, indent=1))
