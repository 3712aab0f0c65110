"""What a training step receives, and how it gets to the devices ahead of time."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
from flax import struct
from jax.sharding import NamedSharding

T = TypeVar("T")


@struct.dataclass
class Batch:
    """Rows of one training step: arrays on the host or on the devices, or their shapes."""

    image: Any  # uint8 [batch, size, size, 3], not normalised
    label: Any  # int8 [batch, class]: 1, 0 or UNKNOWN
    position: Any  # uint32 [batch]: place in the endless stream of the run


def to_devices(batches: Iterable[T], sharding: NamedSharding, ahead: int = 2) -> Iterator[T]:
    """Yields each pytree of this process's rows as global arrays, `ahead` batches in advance.

    The transfer of a batch is started while the devices work on the ones before it.
    """
    queue: deque[T] = deque()
    for batch in batches:
        queue.append(
            jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
        )
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue
