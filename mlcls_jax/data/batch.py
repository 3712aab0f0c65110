"""The batch of a training step, and its transfer to the devices in advance."""

from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

from flax import struct
from jax.sharding import NamedSharding

from mlcls_jax.system.devices import put_local

T = TypeVar("T")

_END = object()
_CHECK_INTERVAL = 0.1  # seconds between checks whether the caller has closed the iterator


@struct.dataclass
class Batch:
    """The images of one training step: arrays on the host or on devices, or their shapes."""

    image: Any  # uint8 [batch, size, size, channel], not normalised
    label: Any  # int8 [batch, class]: 1, 0 or UNKNOWN; float32 in [0, 1] or UNKNOWN if soft
    position: Any  # uint32 [batch]: position in the endless stream of the run


def to_devices(
    batches: Iterable[T], sharding: NamedSharding, ahead: int = 2
) -> Generator[T, None, None]:
    """Yields each batch as global arrays on the devices, prepared `ahead` batches in advance.

    A thread draws the batches and starts their transfers while the devices work on earlier ones.
    Its errors are raised here. It ends when the iterator is closed or dropped.

    Args:
      batches: pytrees with this process's rows of each batch.
      sharding: the sharding of the global arrays.
      ahead: the number of finished batches that may wait.
    """
    ready: Queue[tuple[Any, BaseException | None]] = Queue(ahead)
    closed = Event()

    def enqueue(item: Any, error: BaseException | None = None) -> None:
        while not closed.is_set():
            with suppress(Full):
                return ready.put((item, error), timeout=_CHECK_INTERVAL)

    def work() -> None:
        try:
            for batch in batches:
                if closed.is_set():
                    return
                enqueue(put_local(batch, sharding))
            enqueue(_END)
        except BaseException as error:  # any error is raised in the caller
            enqueue(_END, error)

    thread = Thread(target=work, name="to devices", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error:
                raise error
            if item is _END:
                return
            passed_on = [item]
            del item  # else a batch would stay on the devices until the next one is asked for
            yield passed_on.pop()
    finally:
        closed.set()
        thread.join()
