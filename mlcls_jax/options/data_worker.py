"""The command line of `data-worker`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from importlib.util import find_spec

from mlcls_jax.config.loader_checks import PROTOCOL
from mlcls_jax.config.options import Parser
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

PORT = 5050


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking them."""
    parser = Parser(
        prog=command("data_worker"),
        description="Starts a dispatcher or a worker of tf.data service, which reads and decodes "
        "images for runs with data.service.",
        epilog="Start one dispatcher, then any number of workers that join it. The workers read "
        "the same image paths as the run, so they need the same disks or gs:// addresses. "
        "There is no encryption and no password: use it in a private network only.",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--dispatcher", action="store_true", help="start the dispatcher")
    kind.add_argument(
        "--join", metavar="HOST:PORT", default="", help="start a worker that joins a dispatcher"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=None,
        help=f"port to listen on (dispatcher: default {PORT}; worker: default 0, a free one)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST",
        default="",
        help="how runs reach this worker: a host name or an address (default: localhost)",
    )
    options = parser.parse_args(argv)
    if options.port is None:
        options.port = PORT if options.dispatcher else 0
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: it must be 0 to 65535")
    if options.dispatcher and options.address:
        parser.error("--address is that of a worker; runs name the dispatcher in data.service")
    options.join = options.join.removeprefix(PROTOCOL)
    host, _, port = options.join.rpartition(":")
    if options.join and not (host and port.isdecimal()):
        parser.error(f"--join {options.join}: it must be HOST:PORT, such as 10.0.0.2:{PORT}")
    return options


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        parse(argv)
        if find_spec("tensorflow") is None:
            raise ValueError("data-worker needs TensorFlow; run pip install 'mlcls_jax[tf_data]'")
