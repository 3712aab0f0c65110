"""The programs of a run, compiled and ready to be timed on made-up batches."""

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
    """A program needs more memory than there is."""


def compile_program(program: programs.Program, images: int) -> tuple[Any, Cost]:
    """Compiles for the shapes of the run.

    Args:
        images: that one call of it handles on one device.

    Raises:
        DoesNotFitError: the CPU's memory is too small for it.  Other devices say so when they
            compile or run it; here the system would end the process instead.
    """
    hits = _cache_hits()
    before, began = len(hits), time.perf_counter()
    function = program.lower().compile()
    seconds = time.perf_counter() - began
    memory = hlo.memory(function)
    needed, free = memory.peak * jax.local_device_count(), agreed(available_memory())
    if jax.default_backend() == "cpu" and needed > free:
        raise DoesNotFitError(
            f"a step needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; lower "
            "data.batch_size or model.image_size"
        )
    cost = Cost(
        seconds=seconds,
        cached=len(hits) > before,
        flops_per_image=hlo.flops(function) / images,
        memory=memory,
        # Alone, a device has nobody to talk to, whatever the program's text says.
        collectives=tuple(hlo.collectives(function)) if jax.device_count() > 1 else (),
    )
    return function, cost


def made_up_batch(context: TrainContext) -> Batch:
    """A training batch of random pixels, born on the devices."""
    spec = context.inputs.step
    shapes = programs.batch_shape(spec.network, spec.batch_size, context.inputs.mesh)

    def make() -> Batch:
        return Batch(
            image=jax.random.bits(jax.random.key(0), shapes.image.shape, jnp.uint8),
            label=jnp.ones(shapes.label.shape, jnp.int8),
            position=jnp.arange(*shapes.position.shape, dtype=jnp.uint32),
        )

    return jax.jit(make, out_shardings=sharded(context.inputs.mesh))()


def make_begin(context: TrainContext, phase_plan: PlannedPhase) -> Callable[[dict], TrainState]:
    """Builds `begin(variables)`, jitted: the state of a phase's first step.

    `variables` stay usable when the state is donated.
    """

    def fresh(variables: dict) -> TrainState:
        return programs.fresh_state(jax.tree.map(jnp.copy, variables), phase_plan)

    return jax.jit(fresh, out_shardings=replicated(context.inputs.mesh))


def forward_run(function: Any, variables: dict, batch: Batch) -> TimedCall:
    """Evaluations of the same batch, at most two at a time, as `scoring.score` does."""

    def run(steps: int) -> float:
        began = time.perf_counter()
        before = function(variables, batch.image)
        for _ in range(steps - 1):
            logits = function(variables, batch.image)
            before.block_until_ready()
            before = logits
        before.block_until_ready()
        return time.perf_counter() - began

    return run


def step_run(
    context: TrainContext, phase_plan: PlannedPhase, function: Any, variables: dict, batch: Batch
) -> TimedCall:
    """Training steps on the same batch, each from the state that the one before it left.

    The state is made anew for each stretch, so that at most one phase's is alive.
    """
    begin = make_begin(context, phase_plan)

    def run(steps: int) -> float:
        # The first step after another program finds cold caches and no memory of its own, and in
        # several processes it waits for the last of them: it is not timed.
        state, metrics = function(begin(variables), batch)
        jax.block_until_ready((state, metrics))
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = function(state, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return run


def step_of_nothing(program: programs.Program) -> Any:
    """Compiled like the step of the program, with all its arguments and results, but no work."""

    def nothing(state: TrainState, batch: Batch):
        # The barrier keeps every leaf an argument and a result; donated, none is copied.
        state = jax.lax.optimization_barrier(state)
        zero = jnp.zeros((), jnp.float32)
        return dataclasses.replace(state, step=state.step + 1), {"loss": zero, "grad_norm": zero}

    return jax.jit(nothing, donate_argnums=0).lower(*program.arguments).compile()


@functools.cache
def _cache_hits() -> list[str]:
    """Grows by one for each program that JAX reads from its compilation cache."""
    hits: list[str] = []

    def listen(event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    return hits
