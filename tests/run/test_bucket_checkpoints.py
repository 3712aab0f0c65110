"""Checkpoints of a run in a bucket, on fsspec's file system in memory."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.checkpoints import Checkpoints, saved_steps
from mlcls_jax.step.train_step import make_state
from mlcls_jax.system import bucket
from mlcls_jax.system.console import with_addresses

RUN = "memory://bucket/run"


@pytest.fixture
def files(empty_bucket):
    return empty_bucket


@pytest.fixture
def elsewhere(monkeypatch, files):
    """Returns a function that opens the run as another machine would, without this one's copy."""

    def open_elsewhere():
        monkeypatch.setattr(bucket, "_copies", [])
        return open_workdir(RUN)

    return open_elsewhere


def state(step: int):
    variables = {"params": {"w": jnp.full(3, step, jnp.float32)}, "batch_stats": {}}
    return make_state(variables, {"mu": jnp.zeros(3)}, step)


def save(checkpoints, *scores):
    for step, val_map in enumerate(scores, 1):
        checkpoints.save(step, state(step), {"phase": "head"}, val_map)


def steps(files):
    return sorted({int(name.split("/")[4]) for name in files.find(f"{RUN}/checkpoints")})


def test_a_checkpoint_is_read_on_another_machine(files, elsewhere):
    checkpoints = Checkpoints(open_workdir(RUN))
    save(checkpoints, 0.3, 0.9, 0.4, 0.5)
    checkpoints.close()
    assert steps(files) == [2, 3, 4]
    workdir = elsewhere()
    assert saved_steps(workdir) == [2, 3, 4]
    assert not list((workdir / "checkpoints" / "2").glob("model/*"))  # not before it is needed
    found = Checkpoints(workdir, read_only=True)
    assert (found.resolve("best"), found.resolve("latest")) == (2, 4)
    np.testing.assert_array_equal(found.restore(2, state(0)).params["w"], np.full(3, 2.0))
    assert not list((workdir / "checkpoints" / "3").glob("model/*"))


def test_a_run_goes_on_on_another_machine(files, elsewhere):
    checkpoints = Checkpoints(open_workdir(RUN))
    save(checkpoints, 0.9, 0.3)
    checkpoints.close()
    checkpoints = Checkpoints(elsewhere())
    assert checkpoints.latest() == 2
    for step in (3, 4):
        checkpoints.save(step, state(step), {"phase": "head"}, 0.1)
    checkpoints.close()
    assert steps(files) == [1, 3, 4]
    found = Checkpoints(elsewhere(), read_only=True)
    np.testing.assert_array_equal(found.restore(1, state(0)).params["w"], np.ones(3))


def test_the_checksums_are_the_last_to_arrive_and_the_first_to_go(files, elsewhere, monkeypatch):
    checkpoints = Checkpoints(open_workdir(RUN))
    uploaded, deleted = [], []
    put, rm_file = type(files).put_file, type(files).rm_file
    monkeypatch.setattr(
        type(files), "put_file", lambda *a, **k: (uploaded.append(a[2]), put(*a, **k))
    )
    monkeypatch.setattr(
        type(files), "rm_file", lambda *a, **k: (deleted.append(a[1]), rm_file(*a, **k))
    )
    save(checkpoints, 0.9, 0.3, 0.2, 0.1)
    checkpoints.close()
    assert uploaded[-1] == f"{RUN}/checkpoints/4/SHA256SUMS"
    assert deleted[0].endswith("/checkpoints/2/SHA256SUMS")


def test_an_incomplete_checkpoint_is_none(files, elsewhere):
    checkpoints = Checkpoints(open_workdir(RUN))
    save(checkpoints, 0.9, 0.3)
    checkpoints.close()
    files.rm_file(f"{RUN}/checkpoints/2/SHA256SUMS")
    workdir = elsewhere()
    assert saved_steps(workdir) == [1]
    checkpoints = Checkpoints(workdir)
    assert checkpoints.latest() == 1
    checkpoints.save(3, state(3), {"phase": "head"}, 0.5)
    checkpoints.close()
    assert steps(files) == [1, 3]  # what was left of it is deleted


def test_a_damaged_checkpoint_is_set_aside_in_the_bucket(files, elsewhere, capsys):
    checkpoints = Checkpoints(open_workdir(RUN))
    save(checkpoints, 0.9, 0.3)
    checkpoints.close()
    files.pipe_file(f"{RUN}/checkpoints/2/model/manifest.ocdbt", b"damaged")
    with pytest.raises(ValueError, match=r"/2 is damaged .model/manifest.ocdbt") as refused:
        Checkpoints(elsewhere(), read_only=True).restore(2, state(0))
    assert f"the checkpoint {RUN}/checkpoints/2 is" in with_addresses(str(refused.value))
    assert Checkpoints(elsewhere()).latest() == 1
    assert f"it was moved to {RUN}/checkpoints/damaged-2" in capsys.readouterr().out
    names = files.find(f"{RUN}/checkpoints")
    assert any("/damaged-2/model/" in name for name in names)
    assert not any("/checkpoints/2/" in name for name in names)


def test_a_save_that_cannot_be_uploaded_keeps_the_earlier_ones(files, elsewhere, monkeypatch):
    checkpoints = Checkpoints(open_workdir(RUN))
    save(checkpoints, 0.9)
    checkpoints.wait()

    def refuse(*_, **__):
        raise ConnectionError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(type(files), "put_file", refuse)
        with pytest.raises(OSError, match=r"step 2 cannot be written .*the network is down.*kept"):
            checkpoints.save(2, state(2), {"phase": "head"}, 0.5)
            checkpoints.wait()
    assert checkpoints.latest() == 1
    assert saved_steps(elsewhere()) == [1]


def test_a_local_workdir_uploads_nothing(files, tmp_path):
    checkpoints = Checkpoints(open_workdir(tmp_path))
    save(checkpoints, 0.9)
    checkpoints.close()
    shutil.rmtree(tmp_path)
    assert files.find("/bucket") == []
