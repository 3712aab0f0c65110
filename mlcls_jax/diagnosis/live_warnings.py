"""Warnings while a run trains: what its evaluations show, the likely cause and what to try."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from mlcls_jax.config import Phase
from mlcls_jax.diagnosis.finding import Evidence, Finding, Rule
from mlcls_jax.diagnosis.rules import RULES


def warnings(records: Sequence[dict[str, Any]], phase: Phase, index: int) -> list[str]:
    """Returns the warnings that the last evaluation of a phase is the first to give.

    So each is given once per phase, however often the run is continued.

    Args:
        records: records of metrics.jsonl, in order.
        phase: the phase of the last record.
        index: index of the phase in the config.

    Returns:
        Sentences with figures, the likely cause and config overrides to try.
    """
    own = [record for record in records if record["phase"] == phase.name]
    evidence = Evidence(own, {index: phase})
    findings = [_first_firing(rule, evidence) for rule in RULES if rule.live]
    return [_sentence(finding) for finding in findings if finding is not None]


def logit_spread(logits: Float[np.ndarray, "image class"]) -> float:
    """Returns how much predictions differ between images.

    Args:
        logits: float32 [image, class].

    Returns:
        The standard deviation of the logits of the median class.
    """
    return float(np.median(logits.std(axis=0, dtype=np.float64)))


def _first_firing(rule: Rule, evidence: Evidence) -> Finding | None:
    """The finding of a rule, or None if it already applied to fewer records."""
    finding, records = rule.check(evidence), evidence.records
    shorter = (replace(evidence, records=records[:count]) for count in range(1, len(records)))
    return None if finding is None or any(map(rule.check, shorter)) else finding


def _sentence(finding: Finding) -> str:
    return f"{finding.text}. Try {', or '.join(finding.next)}"
