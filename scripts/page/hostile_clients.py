"""Measures what an ordinary client waits for while others misuse the server.

    python scripts/page/hostile_clients.py --workdir runs/b5 --image photo.jpg

Starts `mlcls_jax.serve` for each row, and sends an image every 50 ms over a new connection, first
alone and then next to slow sockets, slow bodies, and images that cost much time.  Prints the
answers and their latency, the resident memory of the server with its processes, and what the others
got.  Needs the extra `serve` and Linux.
"""

import argparse
import http.client
import io
import resource
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from server_load import BOUNDARY, form, server

HOST = "127.0.0.1"
PERIOD = 0.05
SCAN, END = b"\xff\xda", b"\xff\xd9"
Attack = Callable[[int, Counter], AbstractContextManager[None]]


def main() -> None:
    """Runs the command."""
    options = parse()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, most), most))
    body = form(Path(options.image).read_bytes())
    print("| next to | sent | 200 | 503 | other | p50 ms | p99 ms | max ms | MB | they get |")
    print("|:--|--:|--:|--:|--:|--:|--:|--:|--:|:--|")
    for name, attack in attacks().items():
        if not options.only or options.only in name:
            print(row(name, attack, options, body), flush=True)


def parse() -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", required=True, help="workdir of a run")
    parser.add_argument("--image", required=True, help="what the ordinary client sends")
    parser.add_argument("--seconds", type=float, default=20, help="per row (default 20)")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    return parser.parse_args()


def attacks() -> dict[str, Attack]:
    """What happens at the same time, by name."""
    return {
        "nothing": nothing,
        "1,200 slow sockets": partial(slow_sockets, count=1_200),
        "64 slow bodies": partial(slow_bodies, count=64),
        "4 progressive JPEGs, 2,500 scans": partial(images, contents=progressive(2_500), count=4),
        "4 progressive JPEGs, 100 scans": partial(images, contents=progressive(100), count=4),
        "24 PNGs of 79 megapixels": partial(images, contents=png(8_888), count=24),
        "24 PNGs of 63 megapixels": partial(images, contents=png(7_950), count=24),
        "6 batches of 16 PNGs of 63 megapixels": partial(
            images, contents=png(7_950), count=6, batch=16
        ),
    }


def row(name: str, attack: Attack, options: argparse.Namespace, body: bytes) -> str:
    """Runs one attack, and returns a row of the table."""
    given: Counter = Counter()
    with server(options.workdir) as port:
        for _ in range(20):
            send(port, body)
        with attack(port, given):
            statuses, seconds, memory = ordinary_client(port, body, options.seconds)
    answered = Counter(statuses)
    other = len(statuses) - answered[200] - answered[503]
    p50, p99, most = np.percentile(seconds, (50, 99, 100)) * 1000
    others = ", ".join(f"{count} x {status}" for status, count in given.most_common())
    return (
        f"| {name} | {len(statuses)} | {answered[200]} | {answered[503]} | {other} | {p50:.0f} | "
        f"{p99:.0f} | {most:.0f} | {memory} | {others} |"
    )


def ordinary_client(
    port: int, body: bytes, duration: float
) -> tuple[list[int | str], list[float], int]:
    """Sends an image at fixed times, however long the answers take.

    Returns:
        The status or error and the seconds of each request, and the most memory in MB.
    """
    statuses, seconds, most, threads = [], [], 0, []

    def one() -> None:
        began = time.perf_counter()
        statuses.append(send(port, body))
        seconds.append(time.perf_counter() - began)

    end = time.perf_counter() + duration
    while time.perf_counter() < end:
        began = time.perf_counter()
        threads.append(threading.Thread(target=one))
        threads[-1].start()
        if len(threads) % 10 == 0:
            most = max(most, memory_of_server(port))
        time.sleep(max(PERIOD - (time.perf_counter() - began), 0))
    for thread in threads:
        thread.join()
    return statuses, seconds, most


def send(port: int, body: bytes, source: str = "", timeout: float = 120) -> int | str:
    """Sends a form over a new connection; returns the status or the name of an error."""
    address = (source, 0) if source else None
    connection = http.client.HTTPConnection(HOST, port, timeout, source_address=address)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    try:
        connection.request("POST", "/api/predict", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError as error:
        return type(error).__name__
    except http.client.HTTPException as error:
        return type(error).__name__
    finally:
        connection.close()


@contextmanager
def nothing(_port: int, _given: Counter) -> Iterator[None]:
    """No other client."""
    yield


@contextmanager
def slow_sockets(port: int, given: Counter, count: int) -> Iterator[None]:
    """Connections that have sent a part of a header, and send a byte each second."""
    with slowly(port, given, count, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "):
        yield


@contextmanager
def slow_bodies(port: int, given: Counter, count: int) -> Iterator[None]:
    """Requests whose body arrives with a byte each second."""
    head = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
    head += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    with slowly(port, given, count, head):
        yield


@contextmanager
def slowly(port: int, given: Counter, count: int, head: bytes) -> Iterator[None]:
    """Connections that send a head and then a byte each second."""
    sockets = []
    for _ in range(count):
        one = socket.create_connection((HOST, port), timeout=5)
        one.sendall(head)
        sockets.append(one)
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(1):
            for one in tuple(sockets):
                try:
                    one.sendall(b"a")
                except OSError:
                    sockets.remove(one)
                    given["closed"] += 1

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        given["open at the end"] += len(sockets)
        for one in sockets:
            one.close()


@contextmanager
def images(
    port: int, given: Counter, contents: bytes, count: int, batch: int = 1
) -> Iterator[None]:
    """Clients that send the same images again and again, as long as they are refused or answered.

    Args:
        port: of the server.
        given: counts what they get.
        contents: the image.
        count: number of clients.
        batch: images in a request.
    """
    ended, body = threading.Event(), form(contents, batch)

    def client() -> None:
        while not ended.is_set():
            given[send(port, body, timeout=60)] += 1
            ended.wait(0.5)

    with ExitStack() as stack:
        for _ in range(count):
            thread = threading.Thread(target=client)
            thread.start()
            stack.callback(thread.join)
        stack.callback(ended.set)
        time.sleep(0.5)
        yield


def progressive(scans: int, side: int = 4_000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG", progressive=True)
    contents = file.getvalue()
    last = contents[contents.rfind(SCAN) : -len(END)]
    return contents[: -len(END)] + last * (scans - contents.count(SCAN)) + END


def png(side: int) -> bytes:
    """A black PNG, which is small as a file."""
    packer, row = zlib.compressobj(9), bytes(1 + 3 * side)
    packed = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def memory_of_server(port: int) -> int:
    """Resident memory in MB of the process that listens at a port, and of its children."""
    processes = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            processes[int(folder.name)] = int(fields[1]), int(fields[21]), command
    page = resource.getpagesize()
    servers = {one for one, (_, _, command) in processes.items() if b"mlcls_jax.serve\0" in command}
    own = {one for one, (parent, *_) in processes.items() if parent in servers} | servers
    return sum(processes[one][1] for one in own) * page // 2**20


if __name__ == "__main__":
    main()
