"""Threads of Orbax that a failed save leaves.

Each waits up to 20 minutes for a signal that will not come, for example that a folder was made,
and the end of the interpreter waits for them.  Orbax has no public way to end them.
"""

import threading
import time
import warnings
from collections.abc import Collection
from contextlib import suppress

try:
    from orbax.checkpoint._src.futures.future import set_signals
except ImportError:  # another version: its threads end by themselves
    set_signals = None

SECONDS = 2.0  # for all threads to end


def end_threads(before: Collection[threading.Thread]) -> None:
    """Ends the threads that a failed save has started, so that the interpreter can end.

    They are cancelled first, so that none goes on with its part of the save.  Those that write to
    the disk end after the current call.

    Args:
        before: threads that ran before the save.
    """
    ended = []
    with warnings.catch_warnings():
        # What a cancelled thread was meant to run.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for thread in set(threading.enumerate()).difference(before):
            if set_signals is not None and hasattr(thread, "_receive_signals"):
                with suppress(AttributeError):  # another version
                    thread.cancel()  # pyright: ignore[reportAttributeAccessIssue]
                    signals = thread._receive_signals  # pyright: ignore[reportAttributeAccessIssue]
                    operation = thread._operation_id  # pyright: ignore[reportAttributeAccessIssue]
                    set_signals(signals, operation_id=operation)
                    ended.append(thread)
        until = time.monotonic() + SECONDS
        for thread in ended:
            threading.Thread.join(thread, max(until - time.monotonic(), 0))  # its own raises
