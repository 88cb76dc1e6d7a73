"""Kill fits at random moments, repeat the command, and compare the file with a whole run's."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

METHODS = ("map", "vb", "svi", "nuts")
OPTIONS = {
    "map": (),
    "vb": (),
    "svi": ("--max-steps", "500"),
    "nuts": ("--num-warmup", "30", "--num-samples", "30"),
}
_GIVE_UP = 600.0
_ANSWER = "bayes-lrmf: interrupted"
_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTED = (
    "arviz_base",
    "bayes_lrmf.cli",
    "bayes_lrmf.inference",
    "bayes_lrmf.storage",
    "numpyro",
)


@dataclass
class Count:
    """What came of the kills of one method.

    Kills fall within the time of the fastest whole run so far.
    """

    seconds: float
    kills: int = 0
    from_checkpoint: int = 0
    runs: int = 0
    identical: int = 0
    left_over: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Kill, repeat, compare, print a line a method; exit with 1 where a file differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="over all methods")
    parser.add_argument("--in-a-row", type=int, default=3, help="before a run may end")
    parser.add_argument("--in-fit", type=float, default=0.7, help="share after a checkpoint")
    parser.add_argument("--seconds", type=float, default=0.02, help="between checkpoints")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interrupt", type=int, default=0, help="Ctrl-C this often instead")
    parser.add_argument("--responses", help="table to fit, instead of a small simulated one")
    parser.add_argument("--lineage", help="its lineage")
    given = parser.parse_args()
    # Compiled code is kept, so that most moments fall into the fit.
    cache = Path(tempfile.gettempdir()) / "bayes-lrmf-kill-test-jax"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    _CONTEXT.set_forkserver_preload(list(_IMPORTED))
    methods = given.methods.split(",")
    chosen = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.toml").write_text('name = "small"\nrank = 1\n')
        sizes = ("--models", "30", "--items", "20")
        run(folder, ["simulate", *sizes, "-o", str(folder / "data")])
        for kind, file in (("responses", given.responses), ("lineage", given.lineage)):
            if file is not None:
                next((folder / "data").glob(f"{kind}.*")).unlink()
                link = folder / "data" / f"{kind}{''.join(Path(file).suffixes)}"
                link.symlink_to(Path(file).resolve())
        bad = 0
        for method in methods:
            expected, seconds = whole(folder, method, given.seconds)
            if given.interrupt:
                per = -(-given.interrupt // len(methods))
                bad += interrupted(folder, method, seconds, per, chosen)
                continue
            count = Count(seconds)
            while count.kills < given.kills / len(methods):
                chain(folder, method, expected, given, chosen, count)
            print(
                f"{method}: {count.kills} kills within {count.seconds:.1f} s; of the commands "
                f"after them {count.from_checkpoint} went on from a checkpoint; "
                f"{count.identical} of {count.runs} files identical; left over: "
                f"{dict(count.left_over) or 'nothing'}",
                flush=True,
            )
            bad += count.runs - count.identical + sum(count.left_over.values())
    return int(bad > 0)


def command(folder: Path, method: str, *options: str) -> list[str]:
    """Return the arguments of a fit in the folder."""
    responses, lineage = (next((folder / "data").glob(f"{n}.*")) for n in ("responses", "lineage"))
    tables = [str(responses), "--lineage", str(lineage)]
    spec = () if method == "vb" else ("--spec", str(folder / "small.toml"))
    return ["fit", *tables, *spec, "--method", method, *OPTIONS[method], *options]


class Command:
    """The command line in a process of its own, which has imported everything beforehand.

    Parameters
    ----------
    arguments : list of str
    said : Path
        Where its standard error goes.
    """

    def __init__(self, arguments: list[str], said: Path) -> None:
        self._said = said
        self._process = _CONTEXT.Process(target=_command_line, args=(arguments, str(said)))
        self._process.start()

    def ended(self, seconds: float) -> bool:
        """Wait for its end, at most so long; return whether it came."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        self._process.join(_GIVE_UP)

    def interrupt(self) -> tuple[float, float]:
        """Send Ctrl-C; return the seconds to its answer, and to the end."""
        begun = time.monotonic()
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGINT)
        while _ANSWER not in self.said and not self.ended(0.01):
            pass
        answered = time.monotonic() - begun
        self.ended(_GIVE_UP)
        return answered, time.monotonic() - begun

    @property
    def code(self) -> int:
        """Exit code; minus the signal that killed it."""
        code = self._process.exitcode
        return 999 if code is None else code

    @property
    def said(self) -> str:
        """What it wrote to standard error."""
        return self._said.read_text() if self._said.exists() else ""


def _command_line(arguments: list[str], said: str) -> None:
    from bayes_lrmf.cli import main as command_line

    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 2)
    command_line(arguments)


def run(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Run the command line to its end; return its exit code and what it said."""
    begun = Command(arguments, folder / "said")
    if not begun.ended(_GIVE_UP):
        begun.send(signal.SIGKILL)
    return begun.code, begun.said


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or nothing where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def whole(folder: Path, method: str, seconds: float) -> tuple[str, float]:
    """Return the digest of an uninterrupted fit without checkpoints, and the time of one with."""
    plain, often = folder / f"{method}-plain.nc", folder / f"{method}-often.nc"
    code, said = run(folder, command(folder, method, "--no-checkpoint", "-o", str(plain)))
    if code not in (0, 3):
        raise SystemExit(said)
    begun = time.monotonic()
    run(folder, command(folder, method, "--checkpoint-seconds", str(seconds), "-o", str(often)))
    taken = time.monotonic() - begun
    if digest(plain) != digest(often):
        raise SystemExit(f"{method}: checkpoints change the file")
    return digest(plain), taken


def newest(folder: Path) -> int:
    """Return when the checkpoint in a folder was written, in ns; 0 where there is none."""
    try:
        return (folder / "p.nc.checkpoint").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def chain(
    folder: Path,
    method: str,
    expected: str,
    given: argparse.Namespace,
    chosen: random.Random,
    count: Count,
) -> None:
    """Kill a command some times in a row, let it end once, and count."""
    place = folder / f"{method}-{count.runs}"
    place.mkdir()
    output = place / "p.nc"
    fit = command(folder, method, "--checkpoint-seconds", str(given.seconds), "-o", str(output))
    killed = 0
    while killed < given.in_a_row:
        begun = time.monotonic()
        process = Command(fit, folder / "said")
        if chosen.random() < given.in_fit:
            existed = newest(place)
            while newest(place) == existed and not process.ended(0.005):
                pass
        rest = count.seconds - (time.monotonic() - begun)
        if process.ended(chosen.uniform(0.0, max(rest, 0.0))):
            said = process.said
            if not killed:
                count.seconds = min(count.seconds, time.monotonic() - begun)
            break
        process.send(signal.SIGKILL)
        count.from_checkpoint += killed > 0 and "resumed from" in process.said
        killed += 1
    else:
        _, said = run(folder, fit)
    count.from_checkpoint += killed > 0 and "resumed from" in said
    count.kills += killed
    count.runs += 1
    count.identical += digest(output) == expected
    count.left_over.update(p.name for p in place.iterdir() if p != output)


def interrupted(
    folder: Path, method: str, seconds: float, times: int, chosen: random.Random
) -> int:
    """Send Ctrl-C at random moments, print how long fits took to end, return how many ended ill."""
    from bayes_lrmf.storage import read_posterior

    answered, taken, partial, lines = [], [], 0, Counter[int]()
    for i in range(times):
        place = folder / f"{method}-interrupted-{i}"
        place.mkdir()
        process = Command(command(folder, method, "-o", str(place / "p.nc")), folder / "said")
        if not process.ended(chosen.uniform(0.3, 1.0) * seconds):
            first, last = process.interrupt()
            answered.append(first)
            taken.append(last)
            lines[process.code] += 1
            if process.code != 130 or "Traceback" in process.said:
                print(process.said)
        found = place / "p.partial.nc"
        if found.exists():
            partial += not read_posterior(found).record.converged
    taken.sort()
    print(
        f"{method}: {len(taken)} times Ctrl-C, answered after {max(answered):.2f} s at most, "
        f"{taken[len(taken) // 2]:.2f} s to the end (median), {taken[-1]:.2f} s at most, "
        f"exit codes {dict(lines)}, {partial} partial posteriors",
        flush=True,
    )
    return sum(n for code, n in lines.items() if code not in (130, 0, 3))


if __name__ == "__main__":
    sys.exit(main())
