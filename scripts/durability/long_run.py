"""Does anything grow over a long run, or stop it on its way?

    python scripts/durability/long_run.py                # 2,000 steps, 20 evaluations
    python scripts/durability/long_run.py --features     # steps on cached features

Trains a tiny network from random weights on made-up photographs, by what `mlcls_jax.train` calls,
and waits for each step, so that its time can be told: from the end of the step before to its own
end, with all that happens in between; on features, a call of several counts as one.  A step that
takes more than three times the median has a reason among these: the first of a phase, a program
that compiled beside it, an evaluation (which begins a checkpoint), a checkpoint that is still being
written, a log, a garbage collection, or that for most of the time above the median the process
had no core, or waited for a disk.  Linux.

Memory is told in two ways.  What is in use is what the program has asked for and not given back: a
leak shows there.  Resident memory is also what the C library's heaps keep for later, which settles
slowly, and what the system has taken back meanwhile.  glibc 2.33 or later.

Exit code 1: something was compiled after the first evaluation, files stay open, or more and more
memory is in use.
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
BUSY = 0.5  # of the time above the median in CPU time as well: less was spent in waiting
GROWTH = 5.0  # MB in use per 1,000 steps
FIRST, COMPILING, EVALUATION = "first of a phase", "program compiled beside it", "evaluation"
WRITING, LOG, COLLECTION = "checkpoint being written", "log", "garbage collection"
REASONS = (FIRST, COMPILING, EVALUATION, WRITING, LOG, COLLECTION)  # the most costly first
WAITED = "waiting for a core or a disk"
VARIANT, TINY = "tiny", Variant(0.25, 0.3, 32, 0.2, lite=True)


@dataclass
class Recorder:
    """What each step of a run took and left.

    seconds, cpu: of each step, and of all threads.
    reasons: what happened between the end of the step before and that of each.
    megabytes, files: resident memory and open files after each.
    used: the number of the step and the megabytes in use, at the end of each evaluation.
    compiled: how many programs, by the end of each evaluation.
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
        """The step, waited for and noted; the first call is noted as such."""
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

    def noted(self, function: Callable, what: str) -> Callable:
        """The function, whose calls are a reason."""

        def call(*args, **kwargs):
            self._happened.add(what)
            result = function(*args, **kwargs)
            if what == EVALUATION:
                self.compiled.append(self._programs)
                gc.collect()  # what waits for a collection is no leak
                self.used.append((len(self.seconds), used_megabytes()))
            return result

        return call

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the steps of all trainings inside."""
        watched, save = StartupTimer.watched, Checkpoints.save

        def watching(first_step: StartupTimer, step: Callable) -> Callable:
            return self.timed(watched(first_step, step))

        def saving(checkpoints: Checkpoints, *args) -> None:
            self._checkpoints = checkpoints
            save(checkpoints, *args)

        def collecting(phase: str, info: dict) -> None:
            self._happened.add(COLLECTION)  # in whatever thread: it stops them all

        def compiling(event: str, duration_secs: float, **kwargs) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                self._programs += 1
                self._happened.add(COMPILING)

        noted = {"evaluate_and_save": EVALUATION, "check_losses": LOG}
        with ExitStack() as stack:
            for name, what in noted.items():
                function = self.noted(getattr(loop, name), what)
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
    """What a run has shown.

    growth: of the memory in use in MB per 1,000 steps, after the first quarter of evaluations.
    slope: of resident memory in MB per 1,000 steps, after the first quarter of steps.
    megabytes: resident at the end of the first quarter, and at the end.
    files: open ones, the median of the second quarter and of the last.
    compiled: programs after the first evaluation.
    median: seconds of a step.
    slow: how many steps took more than SLOW times that, by reason.
    unexplained: number and seconds of those without one.
    """

    growth: float
    slope: float
    megabytes: tuple[float, float]
    files: tuple[float, float]
    compiled: int
    median: float
    slow: dict[str, int]
    unexplained: list[tuple[int, float]]


def findings(of: Recorder) -> Findings:
    """Of a run that has evaluated."""
    count = len(of.seconds)
    quarter, median = count // 4, float(np.median(of.seconds))
    at = np.linspace(quarter, count - 1, min(200, count - quarter)).round().astype(int)
    slope: Any = theilslopes(np.array(of.megabytes)[at], at)[0]
    reasons = {n: _reason(of, n) for n in range(count) if of.seconds[n] > SLOW * median}
    steps, used = np.array(of.used[len(of.used) // 4 :]).T
    growth: Any = theilslopes(used, steps)[0] if len(used) > 1 else 0.0
    return Findings(
        growth=1000 * float(growth),
        slope=1000 * float(slope),
        megabytes=(of.megabytes[quarter], of.megabytes[-1]),
        files=(
            float(np.median(of.files[quarter : 2 * quarter])),
            float(np.median(of.files[-quarter:])),
        ),
        compiled=of.compiled[-1] - of.compiled[0],
        median=median,
        slow=dict(Counter(reason for reason in reasons.values() if reason)),
        unexplained=[(n + 1, of.seconds[n]) for n, reason in reasons.items() if not reason],
    )


def _reason(of: Recorder, number: int) -> str:
    """The most costly of what happened at a slow step; "" for nothing that is known."""
    known = [reason for reason in REASONS if reason in of.reasons[number]]
    if known:
        return known[0]
    longer, worked = (each[number] - np.median(each) for each in (of.seconds, of.cpu))
    return WAITED if worked < BUSY * longer else ""


def resident_megabytes() -> float:
    """Of this process, now."""
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
    """What this process has asked the C library for and not given back, now."""
    read = ctypes.CDLL(None).mallinfo2
    read.restype = _Heaps
    heaps = read()
    return (heaps.uordblks + heaps.hblkhd) / 1e6


def make_config(folder: Path, steps: int, evaluations: int, features: bool) -> Config:
    """A phase of so many steps, on images that are written into the folder."""
    csv, images = write_images(folder)
    group, views = Group("head/.*" if features else ".*", 1e-3), int(features)
    return Config(
        data=Data(csv=csv, images=images, batch_size=8, eval_batch_size=8),
        model=Model(VARIANT, weights="", image_size=32),
        evaluation=Evaluation(every=f"{steps // evaluations} steps"),
        phases=[Phase("long", f"{steps} steps", [group], ema=0.99, cached_views=views)],
    )


def report(of: Recorder, found: Findings) -> str:
    """Lines for a person."""
    slow = [f"{count} {reason}" for reason, count in sorted(found.slow.items())]
    slow.append(f"{len(found.unexplained)} without a reason")
    lines = [
        f"{len(of.seconds)} steps, {len(of.compiled)} evaluations, {sum(of.seconds):.0f} s",
        f"memory in use: {of.used[0][1]:.1f} MB after the first evaluation, "
        f"{of.used[-1][1]:.1f} MB after the last; {found.growth:+.2f} MB per 1000 steps",
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
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--features", action="store_true", help="of a head, on cached features")
    options = parser.parse_args()
    if not 1 <= options.evaluations <= options.steps // 4:
        parser.error("--evaluations must be at least 1, and --steps at least four times as many")
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
