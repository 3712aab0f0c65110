"""The memory of batches is reused, but only when no view of it is left."""

import jax
import numpy as np

from mlcls_jax.data.loaders.threads import BufferPool


def test_memory_is_reused_when_all_views_are_deleted():
    memory = BufferPool((4, 8, 8, 3))
    first = memory.take()
    assert first.shape == (4, 8, 8, 3) and first.dtype == np.uint8
    place = first.ctypes.data
    assert place % 64 == 0  # XLA requires this to use an array without a copy
    first[:] = 1
    part = first[2][1:3]
    del first
    second = memory.take()
    assert second.ctypes.data != place
    second[:] = 2
    assert (part == 1).all()
    del part
    assert memory.take().ctypes.data == place


def test_arrays_on_devices_keep_their_memory():
    memory = BufferPool((4, 8, 8, 3))
    images = memory.take()
    images[:] = 1
    on_device = jax.device_put(images, jax.devices()[0])
    del images
    others = [memory.take() for _ in range(3)]
    for other in others:
        other[:] = 2
    np.testing.assert_array_equal(np.asarray(on_device), 1)
