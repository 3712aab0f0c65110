"""Parameter groups by regular expression, and the optimiser of one phase.

Gradients, clipping and optimiser state only ever see the trainable leaves, as a flat dictionary
{path: array}; what no group matches is frozen.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import optax

from mlcls_jax.config import Group, Phase
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.schedules import MakeSchedule, make_schedule

FROZEN = -1


@dataclass(frozen=True)
class GroupRow:
    """One line of the table of parameter groups."""

    pattern: str
    parameters: int
    learning_rate: float
    weight_decay: float


def _kernels(tree: Any) -> dict[str, bool]:
    return {path: path.endswith("/kernel") for path in tree}


def assign_groups(paths: list[str], groups: list[Group]) -> dict[str, int]:
    """The index of the first group whose pattern matches the whole path, or FROZEN, per path.

    Raises:
        ValueError: a pattern matches no parameter, or only ones that an earlier group has.
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
                f"parameter group {group.pattern!r} matches no parameter that an earlier group "
                f"has not taken; patterns match whole paths, such as {examples}/..."
            )
    return assigned


def trainable_paths(params: dict, phase: Phase) -> frozenset[str]:
    """Paths of the leaves that the phase trains."""
    assigned = assign_groups(list(flatten(params)), phase.groups)
    return frozenset(path for path, group in assigned.items() if group != FROZEN)


def active_modules(trainable: frozenset[str], phase: Phase) -> frozenset[str]:
    """Paths of the modules that behave as in training: those with a trainable leaf inside.

    With `batch_norm="frozen"`, normalisations are left out, even where their scale trains.
    """
    modules = {
        "/".join(path.split("/")[:depth])
        for path in trainable
        for depth in range(1, path.count("/") + 1)
    }
    if phase.batch_norm == "frozen":
        modules = {module for module in modules if not module.endswith("/norm")}
    return frozenset(modules)


def count_stages(params: dict) -> int:
    """Stages of the backbone, from parameters or their shapes."""
    return max(_stage(path) for path in flatten(params))


def depth_below_head(path: str, stages: int) -> int:
    """By how many powers of `layer_decay` the rate of a parameter is multiplied.

    Every stage is a layer of the schemes of BEiT (arXiv:2106.08254) and timm: 0 for the head, 1 for
    the last stage and the convolution after it, `stages` for the first, one more for the stem.
    """
    if not path.startswith("backbone/"):
        return 0
    if path.startswith("backbone/top/"):
        return 1
    return stages + 1 - _stage(path)


def _stage(path: str) -> int:
    """1 for the first stage of the backbone, and so on; 0 for what is in none."""
    match = re.match(r"backbone/stage(\d+)/", path)
    return int(match[1]) if match else 0


def group_table(params: dict, phase: Phase) -> list[GroupRow]:
    """Parameter counts and highest rates per group, the frozen rest last.

    With `layer_decay`, a group has a row for each of its rates, from the head down.
    """
    leaves, stages = flatten(params), count_stages(params)
    counts, parts = Counter[_Label](), defaultdict[_Label, set[str]](set)
    for path, label in _labels(list(leaves), phase, stages).items():
        counts[label] += leaves[path].size
        parts[label].add(path.removeprefix("backbone/").split("/")[0])
    frozen, rows = counts.pop(_Label(FROZEN, 0), 0), []
    for label in sorted(counts):
        group = phase.groups[label.group]
        layer = f" ({', '.join(sorted(parts[label]))})" if phase.layer_decay != 1 else ""
        rate = group.learning_rate * phase.layer_decay**label.depth
        rows.append(GroupRow(group.pattern + layer, counts[label], rate, group.weight_decay))
    return [*rows, GroupRow("(frozen)", frozen, 0.0, 0.0)]


class _Label(NamedTuple):
    """What parameters of one rate have in common."""

    group: int
    depth: int  # 0 without layer_decay


def _labels(paths: list[str], phase: Phase, stages: int) -> dict[str, _Label]:
    def depth(path: str, group: int) -> int:
        layered = phase.layer_decay != 1 and group != FROZEN
        return depth_below_head(path, stages) if layered else 0

    assigned = assign_groups(paths, phase.groups)
    return {path: _Label(group, depth(path, group)) for path, group in assigned.items()}


def make_optimizer(
    phase: Phase,
    trainable: frozenset[str],
    steps: int,
    warmup: int,
    *,
    stages: int = 0,
    schedule: MakeSchedule = make_schedule,
) -> optax.GradientTransformation:
    """The optimiser that the phase names, over a flat {path: array} of the trainable leaves.

    adamw (arXiv:1711.05101), lion (arXiv:2302.06675): the weight decay, times the rate, is taken
        from the parameter itself.
    adam (arXiv:1412.6980), sgd (with Nesterov's momentum, as timm's "sgd"): the weight decay is
        that of an L2 penalty: it joins the gradient, after clipping and before the moments, as in
        torch.optim.

    Weight decay falls on kernels only: decaying biases and normalisation scales moves the
    function without limiting its complexity.

    Args:
        phase: its optimiser, groups, layer_decay and clip_norm are read.
        trainable: paths of the leaves.
        steps: length of the phase.
        warmup: steps of it with a rising rate.
        stages: of the backbone; needed with layer_decay only.
        schedule: makes the schedule of a group's rate.
    """
    labels = _labels(sorted(trainable), phase, stages)
    decoupled = phase.optimizer in ("adamw", "lion")
    clip = optax.clip_by_global_norm(phase.clip_norm) if phase.clip_norm else optax.identity()
    penalty: dict[Hashable, optax.GradientTransformation] = {}
    rates: dict[Hashable, optax.GradientTransformation] = {}
    kinds = sorted(set(labels.values()))
    for number, label in enumerate(kinds):
        group = phase.groups[label.group]
        decay = optax.add_decayed_weights(group.weight_decay, mask=_kernels)
        peak = group.learning_rate * phase.layer_decay**label.depth
        rate = optax.scale_by_learning_rate(schedule(phase, peak, steps, warmup))
        penalty[number] = decay
        rates[number] = optax.chain(decay, rate) if decoupled else rate
    assigned = {path: kinds.index(label) for path, label in labels.items()}
    # Moments as one vector each: hundreds of arrays fewer to hand to every step.
    parts = [optax.flatten(_moments(phase)), optax.partition(rates, assigned)]
    if not decoupled:
        parts.insert(0, optax.partition(penalty, assigned))
    return optax.chain(clip, *parts)


def _moments(phase: Phase) -> optax.GradientTransformation:
    if phase.optimizer == "sgd":
        return optax.trace(phase.momentum, nesterov=True)  # 0: the gradient itself
    return optax.scale_by_lion() if phase.optimizer == "lion" else optax.scale_by_adam()
