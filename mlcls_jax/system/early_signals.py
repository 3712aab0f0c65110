"""Signal handling while a command still imports its modules, before any work could be lost."""

import os
import signal
import sys

INTERRUPTED = 130  # exit code of a shell after Ctrl-C


def leave_on_signals(*numbers: signal.Signals) -> None:
    """Makes SIGTERM exit with code 0 and Ctrl-C with code 130, each with a one-line message.

    This applies until `stop_leaving`.  A signal that is ignored stays ignored, as in a background
    job of a script.

    Args:
        numbers: only these signals; none for both.
    """
    for number in numbers or (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def stop_leaving() -> None:
    """Restores Python's defaults: Ctrl-C raises KeyboardInterrupt and SIGTERM ends the process.

    A handler that was installed since `leave_on_signals` is kept.
    """
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is _leave:
            signal.signal(number, default)


def _leave(number: int, _) -> None:
    name = signal.Signals(number).name
    print(f"{name}: stopped before any work was done", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED if number == signal.SIGINT else 0)
