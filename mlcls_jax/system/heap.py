"""Memory that training on CPU reuses: settings of glibc, which it reads when a process starts.

Nothing here imports JAX, so that a command can start again before it imports anything.
"""

import os
import sys
from pathlib import Path

TUNABLES, SWITCH = "GLIBC_TUNABLES", "MLCLS_JAX_HEAP"
# Large buffers come from one heap of huge pages that is never returned to the system, so that a
# step reuses the memory of the previous one instead of newly cleared pages.
HEAP = (
    "glibc.malloc.hugetlb=1",
    "glibc.malloc.arena_max=1",
    "glibc.malloc.mmap_max=0",
    "glibc.malloc.trim_threshold=68719476736",
)
# Files of the drivers of NVIDIA, AMD and Google's accelerators.
_ACCELERATORS = ("nvidia0", "nvidiactl", "kfd", "accel*", "vfio/*")


def keeps_heap() -> bool:
    """Returns whether GLIBC_TUNABLES contains the settings of HEAP."""
    return set(HEAP) <= set(os.environ.get(TUNABLES, "").split(":"))


def heap_tunables() -> str:
    """Returns HEAP as a value of GLIBC_TUNABLES."""
    return ":".join(HEAP)


def restart_with_heap() -> None:
    """Starts this command again, with the settings of HEAP in its environment.

    The process keeps its id and its open files.  Nothing is done where `wants_heap` says no, or if
    the process is not a command of the package, such as a test that calls one.
    """
    if not wants_heap() or not _is_command() or sys.gettrace():
        return
    os.environ[TUNABLES] = heap_tunables()
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:  # it runs all the same, more slowly
        del os.environ[TUNABLES]


def wants_heap(devices: Path = Path("/dev")) -> bool:
    """Returns whether the settings of HEAP would help and are missing.

    They are for training on CPU with glibc on Linux.  MLCLS_JAX_HEAP=0 or a GLIBC_TUNABLES of the
    user's own turns them off.

    Args:
        devices: folder of the system's devices.
    """
    if TUNABLES in os.environ or os.environ.get(SWITCH) == "0" or not sys.executable:
        return False
    return _has_glibc() and not _has_accelerator(devices)


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # Windows, macOS, musl
        return False


def _has_accelerator(devices: Path) -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms != "cpu"
    return any(any(devices.glob(pattern)) for pattern in _ACCELERATORS)


def _is_command() -> bool:
    """Returns whether the running program is mlcls-jax or a module of the package."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    package = __name__.split(".")[0]
    is_module = spec is not None and spec.name.split(".")[0] == package
    return is_module or Path(sys.argv[0]).stem == "mlcls-jax"
