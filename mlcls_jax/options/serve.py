"""The command line of `serve`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from importlib.util import find_spec

from mlcls_jax.config.options import Parser
from mlcls_jax.options.shared import check_trained
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

NEEDED = ("fastapi", "python_multipart", "uvicorn")
ANY = ("", "0.0.0.0", "::")


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options after checking them."""
    parser = Parser(
        prog=command("serve"),
        description="Serves a trained run as a web page for images and as a JSON endpoint.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen on (default 8000; 0 chooses a free one)",
    )
    options = parser.parse_args(argv)
    if options.host in ANY:
        parser.error(
            f"--host {options.host or repr('')}: set the address at which the page is reached; "
            "requests for other names are refused"
        )
    if ":" in options.host:
        parser.error(
            f"--host {options.host}: IPv6 is not supported; use an IPv4 address or a host name"
        )
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: it must be 0 to 65535")
    return options


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        options = parse(argv)
        check_installed()
        check_trained(options.workdir, options.checkpoint)


def check_installed() -> None:
    """Raises ValueError if a package is missing that only the server needs."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(
            f"the server needs {' and '.join(missing)}; run: pip install 'mlcls_jax[serve]'"
        )
