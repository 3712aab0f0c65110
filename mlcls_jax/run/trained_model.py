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
from mlcls_jax.evaluation.decision_rule import Decisions, untuned
from mlcls_jax.evaluation.decision_rule import from_dict as decisions_from_dict
from mlcls_jax.models.conventions import Origin
from mlcls_jax.models.weights.provenance import from_json
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.run.workdir import DECISIONS, EMA, read_config
from mlcls_jax.step.ema import NO_AVERAGE
from mlcls_jax.step.programs import averaged_leaves, build_model, variables_shape
from mlcls_jax.step.train_step import make_eval_step
from mlcls_jax.system.devices import make_mesh
from mlcls_jax.system.files import write_text


@dataclass(frozen=True)
class _BaseRate:
    frequencies: list[float]
    counted: list[bool]


@dataclass(frozen=True)
class _Needed:
    """Fields without which there is no model; more of them are for other modules to read."""

    step: int
    phase: str
    classes: list[str]
    base_rate: _BaseRate
    origin: dict


def check_meta(meta: Any, step: int) -> dict[str, Any]:
    """The same, if it may be the metadata of the checkpoint of a step.

    Raises:
        ValueError: a field is missing, of another type, or contradicts another one.
    """
    what = f"the metadata of checkpoint {step} are damaged"
    try:
        needed = dacite.from_dict(_Needed, meta)
    except (dacite.DaciteError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())  # it quotes values
        raise ValueError(f"{what}: {reason}; take another checkpoint") from error
    classes, base = needed.classes, needed.base_rate
    wrong = {
        f"it is of step {needed.step}": needed.step != step,
        "it names no class, or one twice": not classes or len(set(classes)) < len(classes),
        "its base rates are not one for each class": not (
            len(classes) == len(base.frequencies) == len(base.counted)
        ),
        "a base rate is no share": not all(0 <= share <= 1 for share in base.frequencies),
    }
    for problem, is_so in wrong.items():
        if is_so:
            raise ValueError(f"{what}: {problem}; take another checkpoint")
    return meta


@dataclass(frozen=True)
class Run:
    """A trained model with all that belongs to it.

    decisions: thresholds and temperatures of the checkpoint.
    predict: (variables, uint8 images sharded over the mesh) -> float32 logits.
    """

    config: Config
    classes: tuple[str, ...]
    meta: dict[str, Any]
    variables: dict
    origin: Origin  # of the weights that it was trained from
    decisions: Decisions
    predict: Any
    mesh: jax.sharding.Mesh


def load_run(workdir: Path, which: str) -> Run:
    """The run of a workdir at a checkpoint: "best", "latest" or a step.

    Raises:
        ValueError: no run, no checkpoint, or not this one.
    """
    config, mesh = read_config(workdir), make_mesh()
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.resolve(which)
    meta = check_meta(checkpoints.meta(step), step)
    classes = tuple(meta["classes"])
    origin = read_origin(meta)
    model = build_model(config, len(classes), origin.lineage)
    target = variables_shape(config, len(classes), mesh)
    variables = better_variables(checkpoints, meta, target, config)
    checkpoints.close()
    predict = make_eval_step(model, origin.normalization, mesh)
    decisions = read_decisions(workdir, meta)
    return Run(config, classes, meta, variables, origin, decisions, predict, mesh)


def better_variables(
    checkpoints: Checkpoints, meta: dict[str, Any], shapes: dict, config: Config
) -> dict:
    """The parameters and statistics of a checkpoint, or their averages if these scored higher.

    Args:
        checkpoints: of the run.
        meta: of the checkpoint.
        shapes: the variables, or their shapes with shardings.
        config: of the run.
    """
    average = NO_AVERAGE
    if is_averaged(meta):
        phase = next((phase for phase in config.phases if phase.name == meta["phase"]), None)
        if phase is None:
            raise ValueError(f"the run has no phase {meta['phase']!r}, of which its checkpoint is")
        average = averaged_leaves(shapes, phase)
    return checkpoints.restore_variables(meta["step"], shapes, average)


def is_averaged(meta: dict[str, Any]) -> bool:
    """Whether the average of what was trained scored higher than the parameters themselves."""
    return meta.get("weights") == EMA


def describe_checkpoint(meta: dict[str, Any]) -> str:
    """Such as "checkpoint of step 120 (phase finetune), averaged parameters"."""
    averaged = ", averaged parameters" if is_averaged(meta) else ""
    return f"checkpoint of step {meta['step']} (phase {meta['phase']}){averaged}"


def read_origin(meta: dict[str, Any]) -> Origin:
    """The origin of the weights that a checkpoint was trained from; ValueError without one."""
    if "origin" not in meta:
        raise ValueError(
            "the checkpoint is of an earlier version of mlcls_jax, which kept no lineage of its "
            "weights; use it with that version, or train again"
        )
    return from_json(meta["origin"])


def read_decisions(workdir: Path, meta: dict[str, Any]) -> Decisions:
    """Those that were tuned last for the checkpoint: by `evaluate`, or in training.

    `untuned` where the checkpoint has none: it was saved between two evaluations, or is older.

    Raises:
        ValueError: decisions.json cannot be read.
    """
    path = workdir / DECISIONS
    try:
        later = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if later is not None and later["step"] == meta["step"]:
            return _of_classes(decisions_from_dict(later["decisions"]), meta["classes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it") from error
    values = meta.get("decisions")
    if values is None:
        return untuned(meta["classes"])
    return _of_classes(decisions_from_dict(values), meta["classes"])


def _of_classes(decisions: Decisions, classes: list[str]) -> Decisions:
    """The same; ValueError where they are not one for each class."""
    if not len(decisions.thresholds) == len(decisions.temperatures) == len(classes):
        raise ValueError(f"decisions: they are not of {len(classes)} classes")
    return decisions


def write_decisions(workdir: Path, step: int, decisions: Decisions) -> None:
    """Keeps decisions that were tuned for the checkpoint of a step after its training."""
    values = {"step": step, "decisions": asdict(decisions)}
    write_text(workdir / DECISIONS, json.dumps(values, indent=2) + "\n")


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
