"""The TPU compiler without a TPU: meshes of chips that are not there, to compile programs for.

    pip install libtpu  # the compiler itself, 700 MB on disk

A program lowered for such a mesh compiles to the executable that the chips would run, so its
memory, arithmetic, traffic and text can be read; only running it needs the hardware.  What looks at
the present backend must be told: set model.compute_dtype to "bfloat16", as "auto" sees a CPU here.
"""

import os

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from mlcls_jax.system.devices import AXIS

# Read by libtpu when it is loaded.  Without them it looks for a Cloud TPU machine, waits for its
# metadata server, warns that there is none, and lets one process at a time compile.
_SETTINGS = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",  # any: the topology is named below
    "TPU_LOG_DIR": "disabled",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def tpu_mesh(topology: str, devices: int | None = None) -> Mesh:
    """One axis over the first so many devices of a slice, for compiling only; None: over all.

    Args:
        topology: generation and chips per axis, such as "v5e:2x4", "v4:2x2x4" or "v5p:2x2x1"; a
            device is a chip, as on Cloud TPU.
        devices: how many to use.

    Raises:
        ValueError: libtpu is not installed, or knows no such topology.
    """
    os.environ.update(_SETTINGS)
    # The two cores of a v4 chip are two devices unless this is asked for.
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
    """Whether `tpu_mesh` would find the compiler."""
    try:
        tpu_mesh("v5e:2x2")
    except ValueError:
        return False
    return True
