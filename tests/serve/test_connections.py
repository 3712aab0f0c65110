"""Deadlines and bounds of connections, over sockets to a server of a trivial application."""

import dataclasses
import itertools
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest
import uvicorn

from mlcls_jax.serve import connections as module
from mlcls_jax.serve.__main__ import listen
from mlcls_jax.serve.connections import Connections, Server
from mlcls_jax.serve.limits import Limits, RequestLimits

LIMITS = Limits(
    body_bytes=1_000,
    connections=40,
    connections_per_address=30,
    header_seconds=0.4,
    upload_seconds=0.4,
    answer_seconds=5,
)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def answer(scope, receive, send):
    """An application that reads the body and answers."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    head = {"status": 200, "headers": [(b"content-length", b"2")]}
    await send({"type": "http.response.start", **head})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serving(limits=LIMITS):
    """The port of a server, and the server."""
    connections = Connections(limits)
    app = RequestLimits(answer, limits, "", is_stopping=lambda: connections.is_stopping)
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_level="critical", http="h11", loop="asyncio"
    )
    server = Server(config, connections)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1], server
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(20)
        assert not thread.is_alive()


def connect(port: int, *parts: bytes, source: str = "127.0.0.1") -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
    for part in parts:
        one.sendall(part)
    return one


def read(one: socket.socket) -> bytes:
    """Everything until the server closes; b"reset" at the end if it aborts."""
    received = b""
    with one:
        try:
            while part := one.recv(65536):
                received += part
        except ConnectionResetError:
            received += b"reset"
    return received


def ordinary(port: int) -> int:
    return httpx2.post(f"http://127.0.0.1:{port}/", content=b"12345", timeout=10).status_code


def test_a_header_that_does_not_arrive_is_408():
    with serving() as (port, _):
        began = time.monotonic()
        silent, slow = connect(port), connect(port, HEAD)
        assert read(slow).startswith(b"HTTP/1.1 408 ")
        assert read(silent) == b""
        assert 0.3 < time.monotonic() - began < 5


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nX: ", HEAD + b"Content-Length: 900\r\n\r\n"])
def test_slow_clients_give_way(head, monkeypatch):
    monkeypatch.setattr(module, "_MIN_AGE", 0.05)
    patient = dataclasses.replace(LIMITS, header_seconds=60, upload_seconds=60)
    with serving(patient) as (port, server):
        slow = [connect(port, head) for _ in range(30)]
        slow += [connect(port, head, source="127.0.0.2") for _ in range(10)]
        time.sleep(0.2)
        assert [ordinary(port) for _ in range(5)] == [200] * 5
        others = [connect(port, head, source="127.0.0.3") for _ in range(60)]
        assert ordinary(port) == 200
        assert len(server.server_state.connections) <= LIMITS.connections
        closed = sum(one in (b"", b"reset") for one in map(read, slow[:5]))
        assert closed == 5  # the first of the busiest address
        for one in slow + others:
            one.close()


def test_after_413_the_body_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(module, "CLOSING_SECONDS", 0.3)
    with serving() as (port, _):
        one = connect(port, HEAD + b"Content-Length: 1000000000\r\n\r\n")
        sent, began = 0, time.monotonic()
        with pytest.raises(OSError, match=r"(?i)reset|pipe|abort"):
            while time.monotonic() - began < 10:
                sent += one.send(bytes(1_000))
                time.sleep(0.001)
        assert time.monotonic() - began < 5
        early = connect(port, HEAD + b"Content-Length: 1000000000\r\n\r\n", bytes(200_000))
        assert read(early).startswith(b"HTTP/1.1 413 ")  # not lost, although data are unread
        one.close()


def test_a_signal_under_load_loses_no_connection():
    statuses: Counter = Counter()

    def client(port: int) -> None:
        for _ in itertools.count():
            try:
                one = connect(port)
            except ConnectionRefusedError:
                return
            time.sleep(0.003)  # the request is on its way when the server stops
            try:
                one.sendall(HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\n12")
                statuses[read(one)[:12]] += 1
            except OSError as error:
                statuses[type(error).__name__] += 1

    roomy = dataclasses.replace(LIMITS, connections=512, connections_per_address=512)
    with ThreadPoolExecutor(20) as pool, serving(roomy) as (port, server):
        for _ in range(20):
            pool.submit(client, port)
        time.sleep(0.5)
        server.handle_exit(signal.SIGTERM, None)
    assert set(statuses) == {b"HTTP/1.1 200"}, statuses
    assert statuses[b"HTTP/1.1 200"] >= 20


def test_a_connection_that_is_kept_open_gets_its_last_answer():
    request = HEAD + b"Content-Length: 2\r\n\r\n12"
    with serving() as (port, server):
        one = connect(port, request)
        first = b""
        while not first.endswith(b"ok"):
            first += one.recv(65536)
        assert first.startswith(b"HTTP/1.1 200 ")
        server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.3)
        one.sendall(request)
        last = read(one)
        assert last.startswith(b"HTTP/1.1 200 ") and b"connection: close" in last.lower()


def test_connections_are_fewer_than_open_files(monkeypatch):
    files = {"soft": 300}
    monkeypatch.setattr(
        "mlcls_jax.serve.limits.resource.getrlimit", lambda _: (files["soft"], 10_000)
    )
    assert Limits().open_connections() == 172
    files["soft"] = 100_000
    assert Limits().open_connections() == Limits().connections
