"""The memory that batches are made in."""

import math
import mmap
import weakref

import numpy as np


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
