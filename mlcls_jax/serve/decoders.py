"""Decodes images in processes, which are ended with the request that waits for them.

Large images have processes of their own with a lower priority, so that other images do not wait for
them.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import UInt8

from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.transforms import Box
from mlcls_jax.options.serve import TOKEN
from mlcls_jax.serve.batching import BusyError
from mlcls_jax.serve.image_worker import ImageSettings

LARGE = 4_000_000  # work (`image_work`) from which an image is large
_ANY_WORK = 1 << 62
_MOST_PROCESSES = 16
_LOW_PRIORITY = 10  # added to the niceness
_END_SECONDS = 2.0
_COMMAND = (sys.executable, "-m", "mlcls_jax.serve.image_worker")


@dataclass(frozen=True)
class DecodedImage:
    """Input of the network: uint8 [size, size, 3], and the part of the image it shows (`seen_box`).

    height, width: size of the original image in pixels.
    """

    image: UInt8[np.ndarray, "size size 3"]
    box: Box
    height: int
    width: int


class ImageProcess:
    """A process that decodes one image at a time; it starts at the first one."""

    def __init__(self, settings: ImageSettings, niceness: int = 0):
        """Starts nothing yet."""
        self._settings, self._niceness = settings, niceness
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._lock, self._is_ended = threading.Lock(), False

    def start(self) -> Connection:
        """Starts the process if it is not running; returns the connection to it."""
        with self._lock:
            if self._is_ended:
                raise EOFError
            if self._connection is None:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = subprocess.Popen(
                        [*_COMMAND, str(theirs.fileno()), str(self._niceness)],
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        env=_environment(),
                        start_new_session=True,  # Ctrl-C in the terminal is for the server
                    )
                self._connection = Connection(ours.detach())
                self._connection.send(self._settings)
            return self._connection

    def decode(self, contents: bytes, most_work: int) -> DecodedImage | int:
        """Decodes an image; returns its work instead if that is more than allowed.

        Args:
            contents: bytes of an image file.
            most_work: the most work, see `image_work`.

        Raises:
            ImageError: the bytes are not a supported image, or ended the process.
        """
        try:
            connection = self.start()
            connection.send_bytes(str(most_work).encode())
            connection.send_bytes(contents)
            answer = json.loads(connection.recv_bytes())
            if "error" in answer:
                raise ImageError(answer["error"])
            if "work" in answer:
                return answer["work"]
            size = self._settings.size
            pixels = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(size, size, -1)
            return DecodedImage(pixels, Box(*answer["box"]), answer["height"], answer["width"])
        except (EOFError, OSError) as error:
            self.close()
            raise ImageError("the process that decoded it has ended") from error

    @property
    def is_ended(self) -> bool:
        """Whether the process has ended and cannot be used again."""
        return self._is_ended

    def end(self) -> None:
        """Ends the process at once, from any thread."""
        with self._lock:
            self._is_ended = True
            if self._process:
                self._process.kill()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_END_SECONDS)

    def close(self) -> None:
        """Ends the process and closes the connection; no call may be in progress."""
        self.end()
        if self._connection:
            self._connection.close()


class DecoderPool:
    """Processes that decode images for one event loop."""

    def __init__(self, settings: ImageSettings, count: int, seconds: float, niceness: int = 0):
        """Starts nothing; `running` does.

        Args:
            settings: how images become inputs.
            count: number of processes.
            seconds: the longest time for an image.
            niceness: added to that of the server.
        """
        self._settings, self._seconds, self._niceness = settings, seconds, niceness
        self._count = min(count, _MOST_PROCESSES)
        self._idle: list[ImageProcess] = []
        self._free = asyncio.Semaphore(0)
        self._threads: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def running(self, at_once: bool) -> AsyncIterator[None]:
        """Has processes within the block, and ends them at its end.

        Args:
            at_once: whether to start them now; otherwise each starts when it is needed.
        """
        self._free = asyncio.Semaphore(self._count)
        self._idle = [self._new() for _ in range(self._count)]
        # A thread of a process that was ended may take a moment longer.
        self._threads = ThreadPoolExecutor(2 * self._count, thread_name_prefix="images")
        if at_once:
            for process in self._idle:
                self._threads.submit(process.start)
        try:
            yield
        finally:
            for process in self._idle:
                process.close()
            self._threads.shutdown()

    async def decode(self, contents: bytes, most_work: int = _ANY_WORK) -> DecodedImage | int:
        """Decodes an image as `ImageProcess.decode`; a cancelled call ends its process.

        Raises:
            ImageError: the bytes are not a supported image, or take too long.
        """
        async with self._free:
            process = self._idle.pop()
            call = self._submit(process, contents, most_work)
            answer = asyncio.wrap_future(call)
            answer.add_done_callback(_retrieve)
            try:
                async with asyncio.timeout(self._seconds):
                    return await asyncio.shield(answer)
            except TimeoutError as error:
                raise ImageError(f"decoding it takes more than {self._seconds:g} s") from error
            finally:
                if not call.done():
                    process.end()
                self._idle.append(self._new() if process.is_ended else process)

    def _submit(self, process: ImageProcess, contents: bytes, most_work: int) -> Future:
        if self._threads is None:
            raise RuntimeError("the pool is not running")
        return self._threads.submit(process.decode, contents, most_work)

    def _new(self) -> ImageProcess:
        return ImageProcess(self._settings, self._niceness)


class Decoders:
    """Decodes small and large images, each in processes of their own."""

    def __init__(self, settings: ImageSettings, workers: int, seconds: float, large_work: int):
        """Starts nothing; `running` does.

        Args:
            settings: how images become inputs.
            workers: number of processes for small images; half as many are for large ones.
            seconds: the longest time for an image.
            large_work: the most work (`image_work`) of the large images in progress.
        """
        self.settings = settings
        self._small = DecoderPool(settings, workers, seconds)
        self._large = DecoderPool(settings, max(workers // 2, 1), seconds, _LOW_PRIORITY)
        self._work, self._most_work = 0, large_work

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Decoders"]:
        """Decodes images within the block."""
        async with self._small.running(at_once=True), self._large.running(at_once=False):
            yield self

    async def decode(self, contents: bytes) -> DecodedImage:
        """Decodes an image.

        Raises:
            ImageError: the bytes are not a supported image, or take too long.
            BusyError: too many large images are in progress.
        """
        found = await self._small.decode(contents, LARGE)
        if not isinstance(found, int):
            return found
        work = min(found, self._most_work)
        if self._work + work > self._most_work:
            raise BusyError
        self._work += work
        try:
            image = await self._large.decode(contents)
        finally:
            self._work -= work
        if isinstance(image, int):
            raise TypeError("an image of any size was to be decoded")
        return image


def _retrieve(answer: asyncio.Future) -> None:
    """Reads the error of a call that nobody waits for any more, so that it is not logged."""
    if not answer.cancelled():
        answer.exception()


def _environment() -> dict[str, str]:
    """The environment of a process: the same modules, one thread for NumPy, and no token."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    kept = {name: value for name, value in os.environ.items() if name != TOKEN}
    return kept | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
