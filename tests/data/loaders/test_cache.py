"""The cache gives the same batches as the files, and recovers from interruptions and damage."""

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.config import Augment, Data
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.loaders import cache, cache_build, cache_store
from mlcls_jax.data.loaders.cache import Form, file_name
from mlcls_jax.data.loaders.cache_build import with_cache
from mlcls_jax.data.loaders.loader import Reader, Rows, eval_batches, train_batches
from mlcls_jax.data.readers.csv_labels import read_labels

SIZE, ALL = 32, Rows(8, 0, 8)
CROPS = Augment(train_resize="random_crop")


@pytest.fixture
def table(photos, tmp_path):
    """A table of images that a test may change."""
    shutil.copytree(photos, tmp_path / "photos")
    return read_labels(photos / "labels.csv", tmp_path / "photos")


@pytest.fixture
def data(tmp_path):
    return Data(cache="disk", cache_folder=str(tmp_path / "cache"))


def opened(table, data, augment=None, reader=None, split="train", size=SIZE):
    return with_cache(reader or Reader(), data, augment or Augment(), size, split, table.paths)


def batches(table, reader, augment=None, first=0, last=6, rows=ALL, size=SIZE):
    options = {"rows": rows, "size": size, "augment": augment or Augment(), "seed": 0}
    return list(train_batches(table, first_step=first, last_step=last, reader=reader, **options))


def evaluated(table, reader, augment=None, size=SIZE):
    options = {"rows": Rows(12, 0, 12), "size": size, "augment": augment or Augment()}
    return np.concatenate(list(eval_batches(table.paths, reader=reader, **options)))


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


def no_files(monkeypatch):
    """Makes every further reading of an image file fail."""
    monkeypatch.setattr("mlcls_jax.data.images.image_source.read_file", lambda path: 1 / 0)


def the_file(data) -> Path:
    (path,) = Path(data.cache_folder).glob("*.images")
    return path


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_squashed_images_are_the_same(table, data, where, monkeypatch):
    whole = batches(table, Reader())
    readers = [opened(table, replace(data, cache=where), reader=Reader(threads=n)) for n in (1, 7)]
    no_files(monkeypatch)
    for reader in readers:
        assert_same(batches(table, reader), whole)
        assert_same(batches(table, reader, first=4), whole[4:])
    halves = (batches(table, readers[0], rows=Rows(8, start, 4)) for start in (0, 4))
    for one, low, high in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(one.image, np.concatenate([low.image, high.image]))


@pytest.mark.parametrize("resize", ["squash", "center_crop", "letterbox"])
@pytest.mark.parametrize("symmetry", ["none", "d4"])
def test_symmetric_images_are_the_same(table, data, resize, symmetry, monkeypatch):
    augment = Augment(resize, symmetry=symmetry)
    whole = batches(table, Reader(), augment)
    reader = opened(table, data, augment)
    no_files(monkeypatch)
    assert_same(batches(table, reader, augment), whole)


@pytest.mark.parametrize("resize", ["squash", "center_crop", "letterbox"])
def test_evaluation_is_the_same(table, data, resize, monkeypatch):
    augment = Augment(eval_resize=resize, interpolation="bicubic")
    before = evaluated(table, Reader(), augment)
    reader = opened(table, data, augment, split="val")
    no_files(monkeypatch)
    np.testing.assert_array_equal(evaluated(table, reader, augment), before)


def test_changes_of_images_are_the_same(table, data, monkeypatch):
    augment = Augment(brightness=0.4, saturation=0.4, rand_augment=2, cutout=0.3, erase=0.5)
    whole = batches(table, Reader(), augment)
    reader = opened(table, data, augment)
    no_files(monkeypatch)
    assert_same(batches(table, reader, augment), whole)
    assert_same(batches(table, reader, augment), whole)  # the stored pixels were not modified


def test_random_crops_are_the_same_parts(table, data, monkeypatch):
    rng = np.random.default_rng(0)
    for path in table.paths:  # as large, and as smooth, as photographs
        colours = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        colours.resize((320, 240), Image.Resampling.BICUBIC).save(path)
    whole = batches(table, Reader(), CROPS, size=64)
    reader = opened(table, data, CROPS, size=64)
    no_files(monkeypatch)
    ours = batches(table, reader, CROPS, size=64)
    assert_same(ours[3:], batches(table, reader, CROPS, first=3, size=64))
    for one, other in zip(ours, whole, strict=True):
        apart = np.abs(one.image.astype(int) - other.image).mean(axis=(1, 2, 3))
        assert apart.max() < 6, apart
    # The short side is 8/7 of 64.
    assert the_file(data).stat().st_size == 4096 + 40 * (40 + 73 * 97 * 3)


def test_random_crops_of_small_images_are_the_same(table, data):
    reader = opened(table, data, CROPS, size=64)  # of 40 x 48
    assert_same(batches(table, reader, CROPS, size=64), batches(table, Reader(), CROPS, size=64))


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_images_kept_for_random_crops_are_squashed_for_features(table, data, where, monkeypatch):
    before = evaluated(table, Reader(), size=64)
    reader = opened(table, replace(data, cache=where), CROPS, size=64)  # of 40 x 48
    no_files(monkeypatch)
    np.testing.assert_array_equal(evaluated(table, reader, CROPS, size=64), before)


def test_stored_images_are_not_decoded_again(table, data, monkeypatch, capsys):
    opened(table, data)
    assert "cache: train: 40 decoded images, 122.9 kB, in" in capsys.readouterr().out
    content = the_file(data).read_bytes()
    no_files(monkeypatch)
    opened(table, data)
    assert the_file(data).read_bytes() == content
    assert "40 decoded images in" in capsys.readouterr().out


def test_a_changed_image_alone_is_decoded_again(table, data, monkeypatch, capsys):
    running = opened(table, data)
    before = batches(table, Reader())
    Image.new("RGB", (48, 40), "white").save(table.folder / "05.png")
    os.utime(table.folder / "06.png", ns=(1, 1))
    again = opened(table, data)
    out = capsys.readouterr().out
    assert "has 38 of 40 images; 2 have changed and are decoded again" in out
    assert_same(batches(table, again), batches(table, Reader()))
    assert_same(batches(table, running), before)  # an open reader sees the old images


def test_a_file_of_other_libraries_is_not_used(table, data, monkeypatch, capsys):
    monkeypatch.setattr("PIL.__version__", "1.0")
    running = opened(table, data)
    monkeypatch.undo()
    reader = opened(table, data)
    assert "was made by other versions of the libraries" in capsys.readouterr().out
    assert_same(batches(table, reader), batches(table, running))
    assert len(os.listdir(data.cache_folder)) == 1


def test_a_file_that_was_cut_off_is_completed(table, data, capsys):
    opened(table, data)
    with open(the_file(data), "r+b") as file:
        file.truncate(the_file(data).stat().st_size - 10 * SIZE * SIZE * 3)
    assert_same(batches(table, opened(table, data)), batches(table, Reader()))
    assert "has 30 of 40 images" in capsys.readouterr().out
    the_file(data).write_bytes(the_file(data).read_bytes()[:4100])  # in the index
    assert_same(batches(table, opened(table, data)), batches(table, Reader()))


def test_the_name_says_what_is_kept():
    def name(split="train", size=224, paths=("a", "b"), pixels=None, **augment):
        form = Form.of_split(split, Augment(**augment), size, pixels or PixelFormat(10))
        return file_name(split, form, paths)

    same = name()
    assert same == name(symmetry="d4") == name(min_scale=0.5) == name(eval_resize="center_crop")
    others = [
        name("val"),
        name("val", eval_resize="center_crop"),
        name("val", eval_resize="letterbox"),
        name(size=225),
        name(paths=("b", "a")),
        name(pixels=PixelFormat(11)),
        name(pixels=PixelFormat(10, 1)),
        name(pixels=PixelFormat(10, 3, 12)),
        name(interpolation="bicubic"),
        name(train_resize="random_crop"),
    ]
    assert len({same, *others}) == 1 + len(others)
    crops = [name(train_resize="random_crop", interpolation=i) for i in ("bilinear", "bicubic")]
    assert crops[0] == crops[1]  # they are chosen and resized afterwards


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_cache_that_would_not_fit_is_not_built(table, data, where, monkeypatch, capsys):
    monkeypatch.setattr(cache_build, "available_memory", lambda: 100_000.0)
    usage = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    reader = opened(table, replace(data, cache=where))
    out = capsys.readouterr().out
    assert "warning: cache of train: 40 decoded images, 122.9 kB, " in out
    assert "would not fit: it may take" in out
    assert reader.cache is None
    assert_same(batches(table, reader), batches(table, Reader()))


def damage(table):
    (table.folder / "07.png").write_bytes(b"<html>not found</html>")
    (table.folder / "11.png").unlink()


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_bad_image_is_an_error_with_its_name(table, data, where):
    damage(table)
    with pytest.raises(ValueError, match=r"07\.png cannot be read: it is HTML.*on_bad_image=skip"):
        opened(table, replace(data, cache=where))
    skipping = Reader(bad=BadImages(skip=True, limit=2))
    opened(table, data, reader=skipping)
    reader = opened(table, data)  # nothing is missing, and they are still bad
    with pytest.raises(ValueError, match=r"(07\.png cannot be read: it is HTML|11\.png.*no such)"):
        batches(table, reader)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_skipped_images_are_the_same(table, data, where, tmp_path):
    damage(table)
    written = tmp_path / "bad.csv"

    def skipping():
        written.unlink(missing_ok=True)
        return Reader(bad=BadImages(skip=True, limit=2, written=written))

    plain = skipping()
    trained, scored = batches(table, plain), evaluated(table, plain)
    listed = sorted(written.read_text().splitlines())
    for _ in range(2):  # while it is built, and from the complete cache
        reader = opened(table, replace(data, cache=where), reader=skipping())
        assert_same(batches(table, reader), trained)
        np.testing.assert_array_equal(evaluated(table, reader), scored)
        assert sorted(written.read_text().splitlines()) == listed


def test_too_many_bad_images_stop_the_build(table, data):
    damage(table)
    with pytest.raises(ValueError, match="max_bad_fraction"):
        opened(table, data, reader=Reader(bad=BadImages(skip=True, limit=1)))


def test_an_image_that_was_restored_is_not_bad(table, data):
    good = (table.folder / "07.png").read_bytes()
    damage(table)
    opened(table, data, reader=Reader(bad=BadImages(skip=True, limit=2)))
    (table.folder / "07.png").write_bytes(good)
    reader = opened(table, data, reader=Reader(bad=BadImages(skip=True, limit=2)))
    assert_same(batches(table, reader), batches(table, Reader(bad=BadImages(skip=True, limit=2))))
    assert set(reader.bad._reasons) == {str(table.folder / "11.png")}


def test_a_full_disk_is_one_line_and_the_build_continues(table, data, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"\.images: no room for 40 decoded images, 122\.9 kB"):
            opened(table, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    capsys.readouterr()
    assert_same(batches(table, opened(table, data)), batches(table, Reader()))
    assert "has 24 of 40 images" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(table, data, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot be stored there \(.*data\.cache_folder"):
        opened(table, data)


CHILD = """
import sys, time
from mlcls_jax.config import Augment, Data
from mlcls_jax.data.loaders import cache_store
from mlcls_jax.data.loaders.cache import Form
from mlcls_jax.data.loaders.cache_build import with_cache
from mlcls_jax.data.loaders.loader import Reader

make = Form.make
Form.make = lambda *args: time.sleep(float(sys.argv[2])) or make(*args)
cache_store._FLUSH_SECONDS = 0.0
with_cache(Reader(threads=1), Data(cache="disk", cache_folder=sys.argv[1]), Augment(), 32, "train",
           sys.argv[3:])
"""


def child(table, data, seconds):
    return subprocess.Popen(
        [sys.executable, "-u", "-c", CHILD, data.cache_folder, str(seconds), *table.paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def wait_for_images(data, count):
    until = time.monotonic() + 60
    header = cache.make_header(40, 3)
    while time.monotonic() < until:
        for path in Path(data.cache_folder).glob("*.images"):
            rows = cache_store.read_rows(path, header)
            if rows is not None and (rows["height"] > 0).sum() >= count:
                return
        time.sleep(0.01)
    raise AssertionError("nothing is built")


def test_a_killed_build_continues(table, data, capsys):
    process = child(table, data, 0.05)
    wait_for_images(data, 6)
    process.kill()
    process.communicate()
    assert_same(batches(table, opened(table, data)), batches(table, Reader()))
    assert 6 <= int(capsys.readouterr().out.split(".images has ")[1].split(" of 40")[0]) < 40


def test_two_processes_build_it_once(table, data, capsys):
    process = child(table, data, 0.05)
    wait_for_images(data, 1)
    reader = opened(table, data)
    printed, output = capsys.readouterr().out, process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "waiting for another process" in printed
    assert "kB" not in printed and "40 decoded images in" in printed
    assert the_file(data).stat().st_size == 4096 + 40 * (40 + SIZE * SIZE * 3)
    assert_same(batches(table, reader), batches(table, Reader()))


def test_an_interrupted_build_keeps_its_images(table, data, monkeypatch, capsys):
    make, made = Form.make, []

    def interrupted(self, image):
        made.append(image)
        if len(made) == 20:
            raise KeyboardInterrupt
        return make(self, image)

    monkeypatch.setattr(Form, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(table, data, reader=Reader(threads=1))
    monkeypatch.undo()
    assert_same(batches(table, opened(table, data)), batches(table, Reader()))
    assert "has 19 of 40 images" in capsys.readouterr().out
