"""The facts of files: duplicates, blank and unreadable images, and how little is read for them."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mlcls_jax.data.card import file_facts as module
from mlcls_jax.data.card import image_look, same_bytes
from mlcls_jax.data.card.file_facts import FileFacts, file_facts
from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.data.images.pixel_format import PixelFormat
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.packed import read_packed
from mlcls_jax.pack import main as pack

PIXELS = PixelFormat(10**7)


@pytest.fixture(autouse=True)
def _the_settings_of_a_command():
    with image_libraries():
        yield


def encoded(pixels, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, form, **options)
    return buffer.getvalue()


def noise(seed: int, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def a_table(folder, files: dict[str, bytes], labels=None) -> LabelTable:
    folder.mkdir(exist_ok=True)
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    if labels is None:
        labels = np.eye(2, dtype=np.int8)[np.arange(len(files)) % 2]
    return LabelTable(folder, tuple(files), np.array(labels, np.int8), ("cat", "dog"))


def facts_of(splits, **options) -> FileFacts:
    return file_facts(splits, PIXELS, threads=2, **options)


@pytest.fixture
def counted(monkeypatch):
    """Counts what is hashed, read in part and decoded."""
    counts: Counter = Counter()

    def counting(owner, name: str, key: str):
        function = getattr(owner, name)

        def call(*args):
            counts[key] += 1
            return function(*args)

        monkeypatch.setattr(owner, name, call)

    counting(same_bytes, "read_file", "hashed")
    counting(image_look, "open_image", "decoded")
    return counts


def test_files_of_different_sizes_are_not_hashed(tmp_path, counted):
    files = {f"{i}.png": encoded(noise(i)) + bytes(i) for i in range(9)}
    facts = facts_of({"train": a_table(tmp_path, files)})
    assert counted == {"decoded": 9}
    assert (facts.images_read, facts.images_compared, facts.duplicates) == (9, 9, [])


def test_of_equal_sizes_only_those_with_the_same_middle_are_hashed(tmp_path, counted):
    files = {f"{i}.bmp": encoded(noise(i, 90, 90), "BMP") for i in range(6)}
    late = bytearray(files["0.bmp"])
    late[-1] ^= 1  # differs after its middle
    files |= {"copy.bmp": files["0.bmp"], "late.bmp": bytes(late)}
    facts = facts_of({"train": a_table(tmp_path, files)})
    assert counted == {"decoded": 8, "hashed": 3}
    assert facts.duplicates == [[["train", "0.bmp"], ["train", "copy.bmp"]]]
    assert facts.images_compared == 8 and not facts.leaks


def test_a_leak_is_a_pair_of_splits_and_train_is_first(tmp_path):
    same = encoded(noise(0))
    train = a_table(tmp_path / "a", {"x.png": same, "y.png": encoded(noise(1)), "z.png": same})
    val = a_table(tmp_path / "b", {"x.png": encoded(noise(2)), "w.png": same})
    facts = facts_of({"train": train, "val": val})
    assert facts.duplicates == [[["train", "x.png"], ["train", "z.png"], ["val", "w.png"]]]
    assert facts.leaks == [(["train", "x.png"], ["val", "w.png"])]


def test_copies_with_different_labels_are_named_with_their_classes(tmp_path):
    same, other = encoded(noise(0)), encoded(noise(1))
    files = {"a.png": same, "b.png": same, "c.png": other, "d.png": other}
    labels = [[1, 0], [1, 1], [0, 1], [-1, 1]]  # what is unknown contradicts nothing
    facts = facts_of({"train": a_table(tmp_path, files, labels)})
    assert facts.contradictions == [
        {"images": [["train", "a.png"], ["train", "b.png"]], "classes": ["dog"]}
    ]
    assert len(facts.duplicates) == 2


def test_blank_and_unreadable_images_are_named(tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (20, 20)).astype(np.uint16)
    files = {
        "good.jpg": encoded(noise(0), "JPEG"),
        "deep.png": encoded(deep),  # 12 bits of 16: at most 15 of 255
        "red.jpg": encoded(np.full((40, 40, 3), (200, 20, 20), np.uint8), "JPEG"),
        "broken.jpg": encoded(noise(0, 90, 90), "JPEG")[:-500],
        "page.jpg": b"<html>",
    }
    facts = facts_of({"train": a_table(tmp_path, files)})
    assert facts.nearly_black == [["train", "deep.png"]]
    assert facts.constant == [["train", "red.jpg"]]
    assert [(name, reason[:9]) for _, name, reason in facts.unreadable] == [
        ("broken.jpg", "its JPEG "),
        ("page.jpg", "it is HTM"),
    ]
    assert facts.bits == {"8": 2, "16": 1} and facts.images_read == 5
    assert facts.kinds == {"JPEG RGB": 2, "PNG I;16": 1}
    assert facts.ranges["width"] == [20, 24, 40] and facts.ranges["bytes"][0] == len(b"<html>")


def test_what_only_the_full_size_shows_is_no_blank_image(tmp_path):
    stars, stripes = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    stars[::8, ::8], stripes[:, ::2] = 255, 255  # an eighth of the size is even
    files = {
        "stars.jpg": encoded(stars, "JPEG", quality=100, subsampling=0),
        "stripes.jpg": encoded(stripes, "JPEG", quality=100, subsampling=0),
    }
    facts = facts_of({"train": a_table(tmp_path, files)})
    assert facts.nearly_black == facts.constant == []


def test_a_large_data_set_is_sampled_and_the_card_says_so(tmp_path, monkeypatch, counted):
    monkeypatch.setattr(image_look, "MAX_IMAGES", 5)
    files = {f"{i:02}.bmp": encoded(noise(i), "BMP") for i in range(20)}
    table = a_table(tmp_path, files)
    facts = facts_of({"train": table})
    assert counted["decoded"] == facts.images_read == 5
    assert facts_of({"train": table}) == facts
    monkeypatch.setattr(image_look, "MAX_BYTES", 2 * len(files["00.bmp"]))
    assert facts_of({"train": table}).images_read == 2


def test_of_many_equal_sizes_some_are_compared_with_all_their_copies(tmp_path):
    files = {f"{i:02}.bmp": encoded(noise(i // 2, 8, 8 + i // 2), "BMP") for i in range(20)}
    table = a_table(tmp_path, files)
    with module.TimedMap(2, 10.0) as work:
        stored = module.stored_files(table.paths, work)
        every, compared = same_bytes.same_bytes(stored, work)
        some, fewer = same_bytes.same_bytes(stored, work, limit=8)
    assert every == [[i, i + 1] for i in range(0, 20, 2)] and compared == 20
    assert len(some) == 4 and fewer == 8 and all(pair in every for pair in some)


def test_nothing_is_read_after_the_time_is_over(tmp_path, counted):
    same = encoded(noise(0))
    table = a_table(tmp_path, {"a.png": same, "b.png": same})
    facts = facts_of({"train": table}, seconds=-1.0)
    assert not counted and (facts.images_read, facts.images_compared) == (0, 0)
    assert facts.duplicates == [] and facts.kinds == {} and facts.ranges == {}


def test_a_packed_data_set_has_the_facts_of_its_files(photos, tmp_path):
    (tmp_path / "images").mkdir()
    for path in photos.iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "07.png").write_bytes((photos / "06.png").read_bytes())
    csv, out = str(photos / "labels.csv"), tmp_path / "packed"
    assert pack(["--csv", csv, "--images", str(tmp_path / "images"), "--out", str(out)]) == 0
    loose = facts_of({"train": read_labels(csv, tmp_path / "images")})
    assert facts_of({"train": read_packed(str(out))}) == loose
    assert loose.duplicates == [[["train", "06.png"], ["train", "07.png"]]]


def test_in_a_bucket_few_images_are_read_and_checksums_are_compared(
    empty_bucket, monkeypatch, counted
):
    for i in range(6):
        empty_bucket.pipe(f"/bucket/{i}.png", encoded(noise(i)))
    names = tuple(f"{i}.png" for i in range(6))
    labels = np.eye(2, dtype=np.int8)[np.arange(6) % 2]
    table = LabelTable("memory://bucket", names, labels, ("cat", "dog"))
    monkeypatch.setattr(image_look, "MAX_FAR", 2)
    facts = facts_of({"train": table})
    assert counted == {"decoded": 2} and facts.images_read == 2
    assert facts.images_compared == 0  # this file system has no checksums
    assert facts.ranges["bytes"][0] > 0

    listed = type(empty_bucket).ls

    def with_checksums(self, path, detail=True, **options):
        entries = listed(self, path, detail=True, **options)
        sums = {"0.png": '"a"', "1.png": '"b"', "4.png": '"a"'}
        return [e | {"size": 9, "ETag": sums.get(e["name"][8:], "")} for e in entries]

    monkeypatch.setattr(type(empty_bucket), "ls", with_checksums)
    facts = facts_of({"train": table})
    assert facts.duplicates == [[["train", "0.png"], ["train", "4.png"]]]
    assert facts.images_compared == 3
