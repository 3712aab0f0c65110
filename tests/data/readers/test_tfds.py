"""TFDS data sets, built by TFDS from small files in the real layouts."""

import importlib
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layouts import make_coco, make_voc

from mlcls_jax import pack
from mlcls_jax.config import Augment, Data
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.loaders.loader import Reader, Rows, train_batches
from mlcls_jax.data.readers.packed import read_packed
from mlcls_jax.data.readers.read_table import read_table
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.data.splits import load_splits

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore"),  # TensorFlow's and its data sets'
]


@pytest.fixture(scope="module")
def tiny():
    """Returns tests/helpers/tiny_tfds.py, which imports TFDS."""
    return importlib.import_module("tiny_tfds")


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def file_format(request):
    return request.param


@pytest.fixture(scope="module")
def data_dir(tiny, file_format, tmp_path_factory):
    folder = tmp_path_factory.mktemp(file_format)
    shards = tiny.tfds.download.DownloadConfig(num_shards=2)
    builder = tiny.TinySet(data_dir=folder, file_format=file_format)
    builder.download_and_prepare(download_config=shards)
    assert len(list(folder.rglob("*train*"))) == 2
    return str(folder)


def read(data_dir, name, **options):
    return read_table(Data(source="tfds", **options), name, data_dir)


@pytest.mark.parametrize(
    ("feature", "classes", "labels"),
    [
        ("objects/label", ("cat", "dog", "bird"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        ("single", ("cat", "dog", "bird"), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("withheld", ("cat", "dog", "bird"), [[1, 0, 0], [-1, -1, -1], [-1, -1, -1]]),
        ("hot", ("class_0", "class_1"), [[0, 1], [1, 1], [0, 1]]),
        ("attributes", ("new", "old"), [[1, 1], [1, 0], [1, 0]]),
    ],
)
def test_features_become_labels_and_images_are_found_in_the_records(
    tiny, data_dir, feature, classes, labels
):
    table = read(data_dir, "tiny_set", label_feature=feature)
    order = np.argsort(table.filenames)  # TFDS shuffles when it writes
    assert [table.filenames[i] for i in order] == [f"train/name {i}.jpg" for i in range(3)]
    named = table.with_classes(classes, "", "")
    assert named.labels[order].tolist() == labels
    assert [read_file(table.paths[i]) for i in order] == [tiny.jpeg(number) for number in range(3)]


def test_files_without_names_are_numbered(data_dir):
    options = {"image_feature": "photo", "label_feature": "single"}
    table = read(data_dir, "tiny_set[train+extra]", **options)
    expected = [f"{split}/{i:08d}.jpg" for split in ("train", "extra") for i in range(3)]
    assert table.filenames == tuple(expected) and table.splits is None


def test_the_second_time_tfds_and_tensorflow_are_not_used(data_dir, file_format, monkeypatch):
    first = read(data_dir, "tiny_set", min_area=6.0)
    assert sorted(first.labels.ravel().tolist()) == [-1] * 9  # none of the objects is certain
    record_type = type(None) if file_format == "tfrecord" else int
    assert {type(path.record) for path in first.paths} == {record_type}
    for package in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    again = read(data_dir, "tiny_set", min_area=6.0)
    assert again.filenames == first.filenames and again.classes == first.classes
    assert [read_file(path) for path in again.paths] == [read_file(path) for path in first.paths]
    assert again.labels.tolist() == first.labels.tolist()


def test_the_order_is_that_of_tfds(tiny, data_dir, file_format):
    table = read(data_dir, "tiny_set", label_feature="single")
    builder = tiny.TinySet(data_dir=data_dir)
    if file_format == "tfrecord":
        in_order = tiny.tfds.ReadConfig(interleave_cycle_length=1)
        dataset = builder.as_dataset(split="train", read_config=in_order)
        examples = list(tiny.tfds.as_numpy(dataset))
    else:
        examples = list(builder.as_data_source(split="train"))
    names = [f"train/{example['image/filename'].decode()}" for example in examples]
    assert list(table.filenames) == names
    assert table.labels.argmax(axis=1).tolist() == [example["single"] for example in examples]


def test_tf_data_reads_the_records(data_dir):
    table = read(data_dir, "tiny_set[train]")
    options = {"rows": Rows(2, 0, 2), "size": 16, "augment": Augment(), "seed": 0}
    ours, theirs = (
        list(
            train_batches(table, first_step=0, last_step=6, reader=Reader(loader=loader), **options)
        )
        for loader in ("tf_data", "threads")
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.label, other.label)
        assert np.abs(one.image.astype(int) - other.image).max() <= 1


def test_images_are_read_by_threads_and_by_copies_of_their_sources(tiny, data_dir):
    table = read(data_dir, "tiny_set")
    expected = [read_file(path) for path in table.paths]
    copies = pickle.loads(pickle.dumps(table.paths))
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read_file, copies * 200)) == expected * 200


def test_positions_that_do_not_exist_are_bad_images(tiny, tmp_path):
    tiny.TinySet(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    path = read(str(tmp_path), "tiny_set").paths[0]
    for part, words in [
        (Part(path, path.shard, path.offset, path.size, 99), r"99 out of bound"),
        (Part(path, path.shard, path.offset, 1 << 20, 0), "ends before the image"),
        (Part(path, f"{path.shard}x", path.offset, path.size, 0), r"shard .*x does not exist"),
    ]:
        with pytest.raises(ImageError, match=words):
            read_file(part)


def test_without_its_package_an_array_record_is_refused(tiny, tmp_path, monkeypatch):
    tiny.TinySet(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    read(str(tmp_path), "tiny_set")
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(ValueError, match=r"reading ArrayRecord files needs .* mlcls_jax\[tfds\]"):
        read(str(tmp_path), "tiny_set")


def test_records_that_have_changed_are_read_again(tiny, file_format, tmp_path):
    tiny.TinySet(data_dir=tmp_path, file_format=file_format).download_and_prepare()
    paths = read(str(tmp_path), "tiny_set").paths
    (shard,) = tmp_path.rglob("*train*_record*" if "_" in file_format else "*train*.tfrecord*")
    read_file(paths[0])  # an open file is not used for the index
    damaged = shard.read_bytes()[:-7]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name}.*(does not exist|No such file)"):
        read(str(tmp_path), "tiny_set")
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{shard.name}: the file is damaged, or is not a"):
        read(str(tmp_path), "tiny_set")


def test_other_file_formats_are_refused(tiny, tmp_path):
    pytest.importorskip("pyarrow")
    tiny.TinySet(data_dir=tmp_path, file_format="parquet").download_and_prepare()
    with pytest.raises(ValueError, match="is prepared as parquet; prepare it with file_format="):
        read(str(tmp_path), "tiny_set")


def test_mistakes_are_named(data_dir):
    for name, options, words in [
        ("tiny_set", {"label_feature": "objects/name"}, "data.label_feature is 'objects/name'"),
        ("tiny_set", {"label_feature": "objects"}, "must be class labels"),
        ("tiny_set", {"label_feature": "nested/labels"}, "in a list of lists"),
        (
            "tiny_set",
            {"image_feature": "frame"},
            "'frame', but the data set has no such feature",
        ),
        ("tiny_set", {"image_feature": "single"}, "must be one image per example"),
        ("tiny_set", {"image_feature": "frames/image"}, "must be one image per example"),
        ("tiny_set[dev]", {}, "no split dev; choose from"),
        ("tiny_set[train[:9%]]", {}, "is not the name of a TFDS data set"),
        ("no_such_set", {}, "no_such_set: "),
    ]:
        with pytest.raises(ValueError, match=r".") as info:
            read(data_dir, name, **options)
        assert words in str(info.value) and "\n" not in str(info.value)


@pytest.fixture
def archives(tiny, monkeypatch):
    """The folder with the contents of each archive that TFDS would download, by archive name."""
    folders: dict[str, str] = {}

    def download(self, urls):
        return {key: folders[key] for key in urls}

    monkeypatch.setattr(tiny.tfds.download.DownloadManager, "download_and_extract", download)
    return folders


def prepare(tiny, name, file_format, folder):
    """Prepares a data set of TFDS's own builders from the archives."""
    tiny.tfds.builder(name, data_dir=folder, file_format=file_format).download_and_prepare()
    (info,) = folder.rglob("dataset_info.json")
    assert f'"fileFormat": "{file_format}"' in info.read_text()


def test_the_builder_of_coco_gives_the_labels_of_its_files(tiny, file_format, archives, tmp_path):
    place = make_coco(tmp_path / "coco", categories=80)
    for split in ("train", "validation", "test"):
        archives[f"{split}_images"] = archives[f"{split}_annotations"] = str(place)
    prepare(tiny, "coco/2017", file_format, tmp_path / "tfds")
    splits = load_splits(Data(source="tfds", csv="coco/2017", images=str(tmp_path / "tfds")))
    assert (splits["test"].labels == -1).all()  # 0 would be wrong
    for split, owner in (("train", "train"), ("val", "validation")):
        files = Data(source="coco", crowd="unknown")
        json = str(place / f"annotations/instances_{split}2017.json")
        direct = read_table(files, json, str(place / f"{split}2017"))
        table = read_table(
            Data(source="tfds", crowd="unknown"), f"coco/2017[{owner}]", str(tmp_path / "tfds")
        )
        assert_same(table, direct, owner)
        assert len(splits[split]) == len(direct)


def test_the_builder_of_voc_gives_the_labels_of_its_tree(tiny, file_format, archives, tmp_path):
    tree = make_voc(tmp_path / "voc")
    archives["trainval"] = archives["test"] = str(tmp_path / "voc")
    prepare(tiny, "voc/2007", file_format, tmp_path / "tfds")
    table = read(str(tmp_path / "tfds"), "voc/2007")
    assert len(table.classes) == 20
    direct = read_table(Data(source="voc"), str(tree), "")
    used = [table.classes.index(name) for name in direct.classes]
    rows = {name.split("/")[1]: i for i, name in enumerate(table.filenames)}
    order = [rows[name] for name in direct.filenames]
    # The test split has no positive label, so all its labels are unknown.
    assert table.labels[order][:, used].tolist() == direct.labels[:3].tolist() + [[-1] * 3] * 2
    assert [table.splits[i] for i in order] == list(direct.splits)


def assert_same(table, direct, prefix):
    """Compares images, bytes and labels in any order."""
    rows = {name: i for i, name in enumerate(table.filenames)}
    table = table.take([rows[f"{prefix}/{name}"] for name in direct.filenames])
    table = table.with_classes(direct.classes, "", "")
    assert table.labels.tolist() == direct.labels.tolist()
    assert [read_file(path) for path in table.paths] == [read_file(path) for path in direct.paths]


def test_a_split_is_packed(data_dir, file_format, tmp_path):
    out, start = tmp_path / "p", ["--tfds", "tiny_set", "--data-dir", data_dir, "--check"]
    assert pack.main([*start, "--out", str(out), "--format", file_format]) == 0
    table = read_packed(out)
    assert sorted(table.filenames) == [f"train/name {i}.jpg" for i in range(3)]
    with pytest.raises(ValueError, match=r"tiny_set\[dev\]: no split dev"):
        pack.main([*start, "--out", str(tmp_path / "q"), "--split", "dev"])
    assert not (tmp_path / "q").exists()
