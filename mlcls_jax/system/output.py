"""Standard output and error of a command, which goes on if they cannot be written.

A disk that is full, or a reader that has gone, must not end hours of training.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

INCOMPLETE = 2  # exit code of a command whose output is its result


def tell(text: str) -> None:
    """Prints a line on stderr, if it can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


class Output:
    """A text stream that loses what cannot be written.

    The next write is tried again, because the disk may have room by then.

    Attributes:
        failure: the first error; None so far.
    """

    def __init__(self, stream: TextIO, is_log: bool, is_told: bool = True):
        """Wraps a stream.

        Args:
            stream: its other methods and attributes are those of this object.
            is_log: False if the text is the result of the command.
            is_told: whether stderr says, once, that text is lost.
        """
        self._stream, self._is_log, self._is_told = stream, is_log, is_told
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Writes text, and returns its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def exit_code(self) -> int:
        """Returns the exit code of a command that has succeeded but for its output.

        A reader that has gone, such as head, has seen enough.
        """
        self.flush()
        is_lost = self.failure is not None and not isinstance(self.failure, BrokenPipeError)
        return INCOMPLETE if is_lost and not self._is_log else 0

    def _lose(self, error: OSError) -> None:
        if self.failure is not None:
            return
        self.failure = error
        if self._is_told and (self._is_log or not isinstance(error, BrokenPipeError)):
            tell(
                f"warning: stdout cannot be written ({error.strerror}); the command goes on, and "
                "what it prints is lost"
            )


@contextmanager
def lossy_output(is_log: bool) -> Iterator[Output]:
    """Makes sys.stdout and sys.stderr an `Output` within the block, and yields the former.

    Args:
        is_log: see `Output`.
    """
    # A stream that is closed is None.
    output = Output(sys.stdout or io.StringIO(), is_log)
    errors = Output(sys.stderr or io.StringIO(), is_log, is_told=False)
    with redirect_stdout(output), redirect_stderr(errors):
        yield output


@contextmanager
def output_of_command(is_log: bool) -> Iterator[Output]:
    """Does the same for a process that ends with the block."""
    with lossy_output(is_log) as output:
        try:
            yield output
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                if isinstance(stream, Output) and stream.failure:
                    _discard(stream)


def _discard(stream: TextIO | Output) -> None:
    """Leads a stream nowhere, because Python would end with exit code 120 if it cannot flush it."""
    with suppress(OSError, ValueError):  # it is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
