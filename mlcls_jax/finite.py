"""What stops a run whose numbers are no longer finite."""

import math

import jax
import numpy as np

from mlcls_jax.data.pipeline import batch_filenames
from mlcls_jax.session import Session


def check_losses(session: Session, calls: list[tuple[range, dict]]) -> None:
    """Waits for the calls, logs the last step, and stops the run at a loss that is not finite.

    Args:
        session: of the run.
        calls: the steps of each, and its metrics: one value, or one for each step and more, which
            mean nothing.
    """
    if not calls:
        return
    numbers, metrics = zip(*calls, strict=True)
    values: dict[str, float] = {}
    for taken, fetched in zip(numbers, jax.device_get(metrics), strict=True):
        for at, number in enumerate(taken):
            values = {name: float(np.atleast_1d(of)[at]) for name, of in fetched.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    raise FloatingPointError(_not_finite(session, number, f"{name} is {value}"))
    session.checkpoints.check()
    session.log.write_scalars(
        numbers[-1].stop, {f"step/{key}": value for key, value in values.items()}
    )


def check_finite(session: Session, step: int, finite) -> None:
    """FloatingPointError unless `finite`: the last update may have spoilt the parameters, with no
    loss that shows it."""
    if not finite:
        text = _not_finite(session, step - 1, "an updated parameter is not finite")
        raise FloatingPointError(text)


def _not_finite(session: Session, step: int, what: str) -> str:
    config = session.config
    names = batch_filenames(session.splits["train"], step, config.data.batch_size, config.seed)
    saved = session.checkpoints.latest()
    kept = (
        "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} stays"
    )
    return (
        f"{what} at step {step + 1}; {kept}. Lower the learning rates of the phase, or "
        f"look at the batch's pictures: {', '.join(names)}"
    )
