"""Measures how long commands take: those that are refused, and real ones on a finished run.

    python scripts/measure/measure_commands.py --workdir runs/demo --image photo.jpg

Each command runs in a new process, in turns (`--rounds`).  Refused commands have a wrong option or
name a file that does not exist.  Real ones have the compilation cache of the round before.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS = ("train", "evaluate", "predict", "embed", "report", "export", "serve", "lr_find")
COMMANDS += ("benchmark", "pack", "to_csv", "weights", "demo")
WITH_WORKDIR = ("evaluate", "predict", "report", "export", "serve", "lr_find")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", required=True, help="workdir of a finished run")
    parser.add_argument("--image", required=True, help="an image to predict")
    parser.add_argument("--rounds", type=int, default=3, help="of each command (default 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {**refused(Path(folder)), **real(options)}
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, (arguments, code) in rows.items():
                seconds[name].append(run(arguments, code))
    print("| command | seconds, median (least to most) |")
    print("|:--|--:|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) |")


def refused(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Commands with a mistake, and their exit code."""
    rows = {}
    for command in COMMANDS:
        rows[f"{command}: unknown option"] = ([command, "--no-such-option"], 2)
    for command in WITH_WORKDIR:
        needed = {"predict": ["a.jpg"], "export": ["--format", "onnx", "--out", str(folder / "o")]}
        arguments = [command, *needed.get(command, []), "--workdir", str(folder / "missing")]
        rows[f"{command}: no such run"] = (arguments, 2)
    csv = ["--csv", str(folder / "missing.csv"), "--images", str(folder)]
    rows["train: no such CSV"] = (["train", *csv, "--workdir", str(folder / "new")], 2)
    return rows


def real(options: argparse.Namespace) -> dict[str, tuple[list[str], int]]:
    """Commands that work."""
    run = ["--workdir", options.workdir]
    return {
        "evaluate --split val": (["evaluate", *run, "--split", "val"], 0),
        "predict, one image": (["predict", options.image, *run], 0),
        "report": (["report", *run], 0),
    }


def run(arguments: Sequence[str], code: int) -> float:
    """Returns the seconds of a command; raises RuntimeError if it ends with another code."""
    module = f"mlcls_jax.{arguments[0]}"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments[1:]], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode != code:
        raise RuntimeError(f"{arguments}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return seconds


if __name__ == "__main__":
    main()
