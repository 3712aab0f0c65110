"""Deadlines and bounds of connections, and a stop that answers what has arrived.

uvicorn has no limit of the time in which a header arrives or an answer is read, and closes all
connections without a request when it stops, also those whose request is on its way.
"""

import asyncio
import ctypes
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlcls_jax.serve.limits import Limits

CLOSING_SECONDS = 3.0  # in which a client reads the rest of its answer
STOPPING_SECONDS = 1.0  # in which a request that is on its way arrives
_WATCH_SECONDS = 0.25
_HANDSHAKE_SECONDS = 0.2  # in which a connection that has begun is made
_SO_ATTACH_FILTER = 26  # Linux; Python has no name for it
_ACCEPTED_AT_ONCE, _QUEUE = 64, 2_048
_MIN_AGE = 1.0  # seconds after which an upload may be closed for another connection
_TIMED_OUT = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: 58\r\n\r\n"
    b'{"detail": "the header of the request took too much time"}'
)


class Connections:
    """The open connections of a server, with their bounds and deadlines."""

    def __init__(self, limits: Limits):
        """Has no connection yet.

        Args:
            limits: of the server.
        """
        self.limits, self.is_stopping = limits, False
        self._open: set[Connection] = set()
        self._most = limits.open_connections()
        self._of_address: Counter[str] = Counter()

    def add(self, connection: "Connection") -> None:
        """Adds a connection; beyond a bound, closes the one that has waited longest.

        That is one without a request, or a slow upload.  If all are at work, it is the new one.
        """
        self._open.add(connection)
        self._of_address[connection.address] += 1
        address = connection.address
        if self._of_address[address] <= self.limits.connections_per_address:
            if len(self._open) <= self._most:
                return
            address = self._of_address.most_common(1)[0][0]
        others = (one for one in self._open if one.address == address and one is not connection)
        (_longest_waiting(others) or connection).drop()

    def remove(self, connection: "Connection") -> None:
        """Forgets a connection that is closed."""
        if connection in self._open:
            self._open.remove(connection)
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def waiting(self) -> bool:
        """Returns whether a connection has no request in progress."""
        return any(one.is_waiting for one in self._open)

    async def watch(self) -> None:
        """Closes connections at their deadlines, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for one in tuple(self._open):
                one.check(loop.time())


class Connection(H11Protocol):
    """A connection with deadlines for the header, the whole request and the reading of answers."""

    def __init__(self, *args: Any, connections: Connections, **options: Any):
        """Passes all other arguments to uvicorn."""
        super().__init__(*args, **options)
        self._all, self.address = connections, ""
        self._since, self._has_begun = self.loop.time(), False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Implements `asyncio.Protocol`."""
        super().connection_made(_ReadToTheEnd(transport))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Implements `asyncio.Protocol`."""
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Implements `asyncio.Protocol`; after a close, data are dropped."""
        if self.transport.is_closing():
            return
        was_waiting = self.is_waiting
        if was_waiting and not self._has_begun:
            self._has_begun, self._since = True, self.loop.time()
        super().data_received(data)
        if was_waiting and not self.is_waiting:
            self._since = self.loop.time()

    def on_response_complete(self) -> None:
        """Called by uvicorn after an answer; the rest of a body is not read for long."""
        self._has_begun, self._since = False, self.loop.time()
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        super().on_response_complete()

    def shutdown(self) -> None:
        """Called by uvicorn when it stops; a header that has begun to arrive is awaited."""
        if not (self.is_waiting and self._has_begun):
            super().shutdown()

    @property
    def is_waiting(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_uploading(self) -> bool:
        """Whether the body of a request is arriving."""
        return not self.is_waiting and self.cycle.more_body

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Order in which connections are closed for others, first those that never asked."""
        return self.is_uploading, self.cycle is not None, self._since

    def is_older(self, seconds: float) -> bool:
        """Returns whether it has been waiting or uploading for longer than this."""
        return self.loop.time() - self._since > seconds

    def drop(self) -> None:
        """Closes it at once, without an answer."""
        self._all.remove(self)
        self.transport.abort()

    def check(self, now: float) -> None:
        """Closes the connection if it is beyond a deadline.

        Args:
            now: time of the event loop.
        """
        limits, age = self._all.limits, now - self._since
        if self.transport.is_closing():
            closing = getattr(self.transport, "closing_since", None)
            if closing is not None and now - closing > CLOSING_SECONDS:
                self.transport.abort()
        elif self.is_waiting:
            if age > limits.header_seconds:
                if self._has_begun:
                    self.transport.write(_TIMED_OUT)
                self.transport.close()
        elif age > limits.upload_seconds + limits.answer_seconds + CLOSING_SECONDS:
            self.transport.abort()


class Server(uvicorn.Server):
    """A server that, when it stops, answers the requests on all connections that were made."""

    def __init__(self, config: uvicorn.Config, connections: Connections):
        """Prepares a server.

        Args:
            config: of uvicorn; `http` is replaced.
            connections: bounds and deadlines.
        """
        super().__init__(config)
        self._connections = connections
        config.load()
        config.http_protocol_class = self._connection  # type: ignore[assignment]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept connections."""
        # asyncio accepts as many at once, and then reads what has arrived.  So a request is known
        # as one before its connection could be closed for a newer one.
        self.config.backlog = _ACCEPTED_AT_ONCE
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_QUEUE)
        self._watch = asyncio.create_task(self._connections.watch())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts what has connected, answers it, and closes each connection after its answer."""
        self._connections.is_stopping = True
        for listener in sockets or ():
            _refuse_new(listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        accepted = [one for listener in sockets or () for one in _accepted(listener)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for one in accepted:
            await loop.connect_accepted_socket(self._protocol, one)
        end = loop.time() + STOPPING_SECONDS
        while self._connections.waiting() and loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        self._watch.cancel()

    def _connection(self, **options: Any) -> Connection:
        return Connection(connections=self._connections, **options)

    def _protocol(self) -> Connection:
        return self._connection(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class _ReadToTheEnd:
    """A transport that, when it is closed, lets the client read its answer to the end.

    The system resets a connection that is closed with unread data, and the client loses the answer.
    So only the own direction is closed, and what still arrives is dropped.
    """

    def __init__(self, transport: asyncio.Transport):
        self._transport = transport
        self.closing_since: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self.closing_since is None:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self.closing_since is not None or self._transport.is_closing()

    def close(self) -> None:
        if not self.is_closing():
            self.closing_since = asyncio.get_running_loop().time()
            self._transport.resume_reading()
            self._transport.write_eof()


def _longest_waiting(connections: Iterable[Connection]) -> Connection | None:
    """The connection that is closed for another one; None if all are at work."""
    waiting = (
        one
        for one in connections
        if one.is_waiting or (one.is_uploading and one.is_older(_MIN_AGE))
    )
    return min(waiting, key=lambda one: one.rank, default=None)


def _refuse_new(listener: socket.socket) -> None:
    """Drops packets that open a connection; the client tries again, and is refused after the end.

    A listener that is closed resets all connections in its queue.  So no new one may come into it
    while those are accepted.  Without such a filter, as on macOS, a few may be lost.
    """
    # Load the flags of TCP; if SYN is among them, keep 0 bytes, else all (Linux, filter.h).
    program = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    if sys.platform == "linux":
        with suppress(OSError):
            filter_of = struct.pack("HP", len(program), ctypes.addressof(code))
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_of)


def _accepted(listener: socket.socket) -> list[socket.socket]:
    """The connections that wait in the queue of a listener."""
    accepted = []
    listener.setblocking(False)
    while True:
        try:
            accepted.append(listener.accept()[0])
        except OSError:  # BlockingIOError: there are no more
            return accepted
        accepted[-1].setblocking(False)
