"""Bad input by the thousand: every reader is given broken files, and must refuse or read them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.fuzzing.mutations import mutated

__all__ = ["Verdict", "inputs", "verdict"]

FOLDER = Path("build/fuzz")
SECONDS = 10.0
MEMORY = 2 << 30
# A child that does not get out of library code by itself is ended.
_PATIENCE = 20.0


@dataclass(frozen=True)
class Verdict:
    """What became of an input: accepted, refused, or failed for a reason."""

    outcome: str
    reason: str
    seconds: float


class _TooSlow(BaseException):
    """No `except Exception` of a library may take it for its own."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def verdict(name: str, data: bytes, *, seconds: float = SECONDS) -> Verdict:
    """Give an input to a reader in a folder of its own.

    Anything but a result or an `InputError` of one line is a failure, and so are a warning and
    more than `seconds`.

    Parameters
    ----------
    name : str
        One of `analyses.fuzzing.readers.READERS`.
    data : bytes
    seconds : float
    """
    from analyses.fuzzing.readers import READERS
    from bayes_lrmf.checks import InputError

    started = time.perf_counter()
    outcome, reason = "accepted", ""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            with _limited(seconds), warnings.catch_warnings():
                warnings.simplefilter("error")
                READERS[name].read(data, Path(folder))
        except InputError as error:
            outcome, reason = "refused", str(error).replace(folder, "")
            if "\n" in reason or "\r" in reason or len(reason) > 3000:
                outcome, reason = "failed", f"not one short line: {reason[:200]!r}"
        except _TooSlow:
            outcome, reason = "failed", f"more than {seconds:g} s\n{traceback.format_exc(limit=-4)}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome, reason = "failed", traceback.format_exc(limit=-6)
    return Verdict(outcome, reason, time.perf_counter() - started)


def inputs(name: str, *, seed: int, n: int) -> Iterator[bytes]:
    """Yield bombs, good files and then broken ones, the same for the same seed, unsteered."""
    from analyses.fuzzing.readers import READERS

    reader, rng = READERS[name], random.Random(f"{name} {seed}")
    seeds = reader.seeds()
    for at in range(n):
        yield seeds[at] if at < len(seeds) else mutated(rng.choice(seeds), reader.form, rng)


def main() -> None:
    """Attack every reader in a process of its own; print a table; exit with 1 on a failure."""
    parser = argparse.ArgumentParser(prog="python -m analyses.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds-limit", type=float, help="stop after so long")
    parser.add_argument("--only", help="comma-separated names of readers")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--after", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child, given.inputs, given.seed, given.after)
        return
    from analyses.fuzzing.commands import posterior_file
    from analyses.fuzzing.readers import READERS

    names = list(READERS) if given.only is None else given.only.split(",")
    for name in names:
        if name not in READERS:
            parser.error(f"unknown reader {name!r}; choose among {', '.join(READERS)}")
    posterior_file()
    whole = sum(READERS[name].share for name in names)
    started, rows = time.monotonic(), []
    for name in names:
        n = max(1, round(given.inputs * READERS[name].share / whole))
        left = None
        if given.seconds_limit is not None:
            left = max(1.0, given.seconds_limit - (time.monotonic() - started))
            left /= len(names) - len(rows)
        rows.append(_attack(name, n, given.seed, left))
        print(_line(rows[-1]), flush=True)
    _table(rows)
    raise SystemExit(any(row["failed"] for row in rows))


def _attack(name: str, n: int, seed: int, seconds: float | None) -> dict[str, Any]:
    """Run a child until it has read its share; a child that dies or hangs is replaced."""
    folder = FOLDER / name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    total = dict.fromkeys(("inputs", "accepted", "refused", "failed"), 0)
    row: dict[str, Any] = {
        "reader": name,
        **total,
        "slowest": 0.0,
        "peak": 0,
        "lines": 0,
        "why": {},
    }
    end = None if seconds is None else time.monotonic() + seconds
    for attempt in range(20):
        left = n - row["inputs"]
        if left <= 0 or (end is not None and time.monotonic() > end):
            break
        command = [sys.executable, "-m", "analyses.fuzz", "--child", name, "--inputs", str(left)]
        command += ["--seed", str(seed + attempt), "--after", str(row["inputs"])]
        (folder / "current").unlink(missing_ok=True)
        with (folder / "log.txt").open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())
        why = _watched(child, folder, end)
        state = _state(folder)
        for key in total:
            row[key] += state.get(key, 0)
        row["slowest"] = max(row["slowest"], state.get("slowest", 0.0))
        row["peak"] = max(row["peak"], state.get("peak", 0))
        row["lines"] = max(row["lines"], state.get("lines", 0))
        row["why"] |= state.get("why", {})
        (folder / "state.json").unlink(missing_ok=True)
        if why and (folder / "current").exists():
            _keep(folder, (folder / "current").read_bytes(), why)
            row["inputs"] += 1
            row["failed"] += 1
            row["why"][why] = 1
        elif child.returncode and (end is None or time.monotonic() <= end):
            tail = (folder / "log.txt").read_text(errors="replace")[-2000:]
            raise SystemExit(f"the child of {name} did not run:\n{tail}")
    return row


def _environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def _watched(child: subprocess.Popen[bytes], folder: Path, end: float | None) -> str:
    """Wait for a child; return why its last input ended it, if so."""
    current = folder / "current"
    while child.poll() is None:
        time.sleep(0.2)
        stale = False
        # It is there only while an input is read.
        with contextlib.suppress(FileNotFoundError):
            stale = time.time() - current.stat().st_mtime > _PATIENCE
        late = end is not None and time.monotonic() > end
        if stale or late:
            child.kill()
            child.wait()
            return "hangs in library code" if stale else ""
    if child.returncode < 0:
        return f"ended by signal {-child.returncode}"
    return ""


def _state(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError):
        return {}


def _keep(folder: Path, data: bytes, why: str) -> None:
    at = len(list(folder.glob("failure-*.bin")))
    (folder / f"failure-{at}.bin").write_bytes(data)
    (folder / f"failure-{at}.txt").write_text(why, encoding="utf-8", errors="replace")


def _child(name: str, n: int, seed: int, after: int) -> None:
    """Read `n` inputs after others, steered by coverage where Atheris is installed."""
    try:
        import atheris
    except ImportError:
        atheris = None
    watch = (
        atheris.instrument_imports(include=["bayes_lrmf"]) if atheris else contextlib.nullcontext()
    )
    with watch:
        import bayes_lrmf.coldstart
        import bayes_lrmf.diagnose
        import bayes_lrmf.flag
        import bayes_lrmf.guard
        import bayes_lrmf.plan
        import bayes_lrmf.predict  # noqa: F401
        from analyses.fuzzing.commands import posterior_file
        from analyses.fuzzing.readers import READERS

    posterior_file()
    reader = READERS[name]
    seeds = reader.seeds()
    # Good files come to Atheris through its corpus: it keeps what it has seen covered.
    first = [*reader.bombs(), *(() if atheris else seeds)]
    run = _Run(name, n)
    for data in first[after:]:
        run.give(data)
    if atheris is None:
        rng = random.Random(f"{name} {seed}")
        while True:
            run.give(mutated(rng.choice(seeds), reader.form, rng))

    def mutate(data: bytes, limit: int, number: int) -> bytes:
        rng = random.Random(number)
        # A file that is broken in many ways is refused for the first of them.
        given = rng.choice(seeds) if rng.random() < 0.4 else data
        return mutated(given, reader.form, rng, limit)

    with tempfile.TemporaryDirectory(prefix="corpus-") as corpus:
        for at, data in enumerate(seeds):
            (Path(corpus) / f"seed-{at}").write_bytes(data)
        options = [
            "-runs=-1",
            f"-seed={seed + 1}",
            "-max_len=200000",
            "-timeout=0",
            "-rss_limit_mb=0",
            f"-artifact_prefix={run.folder}/",
        ]
        atheris.Setup(["fuzz", *options, corpus], run.give, custom_mutator=mutate)
        atheris.Fuzz()


class _Run:
    """Counts verdicts, keeps failing inputs, and ends the process after the last input."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n
        self.folder = FOLDER.absolute() / name.replace(" ", "-")
        self.state: dict[str, Any] = dict.fromkeys(("inputs", "accepted", "refused", "failed"), 0)
        self.state |= {"slowest": 0.0, "peak": 0, "why": {}}
        self.seen: set[bytes] = set()
        self.home = Path.cwd()
        # Room for address space that is asked for and not used.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY, used + 2 * MEMORY))

    def give(self, data: bytes) -> None:
        """Give an input to the reader; one that was given before does not count."""
        if data in self.seen:
            return
        if len(self.seen) < 100_000 and len(data) < 10_000:
            self.seen.add(data)
        (self.folder / "current").write_bytes(data)
        # From here on the kernel counts the peak anew.
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        found = verdict(self.name, data)
        os.chdir(self.home)
        (self.folder / "current").unlink(missing_ok=True)
        peak = _memory("VmHWM") - before
        if peak > MEMORY:
            found = Verdict("failed", f"takes {peak / 2**30:.1f} GB", found.seconds)
        self.state["inputs"] += 1
        self.state[found.outcome] += 1
        self.state["slowest"] = max(self.state["slowest"], found.seconds)
        self.state["peak"] = max(self.state["peak"], peak)
        if found.outcome == "failed":
            key = found.reason.strip()[-600:]
            times = self.state["why"].get(key, 0)
            self.state["why"][key] = times + 1
            if times < 2:
                _keep(self.folder, data, found.reason)
        if (
            self.state["inputs"] % 50 == 0
            or found.seconds > 1
            or self.state["inputs"] >= self.n
            or found.outcome == "failed"
        ):
            self.flush()
        if self.state["inputs"] >= self.n:
            os._exit(0)

    def flush(self) -> None:
        """Write what was counted, for the parent."""
        temporary = self.folder / "state.tmp"
        temporary.write_text(json.dumps(self.state))
        temporary.replace(self.folder / "state.json")


def _memory(kind: str) -> int:
    """Return resident bytes of this process, now or at their peak (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().split("\n") if x.startswith(kind))
    return int(line.split()[1]) * 1024


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['reader']}: {row['inputs']:,} inputs, {row['failed']:,} failures, "
        f"slowest {row['slowest']:.1f} s, peak {row['peak'] / 2**20:,.0f} MB"
    )


def _table(rows: list[dict[str, Any]]) -> None:
    columns = ("inputs", "accepted", "refused", "failed")
    print(f"\n{'reader':20} " + " ".join(f"{c:>9}" for c in columns) + "  slowest s  peak MB")
    total: dict[str, Any] = {"reader": "all", "slowest": max(r["slowest"] for r in rows)}
    total |= {"peak": max(r["peak"] for r in rows)} | {c: sum(r[c] for r in rows) for c in columns}
    for row in (*rows, total):
        counts = " ".join(f"{row[c]:>9,}" for c in columns)
        print(f"{row['reader']:20} {counts} {row['slowest']:>10.2f} {row['peak'] / 2**20:>8,.0f}")
    for row in rows:
        for why, times in row["why"].items():
            print(f"\n{row['reader']}, {times:,} times:\n{why}")
    if any(row["failed"] for row in rows):
        print(f"\ninputs that failed are in {FOLDER}/<reader>/failure-*.bin", file=sys.stderr)


if __name__ == "__main__":
    main()
