"""What the commands share when they run: the devices, and errors of a command as one line."""

import argparse
import dataclasses
import os
import sys
import threading
import warnings
from collections.abc import Callable
from logging import getLogger
from traceback import print_exc
from typing import NoReturn

from mlcls_jax.system import memory_limit

if memory_limit.limit() is not None:
    memory_limit.check()  # before JAX starts, which would go on without an end

import jax
from absl import logging

from mlcls_jax.config import Data, Distributed
from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.system import devices, distributed, early_signals, threads
from mlcls_jax.system.command_line import USER_ERROR, error_line, keeps_traceback
from mlcls_jax.system.console import console, one_line
from mlcls_jax.system.early_signals import INTERRUPTED
from mlcls_jax.system.output import Output, output_of_command, tell
from mlcls_jax.system.signals import Terminated

FAILED = 1
# Errors that are printed as one line. All others are bugs and keep their traceback.
ONE_LINE_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    MemoryError,
    jax.errors.JaxRuntimeError,
)


def start_devices(options: argparse.Namespace, limits: Distributed) -> None:
    """Starts the devices, and connects to the other processes of the run; only the first prints.

    Args:
        options: from a parser with `add_process_options`.
        limits: the section of the config with the time-outs.

    Raises:
        ValueError: see distributed.start.
    """
    distributed.start(
        options.coordinator,
        options.processes,
        options.process,
        options.cluster,
        limits.timeout,
        limits.start_timeout,
    )
    console.quiet = not devices.is_first_process()


def with_on_bad_image(data: Data, given: str) -> Data:
    """Returns the data config with the value of --on-bad-image, if one was given."""
    return dataclasses.replace(data, on_bad_image=given or data.on_bad_image)


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that a device, or its compiler, ran out of memory."""
    text = one_line(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


def run(main: Callable[[list[str]], int], is_log: bool = False) -> None:
    """Runs a command and exits with its exit code.

    Errors that the user can fix become one line on stderr, with exit code 2. With
    MLCLS_JAX_TRACEBACK=1 in the environment, they keep their traceback.

    Args:
        main: the command; takes its arguments and returns its exit code.
        is_log: whether stdout is only a log, whose loss does not matter; else it is a result, and
            the exit code is 2 if it is lost.
    """
    _quiet_threads()
    early_signals.stop_leaving()
    with output_of_command(is_log) as output:
        _run(main, output)


def _run(main: Callable[[list[str]], int], output: Output) -> None:
    try:
        with image_libraries():
            code = main(sys.argv[1:]) or output.exit_code()
        if threads.is_busy() and not distributed.is_multiprocess():
            _leave(code)  # the threads have no result that is still needed
        if threads.is_left():
            distributed.disconnect()
            _leave(code)
        sys.exit(code)
    except Terminated as stopped:
        _stop(str(stopped), stopped.code)
    except KeyboardInterrupt:
        _stop("stopped", INTERRUPTED)
    except Exception as error:
        is_known = isinstance(error, ONE_LINE_ERRORS) or memory_limit.explain(error)
        traced = keeps_traceback() or not is_known
        if distributed.is_multiprocess():
            # An exit by exception would wait for the other processes, and they for this one.
            if traced:
                print_exc()
            _end_with_others(error)
        if traced and not threads.is_busy() and not threads.is_left():
            raise
        if traced:
            print_exc()
            _leave(FAILED)
        tell(f"error: {_error_line(error)}")
        _leave(_exit_code(error))


def _stop(text: str, code: int) -> NoReturn:
    """Ends a command that a signal has stopped, and the other processes of the run."""
    if distributed.is_multiprocess():
        distributed.end(text, code)
    tell(text)
    _leave(code)


def _end_with_others(error: Exception) -> NoReturn:
    """Ends all processes of the run with the error of this one."""
    if distributed.is_lost(error):
        distributed.end_lost()
    distributed.end(_error_line(error), _exit_code(error))


def _exit_code(error: Exception) -> int:
    is_users = isinstance(error, ValueError | OSError) or memory_limit.explain(error)
    return USER_ERROR if is_users else FAILED


def _quiet_threads() -> None:
    """Silences errors in background threads, because the main thread raises them again."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs the errors that it raises
    getLogger("asyncio").setLevel("CRITICAL")
    # What the threads of a failed save were meant to run.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    print_unraisable = sys.unraisablehook

    def print_in_main_thread(unraisable) -> None:
        if threading.current_thread() is threading.main_thread():
            print_unraisable(unraisable)

    sys.unraisablehook = print_in_main_thread
    threading.excepthook = lambda _: None


def _leave(code: int) -> NoReturn:
    """Exits, without waiting for threads such as a save or a compilation."""
    if code == INTERRUPTED or threads.is_busy() or threads.is_left():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _error_line(error: BaseException) -> str:
    """Returns the line that a command prints for an error."""
    if reason := memory_limit.explain(error):
        return reason
    if isinstance(error, MemoryError):
        return error_line(error, 300, "; free memory, or raise its limit (ulimit -v)")
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return error_line(error)
    hint = "; lower data.batch_size, data.eval_batch_size or model.image_size"
    return error_line(error, 300, hint if out_of_memory(error) else "")
