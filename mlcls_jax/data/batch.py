"""What a training step receives, and how it gets to the devices ahead of time."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

from flax import struct
from jax.sharding import NamedSharding

from mlcls_jax.system.devices import put_local

T = TypeVar("T")

_END = object()
_LOOKS_EVERY = 0.1  # seconds, at whether the caller is still there


@struct.dataclass
class Batch:
    """Rows of one training step: arrays on the host or on the devices, or their shapes."""

    image: Any  # uint8 [batch, size, size, 3], not normalised
    label: Any  # int8 [batch, class]: 1, 0 or UNKNOWN
    position: Any  # uint32 [batch]: place in the endless stream of the run


def to_devices(batches: Iterable[T], sharding: NamedSharding, ahead: int = 2) -> Iterator[T]:
    """Yields each pytree of this process's rows as global arrays, `ahead` batches in advance.

    A thread draws the batches and starts their transfers, while the caller and the devices work on
    those before.  Its errors are raised here; it ends when the iterator is closed or dropped.
    """
    ready: Queue[tuple[Any, BaseException | None]] = Queue(ahead)
    closed = Event()

    def hand_over(item: Any, error: BaseException | None = None) -> None:
        while not closed.is_set():
            with suppress(Full):
                return ready.put((item, error), timeout=_LOOKS_EVERY)

    def work() -> None:
        try:
            for batch in batches:
                if closed.is_set():
                    return
                hand_over(put_local(batch, sharding))
            hand_over(_END)
        except BaseException as error:  # it is the caller's, whatever it is
            hand_over(_END, error)

    thread = Thread(target=work, name="to devices", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error:
                raise error
            if item is _END:
                return
            yield item
    finally:
        closed.set()
        thread.join()
