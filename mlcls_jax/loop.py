"""The training loop of one phase: steps, evaluations, checkpoints, and nothing in between.

The loop never waits for the devices except every `log_every` steps, to bound how far it runs
ahead and to look at the losses; the bar moves by asking which steps are done, not by waiting.
"""

import dataclasses
import math
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.ahead import Ahead
from mlcls_jax.checkpoint import Checkpoints
from mlcls_jax.config import Config
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.data.pipeline import Reader, batch_filenames
from mlcls_jax.devices import is_first_process, replicate
from mlcls_jax.first_step import FirstStep
from mlcls_jax.logs import MetricsLog
from mlcls_jax.metrics import Scores
from mlcls_jax.models.lineages import Origin
from mlcls_jax.models.origins import to_json
from mlcls_jax.phases import PlannedPhase
from mlcls_jax.scoring import BaseRate, constant_scores, model_scores, score
from mlcls_jax.terminal import Meter, console, progress_bar
from mlcls_jax.train_step import TrainState


@dataclass(frozen=True)
class Session:
    """What stays the same over a run."""

    config: Config
    workdir: Path
    plan: list[PlannedPhase]
    splits: dict[str, LabelTable]
    base: BaseRate
    origin: Origin  # lineage and normalisation of the weights
    mesh: jax.sharding.Mesh
    readers: dict[str, Reader]  # of splits
    ahead: Ahead
    checkpoints: Checkpoints
    log: MetricsLog
    stop: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def constant(self) -> Scores:
        """Of the base rate on the validation pictures."""
        return constant_scores(self.splits["val"], self.base)


def run_phase(
    session: Session, planned: PlannedPhase, state: TrainState, first_step: FirstStep
) -> TrainState:
    """Trains from the state's step to the end of the phase, or until session.stop is set.

    Raises:
        FloatingPointError: a loss that is not finite; names step and pictures.
        ValueError: a picture that cannot be read.
    """
    number = int(state.step)
    session.ahead.start(planned, session.origin)
    session.ahead.read(planned, number, session.readers["train"])
    step = first_step.watched(_compiled(session, planned))
    first_step.reached("waiting for the compiled step")
    batches = session.ahead.batches(planned)
    first_step.reached("waiting for pictures")
    for end in [evaluation for evaluation in planned.evaluations if evaluation > number]:
        state, meter = run_steps(session, step, batches, state, planned.phase.name, end)
        number += meter.done
        if number == end:
            state = _evaluate_and_save(session, planned, state, meter, number)
        elif number != session.checkpoints.latest():
            finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
            _check_finite(session, number, finite)
            meta = _meta(session, planned, number, None)
            session.checkpoints.save(number, state, meta, None)
        if session.stop.is_set():
            break
    return state


@contextmanager
def stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `stop`, once; the second one interrupts at once.

    With several processes it interrupts at once: they would not stop at the same step.
    """

    def request(signum, frame):
        signal.signal(signal.SIGINT, previous)
        stop.set()
        console.print("Stopping after this step; press Ctrl-C again to stop at once.")

    previous = signal.getsignal(signal.SIGINT)
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _compiled(session: Session, planned: PlannedPhase) -> Any:
    """The step of the phase, compiled for the shapes it will see: it can never recompile."""
    step, traced, compiled = session.ahead.step(planned)
    console.print(
        f"{planned.phase.name}: step traced in {traced:.1f} s, compiled in {compiled:.1f} s"
    )
    return step


def run_steps(
    session: Session, step, batches: Iterator[Batch], state: TrainState, title: str, end: int
) -> tuple[TrainState, Meter]:
    """Steps up to `end`, or to the first one after a stop was asked for.

    Args:
        step: compiled, (state, batch) -> (state, metrics); the benchmark passes one of nothing.
        batches: on the devices, from the one of the state's step on.
        title: of the progress bar.

    Raises:
        FloatingPointError: a metric that is not finite; names step and pictures.
    """
    config, first = session.config, int(state.step)
    number, meter = first, Meter(end - first, config.data.batch_size)
    running: deque[Any] = deque()  # losses of steps that may still be on the devices
    unchecked: list[tuple[int, dict]] = []
    with progress_bar(title, meter, is_first_process()) as refresh:
        while number < end and not session.stop.is_set():
            batch = next(batches)
            if number == first:
                meter.begin()
            state, metrics = step(state, batch)
            running.append(metrics["loss"])
            unchecked.append((number, metrics))
            number += 1
            if len(unchecked) == config.log_every or number == end:
                _check(session, unchecked)
                unchecked = []
            while running and running[0].is_ready():  # asks, and does not wait
                running.popleft()
                meter.advance()
            refresh()
        _check(session, unchecked)
        meter.advance(len(running))
    return state, meter


def _check(session: Session, steps: list[tuple[int, dict]]) -> None:
    """Waits for the steps, logs the last one, and stops the run at a loss that is not finite."""
    if not steps:
        return
    numbers, metrics = zip(*steps, strict=True)
    fetched = jax.device_get(metrics)
    for number, values in zip(numbers, fetched, strict=True):
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(_not_finite(session, number, f"{name} is {value}"))
    session.checkpoints.check()
    session.log.write_scalars(
        numbers[-1] + 1, {f"step/{key}": float(value) for key, value in fetched[-1].items()}
    )


def _check_finite(session: Session, step: int, finite) -> None:
    """The last step's update may spoil the parameters without any loss that shows it."""
    if not finite:
        text = _not_finite(session, step - 1, "an updated parameter is not finite")
        raise FloatingPointError(text)


def _not_finite(session: Session, step: int, what: str) -> str:
    config = session.config
    names = batch_filenames(session.splits["train"], step, config.data.batch_size, config.seed)
    saved = session.checkpoints.latest()
    kept = (
        "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} stays"
    )
    return (
        f"{what} at step {step + 1}; {kept}. Lower the learning rates of the phase, or "
        f"look at the batch's pictures: {', '.join(names)}"
    )


def _evaluate_and_save(
    session: Session, planned: PlannedPhase, state: TrainState, meter: Meter, step: int
) -> TrainState:
    """Scores the validation pictures, writes the line and the checkpoint, resets the totals."""
    val, seconds, config = session.splits["val"], meter.seconds, session.config
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    title = "val" if is_first_process() else ""
    logits, readable = score(
        session.ahead.predict,
        variables,
        val.paths,
        config,
        session.mesh,
        session.readers["val"],
        title,
    )
    _check_finite(session, step, np.isfinite(logits).all())
    scores = model_scores(val.take(np.flatnonzero(readable)), logits[readable], session.base)
    record = {
        "step": step,
        "epoch": round(step * config.data.batch_size / len(session.splits["train"]), 4),
        "phase": planned.phase.name,
        "train_loss": float(state.loss_sum) / max(float(state.label_count), 1.0),
        "val": scores.values,
        "base_rate": session.constant.values,
        "images_per_second": round(meter.images_per_second, 2),
        "seconds": round(seconds, 2),
    }
    session.log.write_epoch(record)
    console.print(epoch_line(record))
    # Two arrays, as one buffer cannot be donated twice; from the host, so that nothing compiles.
    zeros = [np.zeros((), np.float32) for _ in range(2)]
    loss_sum, label_count = replicate(zeros, session.mesh)
    state = dataclasses.replace(state, loss_sum=loss_sum, label_count=label_count)
    meta = _meta(session, planned, step, scores.values)
    session.checkpoints.save(step, state, meta, scores.values["mAP"])
    return state


def epoch_line(record: dict[str, Any]) -> str:
    """One line per evaluation."""
    val, constant = record["val"], record["base_rate"]
    return (
        f"{record['phase']} epoch {record['epoch']:.4g} step {record['step']}: "
        f"train loss {record['train_loss']:.4f}, val loss {val['loss']:.4f} "
        f"(base rate {constant['loss']:.4f}), mAP {val['mAP']:.4f} "
        f"(base rate {constant['mAP']:.4f}), CF1 {val['CF1']:.4f}, "
        f"{record['images_per_second']:.1f} images/s"
    )


def _meta(session: Session, planned: PlannedPhase, step: int, values: dict | None) -> dict:
    return {
        "step": step,
        "phase": planned.phase.name,
        "classes": list(session.splits["train"].classes),
        "base_rate": {
            "frequencies": list(session.base.frequencies),
            "counted": list(session.base.counted),
        },
        "origin": to_json(session.origin),
        "val": values,
        "config": dataclasses.asdict(session.config),
    }
