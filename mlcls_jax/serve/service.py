"""Prediction service: decodes images in processes and computes them in batches."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.pixel_format import pixel_format
from mlcls_jax.data.loaders.loader import cores
from mlcls_jax.explain.grad_cam import make_explain_step
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.serve.batching import Batcher
from mlcls_jax.serve.decoders import DecodedImage, Decoders
from mlcls_jax.serve.image_worker import ImageSettings
from mlcls_jax.serve.limits import Limits
from mlcls_jax.step.network import build_model
from mlcls_jax.system.devices import put_local, sharded

SIZES = (1, 4, 16)


@dataclass(frozen=True)
class Decoded:
    """A decoded image, and the index of the class to explain."""

    source: DecodedImage
    explained: int


@dataclass(frozen=True)
class Answer:
    """Result for one image.

    probabilities, present: of each class, by the decision rule of the run.
    heat: evidence map of the class to explain.
    """

    probabilities: Float[np.ndarray, " class"]
    present: Bool[np.ndarray, " class"]
    heat: Float[np.ndarray, "rows columns"]


class Service:
    """A trained run behind a queue, used by one event loop."""

    def __init__(self, run: TrainedModel, limits: Limits, sizes: Sequence[int] = SIZES):
        """Compiles a program for each batch size and measures its time.

        One program computes both logits and a map, because the map of one class costs little.

        Args:
            run: the trained run.
            limits: limits of the server.
            sizes: batch sizes, each rounded up to a multiple of the number of devices.
        """
        self.run, self.limits = run, limits
        config, count = run.config, run.mesh.size
        self._size = image_size(config.model)
        self._programs = {
            rows: _compile(run, rows) for rows in {-(-size // count) * count for size in sizes}
        }
        settings = ImageSettings(
            self._size,
            config.augment,
            pixel_format(config.data, config.model.in_channels),
            limits.max_pixels,
        )
        workers = config.data.threads or cores() + 1
        self.decoders = Decoders(settings, workers, limits.decode_seconds, limits.large_work)
        seconds = {size: self._measure(size) for size in self._programs}
        self.batcher = Batcher(self._call, seconds, limits.wait_seconds, limits.places)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers requests within the block; at its end, waits for those already submitted."""
        async with self.decoders.running(), self.batcher.running():
            yield

    async def decode(self, contents: bytes, explained: int = 0) -> Decoded:
        """Decodes an image as `predict` does, in a process that ends if this call is cancelled.

        Args:
            contents: bytes of an image file.
            explained: index of the class to explain.

        Raises:
            ImageError: the bytes are not a supported image, or take too long.
            BusyError: too many large images are in progress.
        """
        return Decoded(await self.decoders.decode(contents), explained)

    async def answer(self, decoded: Decoded) -> Answer:
        """Queues a decoded image and returns its answer."""
        logits, heat = await self.batcher.submit(decoded)
        probabilities = self.run.decision_rule.probabilities(logits[None])
        return Answer(probabilities[0], self.run.decision_rule.present(probabilities)[0], heat)

    def _call(self, decoded: list[Decoded], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        images = np.zeros((size, *self.run.network.image_shape), np.uint8)
        chosen = np.zeros((size, 1), np.int32)
        for row, one in enumerate(decoded):
            images[row], chosen[row] = one.source.image, one.explained
        arguments = put_local((images, chosen), sharded(self.run.mesh))
        logits, maps = jax.device_get(self._programs[size](self.run.variables, *arguments))
        return list(zip(logits, maps[:, 0], strict=True))[: len(decoded)]

    def _measure(self, size: int) -> float:
        """Returns the seconds of the second call; the first one still allocates memory."""
        self._call([], size)
        began = time.perf_counter()
        self._call([], size)
        return time.perf_counter() - began


def _compile(run: TrainedModel, rows: int) -> Any:
    model = build_model(run.network, run.pretrained_config.convention)
    explain: Any = make_explain_step(model, run.pretrained_config.normalization, run.mesh)
    shape, rows_over = (rows, *run.network.image_shape), sharded(run.mesh)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=rows_over)
    chosen = jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=rows_over)
    return explain.lower(run.variables, images, chosen).compile()
