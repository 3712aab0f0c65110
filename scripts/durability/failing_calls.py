"""Fails each system call with which a run writes its workdir, in turn, as SQLite's tests do.

    python scripts/durability/failing_calls.py [--sample 0] [--seed 0]

A short run does everything that a training writes, without the training: lock, config, classes,
splits, fingerprints, metrics.jsonl, TensorBoard events, scores and checkpoints.  Each open for
writing, write, fsync, truncate, rename, unlink and mkdir in its folder is disturbed in these ways:

    EIO, ENOSPC      the call fails with this error
    full disk        this call and all later ones fail with ENOSPC
    SIGKILL          the process ends at the call
    power failure    at each fsync: what was not synchronised before is lost; once with the names of
                     files, and once without them, as file systems differ

A disturbed run must end or go on within 30 seconds, and an error must be one line.  Its folder
must hold each checkpoint and each line that was reported as saved, all intact.  Continued
undisturbed, it must end with the same arrays and lines as the undisturbed run.  Otherwise the exit
code is 1.

Needs Linux and a C compiler, which builds failing_calls.c.  With --sample, only that many runs are
made, drawn at random.
"""

import argparse
import ctypes
import errno
import faulthandler
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from power_loss import Model, read_calls

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "MLCLS_JAX_FAILING_CALLS"  # the path of the preloaded library, set by `main`
STEPS, VALUES = 3, (0.3, 0.9, 0.5)  # checkpoint 1 is replaced, and 2 is the best
SECONDS = 30.0
ERRORS = {"EIO": (errno.EIO, 0), "ENOSPC": (errno.ENOSPC, 0), "full disk": (errno.ENOSPC, 1)}
KILL, NAMES_LOST, NAMES_KEPT = "SIGKILL", "power failure", "power failure, names kept"
KINDS = (*ERRORS, KILL, NAMES_LOST, NAMES_KEPT)
PARTS = 12  # processes of a large number of runs, as failed saves leave threads
LARGE = 300


def build(folder: Path) -> Path:
    """Returns the library, built with the C compiler of this machine."""
    library = folder / "failing_calls.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library


@dataclass(frozen=True)
class Saved:
    """What was reported as saved by a number of calls.

    Attributes:
        calls: made so far.
        line: step of the last line of metrics.jsonl.
        checkpoint: step of the last checkpoint.
    """

    calls: int
    line: int
    checkpoint: int


class ShortRun:
    """The writing part of a run, in one process."""

    def __init__(self, calls: Callable[[], int]):
        """Makes the inputs; `calls` returns the number of calls so far."""
        import numpy as np

        from mlcls_jax.config import Config
        from mlcls_jax.data.label_table import LabelTable
        from mlcls_jax.system.console import console

        console.quiet = True
        labels = np.array([[1, 0], [0, 1]] * 3, np.int8)
        table = LabelTable("images", tuple("abcdef"), labels, ("cat", "dog"))
        self._splits = {"train": table.take(range(4)), "val": table.take(range(4, 6))}
        self._config, self._calls = Config(), calls

    def run(self, folder: Path) -> tuple[dict, list[Saved]]:
        """Runs, or continues, and returns the arrays at the end and what was reported as saved."""
        from mlcls_jax.run.checkpoints import Checkpoints
        from mlcls_jax.run.metrics_log import MetricsLog
        from mlcls_jax.run.workdir import in_use
        from mlcls_jax.system.signals import SaveClock
        from mlcls_jax.training.context import Services
        from mlcls_jax.training.kept_data import keep_data

        workdir, reported = folder / "run", []
        with in_use(workdir):
            keep_data(self._splits, 1, accepted=False, look_at_files=False).open(
                workdir, self._config
            )
            checkpoints = Checkpoints(workdir)
            start = checkpoints.latest() or 0
            state = checkpoints.restore(start, _state(0)) if start else _state(0)
            metadata = checkpoints.metadata(start) if start else {}
            log = MetricsLog(workdir, start, True, (), metadata)
            services = Services(None, checkpoints, log, SaveClock(60))  # pyright: ignore
            reported.append(Saved(self._calls(), start, start))
            with services.ended_on_errors():
                for step in range(start + 1, STEPS + 1):
                    state = _next(state, step)
                    log.write_epoch(_record(step))
                    reported.append(Saved(self._calls(), step, max(step - 2, start)))
                    _write_scores(workdir, step)
                    metadata = {"phase": "head"} | log.for_metadata()
                    checkpoints.save(step, state, metadata, VALUES[step - 1])
                    reported.append(Saved(self._calls(), step, step - 1))
                services.close()
                reported.append(Saved(self._calls(), STEPS, STEPS))
        return _arrays(state), reported


def _state(step: int):
    import jax
    import numpy as np

    from mlcls_jax.step.train_step import make_state

    weights, momentum = jax.device_put((np.full(3, step, np.float32), np.zeros(3, np.float32)))
    return make_state({"params": {"w": weights}, "batch_stats": {}}, {"mu": momentum}, step)


def _next(state, step: int):
    import jax
    import numpy as np

    weights = np.asarray(state.params["w"]) * np.float32(0.5) + np.float32(step)  # not compiled
    now = jax.device_put((weights, np.int32(step)))
    return state.replace(params={"w": now[0]}, step=now[1])


def _arrays(state) -> dict:
    return {"w": state.params["w"].tolist(), "step": int(state.step)}


def _record(step: int) -> dict:
    values = {"mAP": VALUES[step - 1], "loss": 1.0}
    numbers = {"epoch": 1.0, "train_loss": 1.0, "images_per_second": 1.0}
    return {"step": step, "phase": "head", **numbers, "val": values, "base_rate": values}


def _write_scores(workdir: Path, step: int) -> None:
    """Writes scores.npz as `LiveReport` does."""
    import numpy as np

    from mlcls_jax.evaluation.decision_rule import untuned_rule
    from mlcls_jax.run.best_scores import BestEvaluation, write_best_evaluation
    from mlcls_jax.system.console import print_warning

    rule, logits = untuned_rule(("cat", "dog")), np.zeros((2, 2), np.float32)
    try:
        write_best_evaluation(
            workdir, BestEvaluation(step, "raw", ("e", "f"), logits, rule, "", {})
        )
    except ValueError as error:
        print_warning(str(error))


class Trial:
    """Disturbs short runs in one folder, and compares each with the undisturbed one."""

    def __init__(self, folder: Path):
        self._library = ctypes.CDLL(os.environ[LIBRARY])
        self._short = ShortRun(lambda: self._library.faults_count())
        self._folder, self._copies = folder / "disturbed", folder / "copies"
        self._copies.mkdir()
        self._folder.mkdir()
        self._short.run(self._folder)  # what is imported and compiled late
        self._new()
        log = folder / "calls"
        with open(log, "w") as file:
            self._watch(copies=str(self._copies), log=file.fileno())
            self._expected = self._short.run(self._folder)
            self._watch("")
        self._lines = self._metrics()
        self.calls = read_calls(log)

    def _watch(self, folder: str | None = None, at=0, error=0, lasting=0, copies="", log=-1):
        root = str(self._folder) if folder is None else folder
        self._library.faults_set(
            *(root.encode(), ctypes.c_long(at), error, lasting, copies.encode(), log)
        )

    def _new(self) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def _metrics(self) -> bytes:
        return (self._folder / "run" / "metrics.jsonl").read_bytes()

    def disturbed(self, kind: str, number: int) -> str:
        """Makes one run; returns what is wrong afterwards, or ""."""
        if kind in ERRORS:
            return self._fail(number, kind)
        if kind == KILL:
            return self._kill(number)
        return self._cut_power(number, kind == NAMES_KEPT)

    def _fail(self, number: int, kind: str) -> str:
        """Lets one call fail; returns what is wrong afterwards, or ""."""
        from mlcls_jax.system.command_line import error_line

        self._new()
        error, lasting = ERRORS[kind]
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        self._watch(at=number, error=error, lasting=lasting)
        problem = ""
        try:
            self._short.run(self._folder)
        except (ValueError, OSError) as failed:
            line = error_line(failed)
            problem = "" if len(line.splitlines()) == 1 else f"more than a line: {line!r}"
        except Exception as failed:
            problem = f"{type(failed).__name__}: {failed}"
        finally:
            self._watch("")
        return problem or self._problem(0, 0)

    def _kill(self, number: int) -> str:
        """Continues what a process leaves that is killed at a call."""
        shutil.rmtree(self._folder)
        shutil.copytree(self._copies / str(number), self._folder)
        return self._problem(*self._reported(number))

    def _cut_power(self, number: int, names_last: bool) -> str:
        """Continues what a power failure leaves at a call."""
        self._new()
        model = Model(self._folder, self._copies)
        for call in self.calls[: number - 1]:
            model.apply(call)
        model.write(self._folder, names_last)
        return self._problem(*self._reported(number))

    def check_recording(self) -> str:
        """Returns what the recorded calls do not explain in the folder at their end, or ""."""
        model = Model(self._folder, self._copies)
        for call in self.calls:
            model.apply(call)
        found = {str(path.relative_to(self._folder)) for path in self._folder.rglob("*")}
        return "" if found == model.names() else f"{found ^ model.names()} not recorded"

    def _reported(self, number: int) -> tuple[int, int]:
        """Returns the steps of the last line and checkpoint reported before a call."""
        before = [saved for saved in self._expected[1] if saved.calls < number]
        return (before[-1].line, before[-1].checkpoint) if before else (0, 0)

    def _problem(self, line: int, checkpoint: int) -> str:
        """Continues the run in the folder; returns what is lost or differs, or ""."""
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        run = self._folder / "run"
        try:
            metrics = run / "metrics.jsonl"
            lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            state, reported = self._short.run(self._folder)
        except Exception as error:
            return f"not continued: {type(error).__name__}: {error}"
        finally:
            faulthandler.cancel_dump_traceback_later()
        if lines < line:
            return f"line {line} of metrics.jsonl was reported as written, and {lines} are left"
        if reported[0].checkpoint < checkpoint:
            return f"continued at {reported[0].checkpoint}, but {checkpoint} was saved"
        if damaged := [path.name for path in run.rglob("damaged-*")]:
            return f"damaged: {damaged}"
        if (state, self._metrics()) != (self._expected[0], self._lines):
            return f"ended with {state} and {self._metrics()!r}"
        return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="number of runs (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--part", default="", help="such as 3/12: only these of the runs")
    options = parser.parse_args(arguments)
    if LIBRARY in os.environ:
        return disturb(options.sample, options.seed, options.part or "0/1")
    count = PARTS if options.sample > LARGE or not options.sample else 1
    parts = [options.part] if options.part else [f"{n}/{count}" for n in range(count)]
    tried, failures, calls = Counter(), [], ""
    with tempfile.TemporaryDirectory(prefix="failing_calls-") as folder:
        library = build(Path(folder))
        for part in parts:
            found = _disturbed(library, part, options.sample, options.seed)
            tried.update(found["tried"])
            failures += found["failures"]
            calls = found["calls"] or calls
    print(f"calls: {calls}\n\n| disturbed by | runs |\n|---|---:|")
    for kind in KINDS:
        print(f"| {kind} | {tried[kind]:,} |")
    print(f"\n{tried.total():,} runs, {len(failures)} failures", *failures, sep="\n")
    return 1 if failures else 0


def _disturbed(library: Path, part: str, sample: int, seed: int) -> dict:
    """Returns what a process with the library has found in its part of the runs."""
    env = os.environ | {"LD_PRELOAD": str(library), LIBRARY: str(library), "JAX_PLATFORMS": "cpu"}
    words = ["--sample", str(sample), "--seed", str(seed), "--part", part]
    command = [sys.executable, __file__, *words]
    child = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    lines = child.stdout.splitlines() or [""]
    if child.returncode:
        problem = f"part {part} ended with {child.returncode} after: {lines[-1]}"
        return {"tried": {}, "failures": [problem], "calls": ""}
    return json.loads(lines[-1])


def disturb(sample: int, seed: int, part: str) -> int:
    """Disturbs a part of the runs, and prints what was found as JSON."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)  # Orbax logs the errors that it raises
    first, parts = map(int, part.split("/"))
    failures, tried = [], Counter()
    memory = Path("/dev/shm")  # where an fsync costs nothing
    place = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="failing_calls-", dir=place) as folder:
        trial = Trial(Path(folder))
        if problem := trial.check_recording():
            failures.append(problem)
        runs = [(kind, call) for call in trial.calls for kind in (*ERRORS, KILL)]
        syncs = [call for call in trial.calls if call.name == "fsync"]
        runs += [(kind, call) for call in syncs for kind in (NAMES_LOST, NAMES_KEPT)]
        chosen = random.Random(seed).sample(runs, sample) if sample else runs
        for kind, call in chosen[first::parts]:
            label = f"{kind} at call {call.number} ({call.name} {call.path})".replace(folder, "")
            print(label, flush=True)
            tried[kind] += 1
            if problem := trial.disturbed(kind, call.number):
                failures.append(f"{label}: {problem}")
        counts = Counter(call.name for call in trial.calls)
    calls = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(json.dumps({"tried": tried, "failures": failures, "calls": calls}), flush=True)
    os._exit(0)  # without waiting for the threads of saves that have failed


if __name__ == "__main__":
    sys.exit(main())
