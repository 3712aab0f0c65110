"""From the bytes of an image to its answer: decoded in threads, computed in batches."""

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
from mlcls_jax.data.loaders.threads import Reader
from mlcls_jax.explain.grad_cam import make_explain_step
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.serve.batching import Batcher
from mlcls_jax.step.programs import build_model
from mlcls_jax.system.devices import put_local, sharded

SIZES = (1, 4, 16)


@dataclass(frozen=True)
class Limits:
    """What a client can ask of a server at most.

    image_bytes, body_bytes: of one file, and of a whole request.
    images: in a request.
    requests: at once.
    places: images at once, of all requests, from before they are decoded to their answers.
    upload_seconds, answer_seconds: for a request to arrive, and from there to its answer.
    wait_seconds: that an image waits for others to share its call.
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
    """An image for the network, and the class to explain.

    box: the part that the network sees of an image of `height` x `width` pixels.
    """

    image: UInt8[np.ndarray, "size size 3"]
    box: Box
    height: int
    width: int
    explained: int


@dataclass(frozen=True)
class Answer:
    """probabilities, present: of the run's decisions; heat: of the class that was asked for."""

    probabilities: Float[np.ndarray, " class"]
    present: Bool[np.ndarray, " class"]
    heat: Float[np.ndarray, "rows columns"]


class Service:
    """A run behind a queue; used by one event loop."""

    def __init__(self, run: TrainedModel, limits: Limits, sizes: Sequence[int] = SIZES):
        """Compiles a program per batch size, and takes the time of each.

        Logits and a map are one program: next to the network, a map of one class is no work.

        Args:
            run: to answer by.
            limits: see Limits.
            sizes: of batches, each rounded up to what the devices can share evenly.
        """
        self.run, self.limits = run, limits
        config, count = run.config, run.mesh.size
        self._size, self._augment = image_size(config), config.augment
        self._programs = {
            rows: _compile(run, rows) for rows in {-(-size // count) * count for size in sizes}
        }
        reader = Reader(config.data.max_pixels, config.data.threads)
        self._max_pixels = reader.max_pixels
        self._threads = ThreadPoolExecutor(reader.workers(), thread_name_prefix="images")
        seconds = {size: self._measure(size) for size in self._programs}
        self.batcher = Batcher(self._call, seconds, limits.wait_seconds, limits.places)

    async def decode(self, contents: bytes, explained: int = 0) -> Decoded:
        """An image as `predict` sees it, and the number of a class to explain.

        Raises:
            ImageError: the bytes are no image that it takes.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, contents, explained)

    async def answer(self, decoded: Decoded) -> Answer:
        """After its turn in the queue."""
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
        """Seconds of a call, the second one: the first still takes memory."""
        self._call([], size)
        began = time.perf_counter()
        self._call([], size)
        return time.perf_counter() - began


def _compile(run: TrainedModel, rows: int) -> Any:
    model = build_model(run.config, len(run.classes), run.pretrained_config.convention)
    explain: Any = make_explain_step(model, run.pretrained_config.normalization, run.mesh)
    size, rows_over = image_size(run.config), sharded(run.mesh)
    images = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8, sharding=rows_over)
    chosen = jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=rows_over)
    return explain.lower(run.variables, images, chosen).compile()
