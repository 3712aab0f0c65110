"""The optimiser of one phase.

Gradients, clipping and optimiser state contain only the trainable leaves, as a flat dictionary
{path: array}.
"""

from collections.abc import Hashable
from typing import Any

import optax

from mlcls_jax.config import Phase
from mlcls_jax.step.groups import label_parameters
from mlcls_jax.step.schedules import MakeSchedule, make_schedule


def _kernels(tree: Any) -> dict[str, bool]:
    return {path: path.endswith("/kernel") for path in tree}


def make_optimizer(
    phase: Phase,
    trainable: frozenset[str],
    steps: int,
    warmup: int,
    *,
    stages: int = 0,
    schedule: MakeSchedule = make_schedule,
) -> optax.GradientTransformation:
    """Returns the optimiser of a phase, over a flat {path: array} of the trainable leaves.

    adamw (arXiv:1711.05101) and lion (arXiv:2302.06675) use decoupled weight decay: rate times
        decay times the parameter is subtracted from the parameter.
    adam (arXiv:1412.6980) and sgd (with Nesterov momentum, as timm's "sgd") use an L2 penalty: it
        is added to the gradient after clipping and before the moments, as in torch.optim.

    Weight decay applies to kernels only, because decaying biases and normalisation scales changes
    the function without limiting its complexity.

    Args:
        phase: its optimizer, momentum, groups, layer_decay and clip_norm are used.
        trainable: paths of the leaves.
        steps: length of the phase.
        warmup: steps with a rising rate, at the start of the phase.
        stages: number of stages of the backbone; used only with layer_decay.
        schedule: makes the schedule of a group's rate.
    """
    labels = label_parameters(sorted(trainable), phase, stages)
    decoupled = phase.optimizer in ("adamw", "lion")
    clip = optax.clip_by_global_norm(phase.clip_norm) if phase.clip_norm else optax.identity()
    penalty: dict[Hashable, optax.GradientTransformation] = {}
    rates: dict[Hashable, optax.GradientTransformation] = {}
    kinds = sorted(set(labels.values()))
    for index, label in enumerate(kinds):
        group = phase.groups[label.group]
        decay = optax.add_decayed_weights(group.weight_decay, mask=_kernels)
        peak = group.learning_rate * phase.layer_decay**label.depth
        rate = optax.scale_by_learning_rate(schedule(phase, peak, steps, warmup))
        penalty[index] = decay
        rates[index] = optax.chain(decay, rate) if decoupled else rate
    assigned = {path: kinds.index(label) for path, label in labels.items()}
    # Each moment is one vector, so that a step has hundreds of arguments fewer.
    parts = [optax.flatten(_moments(phase)), optax.partition(rates, assigned)]
    if not decoupled:
        parts.insert(0, optax.partition(penalty, assigned))
    return optax.chain(clip, *parts)


def _moments(phase: Phase) -> optax.GradientTransformation:
    if phase.optimizer == "sgd":
        return optax.trace(phase.momentum, nesterov=True)  # 0: the gradient itself
    return optax.scale_by_lion() if phase.optimizer == "lion" else optax.scale_by_adam()
