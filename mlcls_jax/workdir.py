"""The folder of a run: what is in it, and how a run is built from it again.

config.json  classes.txt  splits.csv  metrics.jsonl  checkpoints/  tensorboard/
eval_<split>.json  predictions_<split>.csv  bad_images.csv, bad_images_<split>.csv  decisions.json
run.lock, as long as a training runs; contact_sheet.png; scores.npz  report.html
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from mlcls_jax.averages import NO_AVERAGE
from mlcls_jax.checkpoint import Checkpoints, has_checkpoint
from mlcls_jax.config import Config, Data, differences, from_dict, may_change, to_json
from mlcls_jax.config_checks import validate
from mlcls_jax.data.csv_cells import for_spreadsheets, quoting
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.data.splits import load_splits
from mlcls_jax.decisions import Decisions, untuned
from mlcls_jax.decisions import from_dict as decisions_from_dict
from mlcls_jax.devices import is_first_process, make_mesh
from mlcls_jax.files import leftovers, write_text
from mlcls_jax.lock import HeldError, held
from mlcls_jax.meta import check_meta
from mlcls_jax.models.lineages import Origin
from mlcls_jax.models.origins import from_json
from mlcls_jax.programs import averaged_leaves, build_model, variables_shape
from mlcls_jax.terminal import console
from mlcls_jax.train_step import make_eval_step

CONFIG, CLASSES, SPLITS, METRICS = "config.json", "classes.txt", "splits.csv", "metrics.jsonl"
BAD_IMAGES, DECISIONS, LOCK = "bad_images.csv", "decisions.json", "run.lock"
SHEET = "contact_sheet.png"
SCORES, REPORT = "scores.npz", "report.html"  # of report/
RAW, EMA = "raw", "ema"  # as meta.json and metrics.jsonl name the parameters and their average
# At the start of a run:
OWN = (
    *(CONFIG, CLASSES, SPLITS, METRICS, BAD_IMAGES, SHEET, LOCK, SCORES, REPORT),
    *("checkpoints", "tensorboard"),
)


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


@contextmanager
def in_use(workdir: Path) -> Iterator[None]:
    """Keeps a workdir, which is made, from other trainings within the block; readers need not ask.

    A new one is gone again if nothing was put there.  Does nothing in processes but the first.

    Raises:
        ValueError: another process trains there; it holds something else than a run, or cannot be
            written.
    """
    if not is_first_process():
        yield
        return
    with ExitStack() as stack:
        if not workdir.exists():
            stack.callback(_remove_empty, workdir)
        if not has_checkpoint(workdir):
            _refuse_foreign(workdir)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            left_by = stack.enter_context(held(workdir / LOCK))
        except HeldError as error:
            raise ValueError(
                f"workdir {workdir} is in use by {error.owner}; wait for it or stop it, or name "
                f"another --workdir. If there is no such process, delete {workdir / LOCK}"
            ) from error
        except OSError as error:
            raise ValueError(f"workdir {workdir} cannot be written: {error.strerror}") from error
        if left_by:
            console.print(f"{left_by} ended here without a last word; going on in its place.")
        yield


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not empty
        folder.rmdir()


def prepare(workdir: Path, config: Config, classes: tuple[str, ...]) -> None:
    """Writes config and classes into a new workdir, or checks that they are those of a used one.

    A workdir is new until its first checkpoint: what a start that failed has left is replaced.

    Raises:
        ValueError: the workdir belongs to a run with another config or other classes, holds
            something else, or cannot be written.
    """
    if has_checkpoint(workdir):
        free = may_change(config)
        changed = [
            line
            for line in differences(read_config(workdir), config)
            if line.split(":")[0] not in free
        ]
        if changed:
            raise ValueError(
                f"{workdir} holds a run with another config ({'; '.join(changed)}); "
                "continue it with its own config, or name another --workdir"
            )
        if read_classes(workdir) != classes:
            raise ValueError(
                f"{workdir} holds a run with other classes than the CSV has now; "
                "put the CSV back, or name another --workdir"
            )
        write_text(workdir / CONFIG, to_json(config))
        return
    _refuse_foreign(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be used: {error.strerror}") from error
    write_text(workdir / CLASSES, "".join(f"{name}\n" for name in classes))
    write_text(workdir / CONFIG, to_json(config))


def _refuse_foreign(workdir: Path) -> None:
    """ValueError where a folder holds something else than a run, or cannot be read."""
    try:
        own = {*(workdir / name for name in OWN), *leftovers(workdir)}
        foreign = sorted(set(workdir.iterdir()) - own) if workdir.exists() else []
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be used: {error.strerror}") from error
    if foreign:
        raise ValueError(
            f"{workdir} holds something else than a run of mlcls_jax ({foreign[0]}); name a new "
            "or empty --workdir"
        )


def read_config(workdir: Path) -> Config:
    """The config of a run, checked like one of the command line: it may be from anybody.  Fields
    that are newer than it have their defaults.

    Raises:
        ValueError: there is none, or it has an unknown field or an impossible value.
    """
    path = workdir / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        kept = " (each checkpoint has a copy in meta/metadata)" if has_checkpoint(workdir) else ""
        raise ValueError(
            f"{workdir} holds no run: {path} cannot be read ({error}); name the workdir of a run, "
            f"or put the file back{kept}"
        ) from error
    try:
        config = from_dict(values)
        validate(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def read_classes(workdir: Path) -> tuple[str, ...]:
    """Class names in the order of the model's outputs; ValueError where they are lost."""
    path = workdir / CLASSES
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except OSError as error:
        raise ValueError(
            f"{workdir}: {path} cannot be read ({error}); put it back: one class a line, in the "
            "order of the CSV's columns"
        ) from error


def read_splits_of(workdir: Path, data: Data) -> dict[str, LabelTable]:
    """The label tables of a run: split as its splits.csv says, or anew before its start."""
    return load_splits(data, workdir / SPLITS if has_checkpoint(workdir) else None)


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
        filenames: n, of the pictures.
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
