"""Signals that stop a command, its exit codes, and signals while it still imports its modules."""

import os
import signal
import sys

# SIGHUP means that the terminal was closed, and SLURM's --signal can send SIGUSR1; Windows has
# neither.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


def exit_code(number: int) -> int:
    """Returns the exit code of a command that a signal has stopped, as a shell would report it.

    >>> exit_code(signal.SIGTERM)
    143
    """
    return 128 + number


INTERRUPTED = exit_code(signal.SIGINT)


def leave_on_signals() -> None:
    """Makes each of the signals exit with its exit code and a one-line message.

    This applies until `stop_leaving`.  A signal that is ignored stays ignored, as in a background
    job of a script or with nohup.
    """
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def stop_leaving() -> None:
    """Restores Python's defaults: Ctrl-C raises KeyboardInterrupt, the others end the process.

    A handler that was installed since `leave_on_signals` is kept.
    """
    for number in STOPPING:
        if signal.getsignal(number) is _leave:
            is_ctrl_c = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)


def _leave(number: int, _) -> None:
    try:
        name = signal.Signals(number).name
        print(f"{name}: stopped before any work was done", file=sys.stderr, flush=True)
    finally:  # stderr may be a full disk
        os._exit(exit_code(number))
