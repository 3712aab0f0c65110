"""Loads a trained model from a workdir, and writes its predictions."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dacite
import jax
import pandas as pd

from mlcls_jax.config import Config
from mlcls_jax.data.readers.csv_cells import for_spreadsheets, quoting
from mlcls_jax.evaluation.decision_rule import DecisionRule, untuned_rule
from mlcls_jax.evaluation.decision_rule import decision_rule_from_dict as decisions_from_dict
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.models.weights.provenance import from_json
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.workdir import DECISION_RULE, EMA, read_config
from mlcls_jax.step.ema import NO_EMA
from mlcls_jax.step.programs import build_model, ema_leaves, variables_shape
from mlcls_jax.step.train_step import make_eval_step
from mlcls_jax.system.devices import make_mesh
from mlcls_jax.system.files import write_text


@dataclass(frozen=True)
class _BaseRate:
    frequencies: list[float]
    included_classes: list[bool]


@dataclass(frozen=True)
class _Needed:
    """Fields without which there is no model; more of them are for other modules to read."""

    step: int
    phase: str
    classes: list[str]
    base_rate: _BaseRate
    pretrained_config: dict


def check_metadata(metadata: Any, step: int) -> dict[str, Any]:
    """The same, if it may be the metadata of the checkpoint of a step.

    Raises:
        ValueError: a field is missing, of another type, or contradicts another one.
    """
    what = f"the metadata of checkpoint {step} are damaged"
    try:
        needed = dacite.from_dict(_Needed, metadata)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())  # it quotes values
        raise ValueError(f"{what}: {reason}; take another checkpoint") from error
    classes, base = needed.classes, needed.base_rate
    wrong = {
        f"it is of step {needed.step}": needed.step != step,
        "it names no class, or one twice": not classes or len(set(classes)) < len(classes),
        "its base rates are not one for each class": not (
            len(classes) == len(base.frequencies) == len(base.included_classes)
        ),
        "a base rate is no share": not all(0 <= share <= 1 for share in base.frequencies),
    }
    for problem, is_so in wrong.items():
        if is_so:
            raise ValueError(f"{what}: {problem}; take another checkpoint")
    return metadata


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with all that belongs to it.

    decision_rule: thresholds and temperatures of the checkpoint.
    predict: (variables, uint8 images sharded over the mesh) -> float32 logits.
    """

    config: Config
    classes: tuple[str, ...]
    metadata: dict[str, Any]
    variables: dict
    pretrained_config: PretrainedConfig  # of the weights that it was trained from
    decision_rule: DecisionRule
    predict: Any
    mesh: jax.sharding.Mesh


def load_trained_model(workdir: Path, which: str) -> TrainedModel:
    """The run of a workdir at a checkpoint: "best", "latest" or a step.

    Raises:
        ValueError: no run, no checkpoint, or not this one.
    """
    config, mesh = read_config(workdir), make_mesh()
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.resolve(which)
    metadata = check_metadata(checkpoints.metadata(step), step)
    classes = tuple(metadata["classes"])
    pretrained_config = read_pretrained_config(metadata)
    model = build_model(config, len(classes), pretrained_config.convention)
    target = variables_shape(config, len(classes), mesh)
    variables = best_variables(checkpoints, metadata, target, config)
    checkpoints.close()
    predict = make_eval_step(model, pretrained_config.normalization, mesh)
    decision_rule = read_decision_rule(workdir, metadata)
    return TrainedModel(
        config, classes, metadata, variables, pretrained_config, decision_rule, predict, mesh
    )


def best_variables(
    checkpoints: Checkpoints, metadata: dict[str, Any], shapes: dict, config: Config
) -> dict:
    """The parameters and statistics of a checkpoint, or their averages if these scored higher.

    Args:
        checkpoints: of the run.
        metadata: of the checkpoint.
        shapes: the variables, or their shapes with shardings.
        config: of the run.
    """
    ema = NO_EMA
    if uses_ema(metadata):
        phase = next((phase for phase in config.phases if phase.name == metadata["phase"]), None)
        if phase is None:
            raise ValueError(
                f"the run has no phase {metadata['phase']!r}, of which its checkpoint is"
            )
        ema = ema_leaves(shapes, phase)
    return checkpoints.restore_variables(metadata["step"], shapes, ema)


def uses_ema(metadata: dict[str, Any]) -> bool:
    """Whether the average of what was trained scored higher than the parameters themselves."""
    return metadata.get("weights") == EMA


def describe_checkpoint(metadata: dict[str, Any]) -> str:
    """Such as "checkpoint of step 120 (phase finetune), averaged parameters"."""
    averaged = ", averaged parameters" if uses_ema(metadata) else ""
    return f"checkpoint of step {metadata['step']} (phase {metadata['phase']}){averaged}"


def read_pretrained_config(metadata: dict[str, Any]) -> PretrainedConfig:
    """The origin of the weights that a checkpoint was trained from; ValueError without one."""
    if "pretrained_config" not in metadata:
        raise ValueError(
            "the checkpoint is of an earlier version of mlcls_jax, which kept no lineage of its "
            "weights; use it with that version, or train again"
        )
    return from_json(metadata["pretrained_config"])


def read_decision_rule(workdir: Path, metadata: dict[str, Any]) -> DecisionRule:
    """Those that were tuned last for the checkpoint: by `evaluate`, or in training.

    `untuned` where the checkpoint has none: it was saved between two evaluations, or is older.

    Raises:
        ValueError: decision_rule.json cannot be read.
    """
    path = workdir / DECISION_RULE
    try:
        later = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if later is not None and later["step"] == metadata["step"]:
            return _of_classes(decisions_from_dict(later["decision_rule"]), metadata["classes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it") from error
    values = metadata.get("decision_rule")
    if values is None:
        return untuned_rule(metadata["classes"])
    return _of_classes(decisions_from_dict(values), metadata["classes"])


def _of_classes(decision_rule: DecisionRule, classes: list[str]) -> DecisionRule:
    """The same; ValueError where they are not one for each class."""
    if not len(decision_rule.thresholds) == len(decision_rule.temperatures) == len(classes):
        raise ValueError(f"decisions: they are not of {len(classes)} classes")
    return decision_rule


def write_decision_rule(workdir: Path, step: int, decision_rule: DecisionRule) -> None:
    """Keeps decisions that were tuned for the checkpoint of a step after its training."""
    values = {"step": step, "decision_rule": asdict(decision_rule)}
    write_text(workdir / DECISION_RULE, json.dumps(values, indent=2) + "\n")


def write_predictions(
    path: Path,
    filenames: tuple[str, ...] | list[str],
    probabilities,
    classes: tuple[str, ...],
    exact: bool = False,
) -> None:
    """CSV: filename, then one probability per class, six decimals; or 0 or 1, if integers.

    Args:
        path: of the file.
        filenames: n, of the images.
        probabilities: [n, c], floats or integers.
        classes: c, their names.
        exact: names as they are, to be read as labels again; otherwise they are `for_spreadsheets`.
    """
    names, columns = list(filenames), list(classes)
    if not exact:
        names, columns = (
            [for_spreadsheets(n) for n in names],
            [for_spreadsheets(c) for c in columns],
        )
    frame = pd.DataFrame(probabilities, columns=columns)
    frame.insert(0, "filename", names, allow_duplicates=True)
    quotes = quoting([*names, *columns])
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.6f", quoting=quotes)
    write_text(path, text)
