"""What a rule of the diagnosis is, what it looks at and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlcls_jax.config import Phase
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.label_errors import LabelErrors, label_errors

MAX_NAMED = 6  # classes or files in one sentence


@dataclass(frozen=True)
class Finding:
    """One result of the diagnosis.

    Attributes:
        kind: the kind of the rule, such as "overfitting"; "nothing" if no rule applies.
        text: a sentence with its figures.
        next: what to try: config overrides or sentences.
    """

    kind: str
    text: str
    next: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a run and, if there is one, its best evaluation.

    Attributes:
        train, val: labels of the splits.
        separate_val: whether val has its own CSV (`data.val_csv`).
        out_of_fold: whether val has the images of all folds.
        scored: labels of the val images that could be read, and their probabilities by the best
            evaluation, float64 [image, class].
    """

    train: LabelTable
    val: LabelTable
    separate_val: bool = False
    out_of_fold: bool = False
    scored: tuple[LabelTable, np.ndarray] | None = None

    @cached_property
    def errors(self) -> LabelErrors:
        """The labels of `scored` that may be wrong, for the finding and for the report's images."""
        if self.scored is None:
            raise ValueError("there is no evaluation that labels can be checked by")
        table, probabilities = self.scored
        return label_errors(table.labels, probabilities, probabilities)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that the rules look at.

    Attributes:
        records: records of metrics.jsonl, in order.
        phases: phases by their index in the config.
        weights, head: `model.weights` and `model.head`.
        calibration: `evaluation.calibration`.
        labels: None while a run trains.
        min_positives: `evaluation.min_positives`.
    """

    records: Sequence[dict[str, Any]]
    phases: Mapping[int, Phase] = field(default_factory=dict)
    weights: str = "imagenet"
    head: str = "gap"
    calibration: str = "none"
    labels: Labels | None = None
    min_positives: int = 1

    @property
    def current(self) -> tuple[int, Phase]:
        """Index and phase of the last record; the last phase if none has its name."""
        name = self.records[-1]["phase"]
        indices = [index for index, phase in self.phases.items() if phase.name == name]
        index = indices[0] if indices else max(self.phases)
        return index, self.phases[index]


@dataclass(frozen=True)
class Rule:
    """A rule of the diagnosis.

    Attributes:
        kind: the kind of its findings.
        check: returns the finding, or None if the rule does not apply or lacks its evidence.
        live: True for a warning while a run trains, which looks at the records of one phase;
            False for a finding of the report.
        explains: kinds of later rules that would only report a consequence of this finding.
    """

    kind: str
    check: Callable[[Evidence], Finding | None]
    live: bool = False
    explains: tuple[str, ...] = ()


def apply_rules(rules: Sequence[Rule], evidence: Evidence) -> list[Finding]:
    """Returns the findings of the rules that apply, in the order of the rules.

    A finding that another one explains is left out, and so is what a finding proposes for a field
    for which an earlier one has a proposal.
    """
    findings: list[Finding] = []
    explained: set[str] = set()
    proposed: set[str] = set()
    for rule in rules:
        finding = None if rule.kind in explained else rule.check(evidence)
        if finding is None:
            continue
        explained |= set(rule.explains)
        fields = [what.partition("=")[0] for what in finding.next]
        rest = tuple(
            what for what, name in zip(finding.next, fields, strict=True) if name not in proposed
        )
        proposed |= {name for name in fields if name.startswith("--")}
        findings.append(replace(finding, next=rest))
    return findings


def first_names(names: Sequence[str]) -> str:
    """Returns the first names of a list and how many more there are."""
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return "; ".join(names[:MAX_NAMED]) + more
