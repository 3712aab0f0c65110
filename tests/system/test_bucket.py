"""Local copies of folders in buckets, and the lock there, on fsspec's file system in memory."""

import json
import threading
import time
from pathlib import Path

import pytest

from mlcls_jax.system import bucket, bucket_lock
from mlcls_jax.system.bucket import address_of, check_bucket, copy_at, copy_of, uploaded
from mlcls_jax.system.bucket_lock import held_in_bucket
from mlcls_jax.system.console import escaped
from mlcls_jax.system.files import check_writable, write_text
from mlcls_jax.system.lock import HeldError, this_process

RUN = "memory://bucket/run"


@pytest.fixture
def files(empty_bucket):
    return empty_bucket


@pytest.fixture
def copy(files, tmp_path):
    return copy_at(RUN, tmp_path)


def test_a_copy_has_the_files_of_the_folder_and_follows_them(files, tmp_path):
    files.pipe({f"{RUN}/config.json": b"{}", f"{RUN}/old": b"1", f"{RUN}/sub/large": b"2"})
    copy = copy_at(f"{RUN}/", tmp_path)
    assert (copy.folder / "config.json").read_text() == "{}" and copy.folder.name == "run"
    assert list((copy.folder / "sub").iterdir()) == []  # downloaded by those who need it
    files.pipe(f"{RUN}/config.json", b"{1}")
    files.rm_file(f"{RUN}/old")
    assert copy_at(RUN, tmp_path) is copy
    assert {file.name for file in copy.folder.iterdir()} == {"config.json", "sub"}
    assert (copy.folder / "config.json").read_text() == "{1}"


def test_files_that_are_deleted_while_they_are_read_are_left_out(files, tmp_path, monkeypatch):
    files.pipe({f"{RUN}/config.json": b"{}", f"{RUN}/run.lock": b"1"})
    files.pipe(f"{RUN}/.writable-0123.partial", b"0")  # of a process that starts at this moment
    asked, get = [], type(files).get

    def get_late(files, sources, targets):
        asked.append(sources)
        files.store.pop("/bucket/run/run.lock", None)
        get(files, sources, targets)

    monkeypatch.setattr(type(files), "get", get_late)
    with pytest.raises(FileNotFoundError, match=r"run: a file was deleted while it was read"):
        copy_at(RUN, tmp_path).download(["run.lock"])
    assert [len(names) for names in asked] == [2, 1, 1]
    assert [file.name for file in copy_at(RUN, tmp_path).folder.iterdir()] == ["config.json"]


def test_complete_files_are_uploaded_and_messages_show_their_address(files, copy):
    write_text(copy.folder / "classes.txt", "dog\n")
    assert files.cat_file(f"{RUN}/classes.txt") == b"dog\n"
    assert copy_of(copy.folder / "a/b") == (copy, "a/b")
    assert escaped(f"see {copy.folder / 'a'}") == f"see {RUN}/a"
    assert address_of(copy.folder.with_name("run-2")) == f"{RUN}-2"


def test_local_paths_are_left_alone(copy, tmp_path):
    path = tmp_path / "file"
    uploaded(path)
    assert copy_of(path) is None and address_of(path) == str(path) == escaped(str(path))


@pytest.mark.parametrize("address", ["memory://", "memory://bucket", "memory://bucket/../run"])
def test_an_address_names_a_folder_in_a_bucket(files, tmp_path, address):
    with pytest.raises(ValueError, match="name a folder in a bucket, such as"):
        copy_at(address, tmp_path)


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere:// addresses cannot be used .*install"):
        copy_at("nowhere://bucket/run", tmp_path)


def test_where_nothing_can_be_written_is_said_before_any_work(files, copy, monkeypatch):
    check_bucket(copy)
    assert files.find(RUN) == []

    def refuse(*_, **__):
        raise PermissionError("403 forbidden")

    monkeypatch.setattr(type(files), "pipe_file", refuse)
    with pytest.raises(ValueError, match=f"{RUN}: no file can be written there .403 forbidden"):
        check_writable(copy.folder)


def test_copies_of_processes_that_have_ended_are_deleted(files, tmp_path):
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "large").write_text("1")
    (tmp_path / "dead.lock").write_text("")
    copy = copy_at(RUN, tmp_path)
    assert not (tmp_path / "dead").exists() and copy.folder.is_dir()


def test_a_lock_is_an_object_with_its_owner(files, copy):
    with held_in_bucket(copy, "run.lock", print) as left_by:
        assert left_by == ""
        owner = json.loads(files.cat_file(f"{RUN}/run.lock"))
        assert owner["pid"] == this_process()["pid"]
    assert not files.exists(f"{RUN}/run.lock")


def other_owner(files, **changes):
    owner = this_process() | {"pid": 7, "host": "other", "machine": "x", "token": "y"} | changes
    files.pipe_file(f"{RUN}/run.lock", json.dumps(owner).encode())


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bucket_lock, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(bucket_lock, "STALE_SECONDS", 0.3)


def test_an_owner_with_a_sign_of_life_keeps_its_lock(files, copy, quick):
    other_owner(files)
    beats = threading.Timer(0.1, lambda: other_owner(files, beats=1))
    beats.start()
    with pytest.raises(HeldError) as caught, held_in_bucket(copy, "run.lock", print):
        pass
    assert caught.value.owner.startswith("process 7 on host other since")
    beats.join()


def test_an_owner_without_a_sign_of_life_loses_its_lock(files, copy, quick):
    other_owner(files)
    told = []
    with held_in_bucket(copy, "run.lock", told.append) as left_by:
        assert left_by.startswith("process 7 on host other")
    assert len(told) == 1 and "waiting up to 0 s" in told[0]


def test_a_dead_owner_of_this_machine_is_not_waited_for(files, copy):
    gone = {"pid": 2**22 + 1, "host": this_process()["host"], "machine": bucket_lock._machine()}
    other_owner(files, **gone)
    start = time.monotonic()
    with held_in_bucket(copy, "run.lock", print) as left_by:
        assert left_by.startswith(f"process {2**22 + 1}")
    assert time.monotonic() - start < 5


def test_who_has_lost_the_lock_uploads_nothing_more(files, copy, quick):
    with held_in_bucket(copy, "run.lock", print):
        other_owner(files)
        for _ in range(500):
            time.sleep(0.01)
            if copy.lost:
                break
        with pytest.raises(ValueError, match=r"taken over by process 7 on host other"):
            write_text(copy.folder / "metrics.jsonl", "1\n")
    assert files.exists(f"{RUN}/run.lock") and not files.exists(f"{RUN}/metrics.jsonl")


def test_objects_with_names_outside_the_folder_are_not_downloaded(files, tmp_path):
    for name in ("../evil", "/evil", "a/../../evil", ""):
        assert not bucket._is_inside(name)
    assert bucket._is_inside("checkpoints/1/model")
    assert not Path(tmp_path / "evil").exists()
