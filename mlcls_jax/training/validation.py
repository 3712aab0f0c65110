"""The end of an epoch: scores of the validation images, a line, a record and a checkpoint."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.live_warnings import logit_spread, warnings
from mlcls_jax.evaluation.base_rate import SAMPLE, model_scores
from mlcls_jax.evaluation.decision_rule import Decisions, decide, rule_of
from mlcls_jax.evaluation.metrics import Scores
from mlcls_jax.models.weights.provenance import to_json
from mlcls_jax.run.best_scores import Kept
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.workdir import EMA, RAW
from mlcls_jax.step.ema import with_average
from mlcls_jax.step.losses import describe_loss
from mlcls_jax.step.optimizer import group_table
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import Meter, console, print_warning
from mlcls_jax.system.devices import describe_devices, is_first_process, keeps_heap, replicate
from mlcls_jax.training.context import Session
from mlcls_jax.training.nan_guard import check_finite
from mlcls_jax.training.phase_inputs import Work
from mlcls_jax.training.phase_transition import Patience


@dataclass(frozen=True)
class Evaluated:
    """The better of the parameters and their average on the validation images.

    better: RAW or EMA.
    scores: of what there is, by the same names.
    variables, logits: of the better.
    table: of the images that the logits are of.
    sample: see `sample_values`.
    """

    better: str
    scores: dict[str, Scores]
    variables: dict
    table: LabelTable
    logits: np.ndarray
    decisions: Decisions
    sample: dict[str, float]


def evaluate_state(session: Session, work: Work, state: TrainState, step: int) -> Evaluated:
    """Scores the validation images by both, and the sample of training images by the better.

    Raises:
        FloatingPointError: logits that are not finite; names the step.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    candidates = {RAW: variables}
    if state.average:
        candidates[EMA] = with_average(variables, state.average)
    val, scores = session.splits["val"], {}
    read: dict[str, tuple[LabelTable, np.ndarray]] = {}
    for name, candidate in candidates.items():
        logits, readable = work.evaluate(candidate)
        check_finite(session, step, np.isfinite(logits).all())
        read[name] = val.take(np.flatnonzero(readable)), logits[readable]
        scores[name] = model_scores(*read[name], session.base)
    better = max(scores, key=lambda name: np.nan_to_num(scores[name].values["mAP"]))
    rule = rule_of(session.config.evaluation)
    decisions = decide(*read[better], session.base.counted, rule)
    sample = {}
    if len(session.sample):
        logits, readable = work.evaluate_sample(candidates[better])
        table = session.sampled.take(np.flatnonzero(readable))
        of_sample = model_scores(table, logits[readable], session.base)
        sample = sample_values(of_sample, len(table), scores[better])
    return Evaluated(better, scores, candidates[better], *read[better], decisions, sample)


def sample_values(sample: Scores, images: int, val: Scores) -> dict[str, float]:
    """mAP and loss of the sample in evaluation mode, and to compare them with, the mAP of val over
    the classes that both have; nothing where there is no such class."""
    out = {*sample.left_out, *val.left_out}
    both = [name for name in val.class_ap if name not in out]
    if not both:
        return {}
    mean = [float(np.mean([of.class_ap[name] for name in both])) for of in (sample, val)]
    return {
        "mAP": mean[0],
        "loss": sample.values["loss"],
        "val_mAP": mean[1],
        "classes": len(both),
        "images": images,
    }


def kept(session: Session, evaluated: Evaluated, step: int) -> Kept:
    """What the report needs of the best evaluation."""
    phases = [planned.phase for planned in session.plan]
    groups = {phase.name: group_table(evaluated.variables["params"], phase) for phase in phases}
    kind = jax.devices()[0].device_kind
    return Kept(
        step=step,
        weights=evaluated.better,
        filenames=evaluated.table.filenames,
        logits=evaluated.logits,
        decisions=evaluated.decisions,
        devices=describe_devices(jax.device_count(), kind, jax.process_count(), keeps_heap()),
        groups={name: [dataclasses.asdict(row) for row in rows] for name, rows in groups.items()},
    )


def evaluate_and_save(
    session: Session,
    planned: PlannedPhase,
    work: Work,
    state: TrainState,
    meter: Meter,
    patience: Patience,
    step: int,
) -> tuple[TrainState, Patience]:
    """Scores the validation images, writes the line and the checkpoint, resets the totals.

    `images_per_second` and `seconds` of the line are what this process did since the evaluation
    before: a run that was continued in between has done more.  The line is on the disk before the
    checkpoint is begun, so that no checkpoint can be without its line; a line without its
    checkpoint is dropped by the run that continues.
    """
    seconds, config = meter.seconds, session.config
    with session.spent.on("evaluation"):
        evaluated = evaluate_state(session, work, state, step)
    better, scores, decisions = evaluated.better, evaluated.scores, evaluated.decisions
    spread = logit_spread(evaluated.logits)
    values = scores[better].values
    record = {
        "step": step,
        "epoch": round(step * config.data.batch_size / len(session.splits["train"]), 4),
        "phase": planned.phase.name,
        "loss_name": describe_loss(
            config.loss
        ),  # what train_loss is; val and base_rate have plain BCE
        "train_loss": float(state.loss_sum) / max(float(state.label_count), 1.0),
        "val": values,
        "base_rate": session.constant.values,
        "logit_spread": spread,
        "images_per_second": round(meter.images_per_second, 2),
        "seconds": round(seconds, 2),
        "spent": session.spent.take(),
    }
    if evaluated.sample:
        record[SAMPLE] = evaluated.sample
    if len(scores) > 1:
        record["weights"] = better
        record |= {f"val_{name}": of.values for name, of in scores.items()}
    session.log.write_epoch(record)
    console.print(epoch_line(record))
    _warn(session, planned)
    # Two arrays, as one buffer cannot be donated twice; from the host, so that nothing compiles.
    zeros = [np.zeros((), np.float32) for _ in range(2)]
    loss_sum, label_count = replicate(zeros, session.mesh)
    state = dataclasses.replace(state, loss_sum=loss_sum, label_count=label_count)
    patience = patience.after(values["mAP"])
    meta = meta_of(session, planned, step, patience, values, better)
    meta |= {"decisions": dataclasses.asdict(decisions)}
    with session.spent.on("checkpoints"):
        session.checkpoints.save(step, state, meta, values["mAP"])
    with session.spent.on("report"):
        session.on_evaluation(values["mAP"], lambda: kept(session, evaluated, step))
    session.clock.restart()
    return state, patience


def save_between(
    session: Session, planned: PlannedPhase, state: TrainState, patience: Patience, step: int
) -> None:
    """Saves the state between two evaluations, whose losses have been looked at.

    Raises:
        FloatingPointError: a parameter that is not finite.
    """
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    check_finite(session, step, finite)
    session.checkpoints.save(step, state, meta_of(session, planned, step, patience), None)
    session.clock.restart()


def _warn(session: Session, planned: PlannedPhase) -> None:
    """Says what the record that was just written is the first of its phase to show."""
    if not is_first_process():  # it has the records
        return
    index = [phase.name for phase in session.config.phases].index(planned.phase.name)
    for text in warnings(read_metrics(session.workdir), planned.phase, index):
        print_warning(text)


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


def meta_of(
    session: Session,
    planned: PlannedPhase,
    step: int,
    patience: Patience,
    values: dict | None = None,
    weights: str = RAW,
) -> dict:
    """What a checkpoint says of itself, JSON-ready; without `values`, of a moment in an epoch."""
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
