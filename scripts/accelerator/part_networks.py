"""Compiled steps of the trainer for the parts of check.sh."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlcls_jax.config import Config, Data, Group, Model, Phase
from mlcls_jax.data.batch import Batch
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.variants import B0_STAGES, VARIANTS, Variant
from mlcls_jax.step import programs
from mlcls_jax.step.init import random_variables
from mlcls_jax.step.network import network_spec, variables_shape
from mlcls_jax.step.phases import plan_phases
from mlcls_jax.system import devices, hlo

CLASSES = 80  # as COCO
TINY = "tiny"  # the network of a rehearsal: two stages of one narrow block
TINY_VARIANT = Variant(0.25, 0.3, 32, 0.2, stages=B0_STAGES[:2])
PRETRAINED = PretrainedConfig(KERAS, IMAGENET)
OPTIONS: dict[str, Any] = {"schedule": "constant", "clip_norm": 0.0}
PHASES = {
    "train": Phase("all", "9999 steps", [Group(".*", 1e-4, 1e-2)], batch_norm="train", **OPTIONS),
    "frozen": Phase("head", "9999 steps", [Group("head/.*", 1e-3)], **OPTIONS),
}


@dataclass(frozen=True)
class Work:
    """What to compute.

    Attributes:
        what: "train", "frozen" (only the head trains) or "forward".
        variant: name of the network.
        size: side of the images in pixels.
        batch: images per step.
        dtype: of activations and products.
    """

    what: str
    variant: str
    size: int
    batch: int
    dtype: str = "bfloat16"

    def config(self) -> Config:
        """Returns the config of a run with this step."""
        add_tiny()
        model = Model(self.variant, image_size=self.size, compute_dtype=self.dtype)
        phase = PHASES["train" if self.what == "forward" else self.what]
        return Config(data=Data(batch_size=self.batch), model=model, phases=[phase])


def add_tiny() -> None:
    """Adds the network of a rehearsal to those of the package, in this process."""
    VARIANTS.setdefault(TINY, TINY_VARIANT)


@dataclass(frozen=True)
class Compiled:
    """A compiled step with its arguments on the device.

    Attributes:
        run: takes a number of steps, waits for the last, and returns the seconds.
        result: state and metrics of one step from the start, or logits.
        flops, traffic, memory: counts of the compiler for one step.
        seconds: time to compile.
        executable: of JAX.
    """

    run: Callable[[int], float]
    result: Callable[[], Any]
    flops: float
    traffic: float
    memory: int
    seconds: float
    executable: Any


def mesh_of(device: Any) -> jax.sharding.Mesh:
    """Returns the mesh of one device."""
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((1,), (devices.AXIS,), axis_types=axis_types, devices=[device])


def variables_of(work: Work, seed: int = 0) -> dict[str, Any]:
    """Returns random variables of the network as NumPy arrays."""
    mesh = mesh_of(jax.local_devices(backend="cpu")[0])
    spec = network_spec(work.config().model, CLASSES)
    shapes = variables_shape(spec, mesh)
    return jax.tree.map(np.asarray, random_variables(spec, shapes, mesh, seed=seed, bias={}))


def batch_of(work: Work, seed: int = 0) -> Batch:
    """Returns a batch of random pixels and labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (work.batch, work.size, work.size, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, (work.batch, CLASSES), dtype=np.int8)
    return Batch(images, labels, np.arange(work.batch, dtype=np.uint32))


def compile_work(work: Work, variables: dict[str, Any] | None = None, device: Any = None):
    """Compiles a step and puts its arguments on a device.

    Args:
        work: what to compute.
        variables: of the network; None draws random ones.
        device: of JAX; None is the first of the default platform.

    Returns:
        A `Compiled`.
    """
    device = device or jax.devices()[0]
    mesh = mesh_of(device)
    config = work.config()
    variables = variables or variables_of(work)
    rows = jax.device_put(batch_of(work), devices.sharded(mesh))
    shared = devices.replicated(mesh)
    if work.what == "forward":
        spec = network_spec(config.model, CLASSES)
        program = programs.forward_program(spec, PRETRAINED, work.batch, mesh)
    else:
        (phase_plan,) = plan_phases(
            config.phases, work.batch, batch_size=work.batch, every=config.evaluation.every
        )
        spec = programs.step_spec(config, CLASSES)
        program = programs.step_program(spec, PRETRAINED, phase_plan, mesh)
    began = time.perf_counter()
    executable = program.lower().compile()
    seconds = time.perf_counter() - began
    on_device = jax.device_put(variables, shared)

    def forward_steps(steps: int) -> float:
        start = time.perf_counter()
        results = [executable(on_device, rows.image) for _ in range(steps)]
        jax.block_until_ready(results)
        return time.perf_counter() - start

    def fresh() -> Any:
        # Copies, because a step donates its state.
        return jax.device_put(
            programs.fresh_state(jax.tree.map(jnp.array, variables), phase_plan), shared
        )

    state: Any = None

    def train_steps(steps: int) -> float:
        nonlocal state
        state = fresh() if state is None else state
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = executable(state, rows)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - start

    is_forward = work.what == "forward"
    cost = executable.cost_analysis() or {}
    return Compiled(
        run=forward_steps if is_forward else train_steps,
        result=lambda: (
            executable(on_device, rows.image) if is_forward else executable(fresh(), rows)
        ),
        flops=hlo.flops(executable),
        traffic=float(cost.get("bytes accessed", float("nan"))),
        memory=hlo.memory(executable).peak,
        seconds=seconds,
        executable=executable,
    )
