"""The class frequencies of a data set, and scores of a model next to a predictor of them."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.best_metric import DEFAULT
from mlcls_jax.evaluation.image_metrics import further_values
from mlcls_jax.evaluation.metrics import (
    Scores,
    classes_to_average,
    constant_predictor,
    evaluate_scores,
)

SAMPLE = "train_sample"  # key of the sampled training images in metrics.jsonl and in readers


@dataclass(frozen=True)
class BaseRate:
    """What the labels alone determine, per class.

    Attributes:
        frequencies: share of positives among the known labels of the training images.
        included_classes: False for classes that the averages exclude, because all splits together
            have too few positives.
    """

    frequencies: tuple[float, ...]
    included_classes: tuple[bool, ...]


def base_rates(splits: dict[str, LabelTable], min_positives: int, best: str = DEFAULT) -> BaseRate:
    """Returns the class frequencies of the training split and the classes to include.

    Args:
        splits: label table per split; "train" and "val" are required. An empty val is not checked.
        min_positives: positives in all splits together that a class needs to be included.
        best: metric of `evaluation.best`.

    Raises:
        ValueError: no included class has a positive in val, so mAP would be undefined; no class
            has a negative in val, so mAP would be 1; or `best` is AUROC, and none of the included
            classes has a negative in val.
    """
    positives = np.sum([table.positives for table in splits.values()], axis=0)
    val = splits["val"]
    measured = (val.positives > 0) & (positives >= min_positives)
    if len(val) and not measured.any():
        raise ValueError(
            "no class with evaluation.min_positives positive labels has one in val, so nothing "
            "can be measured; lower evaluation.min_positives, hold out more images, or check the "
            "labels"
        )
    if len(val) and not (val.labels == 0).any():
        raise ValueError(
            "no class has a negative label in val, so every score would be perfect; write 0 where "
            "a class is absent, or set data.empty_cells=absent if an empty cell says so"
        )
    if len(val) and best == "AUROC" and not (val.labels[:, measured] == 0).any():
        raise ValueError(
            "evaluation.best is AUROC, but no class that is included has both a positive and a "
            "negative label in val; choose another metric, or check the labels"
        )
    frequencies = splits["train"].frequencies
    return BaseRate(
        tuple(float(share) for share in frequencies),
        tuple(bool(enough) for enough in positives >= min_positives),
    )


def sample_rows(splits: dict[str, LabelTable], wanted: int, seed: int) -> np.ndarray:
    """Returns the rows of the training images that each evaluation scores as well.

    They depend on the splits and the seed only, so the scores of two evaluations differ by the
    model alone.

    Args:
        splits: label table per split; "train" and "val" are required.
        wanted: number of images; fewer are drawn if train or val has fewer.
        seed: seed of the draw.

    Returns:
        Int64 [image], sorted.
    """
    rng = np.random.default_rng(seed)
    size = min(wanted, len(splits["train"]), len(splits["val"]))
    return np.sort(rng.choice(len(splits["train"]), size, replace=False))


def model_scores(
    table: LabelTable, logits: np.ndarray, base: BaseRate, further: bool = False
) -> Scores:
    """Returns the metrics of a model.

    Args:
        table: labels of the images.
        logits: float [image, class].
        base: class frequencies and included classes.
        further: whether to add those of `further_values`.
    """
    return _scores(table, probabilities(logits), base, further)


def constant_scores(table: LabelTable, base: BaseRate, further: bool = False) -> Scores:
    """Returns the same metrics for a predictor of the training frequencies, as a baseline.

    Args:
        table: labels of the images.
        base: class frequencies and included classes.
        further: whether to add those of `further_values`.
    """
    predicted = constant_predictor(np.asarray(base.frequencies), len(table))
    return _scores(table, predicted, base, further)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the sigmoid in float64, so that the loss of a confident mistake is exact.

    >>> probabilities(np.array([0.0, 100.0], np.float32)).tolist()
    [0.5, 1.0]
    """
    return expit(logits.astype(np.float64))


def _scores(table: LabelTable, predicted: np.ndarray, base: BaseRate, further: bool) -> Scores:
    may_include = np.asarray(base.included_classes)
    scores = evaluate_scores(table.labels, predicted, table.classes, may_include)
    if not further:
        return scores
    included = classes_to_average(table.labels, may_include)
    more = further_values(table.labels, predicted, included)
    return dataclasses.replace(scores, values=scores.values | more)
