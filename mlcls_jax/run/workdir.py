"""The workdir: the folder of a run, its files, and how they are read again.

Files and folders:

config.json  classes.txt  splits.csv  data_card.json  metrics.jsonl  checkpoints/  tensorboard/
fingerprints.npz  eval_<split>.json  predictions_<split>.csv
bad_images.csv, bad_images_<split>.csv
labels.csv, val_labels.csv, test_labels.csv (of DataFrames)
fold-0/, fold-1/ and so on, each with the same files  folds.csv  held_out.npz (of a fold)
eval_out_of_fold.json  predictions_out_of_fold.csv (of all folds)  label_suspects.csv
decision_rule.json  contact_sheet.png  scores.npz  report.html  loggers.json
run.lock (during training)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mlcls_jax.config import Config, Data
from mlcls_jax.config.serialization import to_json
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.checkpoint_integrity import EVENTS, FOLDER, fold_folders, has_run
from mlcls_jax.run.stored_config import CONFIG, check_unchanged
from mlcls_jax.run.stored_config import read_config as read_config
from mlcls_jax.system.bucket import copy_of
from mlcls_jax.system.bucket_lock import held_in_bucket
from mlcls_jax.system.console import console, one_line
from mlcls_jax.system.files import leftovers, make_folder, write_text
from mlcls_jax.system.lock import HeldError, held

CLASSES, SPLITS, METRICS = "classes.txt", "splits.csv", "metrics.jsonl"
BAD_IMAGES, DECISION_RULE, LOCK = "bad_images.csv", "decision_rule.json", "run.lock"
SHEET = "contact_sheet.png"
SCORES, REPORT, DATA_CARD = "scores.npz", "report.html", "data_card.json"
FINGERPRINTS = "fingerprints.npz"
LAST_SCORES, HELD_OUT = "last_scores.npz", "held_out.npz"  # of a fold: so far, and when finished
FOLDS, SUSPECTS, OUT_OF_FOLD = "folds.csv", "label_suspects.csv", "out_of_fold"
LOGGER_RUNS = "loggers.json"  # what each logger of log.to keeps about its run
# Labels that were passed as DataFrames, by the field of data.
FRAMES = {"csv": "labels.csv", "val_csv": "val_labels.csv", "test_csv": "test_labels.csv"}
RAW, EMA = "raw", "ema"  # the parameters and their moving averages in metadata and metrics.jsonl
# A folder with only these may become a workdir:
OWN = (
    *(CONFIG, CLASSES, SPLITS, METRICS, BAD_IMAGES, SHEET, LOCK, SCORES, REPORT, DATA_CARD),
    *(LOGGER_RUNS, FINGERPRINTS),
    *(FOLDER, EVENTS, *FRAMES.values()),
    *(LAST_SCORES, HELD_OUT, FOLDS, SUSPECTS),
    *(f"eval_{OUT_OF_FOLD}.json", f"predictions_{OUT_OF_FOLD}.csv"),
)

LOGGED = (CONFIG, CLASSES, METRICS, DATA_CARD, REPORT, SHEET)  # files for the loggers


@contextmanager
def in_use(workdir: Path, is_first_process: bool = True) -> Iterator[None]:
    """Reserves a workdir for this training within the block; readers need no lock.

    The workdir is created if necessary, and removed again if it stays empty. Only the first process
    does this.

    Args:
        workdir: of the run.
        is_first_process: whether this process is the one that writes files.

    Raises:
        ValueError: another process trains in the workdir, it holds something other than a run, or
            it cannot be written.
    """
    if not is_first_process:
        yield
        return
    with ExitStack() as stack:
        if not workdir.exists():
            stack.callback(_remove_empty, workdir)
        if not has_run(workdir):
            _refuse_foreign(workdir)
        try:
            make_folder(workdir)
            left_by = stack.enter_context(_held(workdir))
        except HeldError as error:
            raise ValueError(
                f"workdir {workdir} is in use by {error.owner}; wait for it or stop it, or choose "
                f"another --workdir. If that process no longer exists, delete {workdir / LOCK}"
            ) from error
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise ValueError(f"workdir {workdir} cannot be written: {reason}") from error
        if left_by:
            console.print(
                f"A previous run ({left_by}) exited without releasing the lock; taking over."
            )
        yield


@contextmanager
def _held(workdir: Path) -> Iterator[str]:
    """Holds the lock of a workdir, as `held`; then reads again what the previous owner wrote."""
    found = copy_of(workdir)
    if found is None:
        with held(workdir / LOCK) as left_by:
            yield left_by
        return
    copy, _ = found
    with held_in_bucket(copy, LOCK, console.print) as left_by:
        open_workdir(copy.address)
        yield left_by


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty
        folder.rmdir()


def prepare(workdir: Path, config: Config, classes: tuple[str, ...]) -> None:
    """Writes config and classes into a new workdir, or checks those of an existing run.

    A workdir is new until its first checkpoint; files from a failed start are replaced.

    Args:
        workdir: of the run.
        config: of the run; only the fields of `may_change` may differ from an existing run's.
        classes: names, in the order of the CSV's columns.

    Raises:
        ValueError: the workdir belongs to a run with another config or other classes, holds
            something other than a run, or cannot be written.
    """
    if has_run(workdir):
        check_unchanged(workdir, config)
        if read_classes(workdir) != classes:
            raise ValueError(
                f"{workdir} holds a run with classes other than those of the CSV; "
                "restore the CSV, or choose another --workdir"
            )
        write_text(workdir / CONFIG, to_json(config))
        return
    _refuse_foreign(workdir)
    try:
        make_folder(workdir)
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be used: {error.strerror}") from error
    write_text(workdir / CLASSES, "".join(f"{name}\n" for name in classes))
    write_text(workdir / CONFIG, to_json(config))


def _refuse_foreign(workdir: Path) -> None:
    """Raises ValueError if a folder holds something other than a run, or cannot be read."""
    try:
        own = {*(workdir / name for name in OWN), *leftovers(workdir), *fold_folders(workdir)}
        foreign = sorted(set(workdir.iterdir()) - own) if workdir.exists() else []
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be used: {error.strerror}") from error
    if foreign:
        raise ValueError(
            f"{workdir} holds something other than a run of mlcls_jax ({foreign[0]}); choose a new "
            "or empty --workdir"
        )


def read_classes(workdir: Path) -> tuple[str, ...]:
    """Returns the class names in the order of the model's outputs.

    Raises:
        ValueError: classes.txt cannot be read.
    """
    path = workdir / CLASSES
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); restore it: one class per line, in the order of the "
            "CSV's columns"
        ) from error


def read_splits_of(workdir: Path, data: Data) -> dict[str, LabelTable]:
    """Returns the label tables of a run, by split.

    The splits are those of splits.csv if the workdir or one of its folds has a checkpoint, and
    drawn again otherwise.

    Args:
        workdir: of the run.
        data: the section of the config.
    """
    from mlcls_jax.data.splits import load_splits  # imported late: it imports pandas

    return load_splits(data, workdir / SPLITS if has_run(workdir) else None)
