"""Fails system calls of a real training, as failing_calls.py fails those of its writing part.

    python scripts/durability/failing_training.py [--sample 40] [--seed 0] [--seconds 30]

The command `train` trains a tiny network for a few steps, with two evaluations and checkpoints.
For each disturbed run, a process that has imported everything is forked.  A run must end within
--seconds, with exit code 0, or with 2 and one line.  Continued undisturbed, it must end with the
arrays and metrics of the undisturbed run, and after SIGKILL and a power failure it must hold each
line and checkpoint that was reported as saved.  Otherwise the exit code is 1.

Needs Linux and a C compiler, as failing_calls.py does.
"""

import argparse
import ctypes
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from failing_calls import ERRORS, KILL, KINDS, LIBRARY, NAMES_KEPT, NAMES_LOST, build
from power_loss import Call, Model, read_calls

CONFIG = """
from mlcls_jax.config import *
from mlcls_jax.models.variants import VARIANTS, Variant

VARIANTS["lite0"] = Variant(0.25, 0.3, 32, 0.2, lite=True)  # one narrow block per stage


def get_config():
    return Config(
        data=Data(csv="{data}/labels.csv", images="{data}/images", batch_size=8),
        model=Model(variant="lite0", weights="", image_size=32),
        evaluation=Evaluation(every="2 steps"),
        phases=[Phase("head", "4 steps", [Group("head/.*", 1e-2)])],
    )
"""
POLL_SECONDS = 0.02


class Trainings:
    """Disturbed trainings in one folder, each in a forked process."""

    def __init__(self, folder: Path, seconds: float):
        """Imports what a training needs, and makes the undisturbed one."""
        import kill_and_resume  # noqa: F401

        import mlcls_jax.train  # noqa: F401

        self._library = ctypes.CDLL(os.environ[LIBRARY])
        self._folder, self._seconds = folder, seconds
        self._run, self._copies = folder / "watched" / "run", folder / "copies"
        self._reference, self._reports = folder / "reference", folder / "reports"
        write_inputs(folder)
        self._train(self._reference)  # compiles
        self._clear()
        log = folder / "calls"
        with open(log, "w") as file:
            recorded = file.fileno()
            problem = self._train(
                self._run, lambda: self._watch(copies=str(self._copies), log=recorded)
            )
        if problem:
            raise SystemExit(problem)
        self.calls, self._recorded = read_calls(log), self._reported()

    def disturbed(self, kind: str, call: Call) -> str:
        """Makes one run; returns what is wrong afterwards, or ""."""
        self._clear()
        line, checkpoint = 0, 0
        if kind in (NAMES_LOST, NAMES_KEPT):
            model = Model(self._run.parent, self._copies)
            for earlier in self.calls[: call.number - 1]:
                model.apply(earlier)
            model.write(self._run.parent, kind == NAMES_KEPT)
            before = [row for row in self._recorded if row[0] < call.number]
            line, checkpoint = _last(before)
        else:
            error, lasting = ERRORS.get(kind, (0, 0))
            problem = self._train(
                self._run, lambda: self._watch(call.number, error, lasting), kind == KILL
            )
            if problem:
                return problem
            if kind == KILL:
                line, checkpoint = _last(self._reported())
        return self._continued(line, checkpoint)

    def _continued(self, line: int, checkpoint: int) -> str:
        """Continues the run undisturbed; returns what is lost or differs, or ""."""
        from kill_and_resume import differences, newest

        metrics = self._run / "metrics.jsonl"
        lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        saved = newest(self._run)
        if 2 * lines < line or saved < checkpoint:
            return f"{lines} lines and step {saved} left; reported: {line}, {checkpoint}"
        found = self._folder / "differences"

        def compare() -> None:
            found.write_text("\n".join(differences(self._run, self._reference)))

        if problem := self._train(self._run, after=compare):
            return f"not continued: {problem}"
        if damaged := [path.name for path in self._run.rglob("damaged-*")]:
            return f"damaged: {damaged}"
        return found.read_text()

    def _clear(self) -> None:
        shutil.rmtree(self._run.parent, ignore_errors=True)
        self._run.parent.mkdir()

    def _watch(self, at=0, error=0, lasting=0, copies="", log=-1) -> None:
        root = str(self._run.parent).encode()
        self._library.faults_copy_files(1)
        self._library.faults_set(root, ctypes.c_long(at), error, lasting, copies.encode(), log)

    def _reported(self) -> list[tuple[int, str, int]]:
        """Returns (calls so far, "line" or "checkpoint", step) of what the last run reported."""
        rows = (text.split() for text in self._reports.read_text().splitlines())
        return [(int(calls), what, int(step)) for calls, what, step in rows]

    def _train(
        self,
        workdir: Path,
        before: Callable[[], object] = lambda: None,
        may_be_killed: bool = False,
        after: Callable[[], object] = lambda: None,
    ) -> str:
        """Trains in a forked process; returns what is wrong with its end, or "".

        Args:
            workdir: of the run.
            before, after: are called in that process.
            may_be_killed: whether SIGKILL is a right end.
        """
        output, began = self._folder / "output", time.monotonic()
        child = os.fork()
        if not child:
            self._child(workdir, output, before, after)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() - began > self._seconds:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"takes more than {self._seconds:.0f} s: {output.read_text()[-2000:]}"
            time.sleep(POLL_SECONDS)
        code, text = os.waitstatus_to_exitcode(ended[1]), output.read_text()
        if code == -signal.SIGKILL and may_be_killed:
            return ""
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if code not in (0, 2) or len(errors) != (code == 2) or "Traceback" in text:
            return f"ended with {code}: {text[-2000:]}"
        return ""

    def _child(self, workdir: Path, output: Path, before: Callable, after: Callable) -> None:
        """Runs the command in this process, and ends it."""
        from mlcls_jax import cli

        command = importlib.import_module("mlcls_jax.train").main  # not the function of the API
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code, leave = 3, os._exit
        os._exit = sys.exit  # with which a command leaves if it does not wait for threads
        try:
            report_to(self._reports, self._library)
            sys.argv = ["train", "--config", str(self._folder / "config.py")]
            sys.argv += ["--workdir", str(workdir)]
            before()
            cli.run(command, is_log=True)
        except SystemExit as ended:
            code = int(ended.code or 0)
            self._library.faults_set(b"", ctypes.c_long(0), 0, 0, b"", -1)
            if not code:
                after()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            leave(code)


def report_to(path: Path, library: ctypes.CDLL) -> None:
    """Makes the training of this process write what it reports as saved to a file."""
    from mlcls_jax.run.checkpoints import Checkpoints
    from mlcls_jax.run.metrics_log import MetricsLog

    file = open(path, "w", buffering=1)  # noqa: SIM115
    write_epoch, save, close = MetricsLog.write_epoch, Checkpoints.save, Checkpoints.close
    steps = [0]

    def report(what: str, step: int) -> None:
        file.write(f"{library.faults_count()} {what} {step}\n")

    def reporting_write(self, record, *args):
        write_epoch(self, record, *args)
        report("line", record["step"])

    def reporting_save(self, step, *args, **options):
        save(self, step, *args, **options)
        report("checkpoint", steps[-1])
        steps.append(step)

    def reporting_close(self):
        close(self)
        report("checkpoint", steps[-1])

    MetricsLog.write_epoch = reporting_write
    Checkpoints.save, Checkpoints.close = reporting_save, reporting_close


def _last(reports: list[tuple[int, str, int]]) -> tuple[int, int]:
    """Returns the steps of the last line and checkpoint that were reported."""
    steps = [[row[2] for row in reports if row[1] == what] for what in ("line", "checkpoint")]
    line, checkpoint = (max(found, default=0) for found in steps)
    return line, checkpoint


def write_inputs(folder: Path) -> None:
    """Writes images, labels and a config."""
    import numpy as np
    from PIL import Image

    rng, lines = np.random.default_rng(0), ["filename,red,green,split"]
    (folder / "data" / "images").mkdir(parents=True)
    for i in range(24):
        pixels = rng.integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "data" / "images" / f"{i}.png")
        lines.append(f"{i}.png,{i % 3 == 0:d},{i % 2:d},{'train' if i < 16 else 'val'}")
    (folder / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.py").write_text(CONFIG.format(data=folder / "data"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=40, help="number of runs")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=30, help="longest time of a run")
    options = parser.parse_args(arguments)
    memory = Path("/dev/shm")  # where an fsync costs nothing
    place = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="failing_training-", dir=place) as folder:
        if LIBRARY not in os.environ:
            library = str(build(Path(folder)))
            env = {"LD_PRELOAD": library, LIBRARY: library, "JAX_PLATFORMS": "cpu"}
            env |= {"MLCLS_JAX_CACHE": f"{folder}/cache"}
            command = [
                sys.executable,
                __file__,
                *(sys.argv[1:] if arguments is None else arguments),
            ]
            return subprocess.run(command, env=os.environ | env).returncode
        return disturb(Path(folder), options)


def disturb(folder: Path, options: argparse.Namespace) -> int:
    """Makes the runs of the sample, and prints what was found."""
    trainings = Trainings(folder, options.seconds)
    runs = [(kind, call) for call in trainings.calls for kind in (*ERRORS, KILL)]
    syncs = [call for call in trainings.calls if call.name == "fsync"]
    runs += [(kind, call) for call in syncs for kind in (NAMES_LOST, NAMES_KEPT)]
    tried, failures = Counter(), []
    for kind, call in random.Random(options.seed).sample(runs, options.sample):
        label = f"{kind} at call {call.number} ({call.name} {call.path})".replace(str(folder), "")
        tried[kind] += 1
        problem = trainings.disturbed(kind, call)
        print(f"{label}: {problem or 'ok'}", flush=True)
        if problem:
            failures.append(label)
    print(f"\n{len(trainings.calls)} calls\n\n| disturbed by | runs |\n|---|---:|")
    for kind in KINDS:
        print(f"| {kind} | {tried[kind]} |")
    print(f"\n{tried.total()} runs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
