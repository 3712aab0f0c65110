"""The end of an epoch: scores of the validation pictures, a line, a record and a checkpoint."""

import dataclasses
from typing import Any

import numpy as np

from mlcls_jax.averages import with_average
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.decisions import Decisions, decide, rule_of
from mlcls_jax.devices import is_first_process, replicate
from mlcls_jax.finite import check_finite
from mlcls_jax.health import logit_spread, warnings
from mlcls_jax.logs import read_metrics
from mlcls_jax.losses import describe
from mlcls_jax.metrics import Scores
from mlcls_jax.models.origins import to_json
from mlcls_jax.patience import Patience
from mlcls_jax.phases import PlannedPhase
from mlcls_jax.scoring import model_scores
from mlcls_jax.session import Session
from mlcls_jax.terminal import Meter, console, print_warning
from mlcls_jax.train_step import TrainState
from mlcls_jax.work import Work
from mlcls_jax.workdir import EMA, RAW


def _score_both(
    session: Session, work: Work, state: TrainState, step: int
) -> tuple[str, dict[str, Scores], Decisions, float]:
    """Which is better, the parameters or their average, the scores of what there is, and the
    decisions for the better and the spread of its logits."""
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
    return better, scores, decisions, logit_spread(read[better][1])


def evaluate_and_save(
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
    better, scores, decisions, spread = _score_both(session, work, state, step)
    values = scores[better].values
    record = {
        "step": step,
        "epoch": round(step * config.data.batch_size / len(session.splits["train"]), 4),
        "phase": planned.phase.name,
        "loss_name": describe(config.loss),  # what train_loss is; val and base_rate have plain BCE
        "train_loss": float(state.loss_sum) / max(float(state.label_count), 1.0),
        "val": values,
        "base_rate": session.constant.values,
        "logit_spread": spread,
        "images_per_second": round(meter.images_per_second, 2),
        "seconds": round(seconds, 2),
    }
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
    session.checkpoints.save(step, state, meta, values["mAP"])
    return state, patience


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
