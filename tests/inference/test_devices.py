"""Fits on several devices, of one process and of two, against the fit on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import make_design
from bayes_lrmf.inference import fit_map, fit_vb
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (41, 70)
WORKER = """
import sys

import jax
import numpy as np

n_devices, n_processes, number, address, out = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(n_devices))
if int(n_processes) > 1:
    jax.distributed.initialize(address, int(n_processes), int(number))
sys.path.insert(0, "tests/inference")
from test_devices import fitted

assert len(jax.devices()) == int(n_devices) * int(n_processes)
np.savez(out, **fitted(jax.devices()))
"""


def fitted(devices=None):
    """Log-odds of a small simulated table by map, vb and vb of counts."""
    found = {}
    for name, trials in (("map", 1), ("vb", 1), ("counts", 7)):
        drawn = simulate(
            read_spec("laplacian"),
            key=jax.random.key(2),
            n_models=SHAPE[0],
            n_items=SHAPE[1],
            density=0.8,
            trials=trials,
        )
        spec = read_spec("laplacian" if name == "map" else "lrmf")
        design = make_design(drawn.responses, spec, lineage=drawn.lineage)
        design = design if devices is None else design.on(devices)
        fit = fit_map if name == "map" else fit_vb
        options = {"max_iterations": 15} if name == "map" else {"max_sweeps": 3}
        posterior = fit(design, spec, key=jax.random.key(0), **options)
        found[f"{name}_trace"] = posterior.record.trace
        draws = posterior.draws(1 if name == "map" else 20, key=jax.random.key(1))
        rows, cols = np.indices(design.responses.shape).reshape(2, -1)
        found[name] = np.asarray(posterior.psi(draws, rows, cols))
    return found


def spread_over(folder, n_devices, n_processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", WORKER, str(n_devices), str(n_processes)]
    environment = {n: v for n, v in os.environ.items() if n != "XLA_FLAGS"}
    outputs = [folder / f"{i}.npz" for i in range(n_processes)]
    workers = [
        subprocess.Popen(
            [*command, str(i), address, str(out)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for i, out in enumerate(outputs)
    ]
    for worker in workers:
        _, error = worker.communicate(timeout=500)
        assert worker.returncode == 0, error.decode()
    return [dict(np.load(out)) for out in outputs]


@pytest.fixture(scope="module")
def alone():
    return fitted()


@pytest.mark.slow
@pytest.mark.parametrize(("n_devices", "n_processes"), [(3, 1), (1, 2)])
def test_fits_on_several_devices_are_those_on_one(alone, tmp_path, n_devices, n_processes):
    found = spread_over(tmp_path, n_devices, n_processes)
    assert len(found) == n_processes
    for one in found:
        for name, expected in alone.items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(one[name], expected, rtol=1e-4, atol=1e-4 * scale)
    for name in alone:
        # Processes that drift apart would each have a posterior of their own.
        np.testing.assert_array_equal(found[0][name], found[-1][name])


def test_no_device_is_refused():
    drawn = simulate(read_spec("mf"), key=jax.random.key(0), n_models=4, n_items=5)
    with pytest.raises(InputError, match="no device"):
        make_design(drawn.responses, read_spec("mf")).on([])
