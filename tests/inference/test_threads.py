"""What a fit gives does not depend on how many threads compute it, and one seed gives one file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Large enough that products of matrices are divided among threads.
FIT = """
import dataclasses, sys, threading
from pathlib import Path
import jax
import numpy as np
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.predict import predict_items
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import write_posterior

method, name = sys.argv[1:]
spec = dataclasses.replace(read_spec("directed"), rank=3)
if method == "map":
    spec = dataclasses.replace(read_spec("laplacian"), rank=3)
data = simulate(spec, key=jax.random.key(5), n_models=160, n_items=240, n_benchmarks=3)
design = make_design(data.responses, spec, lineage=data.lineage)
posterior = {"map": fit_map, "vb": fit_vb}[method](design, spec, key=jax.random.key(0))
write_posterior(dataclasses.replace(posterior, seed=0), name + ".nc")
table = predict_items(posterior, key=jax.random.key(1), n_draws=100)
np.save(name + ".npy", table["mean"].to_numpy())
tasks = [Path(at, "comm").read_text() for at in Path("/proc/self/task").iterdir()]
print(sum("XLAEigen" in task for task in tasks))
"""


def fitted(folder: Path, method: str, name: str, threads: int) -> int:
    """Fit in a process of so many threads; return how many XLA computes with, by the kernel."""
    number = str(threads)
    environment = os.environ | {
        "NPROC": number,
        "OMP_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", FIT, method, name]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.ledger
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by Linux")
@pytest.mark.parametrize("method", ["map", "vb"])
def test_threads_do_not_change_means_and_a_seed_gives_one_file(tmp_path, method, claim):
    counted = [fitted(tmp_path, method, name, n) for name, n in (("a", 1), ("b", 1), ("two", 2))]
    assert counted[0] == counted[1] < counted[2]
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()
    one, two = (np.load(tmp_path / f"{name}.npy") for name in ("a", "two"))
    assert one.std() > 0.1
    claim(
        f"{method}: posterior mean probabilities of cells with two threads, greatest gap",
        "the same with one",
        float(np.abs(one - two).max()),
        1e-4,
    )
