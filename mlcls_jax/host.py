"""What the machine under this process has."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> float:
    """Bytes that the host can still give; infinite where the system does not say."""
    if not _MEMINFO.exists():
        return float("inf")
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
