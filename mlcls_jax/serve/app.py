"""Web application of a Service: the page, the JSON endpoint and their error messages.

FastAPI derives the OpenAPI description (/openapi.json) from the types below and validates requests
with them.  Its documentation pages are disabled because they load scripts from other sites.
"""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.run.trained_model import describe_checkpoint
from mlcls_jax.serve.batching import BusyError
from mlcls_jax.serve.limits import RequestLimits, refusal
from mlcls_jax.serve.service import Answer, Decoded, Service
from mlcls_jax.step.network import describe_network

PAGE = Path(__file__).with_name("page.html")
LOCAL = ("127.0.0.1", "localhost")
Result = TypeVar("Result")
MAX_NAME = 100  # characters of a file name in an error


class ClassScore(BaseModel):
    """Result for one class of an image."""

    name: str
    probability: float
    threshold: float
    present: bool


class Prediction(BaseModel):
    """Results for all classes of an image, in the order of the model's outputs."""

    filename: str
    classes: list[ClassScore]


class Part(BaseModel):
    """Part of an image, as fractions of its height and width; a letterbox extends beyond it."""

    top: float
    left: float
    height: float
    width: float


class Explanation(BaseModel):
    """Map of the evidence for a class: rows of non-negative values over a part of the image."""

    filename: str
    explained: ClassScore
    map: list[list[float]]
    part: Part


class ModelClass(BaseModel):
    """A class, and the probability from which it is predicted present."""

    name: str
    threshold: float


class Model(BaseModel):
    """The model that answers, and the limits of a request."""

    run: str
    network: str
    checkpoint: str
    tuned: bool
    classes: list[ModelClass]
    image_bytes: int
    images: int
    max_pixels: int


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
    page = PAGE.read_text(encoding="utf-8")

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
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(
        RequestLimits,
        limits=service.limits,
        policy=policy(page),
        token=token,
        is_stopping=is_stopping,
    )
    _add_errors(app)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def root() -> str:
        return page

    @app.get("/api/model")
    async def model() -> Model:
        return _describe(service, name)

    @app.post("/api/predict")
    async def predict(images: list[UploadFile]) -> list[Prediction]:
        answers = await _answers(service, images)
        return [
            Prediction(filename=upload.filename or "", classes=_scores(service, answer))
            for upload, (_, answer) in zip(images, answers, strict=True)
        ]

    @app.post("/api/explain")
    async def explain(image: UploadFile, class_name: Annotated[str, Form()]) -> Explanation:
        if class_name not in service.run.classes:
            raise HTTPException(422, "class_name: the model has no class with this name")
        label = service.run.classes.index(class_name)
        ((decoded, answer),) = await _answers(service, [image], label)
        return Explanation(
            filename=image.filename or "",
            explained=_scores(service, answer)[label],
            map=answer.heat.tolist(),
            part=_part(decoded),
        )

    return app


def policy(page: str) -> str:
    """Returns the Content-Security-Policy that allows only the page's own script and style."""

    def by_hash(tag: str) -> str:
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256((text[1] if text else "").encode()).digest()
        return f"{tag}-src 'sha256-{b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; {by_hash('script')}; {by_hash('style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
        network=describe_network(run.network),
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
