"""Images are decoded in processes that end with the request."""

import asyncio
import io
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import open_image
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.images.transforms import eval_image
from mlcls_jax.serve import decoders as module
from mlcls_jax.serve.batching import BusyError
from mlcls_jax.serve.decoders import DecodedImage, DecoderPool, Decoders
from mlcls_jax.serve.image_worker import ImageSettings, answer_to, image_work

SETTINGS = ImageSettings(32, Augment(), PixelFormat(10_000_000), 9_000_000)


def encoded(height: int, width: int, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(file, form, **options)
    return file.getvalue()


def process_of(pool: DecoderPool) -> subprocess.Popen:
    process = pool._idle[0]._process
    assert process is not None
    return process


SMALL, SLOW = encoded(50, 40), encoded(2_900, 3_000)


def test_equals_decoding_in_this_process():
    async def decode():
        async with Decoders(SETTINGS, 2, 60, 10**9).running() as decoders:
            return await asyncio.gather(*map(decoders.decode, (SMALL, encoded(60, 50), SLOW)))

    found = asyncio.run(decode())
    for image, contents in zip(found, (SMALL, encoded(60, 50), SLOW), strict=True):
        source = open_image(contents)
        np.testing.assert_array_equal(
            image.image, eval_image(source, size=32, augment=SETTINGS.augment)
        )
        assert (image.height, image.width) == (source.height, source.width)


def test_a_cancelled_call_ends_its_process_and_the_next_gets_another_one():
    async def cancel():
        pool = DecoderPool(SETTINGS, 1, 60)
        async with pool.running(at_once=False):
            await pool.decode(SMALL)
            process = process_of(pool)
            process.send_signal(signal.SIGSTOP)  # so that no CPU is too fast for the test
            slow = asyncio.create_task(pool.decode(SLOW))
            await asyncio.sleep(0.02)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert process.poll() is not None
            image = await pool.decode(SMALL)
            assert isinstance(image, DecodedImage)
            return image

    assert asyncio.run(cancel()).width == 40


def test_an_image_that_takes_too_long_or_ends_its_process_is_refused():
    async def refuse():
        pool = DecoderPool(SETTINGS, 1, 60)
        async with pool.running(at_once=False):
            await pool.decode(SMALL)
            pool._seconds = 0.01
            with pytest.raises(ImageError, match=r"more than 0\.01 s"):
                await pool.decode(SLOW)
            pool._seconds = 60
            await pool.decode(SMALL)
            process_of(pool).kill()
            with pytest.raises(ImageError, match="has ended"):
                await pool.decode(SMALL)
            image = await pool.decode(SMALL)
            assert isinstance(image, DecodedImage)
            return image

    assert asyncio.run(refuse()).height == 50


def test_small_images_do_not_wait_for_large_ones(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 100_000)

    async def both():
        async with Decoders(SETTINGS, 2, 60, 2 * 8_700_000).running() as decoders:
            await asyncio.gather(decoders.decode(SMALL), decoders.decode(SLOW))
            process = process_of(decoders._large)
            process.send_signal(signal.SIGSTOP)  # large images now take as long as the test
            large = [asyncio.create_task(decoders.decode(SLOW)) for _ in range(2)]
            while decoders._work < 2 * 8_700_000:
                await asyncio.sleep(0.01)
            with pytest.raises(BusyError):
                await decoders.decode(SLOW)
            await decoders.decode(SMALL)
            assert not any(task.done() for task in large)
            process.send_signal(signal.SIGCONT)
            return await asyncio.gather(*large), await decoders.decode(SLOW)

    large, again = asyncio.run(both())
    assert [image.height for image in [*large, again]] == [2_900] * 3


def test_the_page_has_its_own_limit_of_pixels():
    answer, pixels = answer_to(encoded(3_000, 3_010), 10**9, SETTINGS)
    assert pixels is None and "3010 x 3000" in answer["error"] and "9,000,000" in answer["error"]
    answer, _ = answer_to(encoded(3_000, 3_400), 10**9, SETTINGS)
    assert "max_pixels" in answer["error"]


def test_work_is_counted_by_format_and_scans():
    assert image_work(SMALL, 2_000) == 2_000
    assert image_work(encoded(50, 40, "JPEG"), 2_000) == 500
    assert image_work(encoded(50, 40, "JPEG", progressive=True), 2_000) == 2_000
