"""How a phase trains and is evaluated: on images, or on their features where these are kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlcls_jax.data.batch import to_devices
from mlcls_jax.data.loaders.threads import local_rows
from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.evaluation.inference import readable, score
from mlcls_jax.step.feature_step import chunk_sharding
from mlcls_jax.step.phases import PlannedPhase
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import is_first_process
from mlcls_jax.training.context import Session
from mlcls_jax.training.feature_cache import feature_chunks, make_features, with_sample
from mlcls_jax.training.timing import FirstStep

Evaluate = Callable[[dict], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Work:
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


def make_work(
    session: Session, planned: PlannedPhase, state: TrainState, first_step: FirstStep
) -> Work:
    """What the phase needs, on images or on their features, ready at the state's step.

    Raises:
        StoppedError: a stop was asked for before there was all; the state is as it was.
        ValueError: an image that cannot be read.
    """
    session.ahead.start(planned, session.origin)
    session.ahead.read(planned, int(state.step), session.readers["train"])
    with session.spent.on("compilation"):
        step, traced, compiled = session.ahead.step(planned, session.stop)  # never compiled again
    console.print(
        f"{planned.phase.name}: step traced in {traced:.1f} s, compiled in {compiled:.1f} s"
    )
    first_step.reached("waiting for the compiled step")
    if planned.phase.cached_views:
        with session.spent.on("features"):
            work = _on_features(session, planned, state, step)
        first_step.reached("features")
    else:
        with session.spent.on("input"):
            work = _on_images(session, planned, step)
        first_step.reached("waiting for images")
    return work


def _on_images(session: Session, planned: PlannedPhase, step: Any) -> Work:
    def of(split: str, paths: list[str], variables: dict) -> tuple[np.ndarray, np.ndarray]:
        title, shared = split if is_first_process() else "", (session.mesh, session.readers[split])
        return score(session.ahead.predict, variables, paths, session.config, *shared, title)

    return Work(
        step,
        session.ahead.batches(planned),
        1,
        evaluate=partial(of, "val", session.splits["val"].paths),
        evaluate_sample=partial(of, SAMPLE, session.sampled.paths),
    )


def _on_features(session: Session, planned: PlannedPhase, state: TrainState, step: Any) -> Work:
    config, ahead, mesh, splits = session.config, session.ahead, session.mesh, session.splits
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    features, of_val = make_features(
        partial(ahead.head_inputs, session.stop),
        variables,
        splits,
        planned,
        config,
        mesh,
        session.readers,
        session.stop,
    )
    evaluated, images = with_sample(features, of_val, session.sample), len(splits["val"])
    train, val = (readable(splits[x].paths, session.readers[x]) for x in ("train", "val"))

    def logits(variables: dict) -> np.ndarray:
        return np.asarray(ahead.classify(variables, evaluated))

    steps = planned.chunk_steps(config.log_every)
    chunks = feature_chunks(
        train,
        planned,
        first_step=int(state.step),
        steps=steps,
        rows=local_rows(config.data.batch_size, "data.batch_size"),
        seed=config.seed,
    )
    return Work(
        step=lambda state, chunk: step(state, features, chunk),
        batches=to_devices(chunks, chunk_sharding(mesh)),
        steps=steps,
        evaluate=lambda variables: (logits(variables)[:images], val),
        evaluate_sample=lambda variables: (logits(variables)[images:], train[session.sample]),
    )
