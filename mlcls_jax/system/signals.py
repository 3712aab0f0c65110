"""Requests to stop or to save during training, decided identically in all processes.

A signal or a timer belongs to one process, but a step and a save involve all of them.  With several
processes, both are therefore decided collectively, at the same steps in each process.

`multihost_utils.reached_preemption_sync_point` does not fit: it compares the step for equality with
a step one beyond the last one asked for.  A call that takes several steps jumps over that step, and
Orbax asks for older steps from its own thread in between.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
import numpy as np
from jax.experimental import multihost_utils

from mlcls_jax.system.console import console
from mlcls_jax.system.early_signals import STOPPING, exit_code

_SIGHUP = getattr(signal, "SIGHUP", None)
# nohup ignores SIGHUP, which then stays ignored.
_SIGNALS = [n for n in STOPPING if n != _SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


class Terminated(BaseException):
    """A signal other than Ctrl-C arrived before there was anything to save.

    It derives from BaseException, so that no handler of ordinary errors catches it.

    code: the exit code of the command.
    """

    def __init__(self, number: int):
        name = signal.Signals(number).name
        super().__init__(f"{name}: stopped before the first step; run the same command to continue")
        self.code = exit_code(number)


class Stop:
    """A request to stop training, and the signal that made it."""

    def __init__(self):
        self._asked = 0  # signal number, in this process
        self._decided = 0  # signal number, agreed by all processes

    def is_set(self) -> bool:
        """Returns whether training stops; the same in all processes."""
        return bool(self._decided)

    def set(self, number: int = signal.SIGINT) -> None:
        """Requests a stop: immediately, or with several processes at the next `decide`.

        The first request counts: SLURM sends SIGTERM after the signal that it was asked to send.

        Args:
            number: signal that requests it.
        """
        self._asked = self._asked or number
        if jax.process_count() == 1:
            self._decided = self._asked

    def decide(self, save: bool = False) -> bool:
        """Agrees among all processes on whether to stop and whether to save.

        All processes must call it at the same step.  It gathers two integers from each process,
        and does nothing with a single process.

        Args:
            save: whether a save is due; the value of the first process is used.

        Returns:
            Whether to save.
        """
        if jax.process_count() == 1:
            return save
        own = np.asarray([self._asked, save and jax.process_index() == 0], np.int32)
        agreed = np.max(multihost_utils.process_allgather(own), axis=0)
        self._decided = int(agreed[0])
        return bool(agreed[1])

    @property
    def signal(self) -> int:
        """Number of the signal that requested the stop, the same in all processes; 0 for none."""
        return self._decided


class SaveClock:
    """Timer for saves between two evaluations."""

    def __init__(self, minutes: float):
        """Starts the timer.

        Args:
            minutes: interval since the last save of any kind; 0 disables the timer.
        """
        self._seconds, self._last = 60 * minutes, time.monotonic()

    def is_due(self) -> bool:
        """Returns whether the interval has passed since the last save began."""
        return 0 < self._seconds <= time.monotonic() - self._last

    def restart(self) -> None:
        """Restarts the interval because a save began."""
        self._last = time.monotonic()


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Sets `stop` on any of the signals within the block; a second Ctrl-C interrupts.

    It replaces the SIGTERM handler that JAX installs when there are several processes.
    """

    def request(number: int, _) -> None:
        stop.set(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        hint = "; press Ctrl-C again to stop immediately" if number == signal.SIGINT else ""
        with suppress(RuntimeError):  # the signal may have interrupted another print
            console.print(f"{signal.Signals(number).name}: stopping after this step{hint}.")

    with _handlers(request, *_SIGNALS):
        yield


@contextmanager
def leave_on_sigterm() -> Iterator[None]:
    """Raises Terminated on any of the signals but Ctrl-C within the block."""

    def leave(number: int, _) -> None:
        raise Terminated(number)

    with _handlers(leave, *(number for number in _SIGNALS if number != signal.SIGINT)):
        yield


@contextmanager
def _handlers(handler, *numbers: int) -> Iterator[None]:
    """Installs the handler within the block; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handlers = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in previous_handlers.items():
            # None means that the previous handler was not installed by Python.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
