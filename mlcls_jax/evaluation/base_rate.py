"""Scores a model next to a constant predictor of the class frequencies."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.metrics import Scores, constant_predictor, evaluate_scores

SAMPLE = "train_sample"  # in records, and among the readers


@dataclass(frozen=True)
class BaseRate:
    """What the training labels alone say.

    frequencies: share of positives among the known labels of the training images, per class.
    included_classes: False for classes that no mean includes, as all splits together have
        too few positives.
    """

    frequencies: tuple[float, ...]
    included_classes: tuple[bool, ...]


def base_rate(splits: dict[str, LabelTable], min_positives: int) -> BaseRate:
    """Frequencies of the training split, and the classes with enough positives in all splits.

    Raises:
        ValueError: none of these classes has a positive in val, so there would be no mAP.
    """
    positives = np.sum([table.positives for table in splits.values()], axis=0)
    if not (splits["val"].positives[positives >= min_positives] > 0).any():
        raise ValueError(
            "no class with evaluation.min_positives positive labels has one in val, so nothing "
            "can be measured; lower it, hold out more images, or check the labels"
        )
    frequencies = splits["train"].frequencies
    return BaseRate(
        tuple(float(share) for share in frequencies),
        tuple(bool(enough) for enough in positives >= min_positives),
    )


def sample_size(splits: dict[str, LabelTable], wanted: int) -> int:
    """Of the training images that are scored beside those of val; wanted: at most so many."""
    return min(wanted, len(splits["train"]), len(splits["val"]))


def sample_rows(splits: dict[str, LabelTable], wanted: int, seed: int) -> np.ndarray:
    """Rows of the training images that are scored beside those of val: int64 [image], sorted.

    Always the same ones: the scores of two evaluations differ by the model alone.
    """
    rng = np.random.default_rng(seed)
    size = sample_size(splits, wanted)
    return np.sort(rng.choice(len(splits["train"]), size, replace=False))


def model_scores(table: LabelTable, logits: np.ndarray, base: BaseRate) -> Scores:
    """Metrics of the logits of a table's images."""
    return _scores(table, probabilities(logits), base)


def constant_scores(table: LabelTable, base: BaseRate) -> Scores:
    """What to compare them with: the same metrics of the training frequencies."""
    return _scores(table, constant_predictor(np.asarray(base.frequencies), len(table)), base)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in float64, so that the loss of a confident mistake is exact."""
    return expit(logits.astype(np.float64))


def _scores(table: LabelTable, predicted: np.ndarray, base: BaseRate) -> Scores:
    return evaluate_scores(
        table.labels, predicted, table.classes, np.asarray(base.included_classes)
    )
