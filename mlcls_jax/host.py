"""What the machine under this process has."""

import math
from pathlib import Path

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
