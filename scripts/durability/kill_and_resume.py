"""Kills a training repeatedly and compares its result with that of an undisturbed training.

    python scripts/durability/kill_and_resume.py [--kills 30] [--seed 0]

Trains a tiny network on the demo's images, with the real command in a child process: first a head
on cached features, which may stop early, then fine-tuning with EMA, with an evaluation every few
steps and saves as often as possible. Each child is killed (SIGKILL) at a moment that can be
detected from outside, or a random time after it. Then the same command is started again. When a
run finishes before all kills are done, the next run begins.

Every run must end with the parameters, statistics, optimiser state and EMA of the undisturbed run
bit for bit, with the same best checkpoint, and with the same metrics.jsonl except for wall times.
After each kill it must continue from the newest checkpoint from before the kill or a newer one.
Otherwise the differences are printed and the exit code is 1.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from mlcls_jax.run.checkpoints import FOLDER
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.workdir import METRICS

CONFIG = """
from mlcls_jax.config import *
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)  # one narrow block per stage


def get_config():
    return Config(
        log_every=2,
        data=Data(csv="{data}/labels.csv", images="{data}/images", batch_size=8),
        augment=Augment(train_resize="random_crop", mixup=0.2),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="8 steps"),
        checkpoint=Checkpoint(every_minutes=1e-4),
        phases=[
            Phase(
                "head",
                "32 steps",
                [Group("head/.*", 1e-2)],
                cached_views=2,
                patience=2,
            ),
            Phase(
                "finetune",
                "96 steps",
                [Group("(head|backbone/(top|stage7))/.*", 1e-3, 1e-2)],
                batch_norm="train",
                ema=0.9,
            ),
        ],
    )
"""
# The training command, changed to print when an evaluation begins: nothing else shows it outside.
COMMAND = """
from mlcls_jax import cli
from mlcls_jax.train import main
from mlcls_jax.training import validation

def run(*args, evaluate=validation.Evaluator.run):
    print("evaluation begins", flush=True)
    return evaluate(*args)

validation.Evaluator.run = run
cli.run(main)
"""
CLOCK = ("images_per_second", "seconds", "timing")
POLL_SECONDS = 0.001
HANGS_SECONDS = 300.0


@dataclass(frozen=True)
class Moment:
    """When to kill: at a detectable event, or soon after it.

    Attributes:
        name: name in the table.
        sign: text of the output, or SAVE or LINE, which are detected in the workdir.
        delay: at most this many seconds pass between the sign and the kill.
        skipped: at most this many signs are skipped first.
        head_only: whether the event occurs in the first phase only.
    """

    name: str
    sign: str
    delay: float
    skipped: int = 0
    head_only: bool = False


SAVE, LINE = "an unfinished folder of Orbax", "a line of metrics.jsonl"
MOMENTS = (
    Moment("start or restore", "weights: ", 2.0),
    Moment("feature pass", "one pass for the features", 0.2, head_only=True),
    Moment("step", "first step done", 2.0),
    Moment("save", SAVE, 0.05, skipped=6),
    Moment("evaluation", "evaluation begins", 0.1, skipped=3),
    Moment("between a line and its checkpoint", LINE, 0.0, skipped=3),
    Moment("phase change", "finetune: steps", 1.0, head_only=True),
)


class Child:
    """A training in a child process, whose output and workdir are watched."""

    def __init__(self, config: Path, workdir: Path):
        command = [sys.executable, "-c", COMMAND, "--config", str(config), "--workdir"]
        folders = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "MLCLS_JAX_CACHE": str(config.parent / "cache"),
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "PYTHONUNBUFFERED": "1",
        }
        self._workdir, self._lines = workdir, _lines(workdir)
        self._saves, self._old = set(), _unfinished(workdir)
        self.output = ""
        self.process = subprocess.Popen(
            [*command, str(workdir)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self.output += line

    def _signs(self, moment: Moment) -> int:
        """How often the sign of the moment was seen so far."""
        if moment.sign == LINE:
            return _lines(self._workdir) - self._lines
        if moment.sign == SAVE:
            self._saves |= _unfinished(self._workdir) - self._old
            return len(self._saves)
        return self.output.count(moment.sign)

    def run(self, moment: Moment | None, rng: np.random.Generator) -> bool:
        """Waits for the moment and kills the child; returns False if it finished instead.

        Args:
            moment: when to kill; None lets the child finish.
            rng: decides how many signs to skip and how long to wait.

        Raises:
            SystemExit: the training failed; the message has its output.
        """
        try:
            if moment is not None:
                signs, delay = rng.integers(moment.skipped + 1) + 1, rng.uniform(0, moment.delay)
                while self.process.poll() is None and self._signs(moment) < signs:
                    time.sleep(POLL_SECONDS)
                if self.process.poll() is None:
                    time.sleep(delay)
                self.process.kill()
            code = self.process.wait(HANGS_SECONDS)
        finally:  # also when this process is interrupted
            self.process.kill()
            self._reader.join()
        if code > 0:
            raise SystemExit(f"the run ended with {code}:\n{self.output}")
        return code < 0

    @property
    def left(self) -> str:
        """One line about the state of the workdir after a kill."""
        step, text = newest(self._workdir), ""
        if _unfinished(self._workdir) - self._old:
            text += ", a save was cut short"
        records = read_metrics(self._workdir)
        if late := [record["step"] for record in records if record["step"] > step]:
            text += f", the last line is of step {late[-1]}"
        return f"the newest checkpoint is of step {step}{text}"

    @property
    def start(self) -> int:
        """The step from which the child continued, or 0."""
        found = re.search(r"Continuing at step (\d+)", self.output)
        return int(found[1]) if found else 0


def _lines(workdir: Path) -> int:
    path = workdir / METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _unfinished(workdir: Path) -> set[tuple[str, int]]:
    """(name, inode) of each unfinished save; a later save may have the same name."""
    folder = workdir / FOLDER
    entries = os.scandir(folder) if folder.is_dir() else []
    return {(entry.name, entry.inode()) for entry in entries if "tmp" in entry.name}


def newest(workdir: Path) -> int:
    """Returns the step of the newest finished checkpoint, or 0."""
    folder = workdir / FOLDER
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def draw(counts: Counter, in_head: bool, rng: np.random.Generator) -> Moment:
    """Returns a random moment among those with the fewest kills that can still occur."""
    possible = [moment for moment in MOMENTS if in_head or not moment.head_only]
    least = min(counts[moment.name] for moment in possible)
    rarest = [moment for moment in possible if counts[moment.name] == least]
    return rng.choice(np.asarray(rarest, object))


def read_state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns {path: array} with all arrays of a checkpoint."""
    folder = (workdir / FOLDER / str(step)).absolute()
    leaves = {}
    for item in sorted(path for path in folder.iterdir() if (path / "_METADATA").exists()):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(item)
        for path, leaf in jax.tree.leaves_with_path(tree):
            leaves[f"{item.name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return leaves


def differences(workdir: Path, reference: Path) -> list[str]:
    """Returns a line for each difference between the end of a run and that of the reference."""
    found = _metric_differences(_records(workdir), _records(reference))
    step, expected_step = newest(workdir), newest(reference)
    if step != expected_step:
        return [*found, f"the last checkpoint is of step {step}, expected {expected_step}"]
    state, expected_state = read_state(workdir, step), read_state(reference, step)
    for name in sorted(state.keys() | expected_state.keys()):
        if name not in state or name not in expected_state:
            found.append(f"{name} is in one of the two runs only")
        elif state[name].tobytes() != expected_state[name].tobytes():
            distance = np.abs(state[name].astype(float) - expected_state[name].astype(float)).max()
            found.append(f"{name} differs by up to {distance:.3g}")
    metadata = Path(FOLDER, str(step), "metadata", "metadata")
    texts = [(folder / metadata).read_text(encoding="utf-8") for folder in (workdir, reference)]
    if texts[0] != texts[1]:
        found.append(f"the metadata of the last checkpoint differ: {_first_difference(*texts)}")
    return found + [f"{name} was left behind" for name, _ in sorted(_unfinished(workdir))]


def _first_difference(ours: str, theirs: str) -> str:
    """Returns the surroundings of the first character that differs."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((i for i, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    part = slice(max(at - 80, 0), at + 40)
    return f"{ours[part]!r}, expected {theirs[part]!r}"


def _metric_differences(records: list[str], expected: list[str]) -> list[str]:
    found = []
    for line, (ours, theirs) in enumerate(zip(records, expected, strict=False), start=1):
        if ours != theirs:
            found.append(f"{METRICS}, line {line}: {ours}, expected {theirs}")
    if len(records) != len(expected):
        found.append(f"{METRICS} has {len(records)} lines, expected {len(expected)}")
    return found


def _records(workdir: Path) -> list[str]:
    """The lines of metrics.jsonl without wall times."""
    records = read_metrics(workdir)
    return [json.dumps({k: v for k, v in r.items() if k not in CLOCK}) for r in records]


def crash(folder: Path, kills: int, seed: int) -> tuple[Counter, list[str]]:
    """Runs trainings and kills them.

    Args:
        folder: a new folder, for the data, the config and the runs.
        kills: the least number of kills.
        seed: random seed of the moments.

    Returns:
        The number of kills by moment, and the differences to the undisturbed run.
    """
    rng, counts, config = np.random.default_rng(seed), Counter(), folder / "config.py"
    command = [sys.executable, "-m", "mlcls_jax.demo", "--out", str(folder / "data")]
    root = Path(__file__).parents[2]
    subprocess.run([*command, "--train", "48", "--val", "24"], cwd=root, check=True)
    config.write_text(CONFIG.format(data=folder / "data"))
    reference, number = folder / "undisturbed", 0
    Child(config, reference).run(None, rng)
    head_end = max(r["step"] for r in read_metrics(reference) if r["phase"] == "head")
    while counts.total() < kills:
        number += 1
        workdir, killed = folder / f"run{number}", True
        while killed:
            before = newest(workdir)
            moment = draw(counts, before < head_end, rng) if counts.total() < kills else None
            child = Child(config, workdir)
            killed = child.run(moment, rng)
            # start is 0 if the child was killed before it printed the step.
            step = min(newest(workdir), child.start or before)
            if step < before:
                return counts, [f"continued at step {step}, but step {before} had been saved"]
            if killed and moment:
                counts[moment.name] += 1
                print(f"kill {counts.total()}: {moment.name}; {child.left}")
        if found := differences(workdir, reference):
            return counts, [f"run {number}: {difference}" for difference in found]
        print(f"run {number} ended with the same state")
    return counts, []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume-"))
    counts, found = crash(folder, options.kills, options.seed)
    print("\n| killed during | times |\n|---|---:|")
    for moment in MOMENTS:
        print(f"| {moment.name} | {counts[moment.name]} |")
    if found:
        print("\n".join(found[:20]), f"\nThe runs are in {folder}.", sep="\n")
        return 1
    shutil.rmtree(folder)
    total = counts.total()
    print(f"{total}/{total} kills survived; parameters identical bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
