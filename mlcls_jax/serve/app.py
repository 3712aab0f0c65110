"""Web application of a Service: the page, the JSON endpoint and their error messages.

FastAPI derives the OpenAPI description (/openapi.json) from the types of `answers` and validates
requests with them.  Its own documentation pages load scripts from other sites; ours, /docs, does
not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mlcls_jax.config.serialization import describe_network
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.run.trained_model import describe_checkpoint
from mlcls_jax.serve.answers import (
    REFUSALS,
    ClassScore,
    Explanation,
    Model,
    ModelClass,
    Part,
    Prediction,
)
from mlcls_jax.serve.batching import BusyError
from mlcls_jax.serve.kserve import add_kserve
from mlcls_jax.serve.limits import PROBES, RequestLimits, refusal
from mlcls_jax.serve.metrics import CountRequests, Metrics
from mlcls_jax.serve.pages import Pages, make_pages
from mlcls_jax.serve.service import Answer, Decoded, Service

LOCAL = ("127.0.0.1", "localhost")
Result = TypeVar("Result")
MAX_NAME = 100  # characters of a file name in an error


def make_app(
    service: Service,
    name: str,
    hosts: Sequence[str] = LOCAL,
    token: str = "",
    is_stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Builds the ASGI application.

    Args:
        service: answers the requests.
        name: name of the run, shown on the page.
        hosts: accepted values of the Host header.  They protect against DNS rebinding, where the
            page of another site points its own name at this address.
        token: what requests to the endpoint must bring; "": nothing.
        is_stopping: whether the server stops.
    """
    pages, metrics = make_pages(), Metrics(lambda: service.batcher.taken)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="mlcls_jax",
        description="Predicts which classes are present in an image.",
        version=version("mlcls_jax"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(
        RequestLimits,
        limits=service.limits,
        policy=pages.policy,
        token=token,
        is_stopping=is_stopping,
    )
    app.add_middleware(CountRequests, metrics=metrics, unseen=PROBES)
    _add_errors(app)
    _add_pages(app, pages, metrics)
    _add_api(app, service, name, metrics)

    async def answer_all(uploads: list[UploadFile]) -> list[Answer]:
        answers = [answer for _, answer in await _answers(service, uploads)]
        metrics.images.inc(len(answers))
        return answers

    add_kserve(app, name, service.run.classes, answer_all)
    return app


def _add_pages(app: FastAPI, pages: Pages, metrics: Metrics) -> None:
    """Adds the page, the page of the API, and the metrics for Prometheus."""

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def root() -> str:
        return pages.html["/"]

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return pages.html["/docs"]

    @app.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return metrics.answer()


def _add_api(app: FastAPI, service: Service, name: str, metrics: Metrics) -> None:
    """Adds the description of the model, predictions and explanations; name: of the run."""

    @app.get("/api/model")
    async def model() -> Model:
        """Returns the model that answers, its classes and the limits of a request."""
        return _describe(service, name)

    @app.post("/api/predict")
    async def predict(
        images: Annotated[list[UploadFile], File(description="one image or more")],
    ) -> list[Prediction]:
        """Predicts the classes of one image or more; if one is refused, so is the request."""
        answers = await _answers(service, images)
        metrics.images.inc(len(answers))
        return [
            Prediction(filename=upload.filename or "", classes=_scores(service, answer))
            for upload, (_, answer) in zip(images, answers, strict=True)
        ]

    @app.post("/api/explain")
    async def explain(
        image: Annotated[UploadFile, File(description="the image")],
        class_name: Annotated[str, Form(description="name of the class to explain")],
    ) -> Explanation:
        """Returns where in an image the evidence for a class is."""
        if class_name not in service.run.classes:
            raise HTTPException(422, "class_name: the model has no class with this name")
        label = service.run.classes.index(class_name)
        ((decoded, answer),) = await _answers(service, [image], label)
        metrics.images.inc()
        return Explanation(
            filename=image.filename or "",
            explained=_scores(service, answer)[label],
            map=answer.heat.tolist(),
            part=_part(decoded),
        )


async def _answers(
    service: Service, uploads: list[UploadFile], explained: int = 0
) -> list[tuple[Decoded, Answer]]:
    """Answers all images of a request, in order; raises HTTPException if one is refused."""
    limits = service.limits
    if len(uploads) > limits.images:
        raise HTTPException(413, f"images: a request may contain at most {limits.images}")
    for upload in uploads:
        if (upload.size or 0) > limits.image_bytes:
            most = f"{limits.image_bytes / 2**20:g} MB"
            raise HTTPException(413, f"{shown(upload)}: an image may have at most {most}")

    try:
        with service.batcher.places(len(uploads)):
            async with asyncio.timeout(limits.answer_seconds):
                decoded = await _together(_decode(service, upload, explained) for upload in uploads)
                answers = await _together(map(service.answer, decoded))
    except TimeoutError as error:
        raise HTTPException(504, f"no answer within {limits.answer_seconds:g} s") from error
    return list(zip(decoded, answers, strict=True))


async def _together(calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Awaits calls at the same time; if one fails or this call is cancelled, all others end."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _decode(service: Service, upload: UploadFile, explained: int) -> Decoded:
    try:
        return await service.decode(await upload.read(), explained)
    except ImageError as error:
        raise HTTPException(422, f"{shown(upload)}: {error}") from error


def shown(upload: UploadFile) -> str:
    """Returns the name of an uploaded file, printable and truncated, for an error message."""
    name = "".join(c if c.isprintable() else "?" for c in upload.filename or "")
    return name[:MAX_NAME] or "the image"


def _scores(service: Service, answer: Answer) -> list[ClassScore]:
    run = service.run
    rows = zip(
        run.classes,
        answer.probabilities.tolist(),
        run.decision_rule.thresholds,
        answer.present.tolist(),
        strict=True,
    )
    return [
        ClassScore(name=name, probability=probability, threshold=threshold, present=present)
        for name, probability, threshold, present in rows
    ]


def _part(decoded: Decoded) -> Part:
    box = decoded.source.box
    sides = np.array([decoded.source.height, decoded.source.width] * 2)
    shares = (np.array([box.top, box.left, box.height, box.width]) / sides).tolist()
    return Part(top=shares[0], left=shares[1], height=shares[2], width=shares[3])


def _describe(service: Service, name: str) -> Model:
    run, limits = service.run, service.limits
    rows = zip(run.classes, run.decision_rule.thresholds, strict=True)
    return Model(
        run=name,
        network=describe_network(run.config.model, len(run.classes)),
        checkpoint=describe_checkpoint(run.metadata),
        tuned=run.decision_rule.criterion is not None,
        classes=[ModelClass(name=label, threshold=threshold) for label, threshold in rows],
        image_bytes=limits.image_bytes,
        images=limits.images,
        max_pixels=min(limits.max_pixels, run.config.data.max_pixels),
    )


def _add_errors(app: FastAPI) -> None:
    """Registers handlers that answer each error with one line."""

    @app.exception_handler(BusyError)
    async def busy(_request: Request, _error: Exception) -> JSONResponse:
        return refusal(503, "too many images at the same time; try again")

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:])) or "request"
        return refusal(422, f"{field}: {first['msg']}")
