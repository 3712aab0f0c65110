"""Runs a command that needs no devices, with errors as one line.

Nothing here imports JAX, so that a command without a network answers at once.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mlcls_jax.system import early_signals, memory_limit
from mlcls_jax.system.console import escaped, one_line
from mlcls_jax.system.output import output_of_command, tell

USER_ERROR = 2
LONGEST = 2000  # characters of an error message, because quotes from a file can be of any length


def error_line(error: BaseException, limit: int | None = None, hint: str = "") -> str:
    """Returns one line of at most about LONGEST characters, without terminal commands.

    Args:
        error: any error.
        limit: characters of its message at most; None for LONGEST.
        hint: text that follows the message.
    """
    text = escaped(one_line(error, limit) + hint)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def keeps_traceback() -> bool:
    """Returns whether the user wants the traceback of every error."""
    return bool(os.environ.get("MLCLS_JAX_TRACEBACK"))


@contextmanager
def refusing() -> Iterator[None]:
    """Reports a mistake in a command line and exits, before the imports that take seconds.

    A limit of memory that the imports could not live with is reported as well.  If the user wants
    tracebacks, nothing is reported: the command itself raises the same error.
    """
    try:
        yield
        memory_limit.check()
    except (ValueError, OSError, MemoryError) as error:
        if not keeps_traceback():
            tell(f"error: {memory_limit.explain(error) or error_line(error)}")
            sys.exit(USER_ERROR)


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs a command that needs no devices and exits with its exit code, as `cli.run` does.

    Args:
        main: the command; takes its arguments and returns its exit code.
    """
    early_signals.stop_leaving()
    with output_of_command(is_log=False) as output:
        try:
            code = main(sys.argv[1:]) or output.exit_code()
        except KeyboardInterrupt:
            tell("stopped")
            code = early_signals.INTERRUPTED
        except (ValueError, OSError, MemoryError) as error:
            if keeps_traceback():
                raise
            tell(f"error: {memory_limit.explain(error) or error_line(error)}")
            code = USER_ERROR
    sys.exit(code)
