"""The folder of a run: what is in it, and how a run is built from it again.

config.json  classes.txt  splits.csv  metrics.jsonl  checkpoints/  tensorboard/
eval_<split>.json  predictions_<split>.csv  bad_images.csv, bad_images_<split>.csv
decision_rule.json  run.lock, as long as a training runs; contact_sheet.png; scores.npz  report.html
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mlcls_jax.config import Config, Data
from mlcls_jax.config.checks import validate
from mlcls_jax.config.serialization import differences, from_dict, may_change, to_json
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.splits import load_splits
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.system.files import leftovers, write_text
from mlcls_jax.system.lock import HeldError, held

CONFIG, CLASSES, SPLITS, METRICS = "config.json", "classes.txt", "splits.csv", "metrics.jsonl"
BAD_IMAGES, DECISION_RULE, LOCK = "bad_images.csv", "decision_rule.json", "run.lock"
SHEET = "contact_sheet.png"
SCORES, REPORT = "scores.npz", "report.html"  # of report/
RAW, EMA = "raw", "ema"  # as meta.json and metrics.jsonl name the parameters and their average
# At the start of a run:
OWN = (
    *(CONFIG, CLASSES, SPLITS, METRICS, BAD_IMAGES, SHEET, LOCK, SCORES, REPORT),
    *("checkpoints", "tensorboard"),
)


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
