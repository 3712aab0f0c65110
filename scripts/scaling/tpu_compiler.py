"""Meshes of absent TPU chips, for compiling programs without a TPU.

    pip install libtpu  # the compiler itself, 700 MB on disk

A program lowered for such a mesh compiles to the executable that the chips would run, so its
memory, arithmetic, traffic and text can be read. Only running it needs the hardware. Code that
looks at the current backend sees the CPU: set model.compute_dtype to "bfloat16" instead of "auto".
"""

import os

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from mlcls_jax.system.devices import AXIS

# libtpu reads these when it is loaded. Without them it waits for the metadata server of a Cloud TPU
# machine, warns that there is none, and lets only one process compile at a time.
_SETTINGS = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",  # any: the topology is named below
    "TPU_LOG_DIR": "disabled",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def tpu_mesh(topology: str, devices: int | None = None) -> Mesh:
    """Returns a mesh with one axis over devices of a TPU slice, for compiling only.

    Args:
        topology: generation and chips per axis, such as "v5e:2x4", "v4:2x2x4" or "v5p:2x2x1"; a
            device is a chip, as on Cloud TPU.
        devices: number of devices; None uses all.

    Raises:
        ValueError: libtpu is not installed, or does not know the topology.
    """
    os.environ.update(_SETTINGS)
    # Without this option the two cores of a v4 chip are two devices.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        found = topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except RuntimeError as error:
        if "not installed" in str(error):
            raise ValueError(
                "libtpu, the TPU compiler, is not installed: pip install libtpu"
            ) from error
        reason = str(error).splitlines()[0]
        raise ValueError(f"TPU topology {topology!r}: {reason}") from error
    return Mesh(np.array(found[:devices]), (AXIS,), axis_types=(AxisType.Auto,))


def has_tpu_compiler() -> bool:
    """Returns whether the TPU compiler is installed."""
    try:
        tpu_mesh("v5e:2x2")
    except ValueError:
        return False
    return True
