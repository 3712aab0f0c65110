"""Looks at the data of a new run before its first step."""

from mlcls_jax.data.card.data_card import make_card
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.splits import check_train
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.run.data_card import print_card, read_card, write_card
from mlcls_jax.run.workdir import DATA_CARD
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.training.context import RunInputs


def show_data(inputs: RunInputs, *, keep: bool = True, own_batches: bool = False) -> None:
    """Makes, prints and writes the data card of a new run, in the first process.

    A run that continues has its card already.

    Args:
        inputs: of the run.
        keep: whether data_card.json is written.
        own_batches: whether the training images come from the caller.

    Raises:
        ValueError: an image that the run will read cannot be read, and must not be skipped.
    """
    workdir, data = inputs.workdir, inputs.config.data
    if not is_first_process() or (has_checkpoint(workdir) and read_card(workdir)):
        return
    reader = inputs.readers["train"]
    warnings = check_train(inputs.splits)
    card = make_card(inputs.splits, warnings, reader.pixels, reader.workers())
    written = keep and write_card(workdir, card)
    print_card(card, data.csv, workdir / DATA_CARD if written else None)
    paths = {split: _paths(table) for split, table in inputs.splits.items()}
    certain = {"val"} if own_batches or not _reads_all(inputs) else {"train", "val"}
    for split, name, reason in card.files.unreadable:
        if split in certain:
            reader.bad.report(paths[split][name], ImageError(reason))


def _paths(table: LabelTable) -> dict[str, str]:
    return dict(zip(table.filenames, table.paths, strict=True))


def _reads_all(inputs: RunInputs) -> bool:
    """Returns whether the run is long enough to read every training image."""
    images = inputs.plan[-1].stop * inputs.step.batch_size
    cached = any(phase_plan.phase.cached_views for phase_plan in inputs.plan)
    return cached or images >= len(inputs.splits["train"])
