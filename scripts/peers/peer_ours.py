"""Our side of compare_peers.py: the programs of the trainer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peer_worker import NUM_CLASSES, Step, random_batch

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.batch import Batch
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.step.network import build_model, network_spec
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.step.programs import forward_program, fresh_state, step_program, step_spec
from mlcls_jax.system import devices, distributed

STEPS = 100_000  # length of the phase, more than are measured


def versions() -> str:
    """Returns the versions of the libraries."""
    return f"jax {jax.__version__}"


def build(
    variant: str, size: int, batch: int, dropout: float, compute_dtype: str = "float32"
) -> dict[str, Step]:
    """Returns the steps for peer_worker.py.

    Everything trains, with the statistics of the batch and without clipping.

    Args:
        variant: such as "b0".
        size: image size in pixels.
        batch: images per step.
        dropout: dropout rate of the head.
        compute_dtype: of activations and products.
    """
    distributed.start()
    mesh, pretrained_config = devices.make_mesh(), PretrainedConfig(KERAS, IMAGENET)
    everything = Phase(
        "all",
        f"{STEPS} steps",
        [Group(".*", 1e-4, 1e-2)],
        schedule="constant",
        clip_norm=0.0,
        batch_norm="train",
    )
    config = Config(
        data=Data(batch_size=batch),
        model=Model(variant, image_size=size, dropout=dropout, compute_dtype=compute_dtype),
        phases=[everything],
    )
    every = config.evaluation.every
    (phase_plan,) = plan_phases(config.phases, images=batch, batch_size=batch, every=every)
    spec = step_spec(config, NUM_CLASSES)
    predict = forward_program(spec.network, pretrained_config, batch, mesh).function
    step = step_program(spec, pretrained_config, phase_plan, mesh).function
    rows = Batch(*random_batch(size, batch), np.arange(batch, dtype=np.uint32))
    rows = jax.device_put(rows, devices.sharded(mesh))
    state = jax.jit(lambda key: fresh_state(_variables(config, key), phase_plan))(jax.random.key(0))
    state = jax.device_put(state, devices.replicated(mesh))

    def forward() -> np.ndarray:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return np.asarray(predict(variables, rows.image))

    def train() -> float:
        nonlocal state
        state, metrics = step(state, rows)
        return float(metrics["loss"])

    return {"forward": forward, "train": train}


def _variables(config: Config, key: jax.Array) -> dict[str, Any]:
    size = image_size(config.model)
    return dict(
        build_model(network_spec(config.model, NUM_CLASSES)).init(
            key, jnp.zeros((1, size, size, 3))
        )
    )
