"""Parameter groups by regular expression, and the optimiser of one phase.

Gradients, clipping and optimiser state only ever see the trainable leaves, as a flat dictionary
{path: array}; what no group matches is frozen.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mlcls_jax.config import Group, Phase

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


def flatten(params: dict) -> dict:
    """{"backbone/stem/conv/kernel": leaf, ...} of a nested tree."""
    return flatten_dict(params, sep="/")


def unflatten(params: dict) -> dict:
    """The nested tree of `flatten`'s result."""
    return unflatten_dict(params, sep="/")


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


def group_table(params: dict, phase: Phase) -> list[GroupRow]:
    """Parameter counts and rates per group, the frozen rest last."""
    leaves = flatten(params)
    assigned = assign_groups(list(leaves), phase.groups)
    counts = dict.fromkeys([*range(len(phase.groups)), FROZEN], 0)
    for path, group in assigned.items():
        counts[group] += leaves[path].size
    rows = [
        GroupRow(group.pattern, counts[i], group.learning_rate, group.weight_decay)
        for i, group in enumerate(phase.groups)
    ]
    return [*rows, GroupRow("(frozen)", counts[FROZEN], 0.0, 0.0)]


def make_schedule(phase: Phase, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Learning rate by step of the phase: linear from 0 to the peak, then cosine to 0, or flat."""
    warmup = min(warmup, steps)
    if phase.schedule == "constant":
        flat = optax.constant_schedule(peak)
    else:
        flat = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    if warmup == 0:
        return flat
    # From 1/(warmup + 1): a first step with rate 0 would be a step for nothing.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, flat], [warmup])


def make_optimizer(
    phase: Phase, trainable: frozenset[str], steps: int, warmup: int
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) per group over a flat {path: array} of the trainable leaves.

    Args:
        steps: length of the phase.
        warmup: steps of it with a rising rate.

    Weight decay falls on kernels only: decaying biases and normalisation scales moves the
    function without limiting its complexity.
    """
    assigned = assign_groups(sorted(trainable), phase.groups)
    per_group: dict[Hashable, optax.GradientTransformation] = {
        i: optax.chain(
            optax.add_decayed_weights(group.weight_decay, mask=_kernels),
            optax.scale_by_learning_rate(make_schedule(phase, group.learning_rate, steps, warmup)),
        )
        for i, group in enumerate(phase.groups)
    }
    clip = optax.clip_by_global_norm(phase.clip_norm) if phase.clip_norm else optax.identity()
    # Moments as one vector each: hundreds of arrays fewer to hand to every step.
    moments = optax.flatten(optax.scale_by_adam())
    return optax.chain(clip, moments, optax.partition(per_group, assigned))
