"""Seconds and memory that reading one weight file takes, as JSON; run in a process of its own.

    python scripts/weights/measure_loading.py FILE

The peak is read from /proc and not from getrusage, whose maximum a process inherits from the one
that started it.
"""

import json
import re
import sys
import time
from pathlib import Path

from mlcls_jax.models.weights.load import load_pretrained

NOT_NEEDED = ("tensorflow", "keras", "torch", "timm", "torchvision")


def memory(field: str) -> int:
    """Bytes that this process has resident: "VmRSS" now, "VmHWM" at the most."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise ValueError(f"/proc/self/status has no {field}; measure on Linux")
    return 1024 * int(found.group(1))


def main() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # The peak so far was that of the imports.
    imports, start = memory("VmRSS"), time.perf_counter()
    pretrained = load_pretrained(sys.argv[1])
    seconds, peak = time.perf_counter() - start, memory("VmHWM")
    record = {
        "variant": pretrained.variant,
        "seconds": seconds,
        "file": Path(sys.argv[1]).stat().st_size,
        "imports": imports,
        "peak": peak,
        "imported": [name for name in NOT_NEEDED if name in sys.modules],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
