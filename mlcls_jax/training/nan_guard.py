"""What happens at a loss, gradient or parameter that is not finite: stop, or skip the step."""

import math

import jax
import numpy as np

from mlcls_jax.data.loaders.loader import batch_filenames
from mlcls_jax.system.console import print_warning
from mlcls_jax.training.context import TrainContext


def check_losses(context: TrainContext, calls: list[tuple[range, dict]]) -> None:
    """Waits for calls of the step, logs the last step, and checks every loss and gradient norm.

    Args:
        context: of the run.
        calls: the steps of each call and its metrics: one value, or one for each step.  Values
            beyond the last step mean nothing.

    Raises:
        FloatingPointError: a number that is not finite, if train.on_nan is "stop" or after too
            many skipped steps; names step and images.
    """
    if not calls:
        return
    services = context.services
    steps_of_calls, metrics = zip(*calls, strict=True)
    logged: dict[str, float] = {}
    for steps, fetched in zip(steps_of_calls, jax.device_get(metrics), strict=True):
        for i, step in enumerate(steps):
            values = {name: float(np.atleast_1d(value)[i]) for name, value in fetched.items()}
            if values.pop("skipped", False):
                _note_skipped(context, step, _not_finite(values))
                continue
            if problem := _not_finite(values):
                way_out = "set --config.train.on_nan=skip to skip such steps"
                raise FloatingPointError(_explain(context, step, problem, way_out))
            logged = values
    services.checkpoints.check()
    logged = {f"step/{name}": value for name, value in logged.items()}
    if context.inputs.step.skip_nan:
        logged["step/skipped"] = len(services.skipped_steps)
    services.log.write_scalars(steps_of_calls[-1].stop, logged)


def check_finite(context: TrainContext, step: int, finite: bool) -> None:
    """Checks a state: its last update may have spoilt the parameters without a loss that shows it.

    Args:
        context: of the run.
        step: of the state.
        finite: whether everything that was looked at is finite.

    Raises:
        FloatingPointError: it is not; names the step and its images.
    """
    if not finite:
        text = _explain(context, step - 1, "an updated parameter is not finite")
        raise FloatingPointError(text)


def _not_finite(values: dict[str, float]) -> str:
    """Returns a text such as "grad_norm is inf"; "" if all values are finite."""
    found = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return " and ".join(found)


def _note_skipped(context: TrainContext, step: int, problem: str) -> None:
    skipped, limit = context.services.skipped_steps, context.inputs.config.train.max_skipped
    skipped.append(step)
    if len(skipped) > limit:
        problem = (
            f"{len(skipped)} steps were skipped, more than train.max_skipped={limit}: {problem}"
        )
        raise FloatingPointError(_explain(context, step, problem))
    print_warning(
        f"{problem} at step {step + 1}, which is skipped ({len(skipped)} since the start, "
        f"train.max_skipped={limit}); the batch's images: {', '.join(_images(context, step))}"
    )


def _explain(context: TrainContext, step: int, problem: str, way_out: str = "") -> str:
    saved = context.services.checkpoints.latest()
    kept = (
        "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} remains"
    )
    way_out = f"{way_out}, or " if way_out else "or "
    return (
        f"{problem} at step {step + 1}; {kept}. Lower the learning rates of the phase in a new "
        f"--workdir, {way_out}"
        f"look at the batch's images: {', '.join(_images(context, step))}"
    )


def _images(context: TrainContext, step: int) -> list[str]:
    spec = context.inputs.step
    return batch_filenames(context.inputs.splits["train"], step, spec.batch_size, spec.seed)
