"""Processes, devices and the mesh over them; the compilation cache."""

import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
# glibc's: large buffers come from one heap in huge pages that is never given back, so that a step
# finds the memory of the last one instead of fresh pages that the system has to clear.
HEAP = (
    "glibc.malloc.hugetlb=1",
    "glibc.malloc.arena_max=1",
    "glibc.malloc.mmap_max=0",
    "glibc.malloc.trim_threshold=68719476736",
)


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def make_mesh(devices: int | None = None) -> Mesh:
    """One axis over the first so many devices; None: over every device of every process."""
    used = jax.devices()[:devices]
    return jax.make_mesh((len(used),), (AXIS,), axis_types=(AxisType.Auto,), devices=used)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state."""
    return NamedSharding(mesh, P())


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows over the axis."""
    return NamedSharding(mesh, P(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A tree of host arrays, equal on every process, as arrays on every device."""
    return put_local(jax.tree.map(np.asarray, tree), replicated(mesh))


def put_local(tree: Any, sharding: NamedSharding) -> Any:
    """A tree of this process's parts of global arrays as these arrays; returns before the copy."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)  # one call costs the host least
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), tree)


def free_memory(mesh: Mesh) -> float:
    """Bytes that are free for each of this process's devices of the mesh; inf: not known.

    Devices that are the CPU share what the system has available.
    """
    local = mesh.local_devices
    if local[0].platform == "cpu":
        return available_memory() / len(local)
    stats = [device.memory_stats() or {} for device in local]
    if not all({"bytes_limit", "bytes_in_use"} <= set(of) for of in stats):
        return math.inf
    return float(min(of["bytes_limit"] - of["bytes_in_use"] for of in stats))


def keeps_heap() -> bool:
    """Whether the environment has the settings of HEAP (README, "On CPU")."""
    return set(HEAP) <= set(os.environ.get("GLIBC_TUNABLES", "").split(":"))


def heap_tunables() -> str:
    """HEAP as the value of GLIBC_TUNABLES, which glibc reads when a process starts."""
    return ":".join(HEAP)


def describe_devices(devices: int, kind: str, processes: int, heap_is_kept: bool) -> str:
    """What a header says of them, such as "8 x NVIDIA A100, 2 processes"."""
    several = "es" if processes > 1 else ""
    heap = ", heap kept" if heap_is_kept else ""
    return f"{devices} x {kind}, {processes} process{several}{heap}"


def compute_dtype(name: str) -> Any:
    """The dtype of config field model.compute_dtype: "auto" is float32 on CPU, else bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


_MEMINFO = Path("/proc/meminfo")
# Limit and use of a container: control groups, version 2 and 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_memory() -> float:
    """Bytes that the host, or the container, can still give; infinite where neither says."""
    return min([_of_system(), *(_of_container(*files) for files in _GROUPS)])


def _of_system() -> float:
    if not _MEMINFO.exists():
        return math.inf
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024


def _of_container(limit: Path, used: Path) -> float:
    try:
        return float(limit.read_text()) - float(used.read_text())
    except (OSError, ValueError):  # there is none, or its limit is "max"
        return math.inf
