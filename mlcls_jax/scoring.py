"""Pictures to logits with a trained model, and logits to metrics beside the base rate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from scipy.special import expit

from mlcls_jax.config import Config
from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.labels import LabelTable
from mlcls_jax.data.pipeline import Reader, eval_batches, local_rows
from mlcls_jax.devices import sharded
from mlcls_jax.metrics import Scores, constant_predictor, evaluate_scores
from mlcls_jax.programs import image_size
from mlcls_jax.terminal import Meter, progress_bar

SAMPLE = "train_sample"  # in records, and among the readers


@dataclass(frozen=True)
class BaseRate:
    """What the training labels alone say.

    frequencies: share of positives among the known labels of the training pictures, per class.
    counted: False for classes that are in no mean, for want of positives in all splits together.
    """

    frequencies: tuple[float, ...]
    counted: tuple[bool, ...]


def base_rate(splits: dict[str, LabelTable], min_positives: int) -> BaseRate:
    """Frequencies of the training split, and the classes with enough positives in all splits.

    Raises:
        ValueError: none of these classes has a positive in val, so there would be no mAP.
    """
    positives = np.sum([table.positives for table in splits.values()], axis=0)
    if not (splits["val"].positives[positives >= min_positives] > 0).any():
        raise ValueError(
            "no class with evaluation.min_positives positive labels has one in val, so nothing "
            "can be measured; lower it, hold out more pictures, or check the labels"
        )
    frequencies = splits["train"].frequencies
    return BaseRate(
        tuple(float(share) for share in frequencies),
        tuple(bool(enough) for enough in positives >= min_positives),
    )


def sample_size(splits: dict[str, LabelTable], wanted: int) -> int:
    """Of the training pictures that are scored beside those of val; wanted: at most so many."""
    return min(wanted, len(splits["train"]), len(splits["val"]))


def sample_rows(splits: dict[str, LabelTable], wanted: int, seed: int) -> np.ndarray:
    """Rows of the training pictures that are scored beside those of val: int64 [picture], sorted.

    Always the same ones: the scores of two evaluations differ by the model alone.
    """
    rng = np.random.default_rng(seed)
    size = sample_size(splits, wanted)
    return np.sort(rng.choice(len(splits["train"]), size, replace=False))


def score(
    predict: Callable[[dict, Any], jax.Array],
    variables: dict,
    paths: Sequence[str],
    config: Config,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    title: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of pictures, each once, on any number of devices.

    Args: as of `outputs`.

    Returns:
        Float32 [picture, class], and bool [picture]: False where the picture was skipped, so that
        its logits mean nothing.
    """
    parts = list(outputs(predict, variables, paths, config, mesh, reader, title))
    return np.concatenate(parts), readable(paths, reader)


def outputs(
    predict: Callable[[dict, Any], jax.Array],
    variables: dict,
    paths: Sequence[str],
    config: Config,
    mesh: jax.sharding.Mesh,
    reader: Reader,
    title: str = "",
) -> Iterator[np.ndarray]:
    """Yields what `predict` gives for pictures, in their order, batch after batch, on the host.

    Args:
        predict: (variables, images) -> an array with a row per picture on every device, such as
            from `make_eval_step`.
        variables: of the model, on every device of the mesh.
        paths: files of the pictures.
        config: batch size, image size and resize.
        mesh: over whose axis the pictures are spread.
        reader: of the pictures.
        title: of the progress bar; "" for none.

    Raises:
        ValueError: a picture cannot be read, and must not be skipped.
    """
    batch_size = config.data.eval_batch_size
    rows = local_rows(batch_size, "data.eval_batch_size")
    how = {"size": image_size(config), "augment": config.augment}
    batches = eval_batches(paths, rows=rows, reader=reader, **how)
    meter, last = Meter(-(-len(paths) // batch_size), batch_size), None
    with progress_bar(title, meter, visible=bool(title)) as refresh:
        for images in to_devices(batches, sharded(mesh)):
            current = predict(variables, images)
            # One batch behind: the devices have the next one while this waits for the last.
            if last is None:
                meter.begin()
            else:
                yield np.asarray(last)
                meter.advance()
                refresh()
            last = current
    if last is not None:
        yield np.asarray(last)[: len(paths) - meter.done * batch_size]


def readable(paths: Sequence[str], reader: Reader) -> np.ndarray:
    """Which pictures were not skipped, in any process: bool [picture]; after `outputs`."""
    good = np.array([path not in reader.bad for path in paths])
    if jax.process_count() > 1:  # each has read its own rows only
        good = multihost_utils.process_allgather(good).all(axis=0)
        reader.bad.write()  # with theirs
    return good


def model_scores(table: LabelTable, logits: np.ndarray, base: BaseRate) -> Scores:
    """Metrics of the logits of a table's pictures."""
    return _scores(table, probabilities(logits), base)


def constant_scores(table: LabelTable, base: BaseRate) -> Scores:
    """What to compare them with: the same metrics of the training frequencies."""
    return _scores(table, constant_predictor(np.asarray(base.frequencies), len(table)), base)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in float64, so that the loss of a confident mistake is exact."""
    return expit(logits.astype(np.float64))


def _scores(table: LabelTable, predicted: np.ndarray, base: BaseRate) -> Scores:
    return evaluate_scores(table.labels, predicted, table.classes, np.asarray(base.counted))
