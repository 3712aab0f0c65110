"""The driver's end of a peer_worker.py process."""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from peer_environments import last_line

WORKER = Path(__file__).with_name("peer_worker.py")


class Peer:
    """A worker, which is idle unless it is asked for something.

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
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def versions(self) -> str:
        """Waits until the worker is ready; to be called once, before anything else."""
        return self._reply()["versions"]

    def ask(self, what: str, least_seconds: float = 0.0) -> dict[str, Any]:
        """Steps of what for that long, at least one: {"steps", "seconds", "peak_bytes"}."""
        try:
            print(what, least_seconds, file=self._process.stdin)
        except BrokenPipeError:
            raise ValueError(self._last_words()) from None
        return self._reply()

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
