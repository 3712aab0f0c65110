"""What a process of fuzz.py does: inputs through a target, within limits and within a folder."""

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

from mlcls_jax.data.images.decoding import ImageError

BATCH = 100  # inputs that a process is given at a time
STUCK = 300  # seconds after which a process that waits for something is ended
TRIED, ACCEPTED, REFUSED = range(3)  # of a process's counts; TRIED is -1 until it is ready
LONGEST = 20_000  # characters of a message about so small an input; a command cuts it
CURRENT = "current"  # file of the input that is being tried
# Events of Python (docs.python.org/3/library/audit_events.html) that no input may bring about.
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile")
FORBIDDEN += ("socket.connect", "pickle.find_class", "os.chmod", "os.chown")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Target:
    """Something that reads what anybody may have written.

    name: in the output.
    inputs: a strategy for inputs, bytes or whatever has a `repr`.
    exercise: (input, empty folder that is the working directory) -> accepts the input, or refuses
        it with a ValueError, ImageError or OSError of one line.
    """

    name: str
    inputs: Callable[[], SearchStrategy]
    exercise: Callable[[Any, Path], None]


@dataclass(frozen=True)
class Limits:
    """Of one input. seconds: of computing. stuck: seconds without any. memory: bytes."""

    seconds: float = 10.0
    stuck: float = STUCK
    memory: int = 1 << 30  # more than reading such a file ever needs, beside the libraries


class Trespass(BaseException):
    """An input does what it must not: no `except Exception` hides it."""


def as_bytes(value: Any) -> bytes:
    """An input as the file that it is kept in."""
    return value if isinstance(value, bytes) else repr(value).encode()


def verdict(error: BaseException) -> str:
    """What is wrong with an error as an answer to an input; "" if it is for a user to read."""
    text = str(error)
    # Of its subclasses, those of codecs and of JSON name no file.
    if type(error) not in (ValueError, ImageError) and not isinstance(error, OSError):
        return f"{type(error).__name__}: {text}"
    if not text or "\n" in text or len(text) > LONGEST:
        return f"no line for a user: {text[:LONGEST]}"
    return ""


def guard(folder: Path) -> Callable[[bool], None]:
    """Refuses to leave a folder or to start a program; the result turns that on and off."""
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
    """Runs batches of inputs until there are no more; the body of a process.

    number: seed of all that is random.
    """
    warnings.simplefilter("ignore")
    os.chdir(folder)
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder), "MLCLS_JAX_CACHE": str(folder)}
    inputs = target.inputs()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and libjpeg write there
    _limit(limits)
    switch = guard(folder)

    def attempt(value: Any) -> None:
        (folder / CURRENT).write_bytes(as_bytes(value))
        place = folder / "place"
        place.mkdir()
        os.chdir(place)
        # Computing time, not the clock: the process may be paused.  It ends the process.
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        switch(True)
        problem, answer = "", ACCEPTED
        try:
            target.exercise(value, place)
        except BaseException as error:
            problem, answer = verdict(error), REFUSED
        switch(False)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir(folder)
        _remove(place)
        counts[TRIED] += 1
        if problem:
            connection.send(problem)
            connection.recv()  # when the input has been kept
        else:
            counts[answer] += 1

    checks: Any = list(HealthCheck)  # of speed and size
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
    """Also with what is in it; few files, so that this is faster than shutil's."""
    for child in os.scandir(place):
        if child.is_dir(follow_symlinks=False):
            _remove(Path(child.path))
        else:
            os.unlink(child.path)
    place.rmdir()
