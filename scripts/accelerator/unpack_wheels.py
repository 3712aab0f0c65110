"""Unpacks the wheels of packages that this Python lacks; those that it has are left as they are.

python scripts/accelerator/unpack_wheels.py WHEELS FOLDER

FOLDER is put on PYTHONPATH by check.sh.
"""

import importlib.util
import sys
import zipfile
from pathlib import Path


def modules_of(wheel: zipfile.ZipFile) -> set[str]:
    """Returns the names of the top-level modules and packages in a wheel."""
    names = {Path(name).parts[0] for name in wheel.namelist() if name.endswith((".py", ".so"))}
    return {name.split(".")[0] for name in names if not name.endswith((".data", ".libs"))}


def unpack(wheels: Path, folder: Path) -> list[str]:
    """Unpacks what is missing, and returns the names of those wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = []
    for path in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(path) as wheel:
            if any(importlib.util.find_spec(name) is None for name in modules_of(wheel)):
                wheel.extractall(folder)
                unpacked.append(path.name)
    return unpacked


if __name__ == "__main__":
    for name in unpack(Path(sys.argv[1]), Path(sys.argv[2])):
        print(f"unpacked {name}")
