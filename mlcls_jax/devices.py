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

from mlcls_jax import peers
from mlcls_jax.config import Distributed
from mlcls_jax.host import available_memory

AXIS = "data"
# glibc's: large buffers come from one heap in huge pages that is never given back, so that a step
# finds the memory of the last one instead of fresh pages that the system has to clear.
HEAP = (
    "glibc.malloc.hugetlb=1",
    "glibc.malloc.arena_max=1",
    "glibc.malloc.mmap_max=0",
    "glibc.malloc.trim_threshold=68719476736",
)


def cache_folder() -> Path:
    """Where downloads and compiled programs are kept: $MLCLS_JAX_CACHE or ~/.cache/mlcls_jax."""
    return Path(os.environ.get("MLCLS_JAX_CACHE", "~/.cache/mlcls_jax")).expanduser()


def start(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    cluster: bool = False,
    distributed: Distributed | None = None,
) -> None:
    """Turns the compilation cache on and joins the other processes, if there are any.

    Args:
        coordinator: "host:port" of process 0; "" for a single process, or with `cluster`.
        processes: how many there are.
        process: which one this is, from 0.
        cluster: let JAX find all three itself (SLURM, TPU pods, Open MPI, Kubernetes).
        distributed: how long the processes wait for each other.

    Raises:
        ValueError: some of the three are given without the others.
    """
    given = bool(coordinator), processes > 0, process >= 0
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process go together; give all three")
    if all(given) and process >= processes:
        raise ValueError(f"--process is {process}; with --processes {processes} they count from 0")
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    # Small programs as well: a start has dozens, and reading one is faster than compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # On CPU a step that is dispatched ahead would allocate its activations ahead.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not cluster and not coordinator:
        return
    others: dict[str, Any] = {}  # JAX finds them
    if coordinator:
        others = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    limits = distributed or Distributed()
    peers.join(limits.timeout, limits.start_timeout, **others)


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


def describe(devices: int, kind: str, processes: int, heap_is_kept: bool) -> str:
    """What a header says of them, such as "8 x NVIDIA A100, 2 processes"."""
    several = "es" if processes > 1 else ""
    heap = ", heap kept" if heap_is_kept else ""
    return f"{devices} x {kind}, {processes} process{several}{heap}"


def compute_dtype(name: str) -> Any:
    """The dtype of config field model.compute_dtype: "auto" is float32 on CPU, else bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
