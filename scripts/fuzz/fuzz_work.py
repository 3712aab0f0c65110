"""Worker processes of fuzz.py, which run inputs through a target within limits and one folder."""

import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from mlcls_jax.data.images.image_error import ImageError

BATCH = 100  # inputs that a process gets at a time
STUCK = 300  # seconds after which a waiting process is killed
TRIED, ACCEPTED, REFUSED = range(3)  # indices of a process's counts; TRIED is -1 until it is ready
LONGEST = 20_000  # longest accepted message, in characters; commands truncate it further
CURRENT = "current"  # name of the file with the current input
# Audit events (docs.python.org/3/library/audit_events.html) that no input may cause.
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile")
FORBIDDEN += ("socket.connect", "pickle.find_class", "os.chmod", "os.chown")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Target:
    """Code that reads untrusted input.

    Attributes:
        name: name in the output.
        inputs: returns a strategy for inputs, which are bytes or have a `repr`.
        exercise: takes an input and an empty folder, which is the working directory. It accepts
            the input, or refuses it with a one-line ValueError, ImageError or OSError.
    """

    name: str
    inputs: Callable[[], SearchStrategy]
    exercise: Callable[[Any, Path], None]


@dataclass(frozen=True)
class Limits:
    """Limits for one input.

    Attributes:
        seconds: CPU seconds.
        stuck: seconds without progress.
        memory: bytes on top of what the process has at its start.
    """

    seconds: float = 10.0
    stuck: float = STUCK
    memory: int = 1 << 30  # more than reading any of these files needs


class Trespass(BaseException):
    """An input caused a forbidden action; `except Exception` does not catch it."""


def as_bytes(value: Any) -> bytes:
    """Returns an input as the contents of the file in which it is stored."""
    return value if isinstance(value, bytes) else repr(value).encode()


def unfit_reason(error: BaseException) -> str:
    """Returns why an error is no message for a user, or "" if it is one."""
    text = str(error)
    # The subclasses of ValueError for codecs and JSON name no file.
    if type(error) not in (ValueError, ImageError) and not isinstance(error, OSError):
        return f"{type(error).__name__}: {text}"
    if not text or "\n" in text or len(text) > LONGEST:
        return f"no line for a user: {text[:LONGEST]}"
    return ""


def guard(folder: Path) -> Callable[[bool], None]:
    """Forbids writing outside a folder, connections and programs.

    Args:
        folder: the only folder in which files may be written.

    Returns:
        A function that turns the guard on (True) and off (False).
    """
    inside, state = os.path.realpath(folder) + os.sep, [False]

    def leaves(path: Any) -> bool:
        if isinstance(path, int) or os.fspath(path) == os.devnull:
            return False
        return not os.path.realpath(os.fsdecode(path)).startswith(inside)

    def hook(event: str, arguments: tuple) -> None:
        if not state[0]:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        is_bad = event.startswith(FORBIDDEN)
        if is_bad or ((writes or event in CHANGES) and leaves(arguments[0])):
            raise Trespass(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)

    def switch(on: bool) -> None:
        state[0] = on

    return switch


def work(connection, counts, target: Target, number: int, folder: Path, limits: Limits) -> None:
    """Runs batches of inputs until there are no more; the main function of a process.

    Args:
        connection: pipe to fuzz.py.
        counts: shared counters, indexed by TRIED, ACCEPTED and REFUSED.
        target: where the inputs go.
        number: random seed.
        folder: working folder of the process.
        limits: limits for each input.
    """
    warnings.simplefilter("ignore")
    os.chdir(folder)
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder), "MLCLS_JAX_CACHE": str(folder)}
    inputs = target.inputs()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and libjpeg print warnings
    _limit(limits)
    switch = guard(folder)

    def attempt(value: Any) -> None:
        (folder / CURRENT).write_bytes(as_bytes(value))
        place = folder / "place"
        place.mkdir()
        os.chdir(place)
        # CPU time instead of wall time, because the process may be paused. The signal ends it.
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        switch(True)
        problem, answer = "", ACCEPTED
        try:
            target.exercise(value, place)
        except BaseException as error:
            problem, answer = unfit_reason(error), REFUSED
        switch(False)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir(folder)
        _remove(place)
        counts[TRIED] += 1
        if problem:
            connection.send(problem)
            connection.recv()  # wait until the input is stored
        else:
            counts[answer] += 1

    checks: Any = list(HealthCheck)  # they are about speed and size
    counts[TRIED] = 0
    while (batch := connection.recv()) is not None:
        check = given(inputs)(attempt)
        generate = settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=checks,
        )
        seed(number << 40 | batch)(generate(check))()
        connection.send(None)


def _limit(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _remove(place: Path) -> None:
    """Removes a folder; for few files this is faster than shutil.rmtree."""
    for child in os.scandir(place):
        if child.is_dir(follow_symlinks=False):
            _remove(Path(child.path))
        else:
            os.unlink(child.path)
    place.rmdir()
