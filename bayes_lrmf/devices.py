"""Arrays spread over devices, of one process or of several, and sums over their shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["device_mesh", "sharded", "summed_over"]


def device_mesh(devices: Sequence[Any]) -> Mesh:
    """Return a mesh of one axis over some devices."""
    return Mesh(np.array(devices, dtype=object), ("devices",))


def sharded(values: np.ndarray, mesh: Mesh) -> jax.Array:
    """Return a global array whose first axis is spread over the devices of a mesh of one axis.

    Every process gives the whole of `values`; it places the shares of its own devices.
    """
    sharding = NamedSharding(mesh, _spec(*mesh.axis_names))
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def summed_over(function: Callable[..., Any], mesh: Mesh | None, split: Any) -> Callable[..., Any]:
    """Return a function that runs on each device's share of some arguments.

    Parameters
    ----------
    function : callable
        Returns two trees: arrays to sum over devices, and arrays to join along their first axis.
    mesh : Mesh or None
        None for the function itself.
    split : tree of bool
        For each argument, or part of one, whether its first axis is spread.

    Returns
    -------
    callable
        Whose results are whole on every device.
    """
    if mesh is None:
        return function
    (axis,) = mesh.axis_names

    def of_device(*arguments: Any) -> Any:
        summed, listed = function(*arguments)
        total = jax.lax.psum(summed, axis)  # type: ignore[no-untyped-call]
        return total, jax.lax.all_gather(listed, axis, tiled=True)

    specs = jax.tree.map(lambda is_split: _spec(axis) if is_split else _spec(), split)
    return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=_spec(), check_vma=False)


def _spec(*axes: Any) -> Any:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]
