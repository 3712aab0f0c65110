"""Handle of a peer_worker.py process, for the scripts that compare."""

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from peer_environments import last_line

WORKER = Path(__file__).with_name("peer_worker.py")


def worker_command(python: str, module: str, *arguments: str | int | float) -> list[str]:
    """Returns the command of a worker whose steps `module` builds from the arguments."""
    return [python, str(WORKER), module, json.dumps(arguments)]


def child_memory(pid: int) -> int:
    """Returns the bytes that the child processes of a process share with no other process."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended in the meantime
            if f"\nPPid:\t{pid}\n" in status.read_text():
                memory = status.with_name("smaps_rollup").read_text()
                private = re.findall(r"Private_(?:Clean|Dirty):\s+(\d+) kB", memory)
                total += 1024 * sum(map(int, private))
    return total


class Peer:
    """A worker process, which after its first reply runs only while it answers a request.

    In between, the worker and its child processes are stopped, because threads that prefetch or
    wait busily would take cores from the other sides.

    Raises:
        ValueError: from every method, if the worker has ended; the message says why.
    """

    def __init__(self, side: str, command: list[str], environment: dict[str, str]):
        self.side = side
        self._stderr = TemporaryFile("w+")  # noqa: SIM115 (__exit__ closes it)
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            bufsize=1,
            process_group=0,
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        self._signal(signal.SIGKILL)
        self._process.communicate()
        self._stderr.close()

    @property
    def pid(self) -> int:
        """The id of the worker's process."""
        return self._process.pid

    def versions(self) -> str:
        """Waits until the worker is ready and returns its versions; must be called once, first."""
        return self._reply()["versions"]

    def ask(self, what: str, least_seconds: float = 0.0) -> dict[str, Any]:
        """Lets the worker repeat a step.

        Args:
            what: name of the step.
            least_seconds: how long to repeat it; it runs at least once.

        Returns:
            {"steps", "seconds", "cpu_seconds", "peak_bytes"}; the CPU time is of all threads of
            the worker, without its child processes.
        """
        self._signal(signal.SIGCONT)
        try:
            print(what, least_seconds, file=self._process.stdin)
        except BrokenPipeError:
            raise ValueError(self._end_reason()) from None
        reply = self._reply()
        self._signal(signal.SIGSTOP)
        return reply

    def _signal(self, signal_number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal_number)

    def _reply(self) -> dict[str, Any]:
        stdout: Any = self._process.stdout
        line = stdout.readline()
        if not line:
            raise ValueError(self._end_reason())
        return json.loads(line)

    def _end_reason(self) -> str:
        code = self._process.wait()
        if code < 0:  # TensorFlow's and torch's logs do not mention signals
            return f"{self.side}: ended by signal {-code}; 9 is out of memory: reduce --batch"
        self._stderr.seek(0)
        return f"{self.side}: ended with code {code}: {last_line(self._stderr.read())}"
