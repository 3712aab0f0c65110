"""The JSON that the server answers; FastAPI derives its description from these types."""

from typing import Any

from pydantic import BaseModel, Field


class ClassScore(BaseModel):
    """Result for one class of an image."""

    name: str = Field(description="name of the class")
    probability: float = Field(description="from 0 to 1, calibrated if the run is")
    threshold: float = Field(description="probability from which the class is predicted present")
    present: bool = Field(description="whether the probability reaches the threshold")


class Prediction(BaseModel):
    """Results for all classes of an image, in the order of the model's outputs."""

    filename: str = Field(description="name with which the image was sent")
    classes: list[ClassScore] = Field(description="one for each class of the model")


class Part(BaseModel):
    """Part of an image, as fractions of its height and width; a letterbox extends beyond it."""

    top: float = Field(description="upper edge, as a fraction of the height")
    left: float = Field(description="left edge, as a fraction of the width")
    height: float = Field(description="as a fraction of the height of the image")
    width: float = Field(description="as a fraction of the width of the image")


class Explanation(BaseModel):
    """Map of the evidence for a class: rows of non-negative values over a part of the image."""

    filename: str = Field(description="name with which the image was sent")
    explained: ClassScore = Field(description="the class")
    map: list[list[float]] = Field(description="rows of values from 0 on; larger is more evidence")
    part: Part = Field(description="the part of the image that the map covers")


class ModelClass(BaseModel):
    """A class, and the probability from which it is predicted present."""

    name: str = Field(description="name of the class")
    threshold: float = Field(description="probability from which the class is predicted present")


class Model(BaseModel):
    """The model that answers, and the limits of a request."""

    run: str = Field(description="name of the run's folder")
    network: str = Field(description="network and image size")
    checkpoint: str = Field(description="checkpoint that was loaded")
    tuned: bool = Field(description="whether the thresholds were tuned")
    classes: list[ModelClass] = Field(description="in the order of the model's outputs")
    image_bytes: int = Field(description="largest size of one image")
    images: int = Field(description="most images in a request")
    max_pixels: int = Field(description="largest width times height of an image")


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str = Field(description="one line")


_REASONS = {
    401: "The token is missing or another one",
    403: "The request comes from the page of another site",
    408: "The upload took too long",
    413: "The request or an image is too large",
    422: "An image cannot be read, or a field is missing",
    503: "Too many images at the same time; Retry-After has the seconds to wait",
    504: "No answer in time",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": reason} for status, reason in _REASONS.items()
}
