"""The other processes of a run: texts to and from them, and the end of all when one has ended.

JAX ends a process whose peer is gone by a C++ log and SIGABRT, or leaves it in a collective that
never returns.  Here every process says at short intervals that it is there, and one that fails says
why, so that the others end with a line that names the cause; JAX's own heartbeat, twice as slow, is
for when Python can no longer run.

The texts go through the key-value store of JAX's coordination service, in process 0.  JAX has no
public name for it; Orbax uses the same object.
"""

import atexit
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
from jax._src import distributed

from mlcls_jax.system.files import cache_folder

FAILED = 1  # exit code of a process that another one has taken along
START_MARGIN, GRACE = 60, 3  # seconds
_ROOT = "mlcls_jax"
_LIVES, _WORDS = f"{_ROOT}/peers/life", f"{_ROOT}/peers/words"
_NOTHING, _OVER = "", "over"
_AGAIN = "start them all again: they continue from the last checkpoint"
_FOREVER_MS = 7 * 24 * 3600 * 1000  # a peer that is gone ends the wait
# In errors of collectives and of the coordination service whose other end is gone.
_LOST = re.compile(r"Gloo \w+ failed|NCCL operation|CoordinationService|coordination service")

_over = threading.Event()
_speaking = threading.Lock()  # never given back: the process ends


def is_multiprocess() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def join(timeout: int, start_timeout: int, **others: Any) -> None:
    """`jax.distributed.initialize`, and after that the end of this process when another ends.

    Args:
        timeout: seconds after which a silent process counts as gone.
        start_timeout: seconds to wait for all processes to be there.
        others: arguments of `jax.distributed.initialize`.
    """
    late = (
        f"not all processes of the run were there after {start_timeout} s "
        "(distributed.start_timeout); start them all, with the same --coordinator and --processes"
    )
    with _deadline(start_timeout, late):
        jax.distributed.initialize(
            **others,
            initialization_timeout=start_timeout + START_MARGIN,
            heartbeat_timeout_seconds=2 * timeout,
            shutdown_timeout_seconds=timeout,
        )
    if not is_multiprocess():
        return
    thread = threading.Thread(target=_watch, args=(timeout,), name="peers", daemon=True)
    thread.start()
    atexit.register(_leave, thread)  # before JAX's, where the processes wait for each other


def exchange(topic: str, text: str) -> list[str]:
    """The texts of all processes, by process; returns when the last one has said its own.

    Args:
        topic: a name that is used once in the life of the processes.
        text: of this process.
    """
    client = _store()
    client.key_value_set(f"{_ROOT}/{topic}/{jax.process_index()}", text)
    return [
        client.blocking_key_value_get(f"{_ROOT}/{topic}/{process}", _FOREVER_MS)
        for process in range(jax.process_count())
    ]


def share(topic: str, own: dict[str, str]) -> dict[str, str]:
    """Says what this process has found so far, and returns what all have said under the topic."""
    client, folder = _store(), f"{_ROOT}/{topic}"
    client.key_value_set(f"{folder}/{jax.process_index()}", json.dumps(own), allow_overwrite=True)
    texts = [text for _, text in sorted(client.key_value_dir_get(f"{folder}/"))]
    return {key: value for text in texts for key, value in json.loads(text).items()}


def is_lost(error: BaseException) -> bool:
    """Whether an error is of a collective whose other end is gone."""
    return is_multiprocess() and bool(_LOST.search(str(error)))


def end(text: str, code: int) -> NoReturn:
    """Says in one line why this process ends, to the user and to the others, and exits."""
    _end(text, f"process {jax.process_index()} of {jax.process_count()} has ended: {text}", code)


def end_lost() -> NoReturn:
    """Ends this process because another one is gone, which may have said why."""
    words = _said() or (
        "another process of the run has ended without a word (killed, or out of memory?) or cannot "
        f"be reached; look at the outputs of all, then {_AGAIN}"
    )
    _end(words, words, FAILED)


def _end(text: str, words: str, code: int, gone: int = 0) -> NoReturn:
    """text: for the user; words: for the other processes, of which so many cannot hear them."""
    with _speaking:
        _say(text)
        _tell(words, jax.process_count() - gone)
        os._exit(code)


def _watch(timeout: int) -> None:
    """Says that this process is there, and ends it when another one has failed or is silent."""
    client, own = _store(), jax.process_index()
    interval, beat = min(1.0, timeout / 10), 0
    silence = Silence(jax.process_count(), timeout - 2 * interval, time.monotonic())
    while not _over.wait(interval):
        beat += 1
        try:
            client.key_value_set(f"{_LIVES}/{own}", str(beat), allow_overwrite=True)
            lives, words = _read(_LIVES), _said()
        except Exception:  # of the RPC
            lives, words = {}, f"process 0 has ended or cannot be reached; {_AGAIN}"
        gone = silence.after(lives, time.monotonic())
        if not words and gone:
            words = (
                f"process {gone[0]} of {jax.process_count()} has been silent for "
                f"distributed.timeout={timeout} s; look at its machine, then {_AGAIN}"
            )
        if words and not _over.is_set():
            _end(words, words, FAILED, len(gone))


class Silence:
    """Which processes have not been heard of for too long."""

    def __init__(self, processes: int, limit: float, now: float):
        """Args: how many processes; limit and now in seconds."""
        self._limit = limit
        self._heard: dict[int, tuple[str, float]] = dict.fromkeys(range(processes), (_NOTHING, now))

    def after(self, lives: dict[int, str], now: float) -> list[int]:
        """Processes whose sign of life is the same for longer than the limit and not the last one.

        Args:
            lives: the latest sign of each process that has given one.
            now: seconds.
        """
        for process, life in lives.items():
            if life != self._heard[process][0]:
                self._heard[process] = life, now
        return [
            process
            for process, (life, since) in self._heard.items()
            if life != _OVER and now - since > self._limit
        ]


def _leave(thread: threading.Thread) -> None:
    """At a good end: the others no longer expect signs of life."""
    _over.set()
    thread.join()
    _store().key_value_set(f"{_LIVES}/{jax.process_index()}", _OVER, allow_overwrite=True)


def _tell(words: str, hearing: int) -> None:
    """Says them to the others.  Process 0 waits a little for these: without it, they cannot hear,
    and JAX would end them by a log of its own."""
    own = jax.process_index()
    try:
        client = _store()
        client.key_value_set(f"{_WORDS}/{own}", words, allow_overwrite=True)
        until = time.monotonic() + GRACE
        while own == 0 and time.monotonic() < until and len(_read(_WORDS)) < hearing:
            time.sleep(0.1)
    except Exception:  # of the RPC: nobody is there to be told
        return


def _said() -> str:
    """What the first process that failed has said; "" if none has."""
    try:
        return next(iter(_read(_WORDS).values()), "")
    except Exception:  # of the RPC
        return ""


def _store() -> Any:
    return distributed.global_state.client


def _read(folder: str) -> dict[int, str]:
    texts = _store().key_value_dir_get(f"{folder}/")
    return {int(key.rsplit("/", 1)[-1]): text for key, text in texts}


@contextmanager
def _deadline(seconds: float, words: str) -> Iterator[None]:
    """Ends the process with these words if the block takes longer."""

    def expired() -> None:
        _say(words)
        os._exit(FAILED)

    timer = threading.Timer(seconds, expired)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(words: str) -> None:
    sys.stdout.flush()
    print(f"error: {words}", file=sys.stderr, flush=True)


def start(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    cluster: bool = False,
    timeout: int = 100,
    start_timeout: int = 300,
) -> None:
    """Turns the compilation cache on and joins the other processes, if there are any.

    Args:
        coordinator: "host:port" of process 0; "" for a single process, or with `cluster`.
        processes: how many there are.
        process: which one this is, from 0.
        cluster: let JAX find all three itself (SLURM, TPU pods, Open MPI, Kubernetes).
        timeout: see `join`.
        start_timeout: see `join`.

    Raises:
        ValueError: some of the three are given without the others.
    """
    given = bool(coordinator), processes > 0, process >= 0
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process go together; give all three")
    if all(given) and process >= processes:
        raise ValueError(f"--process is {process}; with --processes {processes} they count from 0")
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    # Small programs as well: a start has dozens, and reading one is faster than compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # On CPU a step that is dispatched ahead would allocate its activations ahead.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not cluster and not coordinator:
        return
    others: dict[str, Any] = {}  # JAX finds them
    if coordinator:
        others = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    join(timeout, start_timeout, **others)
