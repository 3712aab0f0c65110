"""CSVs and loose images at addresses, on fsspec's file system in memory."""

from collections import Counter

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from layouts import make_coco, make_voc

from mlcls_jax.config import Data
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.readers.read_table import has_folder, read_table
from mlcls_jax.data.readers.unlabelled import folder_table, listed_images
from mlcls_jax.run.given_images import find_images
from mlcls_jax.run.input_paths import check_training_data

CSV, PHOTOS = "memory://bucket/labels.csv", "memory://bucket/photos"
ROWS = "filename,dog,cat\na.png,1,0\nsub/b.jpg,0,1\n"


@pytest.fixture
def files():
    files = fsspec.filesystem("memory")
    files.pipe({CSV: ROWS.encode(), f"{PHOTOS}/a.png": b"A", f"{PHOTOS}/sub/b.jpg": b"B"})
    files.pipe({f"{PHOTOS}/notes.txt": b"", "memory://bucket/names.csv": b"Labels\ncat\ndog\n"})
    yield files
    files.rm("/bucket", recursive=True)


def table():
    return read_table(Data(), CSV, PHOTOS)


def test_a_csv_and_its_images_are_read_by_address(files):
    read = table()
    assert read.filenames == ("a.png", "sub/b.jpg") and read.labels.tolist() == [[1, 0], [0, 1]]
    assert read.paths == [f"{PHOTOS}/a.png", f"{PHOTOS}/sub/b.jpg"]
    assert [read_file(path) for path in read.paths] == [b"A", b"B"]
    ordered = read_table(Data(categories="memory://bucket/names.csv"), CSV, PHOTOS)
    assert ordered.classes == ("cat", "dog")


def test_only_an_address_that_ends_in_csv_is_a_csv():
    assert has_folder(Data(), CSV) and not has_folder(Data(), "memory://bucket/packed")


def test_each_folder_is_listed_once_and_no_image_is_asked_for(files, monkeypatch):
    lines = [f"{i:03}.png,1" for i in range(200)]
    files.pipe({f"{PHOTOS}/{line.split(',')[0]}": b"" for line in lines})
    files.pipe_file(CSV, "\n".join(["filename,dog", *lines]).encode())
    asked = Counter()
    for name in ("ls", "info", "exists", "cat_file"):
        call = getattr(MemoryFileSystem, name)

        def counted(*args, _name=name, _call=call, **options):
            asked[_name] += 1
            return _call(*args, **options)

        monkeypatch.setattr(MemoryFileSystem, name, counted)
    assert len(table()) == 200
    assert asked["ls"] == 1 and asked["cat_file"] == 1 and sum(asked.values()) < 6


def test_errors_name_the_address(files):
    files.rm_file(f"{PHOTOS}/a.png")
    with pytest.raises(ValueError, match=f"1 of 2 images are not in {PHOTOS}, the first in row 2"):
        table()
    files.pipe_file(CSV, b"filename,dog\na.png,2\n")
    with pytest.raises(ValueError, match=f"{CSV}: row 2, column 'dog': '2' is not a label"):
        table()
    files.pipe_file(CSV, b"filename,dog\na.png\n")
    with pytest.raises(ValueError, match=f"{CSV}: row 2 has 1 cells"):
        table()
    files.rm_file(CSV)
    with pytest.raises(ValueError, match=f"{CSV}: no such file"):
        table()


def test_a_missing_image_is_bad_and_a_lost_network_is_not(files, monkeypatch):
    with pytest.raises(ImageError, match="the file does not exist"):
        read_file(f"{PHOTOS}/nowhere.png")

    def fail(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(OSError, match=f"{PHOTOS}/a.png: no network"):
        read_file(f"{PHOTOS}/a.png")


def test_images_without_labels(files):
    assert folder_table(PHOTOS, ["dog"]).filenames == ("a.png", "sub/b.jpg")
    with pytest.raises(ValueError, match=f"{PHOTOS}/none contains no images"):
        folder_table(f"{PHOTOS}/none", ["dog"])
    paths = [f"{PHOTOS}/a.png", f"{PHOTOS}/sub/b.jpg"]
    assert find_images([f"{PHOTOS}/"]) == (["a.png", "sub/b.jpg"], paths)
    assert find_images(paths) == (paths, paths)
    assert listed_images(CSV, PHOTOS, "filename") == (["a.png", "sub/b.jpg"], paths)
    files.pipe_file(f"{PHOTOS}/labels.csv", ROWS.encode())
    assert listed_images(f"{PHOTOS}/labels.csv", "", "filename")[1] == paths
    with pytest.raises(ValueError, match="no such file or folder"):
        find_images([f"{PHOTOS}/nowhere.png"])


@pytest.mark.parametrize(("field", "kind"), [("csv", "file"), ("images", "folder")])
def test_missing_data_is_refused_before_any_work(files, field, kind):
    data = Data(csv=CSV, images=PHOTOS)
    check_training_data(data)
    setattr(data, field, "memory://bucket/nowhere")
    with pytest.raises(ValueError, match=f"memory://bucket/nowhere: no such {kind}; check"):
        check_training_data(data)


@pytest.mark.parametrize("source", ["coco", "voc"])
def test_annotated_data_sets_are_read_as_on_a_disk(files, tmp_path, source):
    if source == "coco":
        folder, images = make_coco(tmp_path), "train2017"
        place = "annotations/instances_train2017.json"
    else:
        folder, place, images = make_voc(tmp_path), "", ""
    files.put(str(folder), "memory://bucket/set", recursive=True)
    local, remote = (
        read_table(
            Data(source=source), f"{root}/{place}".rstrip("/"), f"{root}/{images}" * bool(images)
        )
        for root in (folder, "memory://bucket/set")
    )
    assert remote.filenames == local.filenames and remote.splits == local.splits
    assert remote.labels.tolist() == local.labels.tolist() and remote.classes == local.classes
    assert read_file(remote.paths[0]) == read_file(local.paths[0])


def test_mistakes_of_annotated_data_sets_name_the_address(files, tmp_path):
    with pytest.raises(ValueError, match=r"memory://bucket/no\.json: no such file"):
        read_table(Data(source="coco"), "memory://bucket/no.json", PHOTOS)
    with pytest.raises(ValueError, match="memory://bucket/photos: not a VOC data set"):
        read_table(Data(source="voc"), PHOTOS, "")
    files.put(str(make_voc(tmp_path)), "memory://bucket/set", recursive=True)
    listed = "memory://bucket/set/ImageSets/Main/val.txt"
    assert read_table(Data(source="voc"), listed, "").filenames == ("000009.jpg",)
    files.pipe_file("memory://bucket/set/Annotations/000009.xml", b"<annotation>")
    with pytest.raises(ValueError, match=r"set/Annotations/000009\.xml: the annotation"):
        read_table(Data(source="voc"), listed, "")
