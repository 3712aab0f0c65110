"""The driver's end of a peer_worker.py process."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from peer_environments import last_line

WORKER = Path(__file__).with_name("peer_worker.py")


def worker_command(python: str, module: str, *arguments: str | int | float) -> list[str]:
    """That starts the worker whose steps this module builds from the arguments."""
    return [python, str(WORKER), module, json.dumps(arguments)]


class Peer:
    """A worker, which after its first answer runs only while it is asked for something.

    In between it is stopped, and so are its own processes: threads that wait busily or fetch ahead
    would take the cores from the others.

    Raises:
        ValueError: from every method, the worker's last words if it has ended.
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

    def versions(self) -> str:
        """Waits until the worker is ready; to be called once, before anything else."""
        return self._reply()["versions"]

    def ask(self, what: str, least_seconds: float = 0.0) -> dict[str, Any]:
        """Steps of what for that long, at least one: {"steps", "seconds", "peak_bytes"}."""
        self._signal(signal.SIGCONT)
        try:
            print(what, least_seconds, file=self._process.stdin)
        except BrokenPipeError:
            raise ValueError(self._last_words()) from None
        reply = self._reply()
        self._signal(signal.SIGSTOP)
        return reply

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _reply(self) -> dict[str, Any]:
        stdout: Any = self._process.stdout
        line = stdout.readline()
        if not line:
            raise ValueError(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:  # TensorFlow's and torch's logs say nothing about a signal.
            return (
                f"{self.side}: ended by signal {-code}; 9 is out of memory: try a smaller --batch"
            )
        self._stderr.seek(0)
        return f"{self.side}: ended with code {code}: {last_line(self._stderr.read())}"
