"""Reads and decodes images for runs on other machines (data.service), by tf.data service.

    mlcls-jax data-worker --dispatcher --port 5050
    mlcls-jax data-worker --join 10.0.0.2:5050 --address 10.0.0.3
    mlcls-jax train --config b5 --config.data.service=grpc://10.0.0.2:5050 ...

docs/input.md says what the workers need, and what happens when one ends.
"""

import sys

from mlcls_jax.options.data_worker import check, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

import socket
import time

from mlcls_jax import cli
from mlcls_jax.data.loaders.loader import tf_module

WAIT = 60.0  # seconds for the dispatcher to start


def main(argv: list[str]) -> int:
    """Runs the command until it is stopped, and returns its exit code."""
    options = parse(argv)
    if options.join:
        wait_for(options.join)
    servers = tf_module("tf_servers")
    if options.dispatcher:
        server, address = servers.start_dispatcher(options.port)
        print(f"dispatcher at grpc://{address}; stop it with Ctrl-C", flush=True)
    else:
        server, address = servers.start_worker(options.join, options.port, options.address)
        print(f"worker at {address}, joined {options.join}; stop it with Ctrl-C", flush=True)
    while server:  # server.join() would ignore Ctrl-C
        time.sleep(1)
    return 0


def wait_for(dispatcher: str, seconds: float = WAIT) -> None:
    """Waits until a dispatcher listens.

    Args:
        dispatcher: its host and port.
        seconds: the longest time.

    Raises:
        ValueError: it does not listen in time.
    """
    host, _, port = dispatcher.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"--join {dispatcher}: no dispatcher answers ({error.strerror or error}); "
                    "start one with --dispatcher, and check host, port and firewall"
                ) from error
        time.sleep(1)


if __name__ == "__main__":
    cli.run(main, is_log=True)
