"""Fixtures that every test may use; JAX on the CPU, so that no result depends on a device."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The first example may compile; and a check of one commit should say the same thing twice.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

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
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture
def key():
    import jax

    return jax.random.key(SEED)
