"""Devices: the mesh over them, shardings, free memory, and the default compute dtype."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"


def is_first_process() -> bool:
    """Returns whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def make_mesh(devices: int | None = None) -> Mesh:
    """Returns a mesh with the single axis AXIS.

    Args:
        devices: number of devices to use; None uses all devices of all processes.
    """
    used = jax.devices()[:devices]
    return jax.make_mesh((len(used),), (AXIS,), axis_types=(AxisType.Auto,), devices=used)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the training state: a full copy on every device."""
    return NamedSharding(mesh, P())


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows split over AXIS."""
    return NamedSharding(mesh, P(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of host arrays, equal in all processes, to every device."""
    return put_local(jax.tree.map(np.asarray, tree), replicated(mesh))


def put_local(tree: Any, sharding: NamedSharding) -> Any:
    """Builds global arrays from the rows that each process holds.

    Args:
        tree: the arrays of this process.
        sharding: of the global arrays.

    Returns:
        A tree of global arrays; the copy to the devices may still be running.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)  # one call is cheapest
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), tree)


def free_memory(mesh: Mesh) -> float:
    """Returns the least free memory of this process's devices of the mesh, in bytes.

    CPU devices share the available memory of the system.  The result is infinite if unknown.
    """
    local = mesh.local_devices
    if local[0].platform == "cpu":
        return available_memory() / len(local)
    stats = [device.memory_stats() or {} for device in local]
    if not all({"bytes_limit", "bytes_in_use"} <= set(each) for each in stats):
        return math.inf
    return float(min(each["bytes_limit"] - each["bytes_in_use"] for each in stats))


def describe_devices(devices: int, kind: str, processes: int, heap_is_kept: bool) -> str:
    """Returns a description such as "8 x NVIDIA A100, 2 processes"."""
    plural = "es" if processes > 1 else ""
    heap = ", heap kept" if heap_is_kept else ""
    return f"{devices} x {kind}, {processes} process{plural}{heap}"


def compute_dtype(name: str) -> Any:
    """Returns the dtype that model.compute_dtype names; "auto" is float32 on CPU, else bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


_MEMINFO = Path("/proc/meminfo")
# Memory limit and use of a container, in control groups version 2 and version 1.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_memory() -> float:
    """Returns the available memory of the host or the container in bytes; infinite if unknown."""
    return min([_system_memory(), *(_container_memory(*files) for files in _CGROUPS)])


def _system_memory() -> float:
    if not _MEMINFO.exists():
        return math.inf
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024


def _container_memory(limit: Path, used: Path) -> float:
    try:
        return float(limit.read_text()) - float(used.read_text())
    except (OSError, ValueError):  # no such control group, or its limit is "max"
        return math.inf
