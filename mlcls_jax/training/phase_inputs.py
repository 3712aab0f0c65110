"""How a phase trains and is evaluated: on images, or on their features where these are kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.loaders.threads import local_rows
from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.evaluation.inference import predict_dataset, readable
from mlcls_jax.step.feature_step import chunk_sharding
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.feature_cache import feature_chunks, make_features, with_sample
from mlcls_jax.training.timing import StartupTimer

Evaluate = Callable[[dict], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class PhaseInputs:
    """How a phase trains and is evaluated.

    step: compiled, (state, item of batches) -> (state, metrics).
    batches: on the devices, from the state's step on.
    steps: that one call of `step` takes at most; less only where an evaluation follows.
    evaluate: {params, batch_stats} -> float32 logits [image, class] of the validation images,
        and bool [image]: False where the image was skipped.
    evaluate_sample: the same of the training images in session.sample, which are not none.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, dict]]
    batches: Iterator[Any]
    steps: int
    evaluate: Evaluate
    evaluate_sample: Evaluate


def make_phase_inputs(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, first_step: StartupTimer
) -> PhaseInputs:
    """What the phase needs, on images or on their features, ready at the state's step.

    Raises:
        StoppedError: a stop was asked for before there was all; the state is as it was.
        ValueError: an image that cannot be read.
    """
    context.compile_ahead.start(phase_plan, context.pretrained_config)
    context.compile_ahead.read(phase_plan, int(state.step), context.readers["train"])
    with context.timer.on("compilation"):
        step, traced, compiled = context.compile_ahead.step(
            phase_plan, context.stop
        )  # never compiled again
    console.print(
        f"{phase_plan.phase.name}: step traced in {traced:.1f} s, compiled in {compiled:.1f} s"
    )
    first_step.reached("waiting for the compiled step")
    if phase_plan.phase.cached_views:
        with context.timer.on("features"):
            work = _on_features(context, phase_plan, state, step)
        first_step.reached("features")
    else:
        with context.timer.on("input"):
            work = _on_images(context, phase_plan, step)
        first_step.reached("waiting for images")
    return work


def _on_images(context: TrainContext, phase_plan: PlannedPhase, step: Any) -> PhaseInputs:
    def of(split: str, paths: list[str], variables: dict) -> tuple[np.ndarray, np.ndarray]:
        title, shared = split if is_first_process() else "", (context.mesh, context.readers[split])
        return predict_dataset(
            context.compile_ahead.predict, variables, paths, context.config, *shared, title
        )

    return PhaseInputs(
        step,
        context.compile_ahead.batches(phase_plan),
        1,
        evaluate=partial(of, "val", context.splits["val"].paths),
        evaluate_sample=partial(of, SAMPLE, context.sampled.paths),
    )


def _on_features(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, step: Any
) -> PhaseInputs:
    config, compile_ahead, mesh, splits = (
        context.config,
        context.compile_ahead,
        context.mesh,
        context.splits,
    )
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    features, of_val = make_features(
        partial(compile_ahead.head_inputs, context.stop),
        variables,
        splits,
        phase_plan,
        config,
        mesh,
        context.readers,
        context.stop,
    )
    evaluated, images = with_sample(features, of_val, context.sample), len(splits["val"])
    train, val = (readable(splits[x].paths, context.readers[x]) for x in ("train", "val"))

    def logits(variables: dict) -> np.ndarray:
        return np.asarray(compile_ahead.classify(variables, evaluated))

    steps = phase_plan.chunk_steps(config.log_every)
    chunks = feature_chunks(
        train,
        phase_plan,
        first_step=int(state.step),
        steps=steps,
        rows=local_rows(config.data.batch_size, "data.batch_size"),
        seed=config.seed,
    )
    return PhaseInputs(
        step=lambda state, chunk: step(state, features, chunk),
        batches=to_devices(chunks, chunk_sharding(mesh)),
        steps=steps,
        evaluate=lambda variables: (logits(variables)[:images], val),
        evaluate_sample=lambda variables: (logits(variables)[images:], train[context.sample]),
    )
