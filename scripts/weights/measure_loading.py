"""Prints the seconds and the memory that loading a weight file takes, as JSON.

    python scripts/weights/measure_loading.py FILE

check_weights.py runs this in a new process for each file. The peak is read from /proc, because
getrusage includes the peak of the parent process.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from mlcls_jax.models.weights.load import load_pretrained

NOT_NEEDED = ("tensorflow", "keras", "torch", "timm", "torchvision")


def memory(field: str) -> int:
    """Returns the resident memory of this process in bytes: "VmRSS" now, "VmHWM" at its peak."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise ValueError(f"/proc/self/status has no {field}; measure on Linux")
    return 1024 * int(found.group(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="weight file, or a folder that contains one")
    file = parser.parse_args().file
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which was that of the imports
    imports, start = memory("VmRSS"), time.perf_counter()
    pretrained = load_pretrained(file)
    seconds, peak = time.perf_counter() - start, memory("VmHWM")
    record = {
        "variant": pretrained.variant,
        "seconds": seconds,
        "file": file.stat().st_size,
        "imports": imports,
        "peak": peak,
        "imported": [name for name in NOT_NEEDED if name in sys.modules],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
