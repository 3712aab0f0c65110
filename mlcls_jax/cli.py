"""What the entry points share: reading a config, and errors as one line."""

import argparse
import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from traceback import print_exc
from typing import NoReturn

import jax
from absl import logging

from mlcls_jax.config import Config, Data
from mlcls_jax.run.tta import NAMES
from mlcls_jax.system import devices, distributed, early_signals, threads
from mlcls_jax.system.console import console, escaped, one_line
from mlcls_jax.system.early_signals import INTERRUPTED
from mlcls_jax.system.files import check_writable
from mlcls_jax.system.signals import Terminated

FAILED, USER_ERROR = 1, 2
LONGEST = 2000  # characters of an error's line: what it quotes from a file may be of any length
# What is said in one line; anything else is a mistake of ours, with a traceback.
EXPLAINED = (ValueError, OSError, FloatingPointError, jax.errors.JaxRuntimeError)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """What `start_devices` needs to know."""
    several = parser.add_argument_group("several processes")
    several.add_argument("--coordinator", default="", help="host:port of process 0")
    several.add_argument("--processes", type=int, default=0, help="how many there are")
    several.add_argument("--process", type=int, default=-1, help="which one this is, from 0")
    several.add_argument(
        "--cluster", action="store_true", help="find all three: SLURM, TPU pods, Kubernetes"
    )


def start_devices(options: argparse.Namespace, config: Config) -> None:
    """Starts the devices, with the other processes that the options name; only the first prints.

    Raises:
        ValueError: as distributed.start does.
    """
    distributed.start(
        options.coordinator,
        options.processes,
        options.process,
        options.cluster,
        config.distributed.timeout,
        config.distributed.start_timeout,
    )
    console.quiet = not devices.is_first_process()


def add_on_bad_image(parser: argparse.ArgumentParser) -> None:
    """What an evaluation does at an image that cannot be read."""
    parser.add_argument(
        "--on-bad-image",
        default="",
        choices=("error", "skip"),
        help="at an image that cannot be read (default: as the run's data.on_bad_image)",
    )


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Over which views of an image a prediction is the mean."""
    parser.add_argument(
        "--tta",
        default="none",
        choices=NAMES,
        help="test-time augmentation: flip averages an image and its mirror image, crops five "
        "crops and theirs, at so many times the cost (default none)",
    )


def check_folder(option: str, file: str) -> None:
    """ValueError where the file that an option names could not be written; "" is none."""
    if not file:
        return
    folder = Path(file).absolute().parent
    if not folder.is_dir():
        raise ValueError(f"--{option} {file}: its folder does not exist; make it first")
    check_writable(folder)


def with_on_bad_image(data: Data, given: str) -> Data:
    """The run's data config with what `add_on_bad_image`'s option says, if it was given."""
    return dataclasses.replace(data, on_bad_image=given or data.on_bad_image)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the compiler for it, had not enough memory."""
    text = one_line(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


def run(main: Callable[[list[str]], int]) -> None:
    """Runs an entry point; what the user can mend becomes one line on stderr and exit code 2.

    With MLCLS_JAX_TRACEBACK=1 in the environment, errors keep their traceback.
    """
    _quiet_threads()
    early_signals.stop_leaving()
    try:
        code = main(sys.argv[1:])
        if threads.is_busy() and not distributed.is_multiprocess():
            _leave(code)  # nobody needs what the threads do; several processes end together
        sys.exit(code)
    except Terminated as stopped:
        print(stopped, file=sys.stderr)
        _leave(0)
    except KeyboardInterrupt:
        if distributed.is_multiprocess():
            distributed.end("stopped", INTERRUPTED)
        print("stopped", file=sys.stderr)
        _leave(INTERRUPTED)
    except Exception as error:
        traced = os.environ.get("MLCLS_JAX_TRACEBACK") or not isinstance(error, EXPLAINED)
        if (
            distributed.is_multiprocess()
        ):  # an exit by an exception would wait for the others, and they for it
            if traced:
                print_exc()
            _end_with_others(error)
        if traced:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        _leave(_code(error))


def _end_with_others(error: Exception) -> NoReturn:
    if distributed.is_lost(error):
        distributed.end_lost()
    distributed.end(_explain(error), _code(error))


def _code(error: Exception) -> int:
    return USER_ERROR if isinstance(error, ValueError | OSError) else FAILED


def _quiet_threads() -> None:
    """Keeps errors of background writers, which the main thread raises again, to that one time."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, and more
    getLogger("asyncio").setLevel("CRITICAL")
    printed = sys.unraisablehook

    def only_of_main_thread(unraisable) -> None:
        if threading.current_thread() is threading.main_thread():
            printed(unraisable)

    sys.unraisablehook = only_of_main_thread
    threading.excepthook = lambda _: None


def _leave(code: int) -> NoReturn:
    """Exits; at once where threads (a save, a compilation) would keep it."""
    if code == INTERRUPTED or threads.is_busy():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """Its errors quote arguments, which may be the names of any files."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


def _explain(error: BaseException) -> str:
    """One line without commands to the terminal, of a length that somebody reads."""
    text = one_line(error)
    if isinstance(error, jax.errors.JaxRuntimeError):
        text = text[:300]
        if out_of_memory(error):
            text += "; lower data.batch_size, data.eval_batch_size or model.image_size"
    text = escaped(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
