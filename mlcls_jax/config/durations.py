"""Converts durations such as "5 epochs" to steps."""

import re

LONGEST = 1_000_000_000  # epochs or steps


def duration_in_steps(duration: str, images: int, batch_size: int, times: int = 1) -> int:
    """Returns the number of steps of a duration, repeated `times` times.

    An epoch takes images / batch_size steps.  Only the total is rounded to whole steps, so that
    repeated durations do not drift.  A duration above 0 has at least one step.

    Args:
        duration: a number and a unit, such as "5 epochs", "0.5 epochs" or "300 steps".
        images: number of training images.
        batch_size: images per step, over all devices.
        times: how many times the duration is repeated.

    Raises:
        ValueError: the text is malformed, or the duration is longer than LONGEST.

    >>> duration_in_steps("300 steps", images=105, batch_size=10)
    300
    >>> duration_in_steps("1 epoch", images=105, batch_size=10, times=2)
    21
    >>> duration_in_steps("0.5 epochs", images=3, batch_size=64)
    1
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) (epoch|step)s?", duration)
    if not match or (match[2] == "step" and "." in match[1]):
        raise ValueError(f'{duration!r} is not a duration; write it as "5 epochs" or "300 steps"')
    if float(match[1]) > LONGEST:
        raise ValueError(f"{duration!r} is too long; use at most {LONGEST:,} {match[2]}s")
    amount = float(match[1]) * times
    if match[2] == "epoch":
        amount = amount * images / batch_size
    return max(1, round(amount)) if amount else 0
