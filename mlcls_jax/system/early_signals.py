"""Signals in the seconds in which a command imports what it needs: nothing is there to lose."""

import os
import signal
import sys

INTERRUPTED = 130  # exit code, as of a shell


def leave_on_signals() -> None:
    """SIGTERM ends the process with 0, Ctrl-C with 130, each with a line; until `stop_leaving`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a job in the background of a script
            signal.signal(number, _leave)


def stop_leaving() -> None:
    """Ctrl-C raises KeyboardInterrupt again, and SIGTERM ends the process, unless set otherwise."""
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is _leave:
            signal.signal(number, usual)


def _leave(number: int, _) -> None:
    print(f"{signal.Signals(number).name}: stopped before the start", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED if number == signal.SIGINT else 0)
