"""The pages in a browser: images and folders, thresholds, CSVs, and the rules of accessibility."""

import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import uvicorn
from browser import PROGRAMS, browser
from PIL import Image

from mlcls_jax.data.readers.csv_writing import csv_text
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
    assert page.run("document.querySelector('.frame img').alt") == images[0].name
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
    shown = "[...document.querySelectorAll('.frame')].map((p) => p.textContent)"
    page.wait_for(f"{shown}.every((text) => text === 'The browser cannot show this format.')")
    assert page.run("document.querySelectorAll('.bar').length") == 3


@pytest.fixture
def folder(tmp_path):
    """Nine images in two folders, a text file, and a file that is no image."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    (root / "a").mkdir(parents=True)
    for number in range(9):
        pixels = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("a" if number % 2 else ".") / f"{number}.png")
    (root / "notes.txt").write_text("words")
    (root / "broken.jpg").write_text("words")
    return root


def everything_is_done(page, count):
    page.wait_for(
        f"items.length === {count} && items.every((item) => item.state !== 'waiting') && !running"
    )
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_a_folder_becomes_two_csvs(page, folder, run):
    """Names are those of `predict` with the folder, and files that are no images are left out."""
    page.run("window.saved = []; download = (name, text) => saved.push([name, text])")
    page.drop_files(300, 150, [folder])
    everything_is_done(page, 10)
    state = page.run("byId('state').textContent")
    assert state == "9 images done, 1 failed, 1 other files left out"
    assert page.run("document.querySelectorAll('.tile').length") == 10
    page.run("byId('probabilities').click(); byId('labels').click()")
    (_, scores), (_, labels) = page.run("saved")
    read = [pd.read_csv(io.StringIO(text), index_col="filename") for text in (scores, labels)]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    for frame in read:
        assert sorted(frame.index) == names and tuple(frame.columns) == run.classes
    present = read[0].to_numpy() >= np.array(run.decision_rule.thresholds)
    np.testing.assert_array_equal(present, read[1].to_numpy() == 1)
    # A class is chosen, and the list has its images only.
    page.run("byId('filter').value = 'c0'; byId('filter').onchange()")
    everything_is_done(page, 10)
    assert page.run("document.querySelectorAll('.tile').length") == read[1].iloc[:, 0].sum()


def test_a_moved_threshold_changes_images_and_labels(page, folder, run):
    page.run("window.saved = []; download = (name, text) => saved.push([name, text])")
    page.drop_files(300, 150, [folder])
    everything_is_done(page, 10)
    page.run("byId('thresholds').open = true")
    page.run("byId('classes').querySelector('input').focus()")
    page.press("End")  # with the keyboard: no image reaches 1
    everything_is_done(page, 10)
    value = page.run("byId('classes').querySelector('input').getAttribute('aria-valuetext')")
    assert value == "1.000: 0 of 9 images, 0 more, 9 fewer"
    assert page.run("document.querySelectorAll('.chip.changed s').length") == 9
    page.run("byId('labels').click()")
    assert pd.read_csv(io.StringIO(page.run("saved[0][1]"))).iloc[:, 1].sum() == 0
    page.run("document.querySelector('.tile .chip.changed').closest('button').click()")
    page.wait_for("document.querySelector('dialog[open] .bar') !== null")
    assert "no longer present" in page.run("document.querySelector('dialog .bars').textContent")
    page.press("Escape")
    page.wait_for("document.querySelector('dialog[open]') === null")
    page.run("byId('reset').click()")
    everything_is_done(page, 10)
    assert page.run("document.querySelectorAll('.changed').length") == 0


def test_cells_are_escaped_as_in_python(page):
    names = [
        "=1+1",
        "a;=1",
        "'=x",
        "plain, name",
        '"q"',
        "\u3000@x",
        "\ufeff=1",
        "\x1f-1",
        "\uff1d1",
    ]
    names += ["line\n+1", "tab\t=1", "-", "''", " x", "é.png"]
    rows = json.dumps([[name, ["0.500000"]] for name in names])
    expected = csv_text(pd.DataFrame({"filename": names, "=c": 0.5}), "%.6f")
    assert page.run(f"csvText(['=c'], {rows})") == expected


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_nothing_is_in_the_way_of_a_screen_reader(address, page, folder, width, dark):
    """No rule of axe-core (Deque) is broken, on the page in each state and on /docs."""
    axe = pytest.importorskip("axe_core_python.base")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

    def broken():
        found = page.run(f"{script}; axe.run(document).then((all) => all.violations)")
        return [(one["id"], one["nodes"][0]["html"]) for one in found]

    page.open(address, width, 800, dark)
    page.wait_for("sliders.length > 0")
    assert broken() == []
    page.choose_files("#files", sorted(folder.glob("*.png"))[:2])
    everything_is_done(page, 2)
    page.run("byId('thresholds').open = true; document.querySelector('.bar').click()")
    page.wait_for("document.querySelector('.frame canvas') !== null")
    assert broken() == []
    page.choose_files("#files", [*folder.rglob("*.png")])
    everything_is_done(page, 11)
    assert broken() == []
    page.run("document.querySelector('.tile').click()")
    assert broken() == []
    page.open(f"{address}docs", width, 800, dark)
    page.wait_for("document.querySelectorAll('form').length === 3")
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert broken() == [] and page.messages == []


def test_the_endpoints_are_tried_on_their_page(address, page, images):
    page.open(f"{address}docs", 1000, 800)
    page.wait_for("document.querySelectorAll('form').length === 3")
    page.choose_files("form input[name=images]", images[:1])
    page.run("document.querySelector('input[name=images]').form.requestSubmit()")
    page.wait_for("document.body.innerText.includes('\"probability\"')")
    assert page.messages == []


def test_a_photo_is_taken_where_the_screen_is_touched(address, page):
    shown = "getComputedStyle(byId('camera')).display !== 'none'"
    for width, is_shown in ((390, True), (1280, False)):
        page.open(address, width, 800)
        assert page.run(shown) == is_shown
    assert page.run("byId('photo').getAttribute('capture')") == "environment"
