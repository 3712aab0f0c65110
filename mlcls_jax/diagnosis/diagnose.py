"""The diagnosis of a run: the findings of the report."""

from collections.abc import Sequence

from mlcls_jax.diagnosis.finding import Evidence, Finding, apply_rules
from mlcls_jax.diagnosis.overrides import for_shell
from mlcls_jax.diagnosis.rules import RULES


def diagnose(evidence: Evidence) -> list[Finding]:
    """Returns the findings, the most serious first, or one of kind "nothing"."""
    findings = apply_rules([rule for rule in RULES if not rule.live], evidence)
    text = "Nothing stands out: no rule of the diagnosis applies to this run."
    return findings or [Finding("nothing", text)]


def lines(findings: Sequence[Finding]) -> list[str]:
    """Returns findings as lines for a terminal; [] without findings."""
    result = ["Diagnosis:"] if findings else []
    for finding in findings:
        result.append(f"- {finding.text}")
        result += [f"    try: {for_shell(suggestion)}" for suggestion in finding.next]
    return result
