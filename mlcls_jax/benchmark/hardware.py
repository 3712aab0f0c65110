"""The matmul peak of the devices, and the peak use of memory."""

import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mlcls_jax.benchmark.timing import TimedCall
from mlcls_jax.system.devices import AXIS, sharded


def matmul_size() -> int:
    """Returns the side of a square matrix that is large enough to reach the peak rate."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def matmul_flops() -> float:
    """Returns the floating-point operations of one matrix product on one device."""
    return 2.0 * matmul_size() ** 3


def matmul_run(mesh: Mesh, dtype: Any) -> TimedCall:
    """Returns a function to time that multiplies square matrices on all devices at once.

    All devices run at once, because virtual devices share the cores and real ones a power limit.

    Args:
        mesh: of all devices.
        dtype: of the matrices.
    """
    size = matmul_size()
    sharding = sharded(mesh)

    def operands(key):
        shape = (mesh.size, size, size)
        # Products keep the norm, so that a long chain neither overflows nor underflows.
        matrix = jax.random.normal(key, shape, dtype) / jnp.sqrt(size).astype(dtype)
        return matrix, jnp.ones(shape, dtype)

    def product(matrix, x):
        return (matrix[0] @ x[0])[None]

    mapped = jax.shard_map(product, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS))
    multiply = jax.jit(mapped)
    matrix, start = jax.jit(operands, out_shardings=sharding)(jax.random.key(0))

    def run(steps: int) -> float:
        x = start
        jax.block_until_ready((matrix, x))
        began = time.perf_counter()
        for _ in range(steps):
            x = multiply(matrix, x)
        x.block_until_ready()
        return time.perf_counter() - began

    return run


def peak_rss() -> int:
    """Returns the largest resident set size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_peak() -> int | None:
    """Returns the peak memory of the first local device in bytes; None if it is not reported."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")
