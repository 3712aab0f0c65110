"""What a phase trains on and is evaluated with: images, or cached features of a frozen backbone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.loaders.loader import local_rows
from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.evaluation.inference import pooled, predict_dataset, readable
from mlcls_jax.run.data_card import show_near_duplicates
from mlcls_jax.step.feature_step import chunk_sharding
from mlcls_jax.step.network import head_input
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.feature_cache import feature_chunks, make_features, with_sample
from mlcls_jax.training.timing import StartupTimer

# {params, batch_stats} -> logits, float32 [image, class], and readable images, bool [image].
Evaluate = Callable[[dict], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class PhaseInputs:
    """The compiled step of a phase, its batches, and how its images are scored.

    Attributes:
        step: compiled, (state, item of `batches`) -> (state, metrics).
        batches: on the devices, from the state's step on.
        steps_per_call: steps that one call of `step` takes at most; fewer only before an
            evaluation.
        evaluate: scores the validation images.
        evaluate_sample: scores the sample of training images, which must not be empty.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, dict]]
    batches: Iterator[Any]
    steps_per_call: int
    evaluate: Evaluate
    evaluate_sample: Evaluate


def make_phase_inputs(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, startup: StartupTimer
) -> PhaseInputs:
    """Returns what a phase trains on, ready at the state's step.

    Args:
        context: of the run.
        phase_plan: the phase.
        state: to start or continue from.
        startup: is told what the start of the run waited for.

    Raises:
        StoppedError: a stop was requested first; the state is unchanged.
        ValueError: an image cannot be read.
    """
    inputs, services, name = context.inputs, context.services, phase_plan.phase.name
    services.compile_ahead.start(phase_plan, inputs.pretrained_config)
    services.compile_ahead.read(phase_plan, int(state.step), inputs.readers["train"])
    with services.timer.measure("compilation"):
        step, traced, compiled = services.compile_ahead.step(
            phase_plan, services.stop, lambda: console.print(f"{name}: compiling the step")
        )
    console.print(f"{name}: step traced in {traced:.1f} s, compiled in {compiled:.1f} s")
    startup.reached("waiting for the compiled step")
    if phase_plan.phase.cached_views:
        with services.timer.measure("features"):
            phase_inputs = _on_features(context, phase_plan, state, step)
        startup.reached("features")
    else:
        with services.timer.measure("input"):
            phase_inputs = _on_images(context, phase_plan, step)
        startup.reached("waiting for images")
    return phase_inputs


def _on_images(context: TrainContext, phase_plan: PlannedPhase, step: Any) -> PhaseInputs:
    inputs, compile_ahead = context.inputs, context.services.compile_ahead

    def evaluate(split: str, paths: list[str], variables: dict) -> tuple[np.ndarray, np.ndarray]:
        return predict_dataset(
            compile_ahead.predict,
            variables,
            paths,
            inputs.evaluation,
            inputs.mesh,
            inputs.readers[split],
            title=split if is_first_process() else "",
        )

    return PhaseInputs(
        step=step,
        batches=compile_ahead.batches(phase_plan),
        steps_per_call=1,
        evaluate=partial(evaluate, "val", inputs.splits["val"].paths),
        evaluate_sample=partial(evaluate, SAMPLE, inputs.sampled.paths),
    )


def _on_features(
    context: TrainContext, phase_plan: PlannedPhase, state: TrainState, step: Any
) -> PhaseInputs:
    inputs, services = context.inputs, context.services
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    features, val_features = make_features(
        partial(services.compile_ahead.head_inputs, services.stop),
        variables,
        head_input(inputs.step.network, variables),
        inputs.splits,
        phase_plan,
        inputs.evaluation,
        inputs.mesh,
        inputs.readers,
        services.stop,
        inputs.pool if phase_plan.start == 0 else None,
    )
    evaluated = with_sample(features, val_features, inputs.sample)
    val_size = len(inputs.splits["val"])
    train_readable, val_readable = (
        readable(inputs.splits[split].paths, inputs.readers["train"]) for split in ("train", "val")
    )

    is_new = int(state.step) == phase_plan.start == 0 and inputs.pool is None
    if is_new and inputs.config.model.weights and is_first_process():
        found, names = {}, {}
        for split, values, good in (
            ("train", features.inputs[:, 0], train_readable),
            ("val", val_features, val_readable),
        ):
            found[split] = pooled(values)[good]
            names[split] = inputs.splits[split].take(np.flatnonzero(good)).filenames
        show_near_duplicates(inputs.workdir, found, names)

    def logits(variables: dict) -> np.ndarray:
        return np.asarray(services.compile_ahead.classify(variables, evaluated))

    steps_per_call = phase_plan.chunk_steps(inputs.step.log_every)
    chunks = feature_chunks(
        train_readable,
        phase_plan,
        first_step=int(state.step),
        steps=steps_per_call,
        rows=local_rows(inputs.step.batch_size, "data.batch_size"),
        seed=inputs.step.seed,
        repeats=inputs.splits["train"].repeats,
    )
    sample_readable = train_readable[inputs.sample]
    return PhaseInputs(
        step=lambda state, chunk: step(state, features, chunk),
        batches=to_devices(chunks, chunk_sharding(inputs.mesh)),
        steps_per_call=steps_per_call,
        evaluate=lambda variables: (logits(variables)[:val_size], val_readable),
        evaluate_sample=lambda variables: (logits(variables)[val_size:], sample_readable),
    )
