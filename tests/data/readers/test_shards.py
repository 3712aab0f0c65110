"""The shards of packed data sets are read by the programs that they are made for."""

import json
import sys

import numpy as np
import pytest

from mlcls_jax import pack
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.packed import packing, read_packed
from mlcls_jax.data.readers.shards import Keys

reference = pytest.mark.reference
quiet = pytest.mark.filterwarnings("ignore")  # TensorFlow's
CLASSES = ("dog", "cat")
# File name -> what WebDataset finds: the key and the extension.
NAMES = {
    "a.jpg": ("a", "jpg"),
    "a.PNG": ("a_2", "png"),
    "b.c.jpg": ("b_c", "jpg"),
    "b_c.jpg": ("b_c_2", "jpg"),
    "sub.1/b.c.d.webp": ("sub.1/b_c_d", "webp"),
    "sub.1/x/a.jpg": ("sub.1/x/a", "jpg"),
    "IMG.2023": ("IMG_2023", "tif"),
    "labels.json": ("labels_json", "tif"),
    ".jpg": ("_", "jpg"),
    "no extension": ("no extension", "tif"),
    "é \N{SNOWMAN}\n.jpg": ("é \N{SNOWMAN}_", "jpg"),
    "a\nb/c.jpg": ("a b/c", "jpg"),
    "__MACOSX__/a.jpg": ("-__MACOSX__/a", "jpg"),
    "y" * 120 + "/" + "z" * 120 + ".jpg": ("y" * 120 + "/" + "z" * 120, "jpg"),
}
LABELS = [np.array([index % 3 - 1, 1], np.int8) for index in range(len(NAMES))]


def contents_of(name: str) -> bytes:
    return name.encode() * (1 + len(name) % 7 * 50)


def csv() -> bytes:
    rows = [f'"{name}",{row[0]},{row[1]}\n' for name, row in zip(NAMES, LABELS, strict=True)]
    return ("filename,dog,cat\n" + "".join(rows)).replace(",-1", ",").encode()


def pack_names(place, shard_format: str, shard_bytes: int = 5_000) -> str:
    with packing(str(place), shard_bytes, shard_format, CLASSES) as packer:
        for name, labels in zip(NAMES, LABELS, strict=True):
            packer.add(name, contents_of(name), labels)
        packer.finish(csv())
    table = read_packed(place)
    assert list(table.filenames) == list(NAMES)
    assert table.labels.tolist() == [row.tolist() for row in LABELS]
    assert [read_file(path) for path in table.paths] == [contents_of(name) for name in NAMES]
    return str(place)


def test_keys_are_new_and_have_one_dot():
    keys = Keys()
    assert [keys.split(name, b"") for name in NAMES] == [
        (key, name.rpartition(".")[2] if extension == "png" else extension)
        for name, (key, extension) in NAMES.items()
    ]
    assert keys.split("photo", b"\xff\xd8\xff") == ("photo", "jpg")


@reference
@quiet
def test_webdataset_reads_images_and_labels_from_tar_files(tmp_path):
    import webdataset

    place = tmp_path / "p"
    pack_names(place, "tar")
    shards = sorted(map(str, place.glob("pack-*.tar")))
    assert len(shards) > 2
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [key for key, _ in NAMES.values()]
    for sample, labels, (name, (_, extension)) in zip(samples, LABELS, NAMES.items(), strict=True):
        assert sample[extension] == contents_of(name)
        assert json.loads(sample["json"]) == {
            "filename": name,
            "classes": [CLASSES[index] for index in np.flatnonzero(labels == 1)],
            "labels": labels.tolist(),
        }
        assert {key for key in sample if not key.startswith("__")} == {extension, "json"}


@reference
@quiet
def test_webdataset_decodes_a_data_set(photos, tmp_path):
    import webdataset

    place = tmp_path / "p"
    csv, images = str(photos / "labels.csv"), str(photos)
    assert pack.main(["--csv", csv, "--images", images, "--out", str(place)]) == 0
    shards = sorted(map(str, place.glob("pack-*.tar")))
    pairs = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png", "json")
    table = read_labels(csv, images)
    for (pixels, labels), row in zip(pairs, table.labels, strict=True):
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
        assert labels["labels"] == row.tolist()


@reference
@quiet
@pytest.mark.parametrize("shard_format", ["tfrecord", "array_record"])
def test_records_are_examples(tmp_path, shard_format):
    import tensorflow as tf

    place = tmp_path / "p"
    pack_names(place, shard_format)
    shards = sorted(map(str, place.glob(f"pack-*.{shard_format}")))
    assert len(shards) > 2
    if shard_format == "tfrecord":
        records = list(tf.data.TFRecordDataset(shards).as_numpy_iterator())
    else:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        source = ArrayRecordDataSource(shards)
        records = [source[index] for index in range(len(source))]
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/labels": tf.io.FixedLenFeature([len(CLASSES)], tf.int64),
        "image/class/text": tf.io.RaggedFeature(tf.string),
    }
    for record, name, labels in zip(records, NAMES, LABELS, strict=True):
        example = tf.io.parse_single_example(record, features)
        assert example["image/encoded"].numpy() == contents_of(name)
        assert example["image/filename"].numpy().decode() == name
        assert example["image/labels"].numpy().tolist() == labels.tolist()
        present = [CLASSES[index].encode() for index in np.flatnonzero(labels == 1)]
        assert example["image/class/text"].numpy().tolist() == present


@reference
@quiet
def test_records_in_a_bucket(tmp_path):
    import fsspec

    place = "memory://shards/p"
    try:
        pack_names(place, "tfrecord")
        with (
            pytest.raises(ValueError, match="only written to local folders; pack as tar or"),
            packing("memory://shards/q", 1, "array_record", CLASSES),
        ):
            pass
    finally:
        fsspec.filesystem("memory").rm("/shards", recursive=True)


@reference
@quiet
def test_reading_tfrecord_shards_needs_no_package(tmp_path, monkeypatch):
    place = pack_names(tmp_path / "p", "tfrecord")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert len([read_file(path) for path in read_packed(place).paths]) == len(NAMES)


@pytest.mark.parametrize(
    ("shard_format", "package"),
    [("tfrecord", "tensorflow"), ("array_record", "tensorflow")],
)
def test_a_missing_package_is_named_and_nothing_is_written(
    tmp_path, monkeypatch, shard_format, package
):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"packing as {shard_format} needs .*mlcls_jax\[(tfds|tf_data)\]"
    with (
        pytest.raises(ValueError, match=message),
        packing(str(tmp_path / "p"), 1, shard_format, CLASSES),
    ):
        pass
    assert not list(tmp_path.iterdir())


@reference
@quiet
@pytest.mark.parametrize("shard_format", ["tfrecord", "array_record"])
def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path, shard_format):
    place = tmp_path / "p"
    with (
        pytest.raises(ValueError, match=rf"p cannot be written: .*pack-00000\.{shard_format}"),
        packing(str(place), 1, shard_format, CLASSES) as packer,
    ):
        (tmp_path.joinpath(packer.folder) / f"pack-00000.{shard_format}").mkdir()
        packer.add("a.jpg", b"first", LABELS[0])
        packer.finish(b"filename,dog,cat\na.jpg,1,0\n")
    assert not place.exists()
