"""What the machine is and how fast it multiplies matrices, measured in the run itself."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_SIZE = 2048
_TIMES = 5


def _gigaflops(multiply: Callable[[], object]) -> float:
    multiply()
    seconds = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - started)
    return 2e-9 * _SIZE**3 / float(np.median(seconds))


def described() -> dict[str, object]:
    """Return processor, cores, load, and GFLOP/s of float32 products of 2,048 x 2,048."""
    left, right = np.random.default_rng(0).standard_normal((2, _SIZE, _SIZE), np.float32)
    on_device = jnp.asarray(left), jnp.asarray(right)
    product = jax.jit(jnp.matmul)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "jax_gigaflops": _gigaflops(lambda: product(*on_device).block_until_ready()),
        "numpy_gigaflops": _gigaflops(lambda: left @ right),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
