"""Metrics of the server in the text format of Prometheus, at /metrics."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/", "/docs", "/metrics", "/api/model", "/api/predict", "/api/explain")
OTHER = "other"  # every other path, which anybody can make up
LEFT = "left"  # the client has left before the answer
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, waiting: Callable[[], int]):
        """Starts all counts at zero.

        Args:
            waiting: returns the number of images from decoding to the answer.
        """
        self._registry = CollectorRegistry()

        def made(kind: type, name: str, text: str, *labels: str, **options: object):
            return kind(f"mlcls_jax_{name}", text, labels, registry=self._registry, **options)

        self.requests = made(Counter, "requests", "Requests by answer", "path", "status")
        self.seconds = made(
            Histogram,
            "request_seconds",
            "Seconds to the end of the answer",
            "path",
            buckets=_SECONDS,
        )
        self.open = made(Gauge, "open_requests", "Requests without an answer so far")
        self.images = made(Counter, "images", "Images with an answer")
        made(Gauge, "images_in_progress", "Images from decoding to the answer").set_function(
            waiting
        )

    def answer(self) -> Response:
        """Returns the answer of /metrics."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class CountRequests:
    """ASGI middleware that counts requests with their status and duration, the refused ones too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, unseen: tuple[str, ...] = ()):
        """Wraps an application.

        Args:
            app: the application.
            metrics: what counts.
            unseen: paths that are not counted, such as those of probes.
        """
        self._app, self._metrics, self._unseen = app, metrics, unseen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection, as ASGI specifies."""
        if scope["type"] != "http" or scope["path"] in self._unseen:
            return await self._app(scope, receive, send)
        path = scope["path"] if scope["path"] in PATHS else OTHER
        status, began = LEFT, time.monotonic()

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self._metrics.open.inc()
        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._metrics.open.dec()
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - began)
