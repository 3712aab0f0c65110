"""The compiled programs of a run, ready to be timed on random batches."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mlcls_jax.benchmark.results import Cost
from mlcls_jax.benchmark.timing import TimedCall, agreed
from mlcls_jax.data.batch import Batch
from mlcls_jax.step import programs
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system import hlo
from mlcls_jax.system.devices import available_memory, replicated, sharded
from mlcls_jax.training.context import TrainContext


class DoesNotFitError(ValueError):
    """Raised if a program needs more memory than is free."""


def compile_program(program: programs.Program, images: int) -> tuple[Any, Cost]:
    """Compiles a program for the shapes of the run.

    Args:
        program: to compile.
        images: number of images that one call handles on one device.

    Returns:
        The compiled function, and its cost.

    Raises:
        DoesNotFitError: the CPU has too little free memory. Other devices raise an error of their
            own when they compile or run the program; on a CPU the system would kill the process.
    """
    hits = _cache_hits()
    before, began = len(hits), time.perf_counter()
    function = program.lower().compile()
    seconds = time.perf_counter() - began
    memory = hlo.memory(function)
    needed, free = memory.peak * jax.local_device_count(), agreed(available_memory())
    if jax.default_backend() == "cpu" and needed > free:
        raise DoesNotFitError(
            f"a step needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; lower "
            "data.batch_size or model.image_size"
        )
    cost = Cost(
        seconds=seconds,
        cached=len(hits) > before,
        flops_per_image=hlo.flops(function) / images,
        memory=memory,
        # A single device does not communicate, even if the program has collectives.
        collectives=tuple(hlo.collectives(function)) if jax.device_count() > 1 else (),
    )
    return function, cost


def random_batch(context: TrainContext) -> Batch:
    """Returns a training batch of random pixels, generated on the devices."""
    spec = context.inputs.step
    shapes = programs.batch_shape(spec, context.inputs.mesh)

    def make() -> Batch:
        return Batch(
            image=jax.random.bits(jax.random.key(0), shapes.image.shape, jnp.uint8),
            label=jnp.ones(shapes.label.shape, shapes.label.dtype),
            position=jnp.arange(*shapes.position.shape, dtype=jnp.uint32),
        )

    return jax.jit(make, out_shardings=sharded(context.inputs.mesh))()


def make_begin(context: TrainContext, phase_plan: PlannedPhase) -> Callable[[dict], TrainState]:
    """Returns a jitted function from variables to the state before a phase's first step.

    It copies the variables, so that they stay usable when the state is donated.
    """

    def fresh(variables: dict) -> TrainState:
        return programs.fresh_state(jax.tree.map(jnp.copy, variables), phase_plan)

    return jax.jit(fresh, out_shardings=replicated(context.inputs.mesh))


def forward_run(function: Any, variables: dict, batch: Batch) -> TimedCall:
    """Returns a function to time that evaluates the same batch.

    At most two batches are in flight, as in `inference.predict_dataset`.
    """

    def run(steps: int) -> float:
        began = time.perf_counter()
        previous = function(variables, batch.image)
        for _ in range(steps - 1):
            logits = function(variables, batch.image)
            previous.block_until_ready()
            previous = logits
        previous.block_until_ready()
        return time.perf_counter() - began

    return run


def step_run(
    context: TrainContext, phase_plan: PlannedPhase, function: Any, variables: dict, batch: Batch
) -> TimedCall:
    """Returns a function to time that takes training steps on the same batch.

    Each call creates a new state, so that only one phase's state is in memory at a time.
    """
    begin = make_begin(context, phase_plan)

    def run(steps: int) -> float:
        # The first step is not timed: it has cold caches, must allocate memory and, with several
        # processes, waits for the slowest of them.
        state, metrics = function(begin(variables), batch)
        jax.block_until_ready((state, metrics))
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = function(state, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return run


def empty_step(program: programs.Program) -> Any:
    """Returns a compiled step with the arguments and results of the program, but no computation."""

    def empty(state: TrainState, batch: Batch):
        # The barrier keeps every leaf as argument and result. They are donated, so none is copied.
        state = jax.lax.optimization_barrier(state)
        zero = jnp.zeros((), jnp.float32)
        return dataclasses.replace(state, step=state.step + 1), {"loss": zero, "grad_norm": zero}

    return jax.jit(empty, donate_argnums=0).lower(*program.arguments).compile()


@functools.cache
def _cache_hits() -> list[str]:
    """Returns a list that grows by one for each program that JAX reads from its cache."""
    hits: list[str] = []

    def listen(event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    return hits
