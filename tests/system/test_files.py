"""Files and folders are written completely or not at all."""

import errno
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlcls_jax.system import files
from mlcls_jax.system.files import check_writable, leftovers, new_folder, replacing, write_text


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_write_text_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "a long first version\n")
    write_text(path, "ä\r\n\r")
    assert contents(tmp_path) == {"a.txt": "ä\r\n\r".encode()}


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match=r"a\.txt cannot be written: disk full"):
        write_text(path, "new")
    assert contents(tmp_path) == {"a.txt": b"old"}


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        raise error
    assert contents(tmp_path) == {"a.txt": b"old"}


def test_two_writers_do_not_interfere(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as two:
        one.write_text("one")
        two.write_text("two")
    assert contents(tmp_path) == {"a.txt": b"one"}


def test_a_new_file_has_default_permissions(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


@pytest.mark.parametrize("parent", ["none", "file"])
def test_a_missing_folder_is_a_value_error(tmp_path, parent):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        write_text(tmp_path / parent / "a.txt", "x")


def test_leftovers_are_partial_files_only(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as partial, replacing(tmp_path / "b.txt") as other:
        for file in (partial, other, path):
            file.touch()
        assert sorted(leftovers(tmp_path)) == sorted([partial, other])
    assert leftovers(tmp_path) == []


def test_a_new_folder_is_complete_or_absent(tmp_path):
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        assert not out.exists()
    assert contents(out) == {"a.txt": b"a"}
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other") as folder:
        (folder / "a.txt").write_text("a")
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]


def test_a_new_folder_replaces_only_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="empty already exists"), new_folder(tmp_path / "empty"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file already exists"), new_folder(tmp_path / "file"):
        pass
    with (
        pytest.raises(ValueError, match="cannot be created"),
        new_folder(tmp_path / "file" / "below"),
    ):
        pass


def test_a_full_disk_leaves_no_folder(tmp_path):
    message = r"out cannot be written: disk full"
    with pytest.raises(ValueError, match=message), new_folder(tmp_path / "out"):
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["open", "write"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, failing):
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())

    @contextmanager
    def storage(dir):
        if failing == "open":
            raise OSError(errno.EROFS, "Read-only file system")
        yield SimpleNamespace(write=full)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", storage)
    why = "Read-only" if failing == "open" else "No space left"
    with pytest.raises(ValueError, match=rf"no file can be written there \({why}"):
        check_writable(tmp_path)


@pytest.fixture
def synced(monkeypatch):
    """Returns the paths of files and folders in the order in which they are synchronised."""
    paths, fsync = [], os.fsync

    def recorded(descriptor):
        for path in Path("/proc/self/fd").glob(str(descriptor)):  # Linux only
            paths.append(os.readlink(path))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return paths


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to name open files")


@linux
def test_contents_are_on_disk_before_their_name_and_the_name_before_the_end(tmp_path, synced):
    files.write_text(tmp_path / "a", "text")
    assert len(synced) == 2
    assert synced[0].endswith(".partial") and synced[1] == str(tmp_path)


@linux
def test_a_new_file_that_is_appended_to_keeps_its_name(tmp_path, synced):
    for _ in range(2):
        files.append(tmp_path / "a", b"line")
    assert synced == [str(tmp_path / "a"), str(tmp_path), str(tmp_path / "a")]


@linux
def test_new_folders_are_on_disk_with_those_above_them(tmp_path, synced):
    files.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {str(tmp_path), str(tmp_path / "a")}
    synced.clear()
    with files.new_folder(tmp_path / "c") as folder:
        (folder / "file").write_text("text")
    assert Path(synced[0]).name == "file"
    assert synced[-1] == str(tmp_path) and len(synced) == 3


def test_a_file_system_that_cannot_synchronise_folders_is_accepted(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    files.sync_folder(tmp_path)
    with pytest.raises(OSError, match="Invalid"):
        files.sync_tree(write(tmp_path / "a").parent)


def write(path):
    path.write_text("text")
    return path
