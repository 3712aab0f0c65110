"""Signals to a run at chosen batches, as a user or a scheduler sends them."""

import os
from collections.abc import Iterable

from mlcls_jax.training import compile_ahead


def send_at_batches(monkeypatch, signals: Iterable[tuple[int, int]]) -> None:
    """Sends this process signals when training takes certain batches.

    Args:
        monkeypatch: the fixture.
        signals: number of a batch, counted over all calls of `train`, and signal; in order.
    """
    to_devices, batches, signals = compile_ahead.to_devices, 0, iter(signals)
    pending = next(signals, None)

    def to_devices_with_signals(*args):
        nonlocal batches, pending
        for batch in to_devices(*args):
            batches += 1
            if pending and batches == pending[0]:
                number, pending = pending[1], next(signals, None)
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(compile_ahead, "to_devices", to_devices_with_signals)
