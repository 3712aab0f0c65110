"""pack writes exactly the images and labels of the folder, or nothing."""

import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax import pack
from mlcls_jax.config import Data
from mlcls_jax.data.images.image_error import ImageError
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.packed import read_packed
from mlcls_jax.data.readers.read_table import read_table


def run(*arguments) -> int:
    return pack.main([str(argument) for argument in arguments])


def source(photos: Path) -> tuple:
    return "--csv", photos / "labels.csv", "--images", photos


@pytest.fixture
def broken(photos, tmp_path):
    """A copy of the images, one of which cannot be read."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "07.png").write_bytes(b"<html>")
    return folder


def test_a_folder_is_packed(photos, tmp_path, capsys):
    out = tmp_path / "photos.pack"
    assert run(*source(photos), "--out", out, "--shard-mb", 0.02, "--check") == 0
    assert (
        f"packed 40 images; train from them with --config.data.csv={out}" in capsys.readouterr().out
    )
    table, folder = read_packed(out), read_labels(photos / "labels.csv", photos)
    assert (out / "labels.csv").read_bytes() == (photos / "labels.csv").read_bytes()
    assert table.filenames == folder.filenames
    assert list(map(read_file, table.paths)) == list(map(read_file, folder.paths))
    assert len(list(out.glob("pack-*.tar"))) > 5


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")  # TensorFlow's
@pytest.mark.parametrize("shard_format", ["tfrecord", "array_record"])
def test_a_folder_is_packed_as_records(photos, tmp_path, shard_format):
    out = tmp_path / "photos.pack"
    assert run(*source(photos), "--out", out, "--format", shard_format, "--shard-mb", 0.02) == 0
    table, folder = read_packed(out), read_labels(photos / "labels.csv", photos)
    assert table.labels.tolist() == folder.labels.tolist()
    assert list(map(read_file, table.paths)) == list(map(read_file, folder.paths))
    assert len(list(out.glob(f"pack-*.{shard_format}"))) > 5


def test_without_tensorflow_records_are_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r"packing as tfrecord needs .* mlcls_jax\[tf_data\]$"):
        run(*source(photos), "--out", tmp_path / "out", "--format", "tfrecord")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_replaced(photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(ValueError, match="already exists"):
        run(*source(photos), "--out", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_check_finds_bad_images(broken, tmp_path):
    reason = "1 of 40 images cannot be read: '07\\.png'; the first: it is HTML"
    with pytest.raises(ValueError, match=reason):
        run(*source(broken), "--out", tmp_path / "checked", "--check")
    assert run(*source(broken), "--out", tmp_path / "packed") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "photos"]


def test_check_accepts_any_number_of_channels(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    (tmp_path / "labels.csv").write_text("filename,a\n0.tif,0\n1.tif,1\n")
    for i in range(2):
        tifffile.imwrite(
            tmp_path / f"{i}.tif", np.zeros((4, 4, 5), np.uint16), photometric="minisblack"
        )
    assert run(*source(tmp_path), "--out", tmp_path / "packed", "--check") == 0


def test_all_unreadable_images_are_named(photos, tmp_path, monkeypatch):
    def read(path: str) -> bytes:
        if path.endswith(("03.png", "21.png")):
            raise ImageError("no permission")
        return b"an image"

    monkeypatch.setattr(pack, "read_file", read)
    reason = r"2 of 40.*'03\.png', '21\.png'; the first: no permission"
    with pytest.raises(ValueError, match=reason):
        run(*source(photos), "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_order_is_kept_while_threads_read(tmp_path):
    names = [f"{i:03}" for i in range(300)]
    for name in names:
        (tmp_path / name).write_text(name)
    images = list(pack.read_images(names, [str(tmp_path / name) for name in names]))
    assert images == [(name, name.encode()) for name in names]


def test_wrong_commands_are_refused(photos, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    for arguments, words in [
        ((), "give either --csv and --images, or --tfds"),
        (("--csv", photos / "labels.csv"), "either --csv"),
        ((*source(photos), "--tfds", "coco/2017"), "either --csv"),
        ((*source(photos), "--shard-mb", 0), "must be above 0"),
        ((*source(photos), "--format", "zip"), "choose from"),
    ]:
        with pytest.raises(SystemExit) as caught:
            run(*arguments, *out)
        assert caught.value.code == 2 and words in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such CSV file"):
        run("--csv", tmp_path / "no.csv", "--images", photos, *out)
    assert not (tmp_path / "out").exists()


def test_the_options_of_a_csv(photos, tmp_path, capsys):
    csv, out = tmp_path / "labels.csv", tmp_path / "out"
    rows = "".join(f"{i:02}.png,{0.25 * (i % 5)},{i % 3 / 2},x\n" for i in range(40))
    csv.write_text("image,cat,dog,note\n" + rows)
    options = ("--filename-column", "image", "--ignore-columns", "note")
    assert run("--csv", csv, "--images", photos, "--out", out, *options) == 0
    printed = capsys.readouterr().out
    assert "soft labels from 0 to 1 in 'cat', 'dog'" in printed and "not used: 'note'" in printed
    assert printed.endswith(f"train from them with --config.data.csv={out}\n")
    data = Data(filename_column="image", ignore_columns="note")
    table, direct = read_packed(out), read_table(data, str(csv), str(photos))
    assert table.filenames == direct.filenames and table.classes == direct.classes
    assert direct.targets is not None
    np.testing.assert_array_equal(table.train_labels, direct.targets)
    with tarfile.open(out / "pack-00000.tar") as tar:
        label = json.load(tar.extractfile("03.json"))
    assert label["labels"] == [1, 0] and label["soft_labels"] == [0.75, 0.0]


def test_a_renamed_column_is_part_of_the_next_command(photos, tmp_path, capsys):
    csv, out = tmp_path / "labels.csv", tmp_path / "out"
    csv.write_text((photos / "labels.csv").read_text().replace("filename", "my image"))
    assert run("--csv", csv, "--images", photos, "--out", out, "--filename-column", "my image") == 0
    assert "--config.data.filename_column='my image'" in capsys.readouterr().out
    assert (out / "labels.csv").read_bytes() == csv.read_bytes()


@pytest.mark.parametrize("ignored", [(), ("--ignore-columns", "note")])
def test_groups_are_packed(photos, tmp_path, capsys, ignored):
    csv, out = tmp_path / "labels.csv", tmp_path / "out"
    note = ",note" if ignored else ""
    rows = "".join(f"{i:02}.png,p{i // 4},{i % 2}{note}\n" for i in range(40))
    csv.write_text(f"filename,patient,cat{note}\n{rows}")
    options = ("--group-column", "patient", *ignored)
    assert run("--csv", csv, "--images", photos, "--out", out, *options) == 0
    column = "group" if ignored else "patient"
    assert f"--config.data.group_column={column}\n" in capsys.readouterr().out
    assert read_packed(out, group_column=column).groups == tuple(f"p{i // 4}" for i in range(40))
