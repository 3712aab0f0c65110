"""The end of an epoch: scores of the validation images, a line, a record and a checkpoint."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.live_warnings import logit_spread, warnings
from mlcls_jax.evaluation.base_rate import SAMPLE, model_scores
from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    criterion_from_config,
    fit_decision_rule,
)
from mlcls_jax.evaluation.metrics import Scores
from mlcls_jax.models.weights.provenance import to_json
from mlcls_jax.run.best_scores import BestEvaluation
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.workdir import EMA, RAW
from mlcls_jax.step.ema import with_ema
from mlcls_jax.step.losses import describe_loss
from mlcls_jax.step.optimizer import group_table
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import Meter, console, print_warning
from mlcls_jax.system.devices import describe_devices, is_first_process, keeps_heap, replicate
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.nan_guard import check_finite
from mlcls_jax.training.phase_inputs import PhaseInputs
from mlcls_jax.training.phase_transition import EarlyStopping


@dataclass(frozen=True)
class ValidationResult:
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
    decision_rule: DecisionRule
    sample: dict[str, float]


def evaluate_state(
    context: TrainContext, work: PhaseInputs, state: TrainState, step: int
) -> ValidationResult:
    """Scores the validation images by both, and the sample of training images by the better.

    Raises:
        FloatingPointError: logits that are not finite; names the step.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    candidates = {RAW: variables}
    if state.ema:
        candidates[EMA] = with_ema(variables, state.ema)
    val, scores = context.splits["val"], {}
    read: dict[str, tuple[LabelTable, np.ndarray]] = {}
    for name, candidate in candidates.items():
        logits, readable = work.evaluate(candidate)
        check_finite(context, step, np.isfinite(logits).all())
        read[name] = val.take(np.flatnonzero(readable)), logits[readable]
        scores[name] = model_scores(*read[name], context.base)
    better = max(scores, key=lambda name: np.nan_to_num(scores[name].values["mAP"]))
    rule = criterion_from_config(context.config.evaluation)
    decision_rule = fit_decision_rule(*read[better], context.base.included_classes, rule)
    sample = {}
    if len(context.sample):
        logits, readable = work.evaluate_sample(candidates[better])
        table = context.sampled.take(np.flatnonzero(readable))
        of_sample = model_scores(table, logits[readable], context.base)
        sample = sample_values(of_sample, len(table), scores[better])
    return ValidationResult(
        better, scores, candidates[better], *read[better], decision_rule, sample
    )


def sample_values(sample: Scores, images: int, val: Scores) -> dict[str, float]:
    """mAP and loss of the sample in evaluation mode, and to compare them with, the mAP of val over
    the classes that both have; nothing where there is no such class."""
    out = {*sample.excluded_classes, *val.excluded_classes}
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


def kept(context: TrainContext, evaluated: ValidationResult, step: int) -> BestEvaluation:
    """What the report needs of the best evaluation."""
    phases = [phase_plan.phase for phase_plan in context.plan]
    groups = {phase.name: group_table(evaluated.variables["params"], phase) for phase in phases}
    kind = jax.devices()[0].device_kind
    return BestEvaluation(
        step=step,
        weights=evaluated.better,
        filenames=evaluated.table.filenames,
        logits=evaluated.logits,
        decision_rule=evaluated.decision_rule,
        devices=describe_devices(jax.device_count(), kind, jax.process_count(), keeps_heap()),
        groups={name: [dataclasses.asdict(row) for row in rows] for name, rows in groups.items()},
    )


def evaluate_and_save(
    context: TrainContext,
    phase_plan: PlannedPhase,
    work: PhaseInputs,
    state: TrainState,
    meter: Meter,
    patience: EarlyStopping,
    step: int,
) -> tuple[TrainState, EarlyStopping]:
    """Scores the validation images, writes the line and the checkpoint, resets the totals.

    `images_per_second` and `seconds` of the line are what this process did since the evaluation
    before: a run that was continued in between has done more.  The line is on the disk before the
    checkpoint is begun, so that no checkpoint can be without its line; a line without its
    checkpoint is dropped by the run that continues.
    """
    seconds, config = meter.seconds, context.config
    with context.timer.on("evaluation"):
        evaluated = evaluate_state(context, work, state, step)
    better, scores, decision_rule = evaluated.better, evaluated.scores, evaluated.decision_rule
    spread = logit_spread(evaluated.logits)
    values = scores[better].values
    record = {
        "step": step,
        "epoch": round(step * config.data.batch_size / len(context.splits["train"]), 4),
        "phase": phase_plan.phase.name,
        "loss_name": describe_loss(
            config.loss
        ),  # what train_loss is; val and base_rate have plain BCE
        "train_loss": float(state.loss_sum) / max(float(state.label_count), 1.0),
        "val": values,
        "base_rate": context.constant.values,
        "logit_spread": spread,
        "images_per_second": round(meter.images_per_second, 2),
        "seconds": round(seconds, 2),
        "spent": context.timer.take(),
    }
    if evaluated.sample:
        record[SAMPLE] = evaluated.sample
    if len(scores) > 1:
        record["weights"] = better
        record |= {f"val_{name}": of.values for name, of in scores.items()}
    context.log.write_epoch(record)
    console.print(epoch_line(record))
    _warn(context, phase_plan)
    # Two arrays, as one buffer cannot be donated twice; from the host, so that nothing compiles.
    zeros = [np.zeros((), np.float32) for _ in range(2)]
    loss_sum, label_count = replicate(zeros, context.mesh)
    state = dataclasses.replace(state, loss_sum=loss_sum, label_count=label_count)
    patience = patience.after(values["mAP"])
    metadata = meta_of(context, phase_plan, step, patience, values, better)
    metadata |= {"decision_rule": dataclasses.asdict(decision_rule)}
    with context.timer.on("checkpoints"):
        context.checkpoints.save(step, state, metadata, values["mAP"])
    with context.timer.on("report"):
        context.on_evaluation(values["mAP"], lambda: kept(context, evaluated, step))
    context.clock.restart()
    return state, patience


def save_between(
    context: TrainContext,
    phase_plan: PlannedPhase,
    state: TrainState,
    patience: EarlyStopping,
    step: int,
) -> None:
    """Saves the state between two evaluations, whose losses have been looked at.

    Raises:
        FloatingPointError: a parameter that is not finite.
    """
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    check_finite(context, step, finite)
    context.checkpoints.save(step, state, meta_of(context, phase_plan, step, patience), None)
    context.clock.restart()


def _warn(context: TrainContext, phase_plan: PlannedPhase) -> None:
    """Says what the record that was just written is the first of its phase to show."""
    if not is_first_process():  # it has the records
        return
    index = [phase.name for phase in context.config.phases].index(phase_plan.phase.name)
    for text in warnings(read_metrics(context.workdir), phase_plan.phase, index):
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
    raw, ema = (record[f"val_{name}"]["mAP"] for name in (RAW, EMA))
    better = "ema" if record["weights"] == EMA else "parameters"
    return f"; the {better} scored this: mAP {raw:.4f} of the parameters, {ema:.4f} averaged"


def meta_of(
    context: TrainContext,
    phase_plan: PlannedPhase,
    step: int,
    patience: EarlyStopping,
    values: dict | None = None,
    weights: str = RAW,
) -> dict:
    """What a checkpoint says of itself, JSON-ready; without `values`, of a moment in an epoch."""
    return {
        "step": step,
        "phase": phase_plan.phase.name,
        "classes": list(context.splits["train"].classes),
        "base_rate": {
            "frequencies": list(context.base.frequencies),
            "included_classes": list(context.base.included_classes),
        },
        "pretrained_config": to_json(context.pretrained_config),
        "val": values,
        "weights": weights,
        "patience": dataclasses.asdict(patience),
        "config": dataclasses.asdict(context.config),
    }
