"""What a run does whose numbers are no longer finite: it stops, or leaves a step out."""

import math

import jax
import numpy as np

from mlcls_jax.data.loaders.threads import batch_filenames
from mlcls_jax.system.console import print_warning
from mlcls_jax.training.context import TrainContext


def check_losses(context: TrainContext, calls: list[tuple[range, dict]]) -> None:
    """Waits for the calls, logs the last step that was taken, and stops the run, or tells of a
    skipped step, at a loss or a gradient norm that is not finite.

    Args:
        context: of the run.
        calls: the steps of each, and its metrics: one value, or one for each step and more, which
            mean nothing.

    Raises:
        FloatingPointError: such a number, with train.on_nan="stop" or once too often; names step
            and images.
    """
    if not calls:
        return
    numbers, metrics = zip(*calls, strict=True)
    logged: dict[str, float] = {}
    for taken, fetched in zip(numbers, jax.device_get(metrics), strict=True):
        for at, number in enumerate(taken):
            values = {name: float(np.atleast_1d(of)[at]) for name, of in fetched.items()}
            if values.pop("skipped", False):
                _note_skipped(context, number, _describe(values))
                continue
            if what := _describe(values):
                way_out = "set --config.train.on_nan=skip to leave such steps out"
                raise FloatingPointError(_not_finite(context, number, what, way_out))
            logged = values
    context.checkpoints.check()
    logged = {f"step/{key}": value for key, value in logged.items()}
    if context.config.train.on_nan == "skip":
        logged["step/skipped"] = len(context.skipped)
    context.log.write_scalars(numbers[-1].stop, logged)


def check_finite(context: TrainContext, step: int, finite) -> None:
    """FloatingPointError unless `finite`: the last update may have spoilt the parameters, with no
    loss that shows it."""
    if not finite:
        text = _not_finite(context, step - 1, "an updated parameter is not finite")
        raise FloatingPointError(text)


def _describe(values: dict[str, float]) -> str:
    """Such as "grad_norm is inf"; "" where all are finite."""
    found = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return " and ".join(found)


def _note_skipped(context: TrainContext, step: int, what: str) -> None:
    context.skipped.append(step)
    count, most = len(context.skipped), context.config.train.max_skipped
    if count > most:
        what = f"{count} steps were skipped, more than train.max_skipped={most}: {what}"
        raise FloatingPointError(_not_finite(context, step, what))
    print_warning(
        f"{what} at step {step + 1}, which is skipped ({count} since the start, train.max_skipped="
        f"{most}); the batch's images: {', '.join(_images(context, step))}"
    )


def _not_finite(context: TrainContext, step: int, what: str, way_out: str = "") -> str:
    saved = context.checkpoints.latest()
    kept = (
        "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} stays"
    )
    way_out = f"{way_out}, or " if way_out else "or "
    return (
        f"{what} at step {step + 1}; {kept}. Lower the learning rates of the phase in a new "
        f"--workdir, {way_out}"
        f"look at the batch's images: {', '.join(_images(context, step))}"
    )


def _images(context: TrainContext, step: int) -> list[str]:
    config = context.config
    return batch_filenames(context.splits["train"], step, config.data.batch_size, config.seed)
