"""Checks that nothing grows or stalls in a long run.

    python scripts/durability/long_run.py                # 2,000 steps, 20 evaluations
    python scripts/durability/long_run.py --features     # steps on cached features

Trains a tiny network from random weights on synthetic photographs, with the code that
`mlcls_jax.train` runs. It waits for each step to measure its time, from the end of the previous
step to its own end, with everything in between; on features, one call of several steps counts as
one step. A step that takes more than three times the median should have one of these reasons: it
is the first of a phase, a program compiled at the same time, an evaluation (which starts a
checkpoint), a checkpoint that is still being written, a log, a garbage collection, or the process
waited for a core or a disk for most of the time above the median. Needs Linux.

Memory is measured in two ways. Memory in use is what the program has allocated and not freed; a
leak shows there. Resident memory also includes what the C library keeps for later, which settles
slowly, minus what the system has reclaimed. Needs glibc 2.33 or later.

The exit code is 1 if something compiled after the first evaluation, if files stay open, or if the
memory in use keeps growing.
"""

import argparse
import ctypes
import gc
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from scipy.stats import theilslopes

from mlcls_jax.benchmark.synthetic_images import write_images
from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.models.variants import VARIANTS, Variant
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.system import distributed
from mlcls_jax.train import train
from mlcls_jax.training import loop
from mlcls_jax.training.timing import StartupTimer

SLOW = 3.0  # times the median
BUSY = 0.5  # least share of CPU time in the time above the median; below it, the step waited
GROWTH = 5.0  # MB in use per 1,000 steps
FIRST, COMPILING, EVALUATION = "first of a phase", "compilation at the same time", "evaluation"
WRITING, LOG, COLLECTION = "checkpoint being written", "log", "garbage collection"
REASONS = (FIRST, COMPILING, EVALUATION, WRITING, LOG, COLLECTION)  # the most costly first
WAITED = "waiting for a core or a disk"
VARIANT, TINY = "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True)


@dataclass
class Recorder:
    """Records the time, the memory and the open files of each step of a run.

    Attributes:
        seconds: wall time of each step.
        cpu: CPU seconds of each step, over all threads.
        reasons: events between the end of the previous step and the end of each step.
        megabytes: resident memory after each step.
        files: open files after each step.
        used: (step, megabytes in use) at the end of each evaluation.
        compiled: number of programs compiled until the end of each evaluation.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    reasons: list[frozenset[str]] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    used: list[tuple[int, float]] = field(default_factory=list)
    compiled: list[int] = field(default_factory=list)
    _programs: int = 0
    _happened: set[str] = field(default_factory=set)
    _last: tuple[float, float] = (0.0, 0.0)
    _checkpoints: Checkpoints | None = None

    def timed(self, step: Callable) -> Callable:
        """Returns the step function, which now waits for its result and records it."""
        self._happened.add(FIRST)
        self._last = time.perf_counter(), time.process_time()

        def call(state, batch):
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))
            if self._checkpoints and self._checkpoints.is_saving():
                self._happened.add(WRITING)
            now = time.perf_counter(), time.process_time()
            self.seconds.append(now[0] - self._last[0])
            self.cpu.append(now[1] - self._last[1])
            self.reasons.append(frozenset(self._happened))
            self.megabytes.append(resident_megabytes())
            self.files.append(len(os.listdir("/proc/self/fd")))
            self._happened.clear()
            self._last = time.perf_counter(), time.process_time()
            return state, metrics

        return call

    def noted(self, function: Callable, reason: str) -> Callable:
        """Returns the function, which now records each call as a reason."""

        def call(*args, **kwargs):
            self._happened.add(reason)
            result = function(*args, **kwargs)
            if reason == EVALUATION:
                self.compiled.append(self._programs)
                gc.collect()  # garbage is not a leak
                self.used.append((len(self.seconds), used_megabytes()))
            return result

        return call

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Records the steps of all trainings inside the context."""
        watched, save = StartupTimer.watched, Checkpoints.save

        def watching(first_step: StartupTimer, step: Callable) -> Callable:
            return self.timed(watched(first_step, step))

        def saving(checkpoints: Checkpoints, *args) -> None:
            self._checkpoints = checkpoints
            save(checkpoints, *args)

        def collecting(phase: str, info: dict) -> None:
            self._happened.add(COLLECTION)  # in any thread, because it stops all of them

        def compiling(event: str, duration_secs: float, **kwargs) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                self._programs += 1
                self._happened.add(COMPILING)

        noted = {"save_evaluation": EVALUATION, "check_losses": LOG}
        with ExitStack() as stack:
            for name, reason in noted.items():
                function = self.noted(getattr(loop, name), reason)
                stack.enter_context(mock.patch.object(loop, name, function))
            stack.enter_context(mock.patch.object(StartupTimer, "watched", watching))
            stack.enter_context(mock.patch.object(Checkpoints, "save", saving))
            gc.callbacks.append(collecting)
            stack.callback(gc.callbacks.remove, collecting)
            jax.monitoring.register_event_duration_secs_listener(compiling)  # pyright: ignore
            stack.callback(jax.monitoring.unregister_event_duration_listener, compiling)  # pyright: ignore
            yield


@dataclass(frozen=True)
class Findings:
    """Summary of a recorded run.

    Attributes:
        growth: growth of the memory in use in MB per 1,000 steps, without the first quarter of
            evaluations.
        slope: growth of resident memory in MB per 1,000 steps, without the first quarter of steps.
        megabytes: resident memory after the first quarter, and at the end.
        files: open files, the median of the second quarter and of the last.
        compiled: programs compiled after the first evaluation.
        median: median seconds per step.
        slow: number of steps that took more than SLOW times the median, by reason.
        unexplained: (step, seconds) of slow steps without a reason.
    """

    growth: float
    slope: float
    megabytes: tuple[float, float]
    files: tuple[float, float]
    compiled: int
    median: float
    slow: dict[str, int]
    unexplained: list[tuple[int, float]]


def findings(run: Recorder) -> Findings:
    """Summarises a run with at least one evaluation."""
    count = len(run.seconds)
    quarter, median = count // 4, float(np.median(run.seconds))
    sampled = np.linspace(quarter, count - 1, min(200, count - quarter)).round().astype(int)
    slope: Any = theilslopes(np.array(run.megabytes)[sampled], sampled)[0]
    reasons = {n: _reason(run, n) for n in range(count) if run.seconds[n] > SLOW * median}
    steps, used = np.array(run.used[len(run.used) // 4 :]).T
    growth: Any = theilslopes(used, steps)[0] if len(used) > 1 else 0.0
    return Findings(
        growth=1000 * float(growth),
        slope=1000 * float(slope),
        megabytes=(run.megabytes[quarter], run.megabytes[-1]),
        files=(
            float(np.median(run.files[quarter : 2 * quarter])),
            float(np.median(run.files[-quarter:])),
        ),
        compiled=run.compiled[-1] - run.compiled[0],
        median=median,
        slow=dict(Counter(reason for reason in reasons.values() if reason)),
        unexplained=[(n + 1, run.seconds[n]) for n, reason in reasons.items() if not reason],
    )


def _reason(run: Recorder, index: int) -> str:
    """The most costly known reason of a slow step, or ""."""
    known = [reason for reason in REASONS if reason in run.reasons[index]]
    if known:
        return known[0]
    longer, worked = (times[index] - np.median(times) for times in (run.seconds, run.cpu))
    return WAITED if worked < BUSY * longer else ""


def resident_megabytes() -> float:
    """Returns the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Heaps(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def used_megabytes() -> float:
    """Returns the memory that this process has allocated from the C library and not freed."""
    read = ctypes.CDLL(None).mallinfo2
    read.restype = _Heaps
    heaps = read()
    return (heaps.uordblks + heaps.hblkhd) / 1e6


def make_config(folder: Path, steps: int, evaluations: int, features: bool) -> Config:
    """Returns the config of one phase, after writing its images into the folder.

    Args:
        folder: where to write the images and labels.csv.
        steps: length of the phase.
        evaluations: number of evaluations.
        features: whether to train a head on cached features.
    """
    csv, images = write_images(folder)
    group, views = Group("head/.*" if features else ".*", 1e-3), int(features)
    return Config(
        data=Data(csv=csv, images=images, batch_size=8, eval_batch_size=8),
        model=Model(VARIANT, weights="", image_size=32),
        evaluation=Evaluation(every=f"{steps // evaluations} steps"),
        phases=[Phase("long", f"{steps} steps", [group], ema=0.99, cached_views=views)],
    )


def report(run: Recorder, found: Findings) -> str:
    """Returns the findings as text of several lines."""
    slow = [f"{count} {reason}" for reason, count in sorted(found.slow.items())]
    slow.append(f"{len(found.unexplained)} without a reason")
    lines = [
        f"{len(run.seconds)} steps, {len(run.compiled)} evaluations, {sum(run.seconds):.0f} s",
        f"memory in use: {run.used[0][1]:.1f} MB after the first evaluation, "
        f"{run.used[-1][1]:.1f} MB after the last; {found.growth:+.2f} MB per 1000 steps",
        f"resident memory: {found.megabytes[0]:.0f} MB after a quarter, "
        f"{found.megabytes[1]:.0f} MB at the end; {found.slope:+.2f} MB per 1000 steps",
        f"open files: {found.files[0]:g} in the second quarter, {found.files[1]:g} in the last",
        f"compiled after the first evaluation: {found.compiled} programs",
        f"steps: median {1e3 * found.median:.1f} ms; more than {SLOW:g} times that: "
        + "; ".join(slow),
    ]
    return "\n".join([*lines, *(f"  step {n}: {1e3 * s:.1f} ms" for n, s in found.unexplained)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="default 2000")
    parser.add_argument("--evaluations", type=int, default=20, help="default 20")
    parser.add_argument(
        "--features", action="store_true", help="train a head on cached features only"
    )
    options = parser.parse_args()
    if not 1 <= options.evaluations <= options.steps // 4:
        parser.error("--evaluations must be at least 1 and at most a quarter of --steps")
    distributed.start()
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as temporary, recorder.listening():
        folder = Path(temporary)
        shape = options.steps, options.evaluations, options.features
        with mock.patch.dict(VARIANTS, {VARIANT: TINY}):
            train(make_config(folder, *shape), folder / "run")
    found = findings(recorder)
    print(report(recorder, found))
    grows = found.growth > GROWTH or found.files[1] > found.files[0]
    return int(grows or found.compiled > 0)


if __name__ == "__main__":
    raise SystemExit(main())
