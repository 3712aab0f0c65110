"""What the devices can do, and what memory was taken."""

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
    """Rows and columns of a matrix large enough for the devices to be at their best."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def matmul_flops() -> float:
    """Of one product on one device: a multiplication and an addition each."""
    return 2.0 * matmul_size() ** 3


def matmul_run(mesh: Mesh, dtype: Any) -> TimedCall:
    """Products of square matrices in the compute dtype, on every device at once.

    All devices at once, because virtual ones share the cores, and real ones a power limit.
    """
    size = matmul_size()
    sharding = sharded(mesh)

    def operands(key):
        shape = (mesh.size, size, size)
        # Products keep the norm, so that a long chain neither overflows nor dies out.
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
    """Bytes of the largest resident set that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_peak() -> int | None:
    """Bytes at the highest point of this process's first device; None where it does not count."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")
