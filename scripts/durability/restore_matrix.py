"""Compares checkpoints that are restored on other numbers of devices and processes.

    python scripts/durability/restore_matrix.py [--ways 1x1 1x2 1x8 2x1] [--keep FOLDER]

A way is PROCESSESxDEVICES. The devices of a process are virtual CPU devices; the processes are real
and connect on 127.0.0.1. On each way, a small network trains for a few steps and saves. Each of
these runs is then evaluated and trained for the same number of further steps on every way. The
table has a row for each way of saving and a column for each way of restoring. A cell has the
largest difference of a validation probability from before the restore, and the largest difference
of a parameter after the further steps from an uninterrupted run on the row's way.

The exit code is 1 if a probability differs by more than 1e-6.
"""

import argparse
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STEPS, IMAGES, SIDE, LIMIT = 4, 40, 32, 1e-6
WORKER = Path(__file__).with_name("restore_worker.py")
LABELS = ("left", "right", "bright")
# With a constant learning rate, the run can be extended when it is restored.
CONFIG = """
from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)  # one narrow block per stage


def get_config():
    groups = [Group("head/.*", 0.1), Group("backbone/.*", 0.05)]
    phase = Phase("all", "{steps} steps", groups, optimizer="sgd", schedule="constant")
    return Config(
        data=Data(csv={csv!r}, images={images!r}, batch_size=8, eval_batch_size=8),
        model=Model("lite0", weights="", image_size={side}),
        phases=[phase],
    )
"""


@dataclass(frozen=True)
class Way:
    """A number of processes, and of devices per process."""

    processes: int
    devices: int

    def __str__(self) -> str:
        several = self.processes > 1
        count, noun = (self.processes, "process") if several else (self.devices, "device")
        plural = ("es" if several else "s") if count > 1 else ""
        suffix = f" of {self.devices} devices" if several and self.devices > 1 else ""
        return f"{count} {noun}{plural}{suffix}"


@dataclass(frozen=True)
class Result:
    """Result of one start of a run.

    Attributes:
        probabilities: float64 [image, class], of the restored state, or of the end of a new run.
        parameters: all parameters at the end, in one vector.
    """

    probabilities: np.ndarray
    parameters: np.ndarray


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--ways",
        nargs="+",
        type=way_of,
        default=[way_of(t) for t in ("1x1", "1x2", "1x8", "2x1")],
        help="PROCESSESxDEVICES (default: 1x1 1x2 1x8 2x1)",
    )
    parser.add_argument("--keep", default="", help="folder for the runs (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        write_data(folder)
        cells = measure(folder, options.ways)
    print(table(options.ways, cells))
    return int(any(probabilities > LIMIT for probabilities, _ in cells.values()))


def way_of(text: str) -> Way:
    """Parses a text such as "2x1"; raises ValueError, which argparse reports, for other text."""
    processes, devices = map(int, text.split("x"))
    return Way(processes, devices)


def write_data(folder: Path) -> None:
    """Writes labels.csv, images, and the configs of a run of STEPS and of 2 * STEPS steps."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    lines = [",".join(("filename", *LABELS))]
    for number in range(IMAGES):
        image = rng.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        left, right, bright = rng.random(len(LABELS)) < 0.5
        image[:, : SIDE // 2] += np.uint8(80 * left)
        image[:, SIDE // 2 :] += np.uint8(80 * right)
        image += np.uint8(70 * bright)
        Image.fromarray(image).save(folder / "photos" / f"{number:02}.png")
        lines.append(f"{number:02}.png,{left:d},{right:d},{bright:d}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    data = {"csv": str(folder / "labels.csv"), "images": str(folder / "photos"), "side": SIDE}
    for name, steps in (("short", STEPS), ("long", 2 * STEPS)):
        (folder / f"{name}.py").write_text(CONFIG.format(steps=steps, **data))


def measure(folder: Path, ways: list[Way]) -> dict[tuple[Way, Way], tuple[float, float]]:
    """Returns the two differences for each pair (saved on, restored on)."""
    cells = {}
    for number, saved in enumerate(ways):
        short = run(folder, saved, "short", folder / f"saved{number}")
        whole = run(folder, saved, "long", folder / f"whole{number}")
        for column, restored in enumerate(ways):
            copy = folder / f"saved{number}_restored{column}"
            shutil.copytree(folder / f"saved{number}", copy)
            config = copy / "config.json"
            config.write_text(
                config.read_text().replace(f'"{STEPS} steps"', f'"{2 * STEPS} steps"')
            )
            again = run(folder, restored, "long", copy)
            cells[saved, restored] = (
                float(np.abs(again.probabilities - short.probabilities).max()),
                float(np.abs(again.parameters - whole.parameters).max()),
            )
    return cells


def run(folder: Path, way: Way, config: str, workdir: Path) -> Result:
    """Starts a run in new processes and waits for its end.

    Raises:
        RuntimeError: a process failed; the message has its output.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "MLCLS_JAX_CACHE": str(folder / "cache"),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={way.devices}",
    }
    out = workdir.with_suffix(".npz")
    arguments = [folder / f"{config}.py", workdir, out, port, way.processes]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, *map(str, arguments), str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(way.processes)
    ]
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{workdir.name} on {way} failed:\n{output}")
    with np.load(out) as arrays:
        return Result(arrays["probabilities"], arrays["parameters"])


def table(ways: list[Way], cells: dict[tuple[Way, Way], tuple[float, float]]) -> str:
    """Returns the table in Markdown; a cell is "probabilities / parameters"."""
    lines = [["saved on", *map(str, ways)], ["---", *("---:" for _ in ways)]]
    lines += [[str(saved)] for saved in ways]
    for (row, saved), restored in itertools.product(enumerate(ways), ways):
        probabilities, parameters = cells[saved, restored]
        lines[2 + row].append(f"{probabilities:.0e} / {parameters:.0e}")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
