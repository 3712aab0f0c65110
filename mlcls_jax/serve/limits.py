"""Limits on requests, applied before the web framework reads them."""

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlcls_jax.serve.service import Limits

RETRY_SECONDS = 1
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class RequestLimits:
    """ASGI middleware that answers requests beyond the limits with a status and one line.

    It limits the size and the duration of an upload, the number of requests and their origin.
    """

    def __init__(self, app: ASGIApp, limits: Limits, policy: str):
        """Wraps an application.

        Args:
            app: the application.
            limits: its limits.
            policy: Content-Security-Policy of all answers.
        """
        self._app, self._limits = app, limits
        self._headers = {**SAFE, "Content-Security-Policy": policy}
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as ASGI specifies."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        if refused := self._refuse(Headers(scope=scope)):
            return await refusal(*refused)(scope, receive, send_safe)
        self._requests += 1
        try:
            await self._app(scope, self._limited(receive), send_safe)
        finally:
            self._requests -= 1

    def _refuse(self, headers: Headers) -> tuple[int, str] | None:
        # The page of another site can send a form to this address without reading the answer.
        origin = headers.get("origin", "")
        try:
            source = urlsplit(origin).netloc.lower()
        except ValueError:  # such as "http://["
            source = None
        if origin and source != headers.get("host", "").lower():
            return 403, "requests from pages of other sites are refused"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            return 413, too_large(self._limits)
        if self._requests >= self._limits.requests:
            return 503, "too many requests at the same time; try again"
        return None

    def _limited(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + self._limits.upload_seconds
        left, more = self._limits.body_bytes, True

        async def limited() -> Message:
            nonlocal left, more
            if not more:  # the body is complete; wait for the client to disconnect
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                seconds = self._limits.upload_seconds
                raise HTTPException(408, f"the request took more than {seconds:g} s") from error
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, too_large(self._limits))
            more = message.get("more_body", False)
            return message

        return limited


def refusal(status: int, reason: str) -> JSONResponse:
    """Returns a one-line error response; status 503 includes the seconds to wait."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return JSONResponse({"detail": reason}, status, headers)


def too_large(limits: Limits) -> str:
    """Returns the message for a request with too large a body."""
    return f"a request may have at most {limits.body_bytes / 2**20:g} MB; send fewer images"
