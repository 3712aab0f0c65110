"""Our side of part 3: the trainer's compiled steps in bfloat16."""

from typing import Any

import jax
from part_networks import Work, compile_work


def versions() -> str:
    """Returns the version of JAX."""
    return f"jax {jax.__version__} on {jax.devices()[0].device_kind}"


def build(what: str, variant: str, size: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """Returns the step and its counts, for speed_worker.py."""
    compiled = compile_work(Work(what, variant, size, batch))
    return compiled.run, {
        "flops": compiled.flops,
        "traffic": compiled.traffic,
        "planned_memory": compiled.memory,
        "compile_seconds": compiled.seconds,
    }


def memory() -> dict[str, Any]:
    """Returns the peak memory of the device so far."""
    return {"peak_memory": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}
