"""What a training step receives, and how it gets to the devices ahead of time."""

import math
import mmap
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from flax import struct
from jax.sharding import NamedSharding

from mlcls_jax.devices import put_local

T = TypeVar("T")


@struct.dataclass
class Batch:
    """Rows of one training step: arrays on the host or on the devices, or their shapes."""

    image: Any  # uint8 [batch, size, size, 3], not normalised
    label: Any  # int8 [batch, class]: 1, 0 or UNKNOWN
    position: Any  # uint32 [batch]: place in the endless stream of the run


class Memory:
    """Memory of batches, used again when a batch and all that look at it are gone.

    Fresh pages cost more than a copy of cached pictures does; and as it is aligned, a CPU's devices
    use it as it is.
    """

    def __init__(self, shape: tuple[int, ...]):
        """shape: of each batch."""
        self._shape, self._free = shape, []

    def take(self) -> np.ndarray:
        """uint8 of the shape, with what was in it before."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, math.prod(self._shape))
        # Views of the result have this one as their base, as what is below it is no array.
        flat = np.frombuffer(memory, np.uint8)
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)


def to_devices(batches: Iterable[T], sharding: NamedSharding, ahead: int = 2) -> Iterator[T]:
    """Yields each pytree of this process's rows as global arrays, `ahead` batches in advance.

    The transfer of a batch is started while the devices work on the ones before it; the lead is
    built up over the first batches.
    """
    queue: deque[T] = deque()
    yielded = 0
    for batch in batches:
        queue.append(put_local(batch, sharding))
        if len(queue) > min(yielded, ahead):  # the first one at once: a run starts with it
            yield queue.popleft()
            yielded += 1
    yield from queue
