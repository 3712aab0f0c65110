"""Measures how long commands take: those that are refused, and real ones on a finished run.

    python scripts/measure/measure_commands.py --workdir runs/demo --image photo.jpg

Each command runs in a new process, in turns (`--rounds`), after a round that is not counted: it
writes the bytecode of the imports and the compiled programs.  Without bytecode
(PYTHONDONTWRITEBYTECODE), which nobody has after `pip install`, each start would take seconds
longer.  Refused commands have a wrong option or name a file that does not exist.  CPU seconds are
those of all threads; other work on the machine changes them less than the seconds on the clock.
"""

import argparse
import os
import resource
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
    parser.add_argument("--only", default="", help="only commands whose row has this text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {**refused(Path(folder)), **real(options)}
        rows = {name: row for name, row in rows.items() if options.only in name}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for counted in [False] + [True] * options.rounds:
            for name, (arguments, code) in rows.items():
                times = run(arguments, code)
                if counted:
                    seconds[name].append(times)
    print("| command | seconds, median (least to most) | CPU seconds |")
    print("|:--|--:|--:|")
    for name, times in seconds.items():
        cells = (
            f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
            for each in zip(*times, strict=True)
        )
        print(f"| {name} | {' | '.join(cells)} |")


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


def run(arguments: Sequence[str], code: int) -> tuple[float, float]:
    """Returns the seconds and CPU seconds of a command.

    Raises:
        RuntimeError: it ends with another code.
    """
    module = f"mlcls_jax.{arguments[0]}"
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    began, used = time.perf_counter(), cpu_of_children()
    command = [sys.executable, "-m", module, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    seconds = time.perf_counter() - began
    if done.returncode != code:
        raise RuntimeError(f"{arguments}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return seconds, cpu_of_children() - used


def cpu_of_children() -> float:
    """Returns the CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
