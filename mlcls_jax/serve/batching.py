"""Dynamic batching: concurrent requests share one call of a program with fixed batch sizes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class BusyError(Exception):
    """All places are taken; a later request may succeed."""


class Batcher(Generic[Item, Result]):
    """A queue in front of a program, used by one event loop."""

    def __init__(
        self,
        call: Callable[[list[Item], int], list[Result]],
        seconds: Mapping[int, float],
        max_wait: float,
        max_places: int,
    ):
        """Creates an empty queue; `running` starts it.

        Args:
            call: (items, size) -> results; the items fill the first rows of a batch of `size`.
                It runs in a thread, one call at a time.
            seconds: duration of a call, for each batch size.
            max_wait: seconds that an item waits for others while no call is running.
            max_places: number of items that may be in progress at the same time.
        """
        self.seconds = dict(seconds)
        self._call, self._max_wait, self._max_places = call, max_wait, max_places
        self._taken = 0
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._open: set[asyncio.Future[Result]] = set()  # in the queue or in a call
        self._some, self._full = asyncio.Event(), asyncio.Event()

    @property
    def taken(self) -> int:
        """The number of places that are taken."""
        return self._taken

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Reserves places within the block, which spans from decoding to the answer.

        Args:
            count: number of items.

        Raises:
            BusyError: fewer places are free.
        """
        if self._taken + count > self._max_places:
            raise BusyError
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count

    async def submit(self, item: Item) -> Result:
        """Queues an item and returns its result; raises the error of its call, if any."""
        future = asyncio.get_running_loop().create_future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        self._queue.append((item, future))
        self._tell()
        return await future

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers items within the block; at its end, waits for those already submitted."""
        task = asyncio.create_task(self._run())
        try:
            yield
            while self._open:
                await asyncio.wait(self._open)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._max_wait):
                    await self._full.wait()
            size = best_size(len(self._queue), self.seconds)
            batch = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
            self._tell()
            await self._answer(
                [(item, future) for item, future in batch if not future.done()], size
            )

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]], size: int) -> None:
        if not batch:  # all clients have disconnected
            return
        try:
            results = await asyncio.to_thread(self._call, [item for item, _ in batch], size)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _tell(self) -> None:
        for event, least in ((self._some, 1), (self._full, max(self.seconds))):
            event.set() if len(self._queue) >= least else event.clear()


def best_size(waiting: int, seconds: Mapping[int, float]) -> int:
    """Returns the batch size with the least time per item answered.

    A device that is as fast for 16 rows as for 1 receives five items in one batch of 16, with 11
    empty rows.  A device whose time grows with the rows receives four of them, and then the fifth.

    Args:
        waiting: number of items in the queue, at least 1.
        seconds: duration of a call, for each batch size.
    """

    def cost(size: int) -> tuple[float, int, int]:
        answered = min(size, waiting)
        return seconds[size] / answered, -answered, size

    return min(seconds, key=cost)
