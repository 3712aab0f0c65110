"""The exponential moving average of what a phase trains, kept beside it and scored with it.

After each step, average = decay * average + (1 - decay) * value, for the trainable parameters and
for the running statistics of the normalisations that train: parameters of a hundred steps ago
with the statistics of today would be a network that never was.  (timm's ModelEmaV3 and the
reference implementation of EfficientNet average both, too.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from mlcls_jax.step.param_tree import flatten, unflatten


@struct.dataclass
class EmaState:
    """The averaged leaves, each as a flat {path: array}; both are empty where nothing is averaged.

    params: of the trainable parameters.
    batch_stats: of the running statistics that change.
    """

    params: dict
    batch_stats: dict

    def __bool__(self) -> bool:
        return bool(self.params)


NO_EMA = EmaState({}, {})

# The step of the run, int32 -> the decay of the average at it, float32.
Decay = Callable[[jax.Array], jax.Array]


def decay_by_step(most: float, start: int) -> Decay:
    """The decay as a function of the run's step: min(most, (1 + t) / (10 + t)), as in TensorFlow's
    ExponentialMovingAverage, so that short phases forget where they started.

    Args:
        most: the decay after the first steps.
        start: first step of the phase, where t is 0.
    """

    def decay(step: jax.Array) -> jax.Array:
        t = (step - start).astype(jnp.float32)
        return jnp.minimum(jnp.float32(most), (1 + t) / (10 + t))

    return decay


def update_ema(ema: EmaState, params: dict, batch_stats: dict, decay: jax.Array) -> EmaState:
    """The average after a step.

    Args:
        ema: before it.
        params, batch_stats: after it, flat {path: array} with the leaves of the average.
        decay: float32, of this step.
    """

    def mix(old: jax.Array, new: jax.Array) -> jax.Array:
        return old + (1 - decay) * (new - old)

    new = EmaState(params, batch_stats)
    return jax.tree.map(mix, ema, new)


def with_ema(variables: dict, ema: EmaState) -> dict:
    """{params, batch_stats} with the averages in place of the leaves that they are of."""
    return {
        "params": unflatten(flatten(variables["params"]) | ema.params),
        "batch_stats": unflatten(flatten(variables["batch_stats"]) | ema.batch_stats),
    }
