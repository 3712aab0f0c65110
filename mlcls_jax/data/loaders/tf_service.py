"""Training images that the workers of a tf.data service read and decode (data.service).

The service hands out each batch once, and batches arrive in any order.  They are put in order
here.  A batch of a worker that has ended never arrives, and the service waits for that worker
without end.  So a batch that is overdue is made by this process, and no image is lost.
"""

import socket
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.config.loader_checks import PROTOCOL
from mlcls_jax.data.loaders.choice import is_native
from mlcls_jax.data.loaders.tf_pipeline import (
    AHEAD,
    Images,
    decode_operation,
    options_of,
    planned_rows,
)
from mlcls_jax.system.console import one_line
from mlcls_jax.system.invocation import command

LATEST = 16  # batches that may arrive before one that is overdue
PATIENCE = 30.0  # seconds without any batch, after which the next one is overdue
_CONNECT = 10.0  # seconds
_CHECK_INTERVAL = 0.1  # seconds between checks whether the consumer has ended


def served_batches(
    images: Images, epochs: np.ndarray, indices: np.ndarray
) -> Iterator[np.ndarray | None]:
    """Yields batches of training images, in order; None for a batch that is overdue.

    Their pixels are not changed yet: that runs in Python, which the service cannot ship.

    Args:
      images: their paths must be readable by the workers.
      epochs, indices: int64 [step, row], see `train_order`.

    Raises:
      ValueError: an image is in a place that the workers cannot read.
      tf.errors.OpError: the service cannot be reached, or an image cannot be decoded.
    """
    check_served(images)
    arrived: dict[int, np.ndarray] = {}
    received: Queue[Any] = Queue(AHEAD)
    ended = Event()
    Thread(
        target=_receive,
        args=(served_dataset(images, epochs, indices), received, ended),
        name="tf.data service",
        daemon=True,  # it cannot be interrupted while it waits for a worker that has ended
    ).start()
    try:
        patience = PATIENCE
        for row in range(len(indices)):
            while row not in arrived and len(arrived) <= LATEST:
                try:
                    item = received.get(timeout=patience)
                except Empty:
                    patience = 0.0  # until a batch arrives again
                    break
                patience = PATIENCE
                if isinstance(item, BaseException):
                    raise item
                if item[0] >= row:
                    arrived[item[0]] = item[1]
            yield arrived.pop(row, None)
    finally:
        ended.set()


def _receive(dataset: tf.data.Dataset, received: Queue, ended: Event) -> None:
    """Puts (row, batch) into the queue, or the error of the service."""

    def put(item: Any) -> None:
        while not ended.is_set():
            with suppress(Full):
                return received.put(item, timeout=_CHECK_INTERVAL)

    try:
        for steps, batch in dataset:
            put((int(steps[0]), np.asarray(batch)))
            if ended.is_set():
                return
    except Exception as error:  # raised in the consumer
        put(error)


def served_dataset(images: Images, epochs: np.ndarray, indices: np.ndarray) -> tf.data.Dataset:
    """Returns a dataset of (steps, batch) in any order, decoded by the service.

    Args, errors: see `served_batches`.
    """
    decode = decode_operation(images)

    def numbered(row: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return row["step"], decode(row)

    # One source, of steps: the service shards each source by itself.
    rows = planned_rows(images, epochs, indices).map(
        tf.autograph.experimental.do_not_convert(numbered),
        num_parallel_calls=images.reader.workers(),
    )
    batches = rows.batch(indices.shape[1], drop_remainder=True)
    served = batches.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service=images.reader.service,
            max_outstanding_requests=2 * AHEAD,
        )
    )
    return served.prefetch(AHEAD).with_options(options_of(images))


def check_served(images: Images) -> None:
    """Checks that the service answers and that its workers can read the images.

    Raises:
      ValueError: no dispatcher listens at the address, an image is a record of an ArrayRecord file,
        or it is in a bucket that TensorFlow cannot read.
    """
    service = images.reader.service
    if not images.files.are_native:
        foreign = next(path for path in images.files.paths if not is_native(path))
        raise ValueError(
            f"data.service={service}: {foreign} cannot be read by its workers; use files in a "
            "folder that the workers see, or at gs:// addresses, or remove data.service"
        )
    host, _, port = service.removeprefix(PROTOCOL).rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data.service={service} does not answer ({one_line(error)}); start it with "
            f"{command('data_worker')} --dispatcher, or remove data.service"
        ) from error
