"""Part 1: devices, versions, matmul peaks, memory bandwidth, and the host's decoding of JPEGs."""

import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from part_record import Record, options_of

from mlcls_jax.benchmark.timing import seconds_per_step

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "timm", "keras")
PACKAGES += ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "triton")
MATMULS = {
    "bfloat16": ("bfloat16", None),
    "float32": ("float32", lax.DotAlgorithmPreset.F32_F32_F32),
    "tf32": ("float32", lax.DotAlgorithmPreset.TF32_TF32_F32),
}


def describe() -> dict[str, Any]:
    """Returns devices, driver, cores and versions."""
    device = jax.devices()[0]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "devices": [each.device_kind for each in jax.devices()],
        "platform": device.platform,
        "memory": (device.memory_stats() or {}).get("bytes_limit"),
        "driver": driver(),
        "cores": len(os.sched_getaffinity(0)),
        "host_memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "versions": versions,
    }


def driver() -> str | None:
    """Returns the driver's version and the clocks, as nvidia-smi prints them; None without it."""
    query = "driver_version,name,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None


def matmul_rate(name: str, size: int) -> dict[str, float]:
    """Returns the operations/s of a product of square matrices."""
    dtype, precision = MATMULS[name]
    matrix = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(dtype)
    multiply = jax.jit(lambda a, b: lax.dot(a, b, precision=precision))

    def run(steps: int) -> float:
        x = matrix
        began = time.perf_counter()
        for _ in range(steps):
            x = multiply(matrix, x).astype(dtype)
        x.block_until_ready()
        return time.perf_counter() - began

    seconds = seconds_per_step({"matmul": run}, 0.5 if size > 1024 else 0.01, 3)["matmul"]
    return {"flops": 2 * size**3 / seconds.median, "size": size}


def bandwidth(values: int) -> dict[str, float]:
    """Returns the bytes/s that are read and written by y = 2 x + 1 in float32."""
    x = jnp.ones((values,), jnp.float32)
    scale = jax.jit(lambda x: 2 * x + 1)

    def run(steps: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready([scale(x) for _ in range(steps)][-1])
        return time.perf_counter() - began

    seconds = seconds_per_step({"scale": run}, 0.2, 3)["scale"]
    return {"bytes_per_second": 8 * values / seconds.median, "bytes": 8 * values}


def decode_rate(seconds: float) -> dict[str, float]:
    """Returns the JPEGs/s of 640 x 480 that all cores decode to 224 px, with our reader."""
    import cv2

    from mlcls_jax.benchmark.synthetic_images import write_images
    from mlcls_jax.data.images.decoding import image_libraries, open_image

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        contents = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]

    def decode(jpeg: bytes) -> None:
        cv2.resize(open_image(jpeg).decode(224, 224), (224, 224), interpolation=cv2.INTER_AREA)

    with image_libraries(), ThreadPoolExecutor(cores) as pool:
        began, images = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            list(pool.map(decode, contents))
            images += len(contents)
        return {"images_per_second": images / (time.perf_counter() - began), "cores": cores}


def main() -> None:
    """Measures the machine."""
    options = options_of(__doc__)
    record, small = Record("hardware", options), options.rehearse
    names = [f"matmul {name}" for name in MATMULS]
    record.plan(["machine", *names, "bandwidth", "decode"])
    record.measure("machine", describe)
    for name in MATMULS:
        if name == "tf32" and jax.default_backend() == "cpu":
            record.fail(f"matmul {name}", "a CPU has no TF32")
            continue
        record.measure(
            f"matmul {name}", lambda name=name: matmul_rate(name, 256 if small else 8192)
        )
    record.measure("bandwidth", lambda: bandwidth(2**20 if small else 2**29))
    record.measure("decode", lambda: decode_rate(0.2 if small else 5.0))


if __name__ == "__main__":
    main()
