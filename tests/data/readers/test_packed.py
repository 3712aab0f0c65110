"""Packed data sets, local or in a bucket, give the batches of the folder or are refused."""

import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from mlcls_jax.config import Augment, Config, Data
from mlcls_jax.data.images.bad_images import BadImages
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.loaders.loader import Reader, Rows, eval_batches, train_batches
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.packed import is_packed, packing, read_packed
from mlcls_jax.data.readers.storage import Part
from mlcls_jax.data.splits import load_splits
from mlcls_jax.training.setup import open_run

UNKNOWN = np.full(2, -1, np.int8)
RECORDS = [  # formats that need other packages
    pytest.param(name, marks=[pytest.mark.reference, pytest.mark.filterwarnings("ignore")])
    for name in ("tfrecord", "array_record")
]
SHARD = 20_000  # about three of the images
AUGMENT = Augment(train_resize="random_crop")


def pack(
    place, files: dict[str, bytes], labels: bytes, shard: int = SHARD, shard_format: str = "tar"
) -> str:
    """Packs files; the labels in the shards say nothing."""
    with packing(str(place), shard, shard_format, ["dog", "cat"]) as packer:
        for name, contents in files.items():
            packer.add(name, contents, UNKNOWN)
        packer.finish(labels)
    return str(place)


def pack_photos(photos: Path, place, shard_format: str = "tar") -> str:
    files = {path.name: path.read_bytes() for path in sorted(photos.glob("*.png"))}
    return pack(place, files, (photos / "labels.csv").read_bytes(), shard_format=shard_format)


def small(place, **files: bytes) -> str:
    files = files or {"a": b"first", "b": b"second"}
    rows = "".join(f"{name},1\n" for name in files)
    return pack(place, files, f"filename,dog\n{rows}".encode())


def refusal(call, *arguments) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory):
    return pack_photos(photos, tmp_path_factory.mktemp("packed") / "photos.pack")


@pytest.fixture
def bucket():
    yield "memory://bucket/photos"
    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


def assert_the_same(one, other):
    assert one.filenames == other.filenames and one.classes == other.classes
    np.testing.assert_array_equal(one.labels, other.labels)
    options = {"rows": Rows(8, 0, 8), "size": 32, "augment": AUGMENT}
    steps = {"first_step": 3, "last_step": 9, "seed": 0}
    for ours, theirs in zip(
        train_batches(one, **steps, **options),
        train_batches(other, **steps, **options),
        strict=True,
    ):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(ours.position, theirs.position)
    for ours, theirs in zip(
        eval_batches(one.paths, **options), eval_batches(other.paths, **options), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_batches_are_those_of_the_folder(photos, packed):
    assert_the_same(read_packed(packed), read_labels(photos / "labels.csv", photos))


@pytest.mark.parametrize("shard_format", RECORDS)
def test_batches_from_records_are_those_of_the_folder(photos, tmp_path, shard_format):
    place = pack_photos(photos, tmp_path / "p", shard_format)
    assert_the_same(read_packed(place), read_labels(photos / "labels.csv", photos))
    assert len(list(Path(place).glob(f"pack-*.{shard_format}"))) > 5


def test_batches_from_a_bucket_are_those_of_the_folder(photos, bucket, tmp_path):
    folder = read_labels(photos / "labels.csv", photos)
    for place in (bucket, f"file://{tmp_path}/new/photos"):
        assert_the_same(read_packed(pack_photos(photos, place)), folder)
        assert_the_same(read_packed(f"{place}/"), folder)


def test_shards_are_tar_files_of_the_size(photos, packed, tmp_path):
    shards = sorted(Path(packed).glob("pack-*.tar"))
    assert [shard.name for shard in shards] == [f"pack-{i:05d}.tar" for i in range(len(shards))]
    assert len(shards) > 5
    for shard in shards:
        with tarfile.open(shard) as tar:
            assert sum(entry.size for entry in tar) <= SHARD
            tar.extractall(tmp_path, filter="data")
    for path in photos.glob("*.png"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shard_format", ["tar", *RECORDS])
def test_odd_names_and_sizes(tmp_path, shard_format):
    names = ["sub/dé \N{SNOWMAN}.jpg", 'a "b".jpg', "c\rd.jpg", "x" * 90 + "/" + "y" * 90, "NA"]
    sizes = (0, 1, 512, 513, 30_000)
    files = {name: size * b"x" for name, size in zip(names, sizes, strict=True)}
    rows = ['"{}",1'.format(name.replace('"', '""')) for name in names]
    labels = "\n".join(["filename,dog", *rows]).encode()
    place = pack(tmp_path / "odd", files, labels, shard_format=shard_format)
    table = read_packed(place)
    assert list(table.filenames) == names
    assert [read_file(path) for path in table.paths] == list(files.values())


def test_a_part_equals_the_path_that_the_image_would_have(packed):
    path = read_packed(packed).paths[7]
    assert path == f"{packed}/07.png"
    copy = pickle.loads(pickle.dumps(path))
    assert isinstance(copy, Part) and read_file(copy) == read_file(path)


def test_rows_may_be_removed_but_not_added(tmp_path):
    place = Path(small(tmp_path / "p"))
    text = "filename,dog\nb,1\nnew,0\n"
    edit(place, "labels.csv", text.encode())
    assert "1 of 2 images" in (message := refusal(read_packed, place)) and "'new'" in message
    edit(place, "labels.csv", text.replace("new,0\n", "").encode())
    assert [read_file(path) for path in read_packed(place).paths] == [b"second"]


def edit(place: Path, name: str, contents: bytes) -> None:
    """Replaces a file, and its size in the manifest."""
    (place / name).write_bytes(contents)
    manifest = json.loads((place / "pack.json").read_text())
    manifest["files"][name] = len(contents)
    (place / "pack.json").write_text(json.dumps(manifest))


def test_incomplete_data_sets_are_refused(tmp_path):
    place = Path(small(tmp_path / "p"))
    for name, contents, words in [
        ("pack.json", None, "because it has no pack.json"),
        ("pack.json", b"{", "pack.json is damaged"),
        ("pack.json", b'{"format": 2, "files": {}}', "in format 2"),
        ("pack-00000.tar", b"short", "'pack-00000.tar'; copy"),
        ("index.csv", None, "'index.csv'; copy"),
    ]:
        before = (place / name).read_bytes()
        (place / name).unlink() if contents is None else (place / name).write_bytes(contents)
        assert words in refusal(read_packed, place)
        (place / name).write_bytes(before)
    header, shard = b"filename,shard,offset,size\n", b"pack-00000.tar"
    elsewhere = header + b"a,../../secret,0,1\n"
    beyond = header + b"a,%s,0,1000000000000\nb,%s,-1,1\n" % (shard, shard)
    no_number = header + b"a,b,c,d\n"
    for index in (b"filename,shard\na,b\n", no_number, elsewhere, beyond, b""):
        copy = (place / "index.csv").read_bytes()
        edit(place, "index.csv", index)
        assert "index.csv is damaged" in refusal(read_packed, place)
        edit(place, "index.csv", copy)
    read_packed(place)


def test_missing_data_sets_are_refused(tmp_path, bucket):
    assert "is not a complete packed data set" in refusal(read_packed, tmp_path)
    assert "is not a complete packed data set" in refusal(read_packed, bucket)
    assert "install mlcls_jax[bucket]" in refusal(read_packed, "nosuch://bucket/photos")


def test_an_existing_place_is_not_replaced(tmp_path, bucket):
    for place in (tmp_path / "p", bucket):
        small(place)
        assert "already exists" in refusal(small, place)
    read_packed(bucket)


def test_a_failed_pack_leaves_no_data_set(tmp_path, bucket):
    for place in (str(tmp_path / "p"), bucket):
        with pytest.raises(RuntimeError), packing(place, SHARD, "tar", ["dog", "cat"]) as packer:
            packer.add("a", b"first", UNKNOWN)
            raise RuntimeError
        assert "is not a complete packed data set" in refusal(read_packed, place)
    assert not list(tmp_path.iterdir())
    with packing(str(tmp_path / "p"), SHARD, "tar", ["dog", "cat"]) as packer:
        packer.add("a", b"first", UNKNOWN)
        with pytest.raises(ValueError, match="two images have the file name 'a'"):
            packer.add("a", b"again", UNKNOWN)


def test_shards_stay_open_while_threads_read_them(tmp_path):
    files = {str(i): bytes([i]) * 1000 for i in range(200)}
    names = "".join(f"{name},1\n" for name in files)
    paths = read_packed(pack(tmp_path / "p", files, f"filename,dog\n{names}".encode(), 5000)).paths
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read_file, paths)) == list(files.values())


def test_errors_of_the_buckets_library_are_one_line(bucket, monkeypatch):
    class HttpError(Exception):
        """Like the exception of gcsfs."""

    def fail(*_, **__):
        raise HttpError("403\nforbidden")

    paths = read_packed(small(bucket)).paths
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", fail)
        with pytest.raises(ImageError, match=r"pack-00000\.tar: 403 forbidden"):
            read_file(paths[0])
        assert "cannot be read (memory://" in refusal(read_packed, bucket)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFile, "write", fail)
        assert "new cannot be written: memory://" in refusal(small, f"{bucket}/new")


def test_an_image_of_a_missing_or_shortened_shard_is_bad(tmp_path, bucket):
    for place in (str(tmp_path / "one"), bucket):
        _, path = read_packed(small(place)).paths
        assert isinstance(path, Part)
        short = Part(path, path.shard, path.offset + 100_000, path.size)
        with pytest.raises(ImageError, match=r"its shard .* ends before the image"):
            read_file(short)
        with pytest.raises(ImageError, match="does not exist"):
            read_file(Part(path, f"{path.shard}x", path.offset, path.size))


def test_bad_images_are_skipped_by_their_names(photos, tmp_path):
    files = {path.name: path.read_bytes() for path in sorted(photos.glob("*.png"))}
    files["07.png"] = b"<html>"
    table = read_packed(pack(tmp_path / "p", files, (photos / "labels.csv").read_bytes()))
    bad = BadImages(skip=True, limit=1, written=tmp_path / "bad.csv")
    options = {"rows": Rows(40, 0, 40), "size": 32, "augment": AUGMENT}
    list(eval_batches(table.paths, reader=Reader(bad=bad), **options))
    assert f'{tmp_path}/p/07.png,"it is HTML' in (tmp_path / "bad.csv").read_text()
    with pytest.raises(ValueError, match=r"p/07\.png cannot be read: it is HTML"):
        list(eval_batches(table.paths, **options))


def test_splits_of_packed_data_sets(photos, packed, tmp_path):
    whole = load_splits(Data(csv=packed))
    folder = load_splits(Data(csv=str(photos / "labels.csv"), images=str(photos)))
    assert {name: table.filenames for name, table in whole.items()} == {
        name: table.filenames for name, table in folder.items()
    }
    labels = b"filename,red,green,blue\n40.png,1,0,1\n"
    other = pack(tmp_path / "val", {"40.png": b"40"}, labels)
    mixed = Data(csv=str(photos / "labels.csv"), images=str(photos), val_csv=other)
    for data in (Data(csv=packed, val_csv=other), mixed):
        assert load_splits(data)["val"].paths == [f"{other}/40.png"]
    assert "images are in both" in refusal(load_splits, Data(csv=packed, val_csv=packed))


def test_the_csvs_split_column_is_kept(tmp_path):
    labels = b"filename,dog,split\na,1,train\nb,0,val\n"
    place = pack(tmp_path / "p", {"a": b"first", "b": b"second"}, labels)
    assert load_splits(Data(csv=place))["val"].filenames == ("b",)
    table = read_packed(place)
    assert table.take([1]).paths == replace(table, filenames=("b",)).paths == [f"{place}/b"]


def test_the_config_of_a_packed_data_set(photos, packed, tmp_path):
    assert is_packed(packed) and is_packed("gs://bucket/photos")
    assert not is_packed(photos / "labels.csv") and not is_packed("nowhere.csv")
    message = refusal(load_splits, Data(csv=packed, images=str(photos)))
    assert message.startswith("config: data.images is") and "set data.images=''" in message
    val = Data(csv=packed, val_csv=packed, val_images=str(photos))
    assert "data.val_images" in refusal(load_splits, val)
    assert "is not a complete packed data set" in refusal(load_splits, Data(csv=str(photos)))
    assert "or a packed data set" in refusal(open_run, Config(data=Data()), tmp_path)
    data = Data(csv=str(photos / "labels.csv"))
    assert "data.images is empty" in refusal(open_run, Config(data=data), tmp_path)
    data = Data(csv=str(photos), images=str(photos / "labels.csv"))
    assert "exchange them" in refusal(load_splits, data)


def test_errors_about_labels_name_the_bucket(bucket):
    place = small(bucket)
    with pytest.raises(ValueError, match=r"^memory://bucket/photos/labels\.csv: no column 'file'"):
        read_packed(place, filename_column="file")
