"""The command line of `serve`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
import os
from importlib.util import find_spec

from mlcls_jax.config.options import Parser
from mlcls_jax.options.shared import check_trained
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

TOKEN = "MLCLS_JAX_TOKEN"  # environment variable
MIN_TOKEN = 16  # characters
# 64 megapixels: above the 50 of most phones.  As a PNG, this takes half a second and 200 MB.
MAX_PIXELS = 64_000_000
NEEDED = ("fastapi", "prometheus_client", "python_multipart", "uvicorn")
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
    parser.add_argument(
        "--token",
        default=None,
        help="what requests must bring as 'Authorization: Bearer TOKEN'; needed unless --host is "
        f"this machine; {TOKEN} in the environment does not show in the list of processes",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help=f"largest width times height of an image (default {MAX_PIXELS})",
    )
    options = parser.parse_args(argv)
    options.token = _token(parser, options)
    if options.max_pixels < 1:
        parser.error(f"--max-pixels {options.max_pixels}: it must be at least 1")
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
    if not options.token and not _is_local(options.host):
        parser.error(
            f"--host {options.host}: other machines can reach this address, so set a token that "
            f"they must send: {TOKEN} in the environment, or --token"
        )
    return options


def _token(parser: Parser, options: argparse.Namespace) -> str:
    """The token of the command line or the environment; "" without one."""
    given, inherited = options.token, os.environ.get(TOKEN, "").strip()
    if given is not None and inherited and given != inherited:
        parser.error(f"--token: {TOKEN} in the environment is another one; set one of them")
    token = inherited if given is None else given.strip()
    source = TOKEN if given is None else "--token"
    is_set = given is not None or inherited
    if is_set and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        parser.error(
            f"{source}: it must have at least {MIN_TOKEN} ASCII characters; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def _is_local(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    return host.lower() == "localhost" or (host.startswith("127.") and host.count(".") == 3)


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
