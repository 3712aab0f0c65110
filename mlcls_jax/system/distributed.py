"""Start of a distributed run, texts between its processes, and a common end when one fails.

When a process is gone, JAX ends the others with a C++ log and SIGABRT, or leaves them in a
collective that never returns.  Here every process writes a heartbeat at short intervals, and a
failing process publishes the reason, so that the others end with a line that names the cause.
JAX's own heartbeat is half as frequent; it covers a process in which Python can no longer run.

Heartbeats and texts are kept in the key-value store of JAX's coordination service, in process 0.
"""

import atexit
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, NoReturn

import jax

from mlcls_jax.system.command_line import USER_ERROR
from mlcls_jax.system.console import one_line
from mlcls_jax.system.files import cache_folder
from mlcls_jax.system.output import tell

FAILED = 1  # exit code of a process that ends because another one failed
COMPILED = "jax_compilation_cache_dir"  # the option of JAX
START_MARGIN, GRACE = 60, 3  # seconds
_ROOT = "mlcls_jax"
_HEARTBEATS, _REASONS = f"{_ROOT}/processes/heartbeat", f"{_ROOT}/processes/reason"
_COUNTS = f"{_ROOT}/processes/count"
_NO_HEARTBEAT, _FINISHED = "", "finished"
_RESTART = "restart all processes: they continue from the last checkpoint"
_FOREVER_MS = 7 * 24 * 3600 * 1000  # the watch ends the wait if a process is gone
# Errors of collectives and of the coordination service when the other end is gone.
_LOST = re.compile(r"Gloo \w+ failed|NCCL operation|CoordinationService|coordination service")

_exchanges: dict[str, int] = {}  # exchanges so far, by topic
_finished = threading.Event()
_ending = threading.Lock()  # never released, because the process ends


def is_multiprocess() -> bool:
    """Returns whether this process is one of several that have joined a run."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def join(timeout: int, start_timeout: int, **options: Any) -> None:
    """Joins the other processes, and ends this process when one of them fails.

    Args:
        timeout: seconds after which a process without heartbeat counts as gone.
        start_timeout: seconds to wait until all processes have joined.
        options: further arguments of `jax.distributed.initialize`.
    """
    message = (
        f"not all processes of the run joined within distributed.start_timeout={start_timeout} s; "
        "start all of them, with the same --coordinator and --processes"
    )
    if "shutdown_timeout_seconds" in signature(jax.distributed.initialize).parameters:
        options |= {"shutdown_timeout_seconds": timeout}  # JAX 0.7 has a fixed one
    with _deadline(start_timeout, message):
        jax.distributed.initialize(
            **options,
            initialization_timeout=start_timeout + START_MARGIN,
            heartbeat_timeout_seconds=2 * timeout,
        )
        _check_count()
    if not is_multiprocess():
        return
    thread = threading.Thread(target=_watch, args=(timeout,), name="processes", daemon=True)
    thread.start()
    atexit.register(_leave, thread)  # runs before JAX's handler, in which the processes wait


def _check_count() -> None:
    """Ends this process if another one was told another number of processes.

    JAX would then wait for processes that nobody starts, before it knows how many there are.
    """
    state = _state()
    client, process, processes = state.client, state.process_id, state.num_processes
    client.key_value_set(f"{_COUNTS}/{process}", str(processes))
    for other in range(processes):  # process 0 first, as all others may be too many
        count = client.blocking_key_value_get(f"{_COUNTS}/{other}", _FOREVER_MS)
        if int(count) != processes:
            _print_error(
                f"process {process} has --processes {processes}, but process {other} has "
                f"--processes {count}; start all of them with the same number"
            )
            if process == 0:  # it holds the store, in which the others look
                time.sleep(GRACE)
            os._exit(USER_ERROR)


def exchange(topic: str, text: str) -> list[str]:
    """Exchanges a text between all processes; waits until the last one has sent its own.

    Args:
        topic: a name, such as "config"; all processes exchange under it equally often.
        text: text of this process.

    Returns:
        The text of each process, in the order of the processes.
    """
    client = _store()
    _exchanges[topic] = round_number = _exchanges.get(topic, 0) + 1
    folder = f"{_ROOT}/{topic}/{round_number}"  # a key can be set once only
    client.key_value_set(f"{folder}/{jax.process_index()}", text)
    return [
        client.blocking_key_value_get(f"{folder}/{process}", _FOREVER_MS)
        for process in range(jax.process_count())
    ]


def wait_for_all(topic: str) -> None:
    """Waits until all processes have called this; returns at once in a single process."""
    if is_multiprocess():
        exchange(topic, "")


def share(topic: str, entries: dict[str, str]) -> dict[str, str]:
    """Publishes this process's entries and returns those of all processes, without waiting.

    Args:
        topic: a name; entries that this process published under it before are replaced.
        entries: keys and values of this process.

    Returns:
        The entries that all processes have published so far.
    """
    client, folder = _store(), f"{_ROOT}/{topic}"
    key = f"{folder}/{jax.process_index()}"
    client.key_value_set(key, json.dumps(entries), allow_overwrite=True)
    texts = [text for _, text in sorted(client.key_value_dir_get(f"{folder}/"))]
    return {key: value for text in texts for key, value in json.loads(text).items()}


def is_lost(error: BaseException) -> bool:
    """Returns whether an error means that another process of the run is gone."""
    return is_multiprocess() and bool(_LOST.search(str(error)))


def end(text: str, code: int) -> NoReturn:
    """Exits after one line on why, to the user and to the other processes.

    Args:
        text: the reason.
        code: exit code of this process.
    """
    _end(text, f"process {jax.process_index()} of {jax.process_count()} has ended: {text}", code)


def disconnect() -> None:
    """Waits for all processes of the run to get here, as the end of the interpreter does."""
    if is_multiprocess():
        jax.distributed.shutdown()


def end_lost() -> NoReturn:
    """Exits because another process is gone, with the reason that it published, if any."""
    reason = _published_reason() or (
        "another process of the run ended without a message (killed, or out of memory?) or cannot "
        f"be reached; check the output of every process, then {_RESTART}"
    )
    _end(reason, reason, FAILED)


def _end(text: str, reason: str, code: int, unreachable: int = 0) -> NoReturn:
    """Prints `text`, publishes `reason` and exits; `unreachable` processes cannot read it."""
    with _ending:
        _print_error(text)
        _publish(reason, jax.process_count() - unreachable)
        os._exit(code)


def _watch(timeout: int) -> None:
    """Writes heartbeats, and ends this process when another one has failed or is silent."""
    client, index = _store(), jax.process_index()
    interval, beat = min(1.0, timeout / 10), 0
    silence = Silence(jax.process_count(), timeout - 2 * interval, time.monotonic())
    while not _finished.wait(interval):
        beat += 1
        try:
            client.key_value_set(f"{_HEARTBEATS}/{index}", str(beat), allow_overwrite=True)
            heartbeats, reason = _read(_HEARTBEATS), _published_reason()
        except Exception:  # the RPC failed
            heartbeats, reason = {}, f"process 0 has ended or cannot be reached; {_RESTART}"
        silent = silence.after(heartbeats, time.monotonic())
        if not reason and silent:
            reason = (
                f"process {silent[0]} of {jax.process_count()} has been silent for "
                f"distributed.timeout={timeout} s; check its machine, then {_RESTART}"
            )
        if reason and not _finished.is_set():
            _end(reason, reason, FAILED, len(silent))


class Silence:
    """Detector of processes whose heartbeat has stopped."""

    def __init__(self, processes: int, limit: float, now: float):
        """Starts to watch.

        Args:
            processes: number of processes.
            limit: seconds after which a process without new heartbeat is silent.
            now: current time in seconds, of any clock.
        """
        self._limit = limit
        self._heard: dict[int, tuple[str, float]] = dict.fromkeys(
            range(processes), (_NO_HEARTBEAT, now)
        )

    def after(self, heartbeats: dict[int, str], now: float) -> list[int]:
        """Returns the processes whose heartbeat has not changed for longer than the limit.

        Processes that have finished are never silent.

        Args:
            heartbeats: the latest heartbeat of each process that has written one.
            now: current time in seconds, of the same clock.
        """
        for process, heartbeat in heartbeats.items():
            if heartbeat != self._heard[process][0]:
                self._heard[process] = heartbeat, now
        return [
            process
            for process, (heartbeat, since) in self._heard.items()
            if heartbeat != _FINISHED and now - since > self._limit
        ]


def _leave(thread: threading.Thread) -> None:
    """Stops the heartbeats at a regular end, so that the others do not expect any more."""
    _finished.set()
    thread.join()
    _store().key_value_set(f"{_HEARTBEATS}/{jax.process_index()}", _FINISHED, allow_overwrite=True)


def _publish(reason: str, readers: int) -> None:
    """Publishes why this process ends.

    Process 0 holds the store, so it waits up to GRACE seconds until the other processes have
    published a reason too; without the store JAX would end them with a log of its own.
    """
    index = jax.process_index()
    try:
        client = _store()
        client.key_value_set(f"{_REASONS}/{index}", reason, allow_overwrite=True)
        until = time.monotonic() + GRACE
        while index == 0 and time.monotonic() < until and len(_read(_REASONS)) < readers:
            time.sleep(0.1)
    except Exception:  # the RPC failed: there is no process left to inform
        return


def _published_reason() -> str:
    """Returns the reason of the first process that failed; "" if none has."""
    try:
        return next(iter(_read(_REASONS).values()), "")
    except Exception:  # the RPC failed
        return ""


def _store() -> Any:
    """Returns the client of JAX's key-value store, or None in a single process."""
    return _state().client


def _state() -> Any:
    """Returns the client of JAX's key-value store, and the index and the number of processes.

    JAX has no public name for it before the devices are known, so this is the only private one
    here; Orbax uses the same object.  `tests/system/test_distributed.py` says what to do when it
    goes.
    """
    from jax._src import distributed  # not at the top: only runs of several processes need it

    return distributed.global_state


def _read(folder: str) -> dict[int, str]:
    texts = _store().key_value_dir_get(f"{folder}/")
    return {int(key.rsplit("/", 1)[-1]): text for key, text in texts}


@contextmanager
def _deadline(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with the message if the block takes longer."""

    def expired() -> None:
        _print_error(message)
        os._exit(FAILED)

    timer = threading.Timer(seconds, expired)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print_error(message: str) -> None:
    sys.stdout.flush()
    tell(f"error: {message}")


def jax_options() -> dict[str, Any]:
    """Returns the options of JAX that `start` sets, by name."""
    return {
        COMPILED: str(cache_folder() / "compiled"),
        # Cache small programs too: a start has dozens, and reading is faster than compiling.
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        # On CPU a step that is dispatched early would also allocate its activations early.
        "jax_cpu_enable_async_dispatch": False,
    }


def _check_port(coordinator: str) -> None:
    """Raises ValueError if no server can listen at the port of "host:port" on this machine."""
    port = coordinator.rpartition(":")[2]
    if not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"--coordinator {coordinator} has no port; write host:port")
    dual = socket.has_dualstack_ipv6()
    try:
        family, host = (socket.AF_INET6, "::") if dual else (socket.AF_INET, "")
        socket.create_server((host, int(port)), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise ValueError(
            f"--coordinator {coordinator}: process 0 cannot listen at port {port} of this machine "
            f"({one_line(error)}); choose another port, in all processes"
        ) from error


def start(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    cluster: bool = False,
    timeout: int = 100,
    start_timeout: int = 300,
) -> None:
    """Enables the compilation cache and joins the other processes, if there are any.

    Args:
        coordinator: "host:port" of process 0; "" for a single process, or with `cluster`.
        processes: number of processes.
        process: index of this process, from 0.
        cluster: let JAX find all three itself (SLURM, TPU pods, Open MPI, Kubernetes).
        timeout: see `join`.
        start_timeout: see `join`.

    Raises:
        ValueError: only some of the three are given, `process` is out of range, or the port of the
            first process is in use.
    """
    given = bool(coordinator), processes > 0, process >= 0
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process belong together; set all three")
    if all(given) and process >= processes:
        raise ValueError(
            f"--process is {process}; with --processes {processes} it must be 0 to {processes - 1}"
        )
    for name, value in jax_options().items():
        jax.config.update(name, value)
    if not cluster and not coordinator:
        return
    options: dict[str, Any] = {}  # JAX finds the values itself
    if coordinator:
        if process == 0:
            _check_port(coordinator)
        options = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
        }
    join(timeout, start_timeout, **options)
