"""What asks a run to stop or to save while it trains, decided alike by all of its processes.

A signal and a clock are of one process, while a step and a save are of all.  So with several
processes both are decided at moments that are the same steps for each of them.
(`multihost_utils.reached_preemption_sync_point` would find a common step as well, but it compares
for equality with a step that is one further than the last one asked for: a call that takes several
steps jumps over it, and Orbax asks for older ones from its thread in between.)
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

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup does
    _SIGNALS.append(signal.SIGHUP)  # the terminal has gone


class Terminated(BaseException):
    """SIGTERM or SIGHUP before there is anything to save; no Exception, lest something catch it."""


class Stop:
    """Whether a run was asked to stop, and by which signal."""

    def __init__(self):
        self._asked = 0  # of this process
        self._decided = 0  # of all processes

    def is_set(self) -> bool:
        """Whether it stops: the same on all processes."""
        return bool(self._decided)

    def set(self, number: int = signal.SIGINT) -> None:
        """Asks for a stop: at once, or with several processes at the next `decide`."""
        self._asked = number
        if jax.process_count() == 1:
            self._decided = number

    def decide(self, save: bool = False) -> bool:
        """Settles, for all processes alike, whether to stop and whether to save.

        With one process this costs nothing; with several, a sum over two numbers of each, for
        which each must call it at the same step.

        Args:
            save: whether it is time to; that of the first process counts.

        Returns:
            Whether to save.
        """
        if jax.process_count() == 1:
            return save
        own = np.asarray([self._asked, save and jax.process_index() == 0], np.int32)
        of_all = np.max(multihost_utils.process_allgather(own), axis=0)
        self._decided = int(of_all[0])
        return bool(of_all[1])

    @property
    def by_terminal(self) -> bool:
        """Whether Ctrl-C asked for it, after which a command fails; SIGTERM ends one in order."""
        return self._decided == signal.SIGINT


class SaveClock:
    """When the time has come for a save between two evaluations."""

    def __init__(self, minutes: float):
        """minutes: between saves of any kind; 0: never."""
        self._seconds, self._last = 60 * minutes, time.monotonic()

    def is_due(self) -> bool:
        """Whether the last save was begun that long ago."""
        return 0 < self._seconds <= time.monotonic() - self._last

    def restart(self) -> None:
        """Notes that a save was begun."""
        self._last = time.monotonic()


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP set `stop`; the second Ctrl-C interrupts at once.

    In place of JAX's own handler of SIGTERM, which a run of several processes has.
    """

    def request(number: int, _) -> None:
        stop.set(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        with suppress(RuntimeError):  # it may have interrupted another print, which is no loss
            console.print(f"{signal.Signals(number).name}: stopping after this step{again}.")

    with _handlers(request, *_SIGNALS):
        yield


@contextmanager
def leave_on_sigterm() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated, as Ctrl-C raises KeyboardInterrupt."""

    def leave(number: int, _) -> None:
        name = signal.Signals(number).name
        raise Terminated(f"{name}: stopped before a step was taken; the same command goes on.")

    with _handlers(leave, *(number for number in _SIGNALS if number != signal.SIGINT)):
        yield


@contextmanager
def _handlers(handler, *numbers: int) -> Iterator[None]:
    """Handles the signals so; Python lets the main thread alone do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, of in previous.items():
            signal.signal(number, signal.SIG_DFL if of is None else of)  # None: not Python's
