"""Serves a trained run as a web page for images and as a JSON endpoint.

mlcls-jax serve --workdir runs/b5
curl -F images=@photo.jpg http://127.0.0.1:8000/api/predict

By default it is reachable from this machine only.  /openapi.json describes the endpoint.
"""

import logging
import socket
import sys

from mlcls_jax.options.serve import check, check_installed, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax import cli
from mlcls_jax.evaluation.decision_rule import describe_thresholds
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.trained_model import describe_checkpoint, load_trained_model
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    check_installed()
    import uvicorn  # an optional dependency

    from mlcls_jax.serve.app import LOCAL, make_app
    from mlcls_jax.serve.connections import Connections, Server
    from mlcls_jax.serve.limits import Limits
    from mlcls_jax.serve.service import Service

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # for the same reason
    distributed.start()
    listener = listen(options.host, options.port)
    workdir = open_workdir(options.workdir)
    run = load_trained_model(workdir, options.checkpoint)
    console.print(
        f"{describe_checkpoint(run.metadata)}; {describe_thresholds(run.decision_rule, None)}"
    )
    limits = Limits(max_pixels=options.max_pixels)
    connections = Connections(limits)
    app = make_app(
        Service(run, limits),
        workdir.resolve().name,
        (*LOCAL, options.host),
        options.token,
        lambda: connections.is_stopping,
    )
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        log_level="error",  # one line for each request that is no HTTP would fill a log
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.answer_seconds),
    )
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    if options.token:
        console.print("the page and the endpoint ask for the token")
    console.print(f"{address}  (Ctrl-C answers the requests that have arrived, then stops)")
    Server(config, connections).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Binds a socket, so that a wrong address is reported before the model is loaded.

    Args:
        host: IPv4 address or host name.
        port: port; 0 chooses a free one.

    Raises:
        ValueError: the address is in use or not available.
    """
    try:
        server = socket.create_server((host, port))
        # Connections inherit the option, which asyncio does not set for a socket like this one.
        # Without it, an answer in two parts waits 40 ms for the first part's acknowledgement.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server
    except OSError as error:
        raise ValueError(
            f"cannot listen on --host {host} --port {port}: {error.strerror or error}; "
            "choose another --host or --port"
        ) from error


if __name__ == "__main__":
    cli.run(main, is_log=True)
