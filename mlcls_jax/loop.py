"""The training loop of one phase: steps, evaluations, checkpoints, and nothing in between.

A call of a step trains on one batch of pictures or, where their features are cached, on several
batches of features; the loop is the same.  Images/s are rows of batches per second in either case:
with cached features, how many the head takes in, and the pass that made the features has a line of
its own.

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
from typing import Any

import jax
import numpy as np

from mlcls_jax.averages import with_average
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.data.pipeline import batch_filenames
from mlcls_jax.decisions import Decisions, decide, rule_of
from mlcls_jax.devices import is_first_process, replicate
from mlcls_jax.first_step import FirstStep
from mlcls_jax.handover import ended_early, patience_of, say_ended
from mlcls_jax.losses import describe
from mlcls_jax.metrics import Scores
from mlcls_jax.models.origins import to_json
from mlcls_jax.patience import Patience
from mlcls_jax.phases import PlannedPhase
from mlcls_jax.scoring import model_scores
from mlcls_jax.session import Session
from mlcls_jax.terminal import Meter, console, progress_bar
from mlcls_jax.train_step import TrainState
from mlcls_jax.work import Work, make_work
from mlcls_jax.workdir import EMA, RAW


def run_phase(
    session: Session, planned: PlannedPhase, state: TrainState, first_step: FirstStep
) -> TrainState:
    """Trains from the state's step to the end of the phase, or until session.stop is set.

    A phase that ends early leaves a state at the step where it would have ended.

    Raises:
        FloatingPointError: a loss that is not finite; names step and pictures.
        ValueError: a picture that cannot be read.
    """
    number = int(state.step)
    work = make_work(session, planned, state, first_step)
    if work is None:
        return state
    step = first_step.watched(work.step)
    patience = patience_of(session, planned, number)
    for end in [evaluation for evaluation in planned.evaluations if evaluation > number]:
        title = planned.phase.name
        state, meter = run_steps(session, step, work.batches, state, title, end, work.steps)
        number += meter.done
        if number == end:
            state, patience = _evaluate_and_save(
                session, planned, work, state, meter, patience, number
            )
            if number < planned.stop and patience.is_over(planned.phase.patience):
                say_ended(planned, patience, number)
                return ended_early(state, planned, session.mesh)
        elif number != session.checkpoints.latest():
            finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
            _check_finite(session, number, finite)
            meta = _meta(session, planned, number, patience)
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


def run_steps(
    session: Session,
    step,
    batches: Iterator[Any],
    state: TrainState,
    title: str,
    end: int,
    steps: int = 1,
) -> tuple[TrainState, Meter]:
    """Steps up to `end`, or to the first one after a stop was asked for.

    Args:
        step: compiled, (state, batch) -> (state, metrics); the benchmark passes one of nothing.
        batches: on the devices, from the one of the state's step on.
        title: of the progress bar.
        end: the step to stop before.
        steps: that one call takes, or fewer where `end` comes first; see Work.

    Raises:
        FloatingPointError: a metric that is not finite; names step and pictures.
    """
    config, first = session.config, int(state.step)
    number, meter = first, Meter(end - first, config.data.batch_size)
    running: deque[tuple[int, Any]] = deque()  # losses that may still be on the devices
    unchecked: list[tuple[range, dict]] = []
    with progress_bar(title, meter, is_first_process()) as refresh:
        while number < end and not session.stop.is_set():
            batch = next(batches)
            if number == first:
                meter.begin()
            state, metrics = step(state, batch)
            taken = range(number, min(number + steps, end))
            running.append((len(taken), metrics["loss"]))
            unchecked.append((taken, metrics))
            number = taken.stop
            if number + steps - unchecked[0][0].start > config.log_every or number == end:
                _check(session, unchecked)
                unchecked = []
            while running and running[0][1].is_ready():  # asks, and does not wait
                meter.advance(running.popleft()[0])
            refresh()
        _check(session, unchecked)
        meter.advance(sum(count for count, _ in running))
    return state, meter


def _check(session: Session, calls: list[tuple[range, dict]]) -> None:
    """Waits for the calls, logs the last step, and stops the run at a loss that is not finite.

    Args:
        session: of the run.
        calls: the steps of each, and its metrics: one value, or one for each step and more, which
            mean nothing.
    """
    if not calls:
        return
    numbers, metrics = zip(*calls, strict=True)
    values: dict[str, float] = {}
    for taken, fetched in zip(numbers, jax.device_get(metrics), strict=True):
        for at, number in enumerate(taken):
            values = {name: float(np.atleast_1d(of)[at]) for name, of in fetched.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    raise FloatingPointError(_not_finite(session, number, f"{name} is {value}"))
    session.checkpoints.check()
    session.log.write_scalars(
        numbers[-1].stop, {f"step/{key}": value for key, value in values.items()}
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


def _score_both(
    session: Session, work: Work, state: TrainState, step: int
) -> tuple[str, dict[str, Scores], Decisions]:
    """Which is better, the parameters or their average, the scores of what there is, and the
    decisions for the better."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    candidates = {RAW: variables}
    if state.average:
        candidates[EMA] = with_average(variables, state.average)
    val, scores = session.splits["val"], {}
    read: dict[str, tuple[LabelTable, np.ndarray]] = {}
    for name, candidate in candidates.items():
        logits, readable = work.evaluate(candidate)
        _check_finite(session, step, np.isfinite(logits).all())
        read[name] = val.take(np.flatnonzero(readable)), logits[readable]
        scores[name] = model_scores(*read[name], session.base)
    better = max(scores, key=lambda name: np.nan_to_num(scores[name].values["mAP"]))
    rule = rule_of(session.config.evaluation)
    return better, scores, decide(*read[better], session.base.counted, rule)


def _evaluate_and_save(
    session: Session,
    planned: PlannedPhase,
    work: Work,
    state: TrainState,
    meter: Meter,
    patience: Patience,
    step: int,
) -> tuple[TrainState, Patience]:
    """Scores the validation pictures, writes the line and the checkpoint, resets the totals."""
    seconds, config = meter.seconds, session.config
    better, scores, decisions = _score_both(session, work, state, step)
    values = scores[better].values
    record = {
        "step": step,
        "epoch": round(step * config.data.batch_size / len(session.splits["train"]), 4),
        "phase": planned.phase.name,
        "loss_name": describe(config.loss),  # what train_loss is; val and base_rate have plain BCE
        "train_loss": float(state.loss_sum) / max(float(state.label_count), 1.0),
        "val": values,
        "base_rate": session.constant.values,
        "images_per_second": round(meter.images_per_second, 2),
        "seconds": round(seconds, 2),
    }
    if len(scores) > 1:
        record["weights"] = better
        record |= {f"val_{name}": of.values for name, of in scores.items()}
    session.log.write_epoch(record)
    console.print(epoch_line(record))
    # Two arrays, as one buffer cannot be donated twice; from the host, so that nothing compiles.
    zeros = [np.zeros((), np.float32) for _ in range(2)]
    loss_sum, label_count = replicate(zeros, session.mesh)
    state = dataclasses.replace(state, loss_sum=loss_sum, label_count=label_count)
    patience = patience.after(values["mAP"])
    meta = _meta(session, planned, step, patience, values, better)
    meta |= {"decisions": dataclasses.asdict(decisions)}
    session.checkpoints.save(step, state, meta, values["mAP"])
    return state, patience


def epoch_line(record: dict[str, Any]) -> str:
    """One line per evaluation."""
    val, constant = record["val"], record["base_rate"]
    # Another loss has its name, lest anybody compare it with that of val.
    plain = record["loss_name"] == "bce"
    train, of_val = ("loss", "loss") if plain else (record["loss_name"], "bce")
    return (
        f"{record['phase']} epoch {record['epoch']:.4g} step {record['step']}: "
        f"train {train} {record['train_loss']:.4f}, val {of_val} {val['loss']:.4f} "
        f"(base rate {constant['loss']:.4f}), mAP {val['mAP']:.4f} "
        f"(base rate {constant['mAP']:.4f}), CF1 {val['CF1']:.4f}, "
        f"{record['images_per_second']:.1f} images/s{_compared(record)}"
    )


def _compared(record: dict[str, Any]) -> str:
    """What the line says of the parameters and their average, where both were scored."""
    if "weights" not in record:
        return ""
    raw, average = (record[f"val_{name}"]["mAP"] for name in (RAW, EMA))
    better = "average" if record["weights"] == EMA else "parameters"
    return f"; the {better} scored this: mAP {raw:.4f} of the parameters, {average:.4f} averaged"


def _meta(
    session: Session,
    planned: PlannedPhase,
    step: int,
    patience: Patience,
    values: dict | None = None,
    weights: str = RAW,
) -> dict:
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
        "weights": weights,
        "patience": dataclasses.asdict(patience),
        "config": dataclasses.asdict(session.config),
    }
