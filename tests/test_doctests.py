"""The examples in docstrings are right."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mlcls_jax"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_losses_metrics_schedules_thresholds_and_splits_have_examples():
    expected = {
        "mlcls_jax.data.splits",
        "mlcls_jax.evaluation.metrics",
        "mlcls_jax.evaluation.thresholds",
        "mlcls_jax.step.losses",
        "mlcls_jax.step.schedules",
    }
    assert expected <= set(MODULES)
