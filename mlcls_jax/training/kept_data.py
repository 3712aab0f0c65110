"""Opens the workdir of a run, after checking that its data and its config are still the same."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from mlcls_jax.config import Config
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.loader import cores
from mlcls_jax.data.saved_splits import write_splits
from mlcls_jax.run.checkpoint_integrity import has_run
from mlcls_jax.run.fingerprints import (
    Fingerprints,
    check_data_kept,
    say_unknown,
    take_fingerprints,
    write_fingerprints,
)
from mlcls_jax.run.stored_config import check_config_kept
from mlcls_jax.run.workdir import SPLITS, prepare
from mlcls_jax.system import threads
from mlcls_jax.system.console import print_warning
from mlcls_jax.system.devices import is_first_process


@dataclass(frozen=True)
class KeptData:
    """The data of a run, whose fingerprints are taken in a thread.

    Attributes:
        splits: the table of each split.
        fingerprints: of the splits; None in processes that do not compare them.
        accepted: whether changes of labels, splits and config are only warnings.
    """

    splits: Mapping[str, LabelTable]
    fingerprints: "Future[Fingerprints] | None"
    accepted: bool

    def open(self, workdir: Path, config: Config) -> None:
        """Writes config, classes, splits and fingerprints, in the first process.

        Args:
            workdir: new, or of a run that continues.
            config: of the run.

        Raises:
            ValueError: the labels, the splits or the config have changed, or as for `prepare`.
        """
        if self.fingerprints is None:
            return
        now, is_changed = self.fingerprints.result(), True
        if has_run(workdir):
            for line in check_config_kept(workdir, self.accepted):
                print_warning(f"{workdir}: config.json was edited ({line})")
            say_unknown(workdir)
            is_changed = check_data_kept(workdir, now, self.splits, self.accepted)
        prepare(workdir, config, self.splits["train"].classes)
        write_splits(workdir / SPLITS, self.splits)
        if is_changed:
            write_fingerprints(workdir, now)


def keep_data(
    splits: Mapping[str, LabelTable], workers: int, accepted: bool, look_at_files: bool = True
) -> KeptData:
    """Begins to take the fingerprints of the data of a run.

    Args:
        splits: the table of each split.
        workers: the field data.threads.
        accepted: see `KeptData`.
        look_at_files: whether sizes, times and some contents of the files are compared too.
    """
    if not is_first_process():
        return KeptData(splits, None, accepted)
    count = (workers or cores() + 1) if look_at_files else 0
    return KeptData(splits, threads.run(take_fingerprints, splits, count), accepted)
