"""The parameters and their average: which is better on the validation pictures, and by how much."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np

from mlcls_jax.averages import with_average
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.decisions import Decisions, decide, rule_of
from mlcls_jax.devices import describe, keeps_heap
from mlcls_jax.finite import check_finite
from mlcls_jax.metrics import Scores
from mlcls_jax.optimizer import group_table
from mlcls_jax.report.kept import Kept
from mlcls_jax.scoring import model_scores
from mlcls_jax.session import Session
from mlcls_jax.train_step import TrainState
from mlcls_jax.work import Work
from mlcls_jax.workdir import EMA, RAW


@dataclass(frozen=True)
class Evaluated:
    """The better of the parameters and their average on the validation pictures.

    better: RAW or EMA.
    scores: of what there is, by the same names.
    variables, logits: of the better.
    table: of the pictures that the logits are of.
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
    """Scores the validation pictures by both, and the sample of training pictures by the better.

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


def sample_values(sample: Scores, pictures: int, val: Scores) -> dict[str, float]:
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
        "pictures": pictures,
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
        devices=describe(jax.device_count(), kind, jax.process_count(), keeps_heap()),
        groups={name: [dataclasses.asdict(row) for row in rows] for name, rows in groups.items()},
    )
