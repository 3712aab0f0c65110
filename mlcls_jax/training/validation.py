"""The end of an epoch: scores of the validation images, their record, and the checkpoint."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.live_warnings import logit_spread, warnings
from mlcls_jax.evaluation.base_rate import SAMPLE, model_scores, probabilities
from mlcls_jax.evaluation.best_metric import goodness
from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    criterion_from_config,
    fit_decision_rule,
    untuned_rule,
)
from mlcls_jax.evaluation.metrics import Scores
from mlcls_jax.models.weights.provenance import to_json
from mlcls_jax.run.best_scores import BestEvaluation
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.workdir import EMA, RAW
from mlcls_jax.step.ema import with_ema
from mlcls_jax.step.groups import group_table
from mlcls_jax.step.losses import describe_loss
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import Meter, console, print_warning
from mlcls_jax.system.devices import describe_devices, is_first_process
from mlcls_jax.system.heap import keeps_heap
from mlcls_jax.training.context import Metric, RunInputs, TrainContext
from mlcls_jax.training.early_stopping import EarlyStopping
from mlcls_jax.training.epoch_line import epoch_line
from mlcls_jax.training.nan_guard import check_finite
from mlcls_jax.training.phase_inputs import PhaseInputs
from mlcls_jax.training.progress import epoch_of


@dataclass(frozen=True)
class ValidationResult:
    """Scores of the validation images, by the better of the parameters and their EMA.

    Attributes:
        weights: RAW or EMA, whichever scored better.
        scores: by RAW and, if the phase keeps one, by EMA; {} without validation images.
        variables: the better ones.
        table: labels of the validation images that could be read.
        logits: of the better ones, float32 [image, class].
        decision_rule: thresholds and temperatures, tuned on these images.
        sample: scores of the sample of training images; see `sample_values`.
    """

    weights: str
    scores: dict[str, Scores]
    variables: dict
    table: LabelTable
    logits: np.ndarray
    decision_rule: DecisionRule
    sample: dict[str, float]

    @property
    def values(self) -> dict[str, float]:
        """Returns the better scores by the name of the metric, such as "mAP"."""
        return self.scores[self.weights].values if self.scores else {}


@dataclass(frozen=True)
class Evaluator:
    """Scores the validation images during a phase."""

    context: TrainContext
    phase_inputs: PhaseInputs

    def run(self, state: TrainState, step: int) -> ValidationResult:
        """Returns the scores of a state: of its parameters, and of their EMA if it has one.

        Raises:
            FloatingPointError: logits that are not finite; names the step.
        """
        inputs = self.context.inputs
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        if not len(inputs.splits["val"]):
            return _without_val(inputs, variables)
        candidates = {RAW: variables}
        if state.ema:
            candidates[EMA] = with_ema(variables, state.ema)
        val, base_rate = inputs.splits["val"], inputs.base_rate
        scores: dict[str, Scores] = {}
        read: dict[str, tuple[LabelTable, np.ndarray]] = {}
        for weights, candidate in candidates.items():
            logits, readable = self.phase_inputs.evaluate(candidate)
            check_finite(self.context, step, bool(np.isfinite(logits).all()))
            table, logits = val.take(np.flatnonzero(readable)), logits[readable]
            scores[weights] = self._scores(table, logits)
            read[weights] = table, logits
        metric = inputs.config.evaluation.best
        better = max(scores, key=lambda name: goodness(metric, scores[name].values[metric]))
        table, logits = read[better]
        criterion = criterion_from_config(inputs.config.evaluation)
        return ValidationResult(
            weights=better,
            scores=scores,
            variables=candidates[better],
            table=table,
            logits=logits,
            decision_rule=fit_decision_rule(table, logits, base_rate.included_classes, criterion),
            sample=self._score_sample(candidates[better], scores[better]),
        )

    def _scores(self, table: LabelTable, logits: np.ndarray) -> Scores:
        """Returns the scores, with the further metrics of the run among their values."""
        inputs = self.context.inputs
        scores = model_scores(table, logits, inputs.base_rate)
        if not inputs.metrics:
            return scores
        predicted = probabilities(logits)
        values = {
            name: own_metric(name, metric, table.labels, predicted)
            for name, metric in inputs.metrics.items()
        }
        return dataclasses.replace(scores, values=scores.values | values)

    def _score_sample(self, variables: dict, val: Scores) -> dict[str, float]:
        inputs = self.context.inputs
        if not len(inputs.sample):
            return {}
        logits, readable = self.phase_inputs.evaluate_sample(variables)
        table = inputs.sampled.take(np.flatnonzero(readable))
        scores = model_scores(table, logits[readable], inputs.base_rate)
        return sample_values(scores, len(table), val)


def _without_val(inputs: RunInputs, variables: dict) -> ValidationResult:
    """Returns what is kept with a checkpoint of a run that has no validation images."""
    val, kept = inputs.splits["val"], inputs.kept
    rule = kept.decision_rule if kept else untuned_rule(val.classes)
    logits = np.zeros((0, len(val.classes)), np.float32)
    return ValidationResult(kept.weights if kept else RAW, {}, variables, val, logits, rule, {})


def own_metric(name: str, metric: Metric, labels: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the value of a metric of the user; NaN with a warning if it fails.

    Args:
        name: of the metric.
        metric: the function.
        labels: int8 [image, class], each 1, 0 or UNKNOWN.
        predicted: probabilities, float [image, class].
    """
    try:
        return float(metric(labels, predicted))
    except Exception as error:  # of the user's code; the evaluation must not be lost
        print_warning(f"metric {name!r} failed ({type(error).__name__}: {error})")
        return float("nan")


def sample_values(sample: Scores, images: int, val: Scores) -> dict[str, float]:
    """Returns mAP and loss of a sample of training images, next to the mAP of the validation
    images over the classes that both have; {} if there is no such class.

    Args:
        sample: scores of the sample, in evaluation mode.
        images: number of images in the sample.
        val: scores of the validation images.
    """
    excluded = {*sample.excluded_classes, *val.excluded_classes}
    shared = [name for name in val.class_ap if name not in excluded]
    if not shared:
        return {}
    sample_map, val_map = (
        float(np.mean([scores.class_ap[name] for name in shared])) for scores in (sample, val)
    )
    return {
        "mAP": sample_map,
        "loss": sample.values["loss"],
        "val_mAP": val_map,
        "classes": len(shared),
        "images": images,
    }


def log_evaluation(
    context: TrainContext,
    phase_plan: PlannedPhase,
    result: ValidationResult,
    state: TrainState,
    meter: Meter,
    step: int,
) -> None:
    """Writes the record of an evaluation, and prints its line and its warnings.

    `images_per_second` and `seconds` of the record are what this process did since the last
    evaluation; a run that was continued in between has done more.  The record is on disk
    before the checkpoint is started, so no checkpoint lacks its record.
    """
    record = _record(context, phase_plan, result, state, meter, step)
    context.services.log.write_epoch(record)
    console.print(epoch_line(record, epoch_of(context.inputs, step)))
    if is_first_process() and result.scores:  # it has the records
        phases, phase = context.inputs.config.phases, phase_plan.phase
        index = [other.name for other in phases].index(phase.name)
        for text in warnings(read_metrics(context.inputs.workdir), phase, index):
            print_warning(text)


def _record(
    context: TrainContext,
    phase_plan: PlannedPhase,
    result: ValidationResult,
    state: TrainState,
    meter: Meter,
    step: int,
) -> dict[str, Any]:
    inputs = context.inputs
    record = {
        "step": step,
        "epoch": round(step * inputs.step.batch_size / len(inputs.splits["train"]), 4),
        "phase": phase_plan.phase.name,
        "loss_name": describe_loss(inputs.step.loss),  # of train_loss; all others are plain BCE
        "train_loss": float(state.loss_sum) / max(float(state.label_count), 1.0),
        "best_by": inputs.config.evaluation.best,
        "val": result.values,
        "base_rate": inputs.constant.values if result.scores else {},
        "logit_spread": logit_spread(result.logits) if result.scores else None,
        "images_per_second": round(meter.images_per_second, 2),
        "seconds": round(meter.seconds, 2),
        "timing": context.services.timer.take(),
    }
    if result.sample:
        record[SAMPLE] = result.sample
    if len(result.scores) > 1:
        record["weights"] = result.weights
        record |= {f"val_{weights}": scores.values for weights, scores in result.scores.items()}
    return record


def save_evaluation(
    context: TrainContext,
    phase_plan: PlannedPhase,
    state: TrainState,
    step: int,
    early_stopping: EarlyStopping,
    result: ValidationResult,
) -> None:
    """Passes an evaluation on, and starts its checkpoint, which must not outlive its scores."""
    services, metric = context.services, context.inputs.config.evaluation.best
    value = result.values.get(metric)
    metadata = checkpoint_metadata(context.inputs, phase_plan, step, early_stopping, result)
    metadata |= services.log.for_metadata()
    if value is not None:
        with services.timer.measure("report"):
            services.on_evaluation(value, lambda: best_evaluation(context.inputs, result, step))
    with services.timer.measure("checkpoints"):
        services.checkpoints.save(step, state, metadata, value, metric)
    services.save_clock.restart()


def save_between(
    context: TrainContext,
    phase_plan: PlannedPhase,
    state: TrainState,
    step: int,
    early_stopping: EarlyStopping,
) -> None:
    """Starts a checkpoint between two evaluations, after the losses so far were checked.

    Raises:
        FloatingPointError: a parameter that is not finite.
    """
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    check_finite(context, step, finite)
    metadata = checkpoint_metadata(context.inputs, phase_plan, step, early_stopping)
    metadata |= context.services.log.for_metadata()
    context.services.checkpoints.save(step, state, metadata, None)
    context.services.save_clock.restart()


def checkpoint_metadata(
    inputs: RunInputs,
    phase_plan: PlannedPhase,
    step: int,
    early_stopping: EarlyStopping,
    result: ValidationResult | None = None,
) -> dict[str, Any]:
    """Returns the metadata of a checkpoint, JSON-ready; `result` is that of its evaluation."""
    metadata = {
        "step": step,
        "phase": phase_plan.phase.name,
        "classes": list(inputs.splits["train"].classes),
        "base_rate": {
            "frequencies": list(inputs.base_rate.frequencies),
            "included_classes": list(inputs.base_rate.included_classes),
        },
        "pretrained_config": to_json(inputs.pretrained_config),
        "val": result.values if result and result.scores else None,
        "weights": result.weights if result else RAW,
        "early_stopping": dataclasses.asdict(early_stopping),
        "config": dataclasses.asdict(inputs.config),
    }
    if result:
        metadata["decision_rule"] = dataclasses.asdict(result.decision_rule)
    return metadata


def best_evaluation(inputs: RunInputs, result: ValidationResult, step: int) -> BestEvaluation:
    """Returns what the report needs of the best evaluation."""
    phases = [phase_plan.phase for phase_plan in inputs.plan]
    groups = {phase.name: group_table(result.variables["params"], phase) for phase in phases}
    kind = jax.devices()[0].device_kind
    return BestEvaluation(
        step=step,
        weights=result.weights,
        filenames=result.table.filenames,
        logits=result.logits,
        decision_rule=result.decision_rule,
        devices=describe_devices(jax.device_count(), kind, jax.process_count(), keeps_heap()),
        groups={name: [dataclasses.asdict(row) for row in rows] for name, rows in groups.items()},
    )
