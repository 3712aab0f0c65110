"""Who holds a lock, and how the lock of an ended process is taken over."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from mlcls_jax.system import lock
from mlcls_jax.system.lock import HeldError, held, waited_for

CHILD = """
import sys, time
from pathlib import Path
from mlcls_jax.system import lock
if sys.argv[2] == "without":
    lock.fcntl = None
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["with", "without", "unsupported"])
def locks(request, monkeypatch):
    """Runs a test with flock, without it, and on a file system that does not support it."""
    if request.param == "without":
        monkeypatch.setattr(lock, "fcntl", None)
    if request.param == "unsupported":

        def refuses(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lock.fcntl, "flock", refuses)
    return request.param


def test_one_holder_at_a_time_and_free_afterwards(tmp_path, locks):
    path = tmp_path / "run.lock"
    for _ in range(2):
        with held(path) as previous_owner:
            assert previous_owner == ""
            with pytest.raises(HeldError) as info, held(path):
                pass
            assert info.value.owner.startswith(
                f"process {os.getpid()} on host {socket.gethostname()} since 20"
            )
            assert "run.lock is held by process" in str(info.value)
        assert not path.exists()


def test_an_error_releases_the_lock(tmp_path, locks):
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "a"):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "a"
    for way in ("with", "without"):
        with pytest.MonkeyPatch.context() as patch:
            if way == "without":
                patch.setattr(lock, "fcntl", None)
            command = [sys.executable, "-c", CHILD, str(path), way]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
                assert child.stdout and child.stdout.readline() == b"held\n"
                with pytest.raises(HeldError, match=f"process {child.pid} on host"), held(path):
                    pass
                child.send_signal(signal.SIGKILL)
            with held(path) as previous_owner:
                assert previous_owner.startswith(
                    f"process {child.pid} on host {socket.gethostname()}"
                )
            assert not path.exists()


@pytest.mark.parametrize(
    "text", [json.dumps({"pid": os.getppid(), "host": "elsewhere"}), "", "{", "7", '{"pid": "x"}']
)
def test_without_flock_the_file_of_an_unknown_owner_is_respected(tmp_path, monkeypatch, text):
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / "a").write_text(text)
    with (
        pytest.raises(HeldError, match=r"if that process no longer exists, delete"),
        held(tmp_path / "a"),
    ):
        pass
    assert (tmp_path / "a").read_text() == text


@pytest.mark.skipif(lock.fcntl is None, reason="the system has no flock")
@pytest.mark.parametrize("text", [json.dumps({"pid": 1, "host": "elsewhere"}), "{"])
def test_with_flock_a_file_that_nobody_locks_is_taken_over(tmp_path, text):
    (tmp_path / "a").write_text(text)
    with held(tmp_path / "a") as previous_owner:
        assert previous_owner == (
            "process 1 on host elsewhere" if text != "{" else "another process"
        )


def test_the_second_process_waits(tmp_path, locks):
    told = []

    def interrupt(text):
        told.append(text)
        raise KeyboardInterrupt

    for _ in range(2):  # and it is free again
        with (
            waited_for(tmp_path / "a", told.append),
            pytest.raises(KeyboardInterrupt),
            waited_for(tmp_path / "a", interrupt),
        ):
            pass
    assert len(told) == 2 and all("waiting for another process" in text for text in told)


def test_a_folder_deleted_meanwhile_is_no_error(tmp_path):
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run" / "a"):
        (tmp_path / "run" / "a").unlink()
        (tmp_path / "run").rmdir()


def test_a_file_made_by_another_process_meanwhile_stays(tmp_path):
    with held(tmp_path / "a"):
        (tmp_path / "a").unlink()
        (tmp_path / "a").write_text("theirs")
    assert (tmp_path / "a").read_text() == "theirs"


def test_a_link_is_refused(tmp_path, locks):
    (tmp_path / "lock").symlink_to(tmp_path / "nothing")
    with pytest.raises(OSError, match="is a link; delete it"), held(tmp_path / "lock"):
        pass
