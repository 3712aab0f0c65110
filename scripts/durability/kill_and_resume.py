"""Kills a training again and again, and compares its end with that of one that nobody disturbed.

    python scripts/durability/kill_and_resume.py [--kills 30] [--seed 0]

Trains a tiny network on the demo's images, with the real command in a child process: a head on
cached features, which may end early, then fine-tuning with an average, an evaluation every few
steps and a save as often as there can be one.  Each child is killed (SIGKILL) at a moment that is
seen from outside, or a random time after it, and the same command is started again.  When a run
has come to its end, and there are kills left, the next one begins.

Every run must end with the parameters, statistics, optimiser state and average of the undisturbed
one bit for bit, with the same best checkpoint, and with the same metrics.jsonl but for the fields
of the clock; and after each kill it must go on from the newest checkpoint that was there before
it, or from a newer one.  Where one does not, what differs is printed and the exit code is 1.
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
# The command, which says when an evaluation begins: nothing else shows that from outside.
COMMAND = """
from mlcls_jax import cli, loop, train

def evaluate_and_save(*args, evaluate=loop.evaluate_and_save):
    print("evaluation begins", flush=True)
    return evaluate(*args)

loop.evaluate_and_save = evaluate_and_save
cli.run(train.main)
"""
CLOCK = ("images_per_second", "seconds", "timing")
POLL_SECONDS = 0.001
HANGS_SECONDS = 300.0


@dataclass(frozen=True)
class Moment:
    """When to kill: at something that can be seen, or soon after it.

    sign: a pattern of the output, or SAVE or LINE, which are seen in the workdir.
    delay: after it at most, in seconds.
    skipped: so many signs at most are let pass.
    of_head: whether it is in the first phase alone.
    """

    name: str
    sign: str
    delay: float
    skipped: int = 0
    of_head: bool = False


SAVE, LINE = "a folder of Orbax that is not finished", "a line of metrics.jsonl"
MOMENTS = (
    Moment("start or restore", "weights: ", 2.0),
    Moment("feature pass", "one pass for the features", 0.2, of_head=True),
    Moment("step", "first step done", 2.0),
    Moment("save", SAVE, 0.05, skipped=6),
    Moment("evaluation", "evaluation begins", 0.1, skipped=3),
    Moment("between a line and its checkpoint", LINE, 0.0, skipped=3),
    Moment("phase change", "finetune: steps", 1.0, of_head=True),
)


class Child:
    """A training in a process of its own, watched."""

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
        """How often the moment was seen so far."""
        if moment.sign == LINE:
            return _lines(self._workdir) - self._lines
        if moment.sign == SAVE:
            self._saves |= _unfinished(self._workdir) - self._old
            return len(self._saves)
        return self.output.count(moment.sign)

    def run(self, moment: Moment | None, rng: np.random.Generator) -> bool:
        """Whether it was killed at the moment; else it has come to its end."""
        try:
            if moment is not None:
                wanted, delay = rng.integers(moment.skipped + 1) + 1, rng.uniform(0, moment.delay)
                while self.process.poll() is None and self._signs(moment) < wanted:
                    time.sleep(POLL_SECONDS)
                if self.process.poll() is None:
                    time.sleep(delay)
                self.process.kill()
            code = self.process.wait(HANGS_SECONDS)
        finally:  # also where this process is stopped
            self.process.kill()
            self._reader.join()
        if code > 0:
            raise SystemExit(f"the run ended with {code}:\n{self.output}")
        return code < 0

    @property
    def left(self) -> str:
        """What a kill has left."""
        step, text = newest(self._workdir), ""
        if _unfinished(self._workdir) - self._old:
            text += ", a save was cut short"
        if late := [of["step"] for of in read_metrics(self._workdir) if of["step"] > step]:
            text += f", a line is of step {late[-1]}"
        return f"the newest checkpoint is of step {step}{text}"

    @property
    def start(self) -> int:
        """The step that it went on from."""
        found = re.search(r"Continuing at step (\d+)", self.output)
        return int(found[1]) if found else 0


def _lines(workdir: Path) -> int:
    path = workdir / METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _unfinished(workdir: Path) -> set[tuple[str, int]]:
    """Names and inodes of the saves that have not ended: a later one may have the same name."""
    folder = workdir / FOLDER
    entries = os.scandir(folder) if folder.is_dir() else []
    return {(entry.name, entry.inode()) for entry in entries if "tmp" in entry.name}


def newest(workdir: Path) -> int:
    """The step of the newest checkpoint that is finished; 0: there is none."""
    folder = workdir / FOLDER
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def draw(counts: Counter, in_head: bool, rng: np.random.Generator) -> Moment:
    """One of the moments that were hit least among those that may still come."""
    possible = [of for of in MOMENTS if in_head or not of.of_head]
    least = min(counts[of.name] for of in possible)
    return rng.choice(np.asarray([of for of in possible if counts[of.name] == least], object))


def read_state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by path."""
    folder = (workdir / FOLDER / str(step)).absolute()
    leaves = {}
    for item in sorted(path for path in folder.iterdir() if (path / "_METADATA").exists()):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(item)
        for path, leaf in jax.tree.leaves_with_path(tree):
            leaves[f"{item.name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return leaves


def differences(workdir: Path, reference: Path) -> list[str]:
    """In what the end of a run is not that of the reference."""
    found = []
    for at, (ours, theirs) in enumerate(zip(_records(workdir), _records(reference), strict=False)):
        found += [f"{METRICS}, line {at + 1}: {ours} for {theirs}"] * (ours != theirs)
    lines = [len(_records(of)) for of in (workdir, reference)]
    found += ["{} has {} lines for {}".format(METRICS, *lines)] * (lines[0] != lines[1])
    ends = [newest(of) for of in (workdir, reference)]
    if ends[0] != ends[1]:
        return [*found, "the last checkpoint is of step {} for {}".format(*ends)]
    ours, theirs = (read_state(of, ends[0]) for of in (workdir, reference))
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            found.append(f"{name} is in one of the two only")
        elif ours[name].tobytes() != theirs[name].tobytes():
            of = np.abs(ours[name].astype(float) - theirs[name].astype(float)).max()
            found.append(f"{name} differs by up to {of:.3g}")
    metas = [(of / FOLDER / str(ends[0]) / "metadata" / "metadata") for of in (workdir, reference)]
    if len({path.read_bytes() for path in metas}) > 1:
        found.append("what the last checkpoint says of itself")
    return found + [f"{name} was left" for name, _ in sorted(_unfinished(workdir))]


def _records(workdir: Path) -> list[str]:
    records = [{k: v for k, v in of.items() if k not in CLOCK} for of in read_metrics(workdir)]
    return [json.dumps(record) for record in records]


def crash(folder: Path, kills: int, seed: int) -> tuple[Counter, list[str]]:
    """Kills by moment, and what differs from the undisturbed run.

    Args:
        folder: new; data, config and runs are made there.
        kills: at least.
        seed: of the moments.
    """
    rng, counts, config = np.random.default_rng(seed), Counter(), folder / "config.py"
    make_data = Path(__file__).parents[1] / "make_demo_data.py"
    command = [sys.executable, str(make_data), "--out", str(folder / "data")]
    subprocess.run([*command, "--train", "48", "--val", "24"], check=True)
    config.write_text(CONFIG.format(data=folder / "data"))
    reference, number = folder / "undisturbed", 0
    Child(config, reference).run(None, rng)
    head = max(of["step"] for of in read_metrics(reference) if of["phase"] == "head")
    while counts.total() < kills:
        number += 1
        workdir, killed = folder / f"run{number}", True
        while killed:
            before = newest(workdir)
            moment = draw(counts, before < head, rng) if counts.total() < kills else None
            child = Child(config, workdir)
            killed = child.run(moment, rng)
            step = min(newest(workdir), child.start or before)  # 0: killed before it said so
            if step < before:
                return counts, [f"the newest is of step {step}, and {before} was there before"]
            if killed and moment:
                counts[moment.name] += 1
                print(f"kill {counts.total()}: {moment.name}; {child.left}")
        if found := differences(workdir, reference):
            return counts, [f"run {number}: {what}" for what in found]
        print(f"run {number} came to the same end")
    return counts, []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="crash_test-"))
    counts, found = crash(folder, options.kills, options.seed)
    print("\n| killed in | times |\n|---|---:|")
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
