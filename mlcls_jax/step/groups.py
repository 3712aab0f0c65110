"""Parameter groups: which parameters of a phase train, at which rate, by regular expression.

Parameters that no group matches are frozen.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from mlcls_jax.config import Group, Phase
from mlcls_jax.step.param_tree import flatten

FROZEN = -1


@dataclass(frozen=True)
class GroupRow:
    """A row of the table of parameter groups.

    Attributes:
        pattern: regular expression of the group, with its stages if layer_decay is on.
        parameters: number of parameters.
        learning_rate: highest rate of the schedule.
        weight_decay: weight decay of the group's kernels.
    """

    pattern: str
    parameters: int
    learning_rate: float
    weight_decay: float


class GroupLabel(NamedTuple):
    """The properties that determine the learning rate of a parameter."""

    group: int
    depth: int  # 0 without layer_decay


def assign_groups(paths: list[str], groups: list[Group]) -> dict[str, int]:
    """Returns the index of each path's group: the first whose pattern matches the whole path.

    Args:
        paths: such as "backbone/stem/conv/kernel".
        groups: of one phase.

    Returns:
        {path: index of a group, or FROZEN}.

    Raises:
        ValueError: a pattern matches no path, or only paths of earlier groups.
    """
    assigned = {
        path: next(
            (i for i, group in enumerate(groups) if re.fullmatch(group.pattern, path)), FROZEN
        )
        for path in paths
    }
    for i, group in enumerate(groups):
        if i not in assigned.values():
            examples = ", ".join(sorted({"/".join(path.split("/")[:2]) for path in paths})[:4])
            raise ValueError(
                f"parameter group {group.pattern!r} matches no parameter, or only those of earlier "
                f"groups; correct the pattern to match whole paths, such as {examples}/..."
            )
    return assigned


def trainable_paths(params: dict, phase: Phase) -> frozenset[str]:
    """Returns the paths of the leaves that a phase trains.

    Args:
        params: nested tree of arrays or shapes.
        phase: its groups are used.

    Raises:
        ValueError: see `assign_groups`.
    """
    assigned = assign_groups(list(flatten(params)), phase.groups)
    return frozenset(path for path, group in assigned.items() if group != FROZEN)


def active_modules(trainable: frozenset[str], phase: Phase, batch_stats: dict) -> frozenset[str]:
    """Returns the paths of the modules that behave as in training: those with a trainable leaf.

    With `batch_norm="frozen"`, normalisations are excluded, even if their scale trains.

    Args:
        trainable: paths of the trainable leaves.
        phase: its field batch_norm is used.
        batch_stats: nested tree of the statistics of all normalisations, or of their shapes.
    """
    modules = {
        "/".join(path.split("/")[:depth])
        for path in trainable
        for depth in range(1, path.count("/") + 1)
    }
    if phase.batch_norm == "frozen":
        modules -= {path.rsplit("/", 1)[0] for path in flatten(batch_stats)}
    return frozenset(modules)


def count_stages(params: dict) -> int:
    """Returns the number of stages of the backbone, from parameters or their shapes."""
    return max(_stage(path) for path in flatten(params))


def depth_below_head(path: str, stages: int) -> int:
    """Returns the exponent of `layer_decay` in the learning rate of a parameter.

    As in BEiT (arXiv:2106.08254) and timm, with one layer per stage: 0 for the head, 1 for the last
    stage and the convolution after it, `stages` for the first stage, and stages + 1 for the stem.

    Args:
        path: of the parameter.
        stages: number of stages of the backbone.
    """
    if not path.startswith("backbone/"):
        return 0
    if path.startswith("backbone/top/"):
        return 1
    return stages + 1 - _stage(path)


def group_table(params: dict, phase: Phase) -> list[GroupRow]:
    """Returns the parameter counts and highest rates per group, with the frozen rest last.

    With `layer_decay`, a group has one row for each of its rates, from the head down.

    Args:
        params: nested tree of arrays or shapes.
        phase: its groups and layer_decay are used.

    Raises:
        ValueError: see `assign_groups`.
    """
    leaves, stages = flatten(params), count_stages(params)
    counts, parts = Counter[GroupLabel](), defaultdict[GroupLabel, set[str]](set)
    for path, label in label_parameters(list(leaves), phase, stages).items():
        counts[label] += leaves[path].size
        parts[label].add(path.removeprefix("backbone/").split("/")[0])
    frozen, rows = counts.pop(GroupLabel(FROZEN, 0), 0), []
    for label in sorted(counts):
        group = phase.groups[label.group]
        layer = f" ({', '.join(sorted(parts[label]))})" if phase.layer_decay != 1 else ""
        rate = group.learning_rate * phase.layer_decay**label.depth
        rows.append(GroupRow(group.pattern + layer, counts[label], rate, group.weight_decay))
    return [*rows, GroupRow("(frozen)", frozen, 0.0, 0.0)]


def label_parameters(paths: list[str], phase: Phase, stages: int) -> dict[str, GroupLabel]:
    """Returns what determines the learning rate of each parameter.

    Args:
        paths: of all parameters.
        phase: its groups and layer_decay are used.
        stages: number of stages of the backbone.
    """

    def depth(path: str, group: int) -> int:
        layered = phase.layer_decay != 1 and group != FROZEN
        return depth_below_head(path, stages) if layered else 0

    assigned = assign_groups(paths, phase.groups)
    return {path: GroupLabel(group, depth(path, group)) for path, group in assigned.items()}


def _stage(path: str) -> int:
    """Returns the number of the parameter's stage, from 1; 0 outside the stages."""
    match = re.match(r"backbone/stage(\d+)/", path)
    return int(match[1]) if match else 0
