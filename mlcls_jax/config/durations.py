"""Converts durations such as "5 epochs" to steps."""

import re

LONGEST = 1e9  # epochs or steps


def duration_in_steps(duration: str, images: int, batch_size: int, times: int = 1) -> int:
    """Steps of `times` durations such as "5 epochs", "0.5 epochs" or "300 steps" in a row.

    An epoch is as many steps as it takes to draw each training image once, rounded to whole
    steps at the end of the stretch, not of each epoch.  More than nothing is at least one step.

    Raises:
        ValueError: not a number and a unit, or more of it than anybody means.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) (epoch|step)s?", duration)
    if not match or (match[2] == "step" and "." in match[1]):
        raise ValueError(f'{duration!r} is no duration; write it like "5 epochs" or "300 steps"')
    if float(match[1]) > LONGEST:
        raise ValueError(f"{duration!r} is longer than any training")
    amount = float(match[1]) * times
    if match[2] == "epoch":
        amount = amount * images / batch_size
    return max(1, round(amount)) if amount else 0
