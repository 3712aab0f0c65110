"""What predictions and evaluations return: pandas DataFrames and plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd

from mlcls_jax.evaluation.bootstrap import Interval


class Predictions(pd.DataFrame):
    """Probabilities: a row per image, a column per class.

    The index has the path of each image, or its position if it has none.

    Attributes:
        thresholds: of each class; a class is predicted present from its threshold on.
    """

    _metadata = ["thresholds"]  # noqa: RUF012 (pandas copies these to parts of the table)
    thresholds: Mapping[str, float] = MappingProxyType({})

    @property
    def _constructor(self) -> type["Predictions"]:
        return Predictions

    @property
    def present(self) -> pd.DataFrame:
        """Returns a bool per image and class: whether the class is predicted present.

        Columns that are no classes are left out.

        Raises:
            ValueError: no column is a class; joining tables loses the thresholds.
        """
        limits = {name: self.thresholds[name] for name in self.columns if name in self.thresholds}
        if not limits:
            raise ValueError(
                "no column has a threshold; take `present` of what `predict` returned, before "
                "joining or renaming it"
            )
        classes = pd.DataFrame(self, columns=list(limits))
        return classes.ge(pd.Series(limits), axis="columns")


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of a trained model on labelled images.

    Attributes:
        metrics: mAP, AUROC, loss, CF1 and the others of docs/evaluation.md.
        base_rate: the same of a predictor of the training frequencies.
        interval: 95 % confidence interval of mAP; None without resamples.
        auroc_interval: the same of AUROC; None also if no class has a negative.
        per_class: a row per class: positives, average_precision, base_rate, auroc,
            precision_at_recall and threshold.
        predictions: probabilities of the images.
        details: everything that eval_<split>.json has.
    """

    metrics: dict[str, float]
    base_rate: dict[str, float]
    interval: Interval | None
    auroc_interval: Interval | None
    per_class: pd.DataFrame
    predictions: Predictions
    details: dict[str, Any]

    def __repr__(self) -> str:
        span = f" [{self.interval.low:.3f}, {self.interval.high:.3f}]" if self.interval else ""
        loss = self.metrics["loss"]
        return (
            f"<mAP {self.metrics['mAP']:.4f}{span} (base rate {self.base_rate['mAP']:.4f}), "
            f"loss {loss:.4f}, {len(self.predictions)} images>"
        )
