"""A page to drop images on, and a JSON endpoint, for a trained run.

python -m mlcls_jax.serve --workdir runs/b5
curl -F images=@photo.jpg http://127.0.0.1:8000/api/predict

It answers on this machine alone; /openapi.json describes the endpoint.
"""

import argparse
import socket
from importlib.util import find_spec
from pathlib import Path

from mlcls_jax import cli
from mlcls_jax.evaluation.decision_rule import describe_thresholds
from mlcls_jax.run.trained_model import describe_checkpoint, load_trained_model
from mlcls_jax.system import distributed
from mlcls_jax.system.console import console

NEEDED = ("fastapi", "python_multipart", "uvicorn")
ANY = ("", "0.0.0.0", "::")


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    options = parse(argv)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(
            f"the page needs {' and '.join(missing)}; run: pip install 'mlcls_jax[serve]'"
        )
    import uvicorn  # here, as everything else does without

    from mlcls_jax.serve.app import LOCAL, make_app
    from mlcls_jax.serve.service import Limits, Service

    distributed.start()
    listener = listen(options.host, options.port)
    workdir = Path(options.workdir)
    run = load_trained_model(workdir, options.checkpoint)
    console.print(
        f"{describe_checkpoint(run.metadata)}; {describe_thresholds(run.decision_rule, None)}"
    )
    limits = Limits()
    app = make_app(Service(run, limits), workdir.resolve().name, (*LOCAL, options.host))
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.answer_seconds),
    )
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    console.print(f"{address}  (Ctrl-C answers what has come in, and stops)")
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m mlcls_jax.serve",
        description="A page to drop images on, and a JSON endpoint, for a trained run.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0: a free one")
    options = parser.parse_args(argv)
    if options.host in ANY:
        parser.error(
            f"--host {options.host or repr('')}: name the address that the page is reached at, as "
            "requests for other names are refused"
        )
    if ":" in options.host:
        parser.error(f"--host {options.host}: IPv6 addresses are not served; name another one")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: it must be from 0 to 65535")
    return options


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is loaded; ValueError where that cannot be."""
    try:
        server = socket.create_server((host, port))
        # Connections inherit it.  asyncio leaves it off for a socket like this one, and an answer
        # in two parts would wait 40 ms for the other end's delayed acknowledgement of the first.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror or error}; "
            "give another --host or --port"
        ) from error


if __name__ == "__main__":
    cli.run(main)
