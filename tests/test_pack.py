"""pack_dataset.py: what training reads is what was in the folder, or nothing is written."""

import shutil
from pathlib import Path

import pack_dataset
import pytest

from mlcls_jax.data.images.decoding import ImageError, read_file
from mlcls_jax.data.readers.csv_labels import read_labels
from mlcls_jax.data.readers.packed import read_packed


def run(*arguments) -> int:
    return pack_dataset.main([str(argument) for argument in arguments])


def source(photos: Path) -> tuple:
    return "--csv", photos / "labels.csv", "--images", photos


@pytest.fixture
def broken(photos, tmp_path):
    """The images, one of them gone wrong."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "07.png").write_bytes(b"<html>")
    return folder


def test_a_folder_is_packed(photos, tmp_path, capsys):
    out = tmp_path / "photos.pack"
    assert run(*source(photos), "--out", out, "--shard_mb", 0.02, "--check") == 0
    assert f"packed 40 images; use them with --config.data.csv={out}" in capsys.readouterr().out
    table, folder = read_packed(out), read_labels(photos / "labels.csv", photos)
    assert (out / "labels.csv").read_bytes() == (photos / "labels.csv").read_bytes()
    assert table.filenames == folder.filenames
    assert list(map(read_file, table.paths)) == list(map(read_file, folder.paths))
    assert len(list(out.glob("pack-*.tar"))) > 5


def test_nothing_is_replaced(photos, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert run(*source(photos), "--out", tmp_path / "mine") == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_bad_images_are_found_where_asked_for(broken, tmp_path, capsys):
    assert run(*source(broken), "--out", tmp_path / "checked", "--check") == 2
    error = capsys.readouterr().err
    assert "1 of 40 images cannot be read: '07.png'; the first: it is HTML" in error
    assert run(*source(broken), "--out", tmp_path / "packed") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "photos"]


def test_all_that_cannot_be_read_are_named(photos, tmp_path, capsys, monkeypatch):
    def read(path: str) -> bytes:
        if path.endswith(("03.png", "21.png")):
            raise ImageError("no permission")
        return b"an image"

    monkeypatch.setattr(pack_dataset, "read_file", read)
    assert run(*source(photos), "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "2 of 40" in error and "'03.png', '21.png'; the first: no permission" in error
    assert not list(tmp_path.iterdir())


def test_the_order_is_kept_while_threads_read(tmp_path):
    names = [f"{i:03}" for i in range(300)]
    for name in names:
        (tmp_path / name).write_text(name)
    images = list(pack_dataset.read_images(names, [str(tmp_path / name) for name in names]))
    assert images == [(name, name.encode()) for name in names]


def test_wrong_commands_are_refused(photos, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    for arguments, words in [
        ((), "either --csv and --images, or --tfds"),
        (("--csv", photos / "labels.csv"), "either --csv"),
        ((*source(photos), "--tfds", "coco/2017"), "either --csv"),
        ((*source(photos), "--shard_mb", 0), "must be above 0"),
    ]:
        with pytest.raises(SystemExit) as caught:
            run(*arguments, *out)
        assert caught.value.code == 2 and words in capsys.readouterr().err
    assert run("--csv", tmp_path / "no.csv", "--images", photos, *out) == 2
    assert "no such CSV file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
