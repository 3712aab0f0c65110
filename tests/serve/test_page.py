"""The page in a browser: images are chosen, dropped, predicted and explained."""

import shutil
import threading

import numpy as np
import pytest
import uvicorn
from browser import PROGRAMS, browser
from PIL import Image

from mlcls_jax.serve.__main__ import listen
from mlcls_jax.serve.app import make_app

CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def address(service):
    """Address of the page, served by a thread."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(make_app(service, "demo <b>run</b>"), ws="none", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(address, tmp_path):
    with browser(CHROMIUM, tmp_path / "profile") as page:
        page.open(address, 1000, 800)
        page.wait_for("document.title !== 'mlcls_jax'")
        yield page


@pytest.fixture
def images(tmp_path):
    """An image with HTML as its name, one that the browser cannot show, and a text file."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    files = [tmp_path / name for name in ("<img src=x onerror=alert(2)>.png", "b.tif", "c.jpg")]
    for file in files[:2]:
        Image.fromarray(pixels).save(file)
    files[2].write_text("words")
    return files


def test_images_are_chosen_and_explained(page, images, run):
    page.choose_files("#files", images[:1])
    page.wait_for("document.querySelectorAll('.card[data-done]').length === 1")
    assert page.run("document.querySelector('.card h2').textContent") == images[0].name
    names = "[...document.querySelectorAll('.bar .name')].map((name) => name.textContent)"
    assert set(page.run(names)) == set(run.classes)
    assert (
        page.run("document.querySelectorAll('.bar.present .name')[0].textContent") == run.classes[0]
    )
    assert page.run("document.title") == "demo <b>run</b>"
    page.run("document.querySelector('.bar').click()")
    page.wait_for("document.querySelector('.frame canvas') !== null")
    box = "(({width, height}) => [width, height])({}.getBoundingClientRect())"
    image = page.run(box.replace("{}", "document.querySelector('.frame img')"))
    np.testing.assert_allclose(
        page.run(box.replace("{}", "document.querySelector('.frame canvas')")), image, atol=1
    )
    page.run("document.querySelector('.bar').click()")
    assert page.run("document.querySelector('.frame canvas')") is None
    # No name became HTML, and the policy refused nothing.
    assert page.run("document.querySelectorAll('main b, .name img, h2 img').length") == 0
    assert page.messages == []


def test_images_are_dropped_and_a_bad_one_is_reported(page, images):
    page.drop_files(300, 150, images[1:])
    page.wait_for("document.querySelectorAll('.card[data-done]').length === 2")
    errors = page.run("[...document.querySelectorAll('.side > p.error')].map((p) => p.textContent)")
    assert [error for error in errors if error] == [
        "c.jpg: it is not JPEG, PNG, GIF, BMP, WebP, TIFF, HEIC, AVIF or DICOM"
    ]
    images = page.run("[...document.querySelectorAll('.frame')].map((p) => p.textContent)")
    assert images == ["The browser cannot show this format."] * 2
    assert page.run("document.querySelectorAll('.bar').length") == 3
