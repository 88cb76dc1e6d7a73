"""Fixtures that every test may use; JAX on the CPU, so that no result depends on a device."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Fits of one shape are compiled once: workers, and the processes they start, share one cache.
_CACHE = Path(__file__).resolve().parent.parent / "build" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Tracing makes objects by the million, and few of them are in cycles.
gc.set_threshold(200_000, 50, 100)

# The first example may compile; and a check of one commit should say the same thing twice.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

if "PYTEST_XDIST_WORKER" in os.environ:
    from jax._src.lru_cache import LRUCache

    def _put(self: LRUCache, key: str, value: bytes) -> None:
        """Write an entry whole or not at all: JAX leaves others to read what is half written."""
        path = self.path / f"{key}-cache"
        if not path.exists():
            part = self.path / f"{key}.{os.getpid()}"
            part.write_bytes(value)
            part.replace(path)

    LRUCache.put = _put

SEED = 20250419
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real tables, or skip."""
    folder = Path(os.environ.get("BAYES_LRMF_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data absent: {folder} (set BAYES_LRMF_DATA)")
    return folder


@pytest.fixture
def unoptimised() -> Iterator[None]:
    """Compile in less time, for tests that compare what a program gives with what it gives."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def claim() -> Callable[..., None]:
    """Return what asserts that a measured gap is within its tolerance, and tells the ledger.

    Where a known shortcoming keeps a gap from the tolerance, tests hold it to a wider `bound`, and
    the ledger says that it fails, and the `cause`.
    """

    def stated(
        what: str,
        reference: str,
        measured: float,
        tolerance: float,
        *,
        bound: float | None = None,
        cause: str = "",
    ) -> None:
        path = os.environ.get("BAYES_LRMF_LEDGER")
        limit = tolerance if bound is None else bound
        if path:
            row = {
                "claim": what,
                "reference": reference,
                "measured": float(measured),
                "tolerance": tolerance,
                "bound": limit,
                "cause": cause,
            }
            # Workers append whole lines.
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        assert measured <= limit, f"{what}: {measured} > {limit}"

    return stated


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture
def key():
    import jax

    return jax.random.key(SEED)


@pytest.fixture(scope="session")
def kin_data():
    """Sixty simulated models along a lineage, some never run, on 60 items of three benchmarks."""
    import jax

    from bayes_lrmf.simulate import simulate

    return simulate(_kin_spec(), key=jax.random.key(1), n_models=60, n_items=60, n_benchmarks=3)


@pytest.fixture(scope="session")
def kin_fit(kin_data):
    """A fit of `kin_data` by vb, which knows all of its lineage and a model without kin."""
    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.inference import fit_vb

    names = [*kin_data.lineage.nodes, "nobody/knows"]
    design = make_design(
        kin_data.responses, _kin_spec(), lineage=kin_data.lineage, extra_models=names
    )
    return fit_vb(design, _kin_spec(), key=jax.random.key(0))


def _kin_spec():
    from bayes_lrmf.spec import read_spec

    return dataclasses.replace(read_spec("directed"), rank=2)
