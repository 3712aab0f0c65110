"""A thread sends batches to the devices in order and in advance, and ends with its iterator."""

import threading
import time
import weakref

import numpy as np
import pytest

from mlcls_jax.data.batch import to_devices
from mlcls_jax.system.devices import make_mesh, sharded


def rows(number: int) -> np.ndarray:
    return np.full((8, 3), number, np.uint8)


@pytest.fixture
def alive():
    """Returns whether a thread of this test runs; a test before it may have left others."""
    before = threading.enumerate()
    return lambda: any(
        thread.name == "to devices" and thread not in before for thread in threading.enumerate()
    )


def test_batches_come_in_order_and_on_all_devices(alive):
    placement = sharded(make_mesh(8))
    for number, batch in enumerate(to_devices(map(rows, range(20)), placement)):
        assert batch.sharding == placement
        np.testing.assert_array_equal(batch, rows(number))
    assert number == 19 and not alive()


def test_the_thread_prepares_some_batches_and_ends_with_its_iterator(alive):
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield rows(0)

    batches = to_devices(endless(), sharded(make_mesh(8)), ahead=2)
    next(batches)
    deadline = time.monotonic() + 20
    while len(drawn) < 4 and time.monotonic() < deadline:  # one used, two ready, one waiting
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(drawn) == 4 and alive()
    batches.close()
    assert not alive()


def test_a_batch_is_freed_once_the_caller_drops_it():
    batches = to_devices(map(rows, range(9)), sharded(make_mesh(8)))
    dropped = weakref.ref(next(batches))
    assert dropped() is None
    batches.close()


def test_an_error_comes_after_the_batches_before_it(alive):
    def failing():
        yield rows(0)
        raise ValueError("image 3.jpg cannot be read")

    batches = to_devices(failing(), sharded(make_mesh(8)))
    next(batches)
    with pytest.raises(ValueError, match=r"3\.jpg"):
        next(batches)
    assert not alive()
