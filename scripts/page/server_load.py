"""Measures the requests per second of the server on this machine, and their latency.

    python scripts/page/server_load.py --workdir runs/b5 --images photos --clients 1 4 16 64

Starts `mlcls_jax.serve` on a free port, warms it up, and prints a row for each number of clients.
Each client sends one image after the other over its own connection. The last two columns compare
with the first row and count the refused requests. Needs the extra `serve`.
"""

import argparse
import http.client
import itertools
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

BOUNDARY = "mlcls-jax-server-load"


def main() -> None:
    """Runs the command."""
    options = parse()
    bodies = [form(path.read_bytes()) for path in sorted(Path(options.images).iterdir())]
    print("| clients | requests/s | p50 ms | p99 ms | relative to the first row | 503 |")
    print("|--:|--:|--:|--:|--:|--:|")
    with server(options.workdir) as port:
        send_all(port, bodies, 4, 2)
        alone = 0.0
        for clients in options.clients:
            seconds, refused = send_all(port, bodies, clients, options.seconds)
            rate = len(seconds) / options.seconds
            alone = alone or rate
            p50, p99 = np.percentile(seconds, (50, 99)) * 1000
            print(
                f"| {clients} | {rate:.1f} | {p50:.0f} | {p99:.0f} | {rate / alone:.2f} | "
                f"{refused} |"
            )


def parse() -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", required=True, help="workdir of a run")
    parser.add_argument("--images", required=True, help="folder that contains images only")
    parser.add_argument(
        "--clients",
        type=int,
        nargs="+",
        default=[1, 4, 16, 64],
        help="numbers of concurrent clients (default 1 4 16 64)",
    )
    parser.add_argument("--seconds", type=float, default=15, help="seconds per row (default 15)")
    return parser.parse_args()


@contextmanager
def server(workdir: str) -> Iterator[int]:
    """Starts a server, yields its port when it is ready, and stops it with the context."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "mlcls_jax.serve",
        "--workdir",
        workdir,
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout or ():
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(found[1])
                return
        raise RuntimeError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def form(image: bytes, count: int = 1) -> bytes:
    """Returns the body of a request that has the same image `count` times."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return (head.encode() + image + b"\r\n") * count + f"--{BOUNDARY}--\r\n".encode()


def send_all(
    port: int, bodies: list[bytes], clients: int, duration: float
) -> tuple[list[float], int]:
    """Sends requests from concurrent clients.

    Args:
        port: port of the server.
        bodies: request bodies, which the clients send in turn.
        clients: number of clients.
        duration: seconds after which no new request is sent.

    Returns:
        The seconds of each answered request, and the number of refused requests.
    """
    end, seconds, refused = time.perf_counter() + duration, [], []

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for index in itertools.count(first):
            began = time.perf_counter()
            if began > end:
                return connection.close()
            headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
            body = bodies[index % len(bodies)]
            connection.request("POST", "/api/predict", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                seconds.append(time.perf_counter() - began)
            elif answer.status == 503:
                refused.append(answer.status)
                time.sleep(int(answer.headers["Retry-After"]))
            else:
                raise RuntimeError(f"status {answer.status}")

    threads = [threading.Thread(target=client, args=(7 * i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, len(refused)


if __name__ == "__main__":
    main()
