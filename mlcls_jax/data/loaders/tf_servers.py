"""Starts the dispatcher and the workers of tf.data service, which `tf_service` reads from."""

import socket
from typing import Any

import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

from mlcls_jax.system.console import one_line

_DISPATCHER_TIMEOUT = 60_000  # milliseconds to wait for the dispatcher


def start_dispatcher(port: int) -> tuple[Any, str]:
    """Starts the server that hands out batches, and returns it with its host and port.

    Args:
      port: to listen on; 0 chooses a free one.

    Raises:
      ValueError: the port is in use.
    """
    service = tf.data.experimental.service
    try:
        server = service.DispatchServer(service.DispatcherConfig(port=port, protocol="grpc"))
    except tf.errors.OpError as error:
        raise ValueError(f"--port {port}: {one_line(error, limit=200)}") from error
    return server, f"{socket.gethostname()}:{server.target.rpartition(':')[2]}"


def start_worker(dispatcher: str, port: int, host: str) -> tuple[Any, str]:
    """Starts a server that reads and decodes images, and returns it with its host and port.

    Args:
      dispatcher: host and port of the dispatcher.
      port: to listen on; 0 chooses a free one.
      host: how runs reach this machine; "": localhost, for runs on the same machine.

    Raises:
      ValueError: the dispatcher does not answer, or the port is in use.
    """
    service = tf.data.experimental.service
    config = service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=f"{host or 'localhost'}:%port%",
        port=port,
        dispatcher_timeout_ms=_DISPATCHER_TIMEOUT,
    )
    try:
        server = service.WorkerServer(config)
    except tf.errors.OpError as error:
        raise ValueError(
            f"--join {dispatcher}: the worker cannot join ({one_line(error, limit=200)})"
        ) from error
    return server, f"{host or 'localhost'}:{server._server.bound_port()}"
