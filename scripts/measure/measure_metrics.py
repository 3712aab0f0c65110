"""Seconds that the figures of an evaluation take, without a network or an image.

    python scripts/measure/measure_metrics.py [--images 120000] [--classes 80]

Made-up logits with three positives in a hundred labels.  CPU time, in which other work on the
machine does not count.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from mlcls_jax.config import Evaluation
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.base_rate import probabilities
from mlcls_jax.evaluation.bootstrap import map_interval
from mlcls_jax.evaluation.decision_rule import criterion_from_config, cross_fit, fit_decision_rule
from mlcls_jax.evaluation.metrics import evaluate_scores

POSITIVES = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--classes", type=int, default=80)
    options = parser.parse_args()
    table, logits = made_up(options.images, options.classes)
    included_classes, included = [True] * options.classes, np.ones(options.classes, bool)
    plain, calibrated = (
        criterion_from_config(Evaluation(calibration=kind)) for kind in ("none", "one")
    )
    work: dict[str, Callable[[], object]] = {
        "all metrics": lambda: evaluate_scores(
            table.labels, probabilities(logits), table.classes, included
        ),
        "thresholds": lambda: fit_decision_rule(table, logits, included_classes, plain),
        "thresholds and a temperature": lambda: fit_decision_rule(
            table, logits, included_classes, calibrated
        ),
        "thresholds, cross-fitted": lambda: cross_fit(table, logits, included_classes, plain),
        "interval of mAP": lambda: map_interval(table.labels, logits, included, 1000, 0),
    }
    for name, task in work.items():
        began = time.process_time()
        task()
        print(f"{name}: {time.process_time() - began:.1f} s")


def made_up(images: int, classes: int) -> tuple[LabelTable, np.ndarray]:
    """Labels, and logits that are higher by three where a class is there."""
    rng = np.random.default_rng(0)
    labels = (rng.random((images, classes)) < POSITIVES).astype(np.int8)
    logits = rng.normal(-3, 1.5, labels.shape).astype(np.float32) + 3 * labels
    names = tuple(f"{number}.jpg" for number in range(images))
    return LabelTable("", names, labels, tuple(f"class{c}" for c in range(classes))), logits


if __name__ == "__main__":
    main()
