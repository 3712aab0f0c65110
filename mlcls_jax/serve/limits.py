"""The limits of the server, and those that are applied before the web framework reads a request."""

import asyncio
import hmac
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlcls_jax.options.serve import MAX_PIXELS

RETRY_SECONDS = 1
PROBES = ("/health", "/ready", "/v2/health/live", "/v2/health/ready")
PAGES = ("/", "/docs")  # what they show needs the token
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_SPARE_FILES = 128  # open files that are not connections


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    image_bytes, body_bytes: size of one file, and of a whole request.
    max_pixels: width times height of an image.
    images: number of images in a request.
    requests: number of simultaneous requests that have arrived.
    arriving_bytes: size of all requests together.
    places: number of images in progress, over all requests, from decoding to the answer.
    large_work: pixels of the large images in progress (see `image_work`).
    connections, connections_per_address: number of open connections, in all and of one address.
    header_seconds, upload_seconds, answer_seconds: time for the header of a request to arrive, for
        its body, and from then to its answer.
    decode_seconds: time for decoding one image.
    wait_seconds: time that an image waits for others to share its call.
    """

    image_bytes: int = 20 * 2**20
    body_bytes: int = 64 * 2**20
    max_pixels: int = MAX_PIXELS
    images: int = 16
    requests: int = 64
    arriving_bytes: int = 2**30
    places: int = 64
    large_work: int = 4 * MAX_PIXELS
    connections: int = 512
    connections_per_address: int = 256
    header_seconds: float = 10
    upload_seconds: float = 30
    answer_seconds: float = 60
    decode_seconds: float = 20
    wait_seconds: float = 0.003

    def open_connections(self) -> int:
        """Returns the number of connections, which the limit of open files may lower."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files == resource.RLIM_INFINITY:
            return self.connections
        return max(min(self.connections, files - _SPARE_FILES), 1)


class RequestLimits:
    """ASGI middleware that answers requests beyond the limits with a status and one line.

    It limits the size and the duration of an upload, the number of requests and their origin.  It
    asks for the token, and cancels a request whose client has left.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        policy: str,
        token: str = "",
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        """Wraps an application.

        Args:
            app: the application.
            limits: its limits.
            policy: Content-Security-Policy of all answers.
            token: what a request to /api must bring; "": nothing.
            is_stopping: whether the server stops; each answer then closes its connection.
        """
        self._app, self._limits, self._token = app, limits, token
        self._headers = {**SAFE, "Content-Security-Policy": policy}
        self._is_stopping = is_stopping
        self._requests = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as ASGI specifies."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        body = _Body(self, receive, has_body)

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.update(self._headers)
                if not body.is_complete or self._is_stopping():
                    added["Connection"] = "close"
            await send(message)

        if scope["path"] in PROBES:
            return await self._probe(scope)(scope, receive, send_safe)
        if refused := self._refuse(scope["path"], headers):
            return await refusal(*refused)(scope, receive, send_safe)
        try:
            await _while_connected(self._app(scope, body.receive, send_safe), body)
        finally:
            self._bytes -= body.size
            self._requests -= body.is_counted

    def _probe(self, scope: Scope) -> JSONResponse:
        path: str = scope["path"]
        is_ready = not (path.endswith("/ready") and self._is_stopping())
        answer: dict[str, Any] = {"status": "ok" if is_ready else "stopping"}
        if path.startswith("/v2/"):  # of KServe's protocol
            answer = {path.rpartition("/")[2]: is_ready}
        return JSONResponse(answer, 200 if is_ready else 503)

    def _refuse(self, path: str, headers: Headers) -> tuple[int, str] | None:
        # The page of another site can send a form to this address without reading the answer.
        origin = headers.get("origin", "")
        try:
            source = urlsplit(origin).netloc.lower()
        except ValueError:  # such as "http://["
            source = None
        if origin and source != headers.get("host", "").lower():
            return 403, "requests from pages of other sites are refused"
        if self._token and path not in PAGES and not self._has_token(headers):
            return 401, "the header 'Authorization: Bearer TOKEN' is missing or has another token"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            return 413, too_large(self._limits)
        if self._requests >= self._limits.requests:
            return 503, BUSY
        return None

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), self._token.encode()
        )

    def arrived(self, size: int) -> None:
        """Counts bytes of a request; raises HTTPException if all requests have too many."""
        self._bytes += size
        if self._bytes > self._limits.arriving_bytes:
            raise busy()

    def completed(self) -> None:
        """Counts a request that has arrived; raises HTTPException if there are too many."""
        if self._requests >= self._limits.requests:
            raise busy()
        self._requests += 1

    @property
    def limits(self) -> Limits:
        """The limits."""
        return self._limits


class _Body:
    """The body of a request, with a limit of its size and a deadline."""

    def __init__(self, guard: RequestLimits, receive: Receive, has_body: bool):
        self._guard, self._receive = guard, receive
        self._deadline = asyncio.get_running_loop().time() + guard.limits.upload_seconds
        self._complete = asyncio.Event()
        self.size, self.is_counted, self._has_body = 0, False, has_body
        self._is_read = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing of it is still to come."""
        return not self._has_body or self._is_read

    async def receive(self) -> Message:
        """Returns the next message; raises HTTPException beyond a limit."""
        if self._is_read:  # wait for the client to disconnect
            return await self._receive()
        limits = self._guard.limits
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            seconds = limits.upload_seconds
            raise HTTPException(408, f"the request took more than {seconds:g} s") from error
        size = len(message.get("body", b""))
        self.size += size
        self._guard.arrived(size)
        if self.size > limits.body_bytes:
            raise HTTPException(413, too_large(limits))
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._guard.completed()
            self.is_counted = self._is_read = True
            self._complete.set()
        return message

    async def until_disconnected(self) -> None:
        """Returns when the body is complete and the client has left, or has its answer."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _while_connected(answering, body: _Body) -> None:
    """Runs an application, and cancels it when its client has left."""
    answer = asyncio.ensure_future(answering)
    left = asyncio.ensure_future(body.until_disconnected())
    try:
        await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            # After an answer, the application may still have something to do.
            await asyncio.wait({answer}, timeout=LEFT_SECONDS)
    finally:
        left.cancel()
        answer.cancel()
        with suppress(asyncio.CancelledError):
            await answer
        with suppress(asyncio.CancelledError):
            await left


LEFT_SECONDS = 0.1
BUSY = "too many requests at the same time; try again"


def busy() -> HTTPException:
    """Returns the exception for a request that may succeed later."""
    return HTTPException(503, BUSY, {"Retry-After": str(RETRY_SECONDS)})


def refusal(status: int, reason: str) -> JSONResponse:
    """Returns a one-line error response; status 503 includes the seconds to wait."""
    headers = {
        401: {"WWW-Authenticate": "Bearer"},
        503: {"Retry-After": str(RETRY_SECONDS)},
    }.get(status)
    return JSONResponse({"detail": reason}, status, headers)


def too_large(limits: Limits) -> str:
    """Returns the message for a request with too large a body."""
    return f"a request may have at most {limits.body_bytes / 2**20:g} MB; send fewer images"
