"""Checkpoints: what a fit needs to go on after its process was killed."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import Design
from bayes_lrmf.files import locked, remove_leftovers, written_whole
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.provenance import design_digests, digest, package_versions
from bayes_lrmf.spec import Spec

__all__ = ["Checkpoint", "Interrupted", "Saved", "leaves", "restored", "saved_by"]

FORMAT_VERSION = 1
_HEADER = "header"
# Writing takes at most a twentieth of the time.
_LEAST_INTERVAL_PER_WRITE = 20.0

Arrays = Mapping[str, np.ndarray]
State = tuple[dict[str, Any], dict[str, np.ndarray]]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a fit.

    Attributes
    ----------
    when : str
        How far it had come, e.g. ``"after 37 sweeps"``.
    posterior : callable or None
        Makes the posterior so far, marked as not converged; None where there is none yet.
    """

    def __init__(self, when: str, posterior: Callable[[], Posterior] | None = None) -> None:
        self.when, self.posterior = when, posterior
        super().__init__(f"interrupted {when}")


class Checkpoint:
    """A file from which the same fit goes on, to the same result.

    As a context manager it holds a lock on the file. The file is removed when the context ends
    well, so write the posterior inside it; after an error or Ctrl-C it stays.

    Parameters
    ----------
    path : str or path-like
    seconds : float
        Least time between two writes, by default 30; a fit that takes less writes nothing. Writes
        that take long come more rarely, so that they cost at most 5 % of the time. With 0 every
        step is written.

    Notes
    -----
    The file is an uncompressed NumPy archive without pickled objects: the arrays of the state of
    the fit, and a header of JSON text that says which fit it is of. It is read again only by a fit
    of the same method, data, lineage, features, spec, key, options and versions.

    Raises
    ------
    InputError
        On entry, if another process holds the lock or the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, seconds: float = 30.0) -> None:
        if not seconds >= 0:
            raise InputError(f"seconds is {seconds!r}", fix="give 0 or more")
        self.path, self.seconds = Path(path), float(seconds)
        self._held: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                locked(self.path, fix="wait until it has ended, or name another output")
            )
            remove_leftovers(self.path)
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        held, self._held = self._held, None
        assert held is not None
        with held:
            if kind is None:
                self.path.unlink(missing_ok=True)

    @property
    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.exists()

    def of(self, identity: Callable[[], dict[str, Any]], progress: Progress) -> Saved:
        """Return what a fit of this identity saves to and loads from.

        Raises
        ------
        InputError
            If the context has not been entered, or the file is no checkpoint or of another fit.
        """
        if self._held is None:
            raise InputError("the checkpoint is not open", fix="use it as `with checkpoint:`")
        return Saved(self.path, self.seconds, identity, progress)


class Saved:
    """The states that one fit saves and loads, stage by stage; the file holds the last one.

    Parameters
    ----------
    path : Path or None
        None saves nothing.
    seconds : float
    identity : callable
        Returns what the fit is, as JSON; called when it is first needed, as it reads all data.
    progress : Progress
    """

    def __init__(
        self,
        path: Path | None,
        seconds: float,
        identity: Callable[[], dict[str, Any]],
        progress: Progress,
    ) -> None:
        self._path, self._seconds, self._progress = path, seconds, progress
        self._identity = identity
        self._found: tuple[str, dict[str, Any], dict[str, np.ndarray]] | None = None
        self._started = self._written = monotonic()
        self._before, self._cost, self._warned = 0.0, 0.0, False
        self.is_inner = False
        if path is not None and path.exists():
            self._found = self._read(path)

    @property
    def seconds(self) -> float:
        """Time that the fit has taken, in this process and in those it goes on from."""
        return self._before + monotonic() - self._started

    def _read(self, path: Path) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(str(arrays.pop(_HEADER)[()]))
            stage, info, identity = header["stage"], header["info"], header["identity"]
            self._before = float(header["seconds"])
            known = dict(identity)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError("not a checkpoint", where=str(path), fix="remove it") from error
        known["format"] = header.get("format")
        own = {**self._identity(), "format": FORMAT_VERSION}
        differs = [n for n, v in own.items() if known.get(n) != v]
        if differs:
            raise InputError(
                f"a checkpoint of another fit ({', '.join(differs)} differ)",
                where=str(path),
                fix="repeat the fit it is of, remove it, or name another output",
            )
        return stage, info, arrays

    def load(self, stage: str) -> State | None:
        """Return info and arrays of this stage if the fit goes on from it, else None."""
        if self._found is None or self._found[0] != stage:
            return None
        _, info, arrays = self._found
        self._found = None
        return info, arrays

    def resumed(self, unit: str, count: int) -> None:
        """Say where the fit goes on, and let JAX start as in a new process."""
        # After a fit that stopped halfway, tracing at another precision may find what JAX kept.
        jax.clear_caches()  # type: ignore[no-untyped-call]
        self._progress.say(f"resumed from {unit} {count:,} ({self._path})")

    def offer(self, stage: str, state: Callable[[], State], *, at_once: bool = False) -> None:
        """Write the state if it is time to, or `at_once`; a failure is said, and ends nothing."""
        if self._path is None or not (at_once or self._is_due()):
            return
        begun = monotonic()
        info, arrays = state()
        header = {
            "format": FORMAT_VERSION,
            "stage": stage,
            "info": info,
            "seconds": self.seconds,
            "identity": self._identity(),
        }
        try:
            with written_whole(self._path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **{_HEADER: np.array(json.dumps(header))}, **arrays)  # type: ignore[arg-type]
        except InputError as error:
            if not self._warned:
                self._progress.say(f"note: no checkpoint: {error}")
            self._warned = True
        self._written = monotonic()
        self._cost = self._written - begun

    def _is_due(self) -> bool:
        if self._seconds == 0:
            return True
        wait = max(self._seconds, _LEAST_INTERVAL_PER_WRITE * self._cost)
        return monotonic() - self._written >= wait

    def inner(self) -> Saved:
        """Return itself for a fit that is a stage of this one, whose posterior is none."""
        new = object.__new__(Saved)
        new.__dict__ = self.__dict__ | {"is_inner": True}
        return new

    def interrupted(self, when: str, posterior: Callable[[], Posterior] | None) -> Interrupted:
        """Return what to raise after Ctrl-C."""
        return Interrupted(when, None if self.is_inner else posterior)


def saved_by(
    checkpoint: Checkpoint | Saved | None,
    method: str,
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    progress: Progress,
    options: Mapping[str, Any],
) -> Saved:
    """Return where a fit saves its states: nowhere without a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint, Saved or None
        `Saved` where the fit is a stage of another.
    method : str
    design : Design
    spec : Spec
    key : jax key
    progress : Progress
    options : mapping
        Everything else that decides the result: numbers, texts, or (nested) mappings of arrays.

    Raises
    ------
    InputError
        If the file is of another fit.
    """
    if isinstance(checkpoint, Saved):
        return checkpoint.inner()

    @functools.cache
    def identity() -> dict[str, Any]:
        found = {
            "method": method,
            **design_digests(design),
            "spec": spec.to_dict(),
            "seed": np.asarray(jax.random.key_data(key)).ravel().tolist(),
            "options": {name: _plain(value) for name, value in options.items()},
            "versions": package_versions(),
        }
        # As it comes back from a file, where tuples are lists.
        return cast(dict[str, Any], json.loads(json.dumps(found)))

    if checkpoint is None:
        return Saved(None, 0.0, identity, progress)
    return checkpoint.of(identity, progress)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(v) for name, v in value.items()}
    return digest([np.asarray(value)])


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a JAX pytree, keys of random numbers as their data."""
    found = jax.tree.leaves(tree)
    return {f"leaf_{i}": np.asarray(_data(leaf)) for i, leaf in enumerate(found)}


def restored(like: Any, arrays: Arrays) -> Any:
    """Return the pytree of the structure of `like` that holds what `leaves` gave."""
    old, structure = jax.tree.flatten(like)
    new = [_like(leaf, arrays[f"leaf_{i}"]) for i, leaf in enumerate(old)]
    return jax.tree.unflatten(structure, new)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: Any, value: np.ndarray) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    return jnp.asarray(value)
