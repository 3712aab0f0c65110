"""Prediction service: decodes images in threads and computes them in batches."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mlcls_jax.config.schema import image_size
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.transforms import Box, eval_image, seen_box
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.explain.grad_cam import make_explain_step
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.serve.batching import Batcher
from mlcls_jax.step.network import build_model
from mlcls_jax.system.devices import put_local, sharded

SIZES = (1, 4, 16)


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    image_bytes, body_bytes: size of one file, and of a whole request.
    images: number of images in a request.
    requests: number of simultaneous requests.
    places: number of images in progress, over all requests, from decoding to the answer.
    upload_seconds, answer_seconds: time for a request to arrive, and from then to its answer.
    wait_seconds: time that an image waits for others to share its call.
    """

    image_bytes: int = 20 * 2**20
    body_bytes: int = 64 * 2**20
    images: int = 16
    requests: int = 64
    places: int = 64
    upload_seconds: float = 30
    answer_seconds: float = 60
    wait_seconds: float = 0.003


@dataclass(frozen=True)
class Decoded:
    """A decoded image, and the class to explain.

    image: input of the network.
    box: the part of the original image of `height` x `width` pixels that the network sees; see
        `seen_box`.
    explained: index of the class to explain.
    """

    image: UInt8[np.ndarray, "size size 3"]
    box: Box
    height: int
    width: int
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
        self._size, self._augment = image_size(config.model), config.augment
        self._programs = {
            rows: _compile(run, rows) for rows in {-(-size // count) * count for size in sizes}
        }
        reader = Reader(config.data.max_pixels, config.data.threads)
        self._max_pixels = reader.max_pixels
        self._threads = ThreadPoolExecutor(reader.workers(), thread_name_prefix="images")
        seconds = {size: self._measure(size) for size in self._programs}
        self.batcher = Batcher(self._call, seconds, limits.wait_seconds, limits.places)

    async def decode(self, contents: bytes, explained: int = 0) -> Decoded:
        """Decodes an image in a thread, as `predict` does.

        Args:
            contents: bytes of an image file.
            explained: index of the class to explain.

        Raises:
            ImageError: the bytes are not a supported image.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, contents, explained)

    async def answer(self, decoded: Decoded) -> Answer:
        """Queues a decoded image and returns its answer."""
        logits, heat = await self.batcher.submit(decoded)
        probabilities = self.run.decision_rule.probabilities(logits[None])
        return Answer(probabilities[0], self.run.decision_rule.present(probabilities)[0], heat)

    def _decode(self, contents: bytes, explained: int) -> Decoded:
        source = open_image(contents, self._max_pixels)
        image = eval_image(source, size=self._size, augment=self._augment)
        sides = source.height, source.width
        box = seen_box(*sides, self._size, self._augment.eval_resize)
        return Decoded(image, box, *sides, explained)

    def _call(self, decoded: list[Decoded], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        images = np.zeros((size, self._size, self._size, 3), np.uint8)
        chosen = np.zeros((size, 1), np.int32)
        for row, one in enumerate(decoded):
            images[row], chosen[row] = one.image, one.explained
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
    size, rows_over = image_size(run.config.model), sharded(run.mesh)
    images = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8, sharding=rows_over)
    chosen = jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=rows_over)
    return explain.lower(run.variables, images, chosen).compile()
