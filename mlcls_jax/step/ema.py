"""Exponential moving average (EMA) of what a phase trains.

After each step, average = decay * average + (1 - decay) * value.  This holds for the trainable
parameters and for the running statistics of the normalisations that train, because averaged
parameters do not match the statistics of the latest ones.  timm's ModelEmaV3 and the reference
implementation of EfficientNet also average both.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from mlcls_jax.step.param_tree import flatten, unflatten


@struct.dataclass
class EmaState:
    """The averaged leaves, as flat {path: array}; both are empty without an EMA.

    Attributes:
        params: averages of the trainable parameters.
        batch_stats: averages of the running statistics that change.
    """

    params: dict
    batch_stats: dict

    def __bool__(self) -> bool:
        return bool(self.params)


NO_EMA = EmaState({}, {})

# The step of the run, int32 -> the decay at that step, float32.
Decay = Callable[[jax.Array], jax.Array]


def decay_by_step(limit: float, start: int) -> Decay:
    """Returns the decay by step: min(limit, (1 + t) / (10 + t)) with t = step - start.

    As in TensorFlow's ExponentialMovingAverage, the decay rises, so that the average of a short
    phase does not keep its initial values.

    Args:
        limit: the highest decay, in [0, 1).
        start: first step of the phase.
    """

    def decay(step: jax.Array) -> jax.Array:
        t = (step - start).astype(jnp.float32)
        return jnp.minimum(jnp.float32(limit), (1 + t) / (10 + t))

    return decay


def update_ema(ema: EmaState, params: dict, batch_stats: dict, decay: jax.Array) -> EmaState:
    """Returns the EMA after a step.

    Args:
        ema: the EMA before the step.
        params, batch_stats: the values after the step, flat {path: array} with the paths of `ema`.
        decay: float32 scalar, the decay of this step.
    """

    def mix(old: jax.Array, new: jax.Array) -> jax.Array:
        return old + (1 - decay) * (new - old)

    new = EmaState(params, batch_stats)
    return jax.tree.map(mix, ema, new)


def with_ema(variables: dict, ema: EmaState) -> dict:
    """Returns {params, batch_stats} with every averaged leaf replaced by its average.

    Args:
        variables: nested trees {params, batch_stats}.
        ema: of some of their leaves.
    """
    return {
        "params": unflatten(flatten(variables["params"]) | ema.params),
        "batch_stats": unflatten(flatten(variables["batch_stats"]) | ema.batch_stats),
    }
