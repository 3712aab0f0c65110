"""All rules of the diagnosis, the most serious first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlcls_jax.config import Config
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.curve_rules import beats_base_rate, of_curves
from mlcls_jax.diagnosis.finding import Finding
from mlcls_jax.diagnosis.label_rules import few_positives, label_noise, unlike


def diagnose(
    config: Config,
    records: Sequence[dict[str, Any]],
    train: LabelTable,
    val: LabelTable,
    scored: tuple[LabelTable, np.ndarray] | None = None,
) -> list[Finding]:
    """All that stands out; one finding that says so where nothing does.

    Args:
        config: of the run.
        records: of metrics.jsonl, in their order.
        train, val: labels of the splits.
        scored: images of val, and their probabilities by the best evaluation.
    """
    found = [*of_curves(config, records), *unlike(config, train, val), *few_positives(train)]
    # One whose probabilities are worse than none cannot judge labels.
    if scored and (not records or beats_base_rate(records[-1])):
        found += label_noise(*scored)
    text = "Nothing stands out: no rule of the diagnosis applies to this run."
    return found or [Finding("nothing", text)]


def lines(found: Sequence[Finding]) -> list[str]:
    """For a terminal: each sentence, and below it what to try; nothing where there is none."""
    result = ["Diagnosis:"] if found else []
    for finding in found:
        result.append(f"- {finding.text}")
        result += [f"    try: {what}" for what in finding.next]
    return result
