"""Options that stand for fields of the config: --csv, --images, --epochs, --folds and others."""

import argparse
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mlcls_jax.config.fields import PREFIX, paths_of
from mlcls_jax.config.schema import Phase


@dataclass(frozen=True)
class Alias:
    """An option that sets fields of the config.

    Attributes:
        option: such as "--epochs".
        stands_for: the fields, for --help.
        fields: (value of the option, phases of the config) -> {path: value}.
        arguments: of `argparse.ArgumentParser.add_argument`.
    """

    option: str
    stands_for: str
    fields: Callable[[Any, Sequence[Phase]], dict[str, Any]]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """The attribute of the parsed options."""
        return self.option.strip("-").replace("-", "_")


def _durations(epochs: Sequence[float], phases: Sequence[Phase]) -> dict[str, Any]:
    """Returns the duration of the last phase, or of each phase; without phases, nothing."""
    if not phases:
        return {}
    first = len(phases) - 1 if len(epochs) == 1 else 0
    if len(epochs) not in (1, len(phases)):
        names = ", ".join(phase.name for phase in phases)
        raise ValueError(
            f"--epochs takes one number, for the last phase, or one for each of the phases {names}"
        )
    if not all(0 <= number < math.inf for number in epochs):
        raise ValueError("--epochs must be 0 or more; 0 skips a phase")
    return {
        f"phases[{first + i}].duration": f"{number:g} epoch{'s' * (number != 1)}"
        for i, number in enumerate(epochs)
    }


def _rates(highest: float, phases: Sequence[Phase]) -> dict[str, Any]:
    """Returns the rates of the last phase, whose groups keep their ratios to the highest one."""
    if not phases:
        return {}
    if not 0 < highest < math.inf:
        raise ValueError("--lr must be above 0 and finite, such as 3e-4")
    groups, last = phases[-1].groups, len(phases) - 1
    present = max(group.learning_rate for group in groups)
    return {
        f"phases[{last}].groups[{i}].learning_rate": float(
            f"{highest * group.learning_rate / present:.6g}"
        )
        for i, group in enumerate(groups)
    }


ALIASES = (
    Alias(
        "--csv",
        "data.csv: the labels of your images",
        lambda value, phases: {"data.csv": value},
        {"metavar": "FILE"},
    ),
    Alias(
        "--images",
        "data.images: the folder that file names are relative to",
        lambda value, phases: {"data.images": value},
        {"metavar": "FOLDER"},
    ),
    Alias(
        "--batch-size",
        "data.batch_size: training images per step, over all devices",
        lambda value, phases: {"data.batch_size": value},
        {"metavar": "N", "type": int},
    ),
    Alias(
        "--epochs",
        "phases[i].duration: one number sets the last phase, which is fine-tuning in the default "
        "phases; several set one phase each, as in --epochs 6 20; 0 skips a phase",
        _durations,
        {"metavar": "N", "type": float, "nargs": "+"},
    ),
    Alias(
        "--lr",
        "phases[i].groups[j].learning_rate of the last phase: the highest of its rates becomes "
        "this one, and the other groups keep their ratio to it",
        _rates,
        {"metavar": "RATE", "type": float},
    ),
    Alias(
        "--folds",
        "data.folds: cross-validation; one run for each fold, trained on the others, and "
        "out-of-fold predictions of all images",
        lambda value, phases: {"data.folds": value},
        {"metavar": "N", "type": int},
    ),
    Alias(
        "--refit",
        "data.refit: after the folds, train on all images, with thresholds from the folds",
        lambda value, phases: {"data.refit": value},
        {"action": "store_true", "default": None},
    ),
)


DATA = ("--csv", "--images", "--batch-size")


def add_aliases(parser: argparse.ArgumentParser, options: Collection[str] | None = None) -> None:
    """Adds options that stand for fields.

    Args:
        parser: of a command with --config.
        options: which ones, such as DATA; None: all.
    """
    group = parser.add_argument_group("fields of the config by short names")
    for alias in ALIASES:
        if options is not None and alias.option not in options:
            continue
        group.add_argument(alias.option, help=alias.stands_for, **alias.arguments)


def alias_overrides(
    options: argparse.Namespace, phases: Sequence[Phase], overrides: list[str]
) -> list[str]:
    """Returns the overrides that the given aliases stand for.

    Args:
        options: from a parser with `add_aliases`.
        phases: of the config that they change; not needed for DATA.
        overrides: those that were given in full.

    Raises:
        ValueError: a value is impossible, or the field was given in full as well.
    """
    result, given = [], set(paths_of(overrides))
    for alias in ALIASES:
        value = getattr(options, alias.name, None)
        if value is None:
            continue
        fields = alias.fields(value, phases)
        if twice := sorted(given & fields.keys()):
            raise ValueError(
                f"{alias.option} and {PREFIX}{twice[0]} set the same field; leave out one of them"
            )
        result += [f"{PREFIX}{path}={value}" for path, value in fields.items()]
    return result
