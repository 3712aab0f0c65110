"""Checkpoints: which are kept, how they are chosen, and storage that fails or damages them."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax import __version__
from mlcls_jax.run import checkpoints as checkpoints_module
from mlcls_jax.run.checkpoint_integrity import FORMAT, METADATA, SCORE, steps_in_folder
from mlcls_jax.run.checkpoints import FOLDER, Checkpoints, has_checkpoint
from mlcls_jax.step.train_step import make_state
from mlcls_jax.system import threads
from mlcls_jax.system.devices import make_mesh, replicated
from mlcls_jax.system.files import CHECKSUMS as SUMS
from mlcls_jax.system.files import write_checksums


def state(step: int):
    variables = {"params": {"w": jnp.full(3, step, jnp.float32)}, "batch_stats": {}}
    return make_state(variables, {"mu": jnp.zeros(3)}, step)


def save(checkpoints, step, val_map):
    checkpoints.save(step, state(step), {"phase": "head"}, val_map)


def test_the_two_latest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert not has_checkpoint(tmp_path)
    for step, val_map in [(2, 0.3), (4, 0.9), (6, math.nan), (8, 0.5), (9, None)]:
        save(checkpoints, step, val_map)
    checkpoints.close()
    assert has_checkpoint(tmp_path)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.resolve("best"), checkpoints.resolve("latest")) == (4, 9)
    assert checkpoints.resolve("4") == 4
    with pytest.raises(ValueError, match=r"checkpoint '6' is not in .* latest or one of 4, 8, 9$"):
        checkpoints.resolve("6")
    restored = checkpoints.restore(4, state(0))
    np.testing.assert_array_equal(restored.params["w"], np.full(3, 4.0))
    assert int(restored.step) == 4
    assert checkpoints.metadata(4) == {"phase": "head", "format": FORMAT, "version": __version__}


def test_a_checkpoint_that_is_being_deleted_is_not_a_damaged_one(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path)
    for step, val_map in [(2, 0.3), (4, 0.9), (6, 0.5)]:
        save(checkpoints, step, val_map)
    checkpoints.close()
    folder = tmp_path / FOLDER
    assert sorted(path.name for path in folder.iterdir()) == ["4", "6"]
    shutil.copytree(folder / "4" / "metadata", folder / "replaced" / "2" / "metadata")  # killed
    Checkpoints(tmp_path).close()
    assert sorted(path.name for path in folder.iterdir()) == ["4", "6"]
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize(("metric", "best"), [("AUROC", 4), ("CF1", 4), ("loss", 2)])
def test_the_metric_decides_the_best(tmp_path, metric, best):
    checkpoints = Checkpoints(tmp_path)
    for step, value in [(2, 0.3), (4, 0.9), (6, math.nan), (8, 0.5), (9, 0.6)]:
        checkpoints.save(step, state(step), {"phase": "head"}, value, metric)
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).resolve("best") == best


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    checkpoints, saved = Checkpoints(tmp_path), state(7)
    big = jnp.full((512, 1024), 3.0)
    saved = saved.replace(params={"w": big})
    checkpoints.save(7, saved, {"phase": "head"}, 0.5)
    step = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=0)
    for _ in range(3):
        saved = step(saved)
    jax.block_until_ready(saved)
    checkpoints.close()
    template = state(0).replace(params={"w": jnp.zeros((512, 1024))})
    restored = Checkpoints(tmp_path, read_only=True).restore(7, template)
    np.testing.assert_array_equal(restored.params["w"], np.full((512, 1024), 3.0))
    assert int(restored.step) == 7


def test_before_an_evaluation_the_newest_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 3, None)
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).resolve("best") == 3


def test_a_folder_without_any_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint; train"):
        Checkpoints(tmp_path, read_only=True)
    Checkpoints(tmp_path).close()
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        Checkpoints(tmp_path, read_only=True).resolve("best")


def broken(monkeypatch, checkpoints, name, text):
    """Makes a method of Orbax fail once."""
    method = getattr(checkpoints._manager, name)

    def fails(*_, **__):
        monkeypatch.setattr(checkpoints._manager, name, method)
        raise ValueError(text)

    monkeypatch.setattr(checkpoints._manager, name, fails)


FULL = "RESOURCE_EXHAUSTED: x: No space left on device"


@pytest.mark.parametrize("name", ["save", "wait_until_finished"])
def test_a_full_disk_is_a_warning_and_the_next_save_tries_again(
    tmp_path, monkeypatch, capsys, name
):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 0.5)
    checkpoints.wait()
    (tmp_path / FOLDER / "2.orbax-checkpoint-tmp").mkdir()
    broken(monkeypatch, checkpoints, name, FULL)
    if name == "save":
        save(checkpoints, 2, 0.6)
    checkpoints.check()
    said = " ".join(capsys.readouterr().out.split())
    assert "(no space left on device); the earlier ones are kept" in said
    assert "the next save will try again" in said
    assert [child.name for child in (tmp_path / FOLDER).iterdir()] == ["1"]
    with pytest.raises(OSError, match="no space left on device"):
        checkpoints.wait()  # a run must not end silently without its checkpoint
    save(checkpoints, 3, 0.7)
    checkpoints.close()
    assert steps_in_folder(tmp_path / FOLDER) == [3, 1]


@pytest.mark.parametrize("call", ["save", "check", "close"])
def test_a_storage_error_is_one_line(tmp_path, monkeypatch, call):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 0.5)
    checkpoints.wait()
    broken(monkeypatch, checkpoints, "save" if call == "save" else "wait_until_finished", "x\ny")
    action = {
        "save": lambda: save(checkpoints, 2, 0.6),
        "check": checkpoints.check,
        "close": checkpoints.close,
    }[call]
    with pytest.raises(OSError, match=r"\(x y\); the earlier ones are kept"):
        action()
    assert Checkpoints(tmp_path, read_only=True).latest() == 1


def test_a_removed_folder_is_not_created_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    save(checkpoints, 1, 0.5)
    checkpoints.wait()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(OSError, match="the folder was removed or replaced"):
        save(checkpoints, 2, 0.5)
    assert not (tmp_path / "run").exists()


def test_a_replaced_folder_is_not_used(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / FOLDER).mkdir(parents=True)  # as TensorStore does in mid-save
    with pytest.raises(OSError, match="the folder was removed or replaced"):
        save(checkpoints, 2, 0.5)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Returns a workdir with checkpoints of steps 1 (the best), 2 and 3."""
    workdir = tmp_path_factory.mktemp("three")
    checkpoints = Checkpoints(workdir)
    for step, val_map in [(1, 0.9), (2, 0.3), (3, 0.5)]:
        save(checkpoints, step, val_map)
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(three, tmp_path):
    return shutil.copytree(three, tmp_path / "run")


def largest(folder):
    return max(
        (file for file in folder.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size
    )


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def lose_lines(folder):
    """Keeps one line of each item only."""
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    first = {line.split("  ")[1].split("/")[0]: line for line in reversed(lines)}
    (folder / SUMS).write_text("".join(first.values()))


def change(what):
    return {
        "a bit of an array": lambda folder: flip(largest(folder / "model" / "ocdbt.process_0")),
        "a bit of the metadata": lambda folder: flip(folder / METADATA / "metadata"),
        "a bit of the score": lambda folder: flip(folder / SCORE / "metrics"),
        "a file cut short": lambda folder: os.truncate(folder / "training" / "manifest.ocdbt", 20),
        "an item deleted": lambda folder: shutil.rmtree(folder / "training"),
        "checksums deleted": lambda folder: (folder / SUMS).unlink(),
        "checksums cut short": lambda folder: os.truncate(folder / SUMS, 100),
        "lines of the checksums lost": lose_lines,
        "all deleted": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    }[what]


DAMAGES = (
    "a bit of an array",
    "a bit of the metadata",
    "a bit of the score",
    "a file cut short",
    "an item deleted",
    "checksums deleted",
    "checksums cut short",
    "lines of the checksums lost",
    "all deleted",
)


@pytest.mark.parametrize("what", DAMAGES)
def test_training_continues_from_the_checkpoint_before_a_damaged_one(workdir, capsys, what):
    folder = workdir / FOLDER
    change(what)(folder / "3")
    checkpoints = Checkpoints(workdir)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("the checkpoint of step 3 is damaged (") == 1
    assert "the run continues from step 2" in said
    assert checkpoints.resolve("latest") == 2 and (folder / "damaged-3").is_dir()
    assert int(checkpoints.restore(2, state(0)).step) == 2
    save(checkpoints, 3, 0.4)  # again
    checkpoints.close()
    checkpoints = Checkpoints(workdir)
    assert (checkpoints.resolve("best"), checkpoints.resolve("latest")) == (1, 3)
    np.testing.assert_array_equal(checkpoints.restore(3, state(0)).params["w"], np.full(3, 3.0))
    assert "damaged" not in capsys.readouterr().out


def test_if_all_are_damaged_none_is_moved(workdir):
    for step in (1, 2, 3):
        change("a bit of an array")(workdir / FOLDER / str(step))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"is intact \(step 3: model/.*; step 2: mod"):
            Checkpoints(workdir)
    assert steps_in_folder(workdir / FOLDER) == [3, 2, 1]


@pytest.mark.parametrize("what", DAMAGES)
def test_a_reader_refuses_a_damaged_checkpoint_and_names_the_others(workdir, what):
    change(what)(workdir / FOLDER / "1")
    with pytest.raises(ValueError, match=r"1 is damaged \(.*--checkpoint STEP: 2, 3"):
        checkpoints = Checkpoints(workdir, read_only=True)
        assert checkpoints.resolve("best") == 1
        checkpoints.metadata(1)
        if what != "an item deleted":  # a reader does not read the item training
            template = state(0)
            checkpoints.restore_variables(
                1, {"params": template.params, "batch_stats": template.batch_stats}
            )
        checkpoints.restore(1, state(0))


@pytest.mark.parametrize("what", sorted({*DAMAGES} - {"a bit of the score"}))  # Orbax reads all
def test_a_reader_can_use_another_checkpoint_whatever_is_damaged(workdir, what):
    change(what)(workdir / FOLDER / "3")
    checkpoints = Checkpoints(workdir, read_only=True)
    assert checkpoints.resolve("2") == 2
    np.testing.assert_array_equal(checkpoints.restore(2, state(0)).params["w"], np.full(3, 2.0))
    if what in ("checksums deleted", "all deleted"):
        with pytest.raises(
            ValueError, match=r"best .* cannot be determined: the checkpoint .*3 is"
        ):
            checkpoints.resolve("best")


def test_a_step_damaged_twice_is_kept_twice(workdir):
    for name in ("damaged-3", "damaged-3-2"):
        change("checksums deleted")(workdir / FOLDER / "3")
        checkpoints = Checkpoints(workdir)
        assert (workdir / FOLDER / name).is_dir()
        save(checkpoints, 3, None)
        checkpoints.close()


def test_sha256sum_can_read_the_checksums(workdir):
    lines = (workdir / FOLDER / "3" / SUMS).read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        content = (workdir / FOLDER / "3" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert {line.split("  ")[1].split("/")[0] for line in lines} >= {
        "model",
        "training",
        METADATA,
        SCORE,
    }


def test_a_later_format_is_refused_with_the_version_that_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "FORMAT", FORMAT + 1)
    monkeypatch.setattr(checkpoints_module, "__version__", "9.8")
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, None)
    checkpoints.close()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=rf"by mlcls_jax 9\.8 in format {FORMAT + 1}; this is"):
        Checkpoints(tmp_path, read_only=True).metadata(1)


def test_metadata_without_a_format_number_is_damaged(workdir):
    file = workdir / FOLDER / "1" / METADATA / "metadata"
    file.write_text('{"phase": "head"}')
    write_checksums(workdir / FOLDER / "1")
    with pytest.raises(ValueError, match=r"1 is damaged .*no format number.* STEP: 2, 3$"):
        Checkpoints(workdir, read_only=True).metadata(1)


def test_a_checkpoint_of_another_tree_names_the_version_that_wrote_it(workdir):
    (workdir / FOLDER / "1" / "model" / "_METADATA").write_text("")
    write_checksums(workdir / FOLDER / "1")
    message = rf"written by mlcls_jax {__version__}, cannot be restored by .*; use that version"
    with pytest.raises(ValueError, match=message):
        Checkpoints(workdir, read_only=True).restore(1, state(0))


@pytest.mark.parametrize("kept", ["of a TPU", "of 16 devices", "missing"])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_checkpoint_of_other_devices_is_restored(tmp_path, kept, devices):
    """Orbax records the old placement in _sharding; the requested placement decides."""
    checkpoints = Checkpoints(tmp_path)
    saved = jax.device_put(state(3), replicated(make_mesh(2)))
    checkpoints.save(3, saved, {"phase": "head"}, 0.5)
    checkpoints.close()
    notes = list(tmp_path.rglob("_sharding"))
    assert len(notes) == 2  # of the items model and training
    for note in notes:
        arrays = json.loads(note.read_text())
        assert all('"id": 1}' in text for text in arrays.values())
        tpu = {"sharding_type": "SingleDeviceSharding", "device_str": "TPU_7(host=1,(0,1,0,0))"}
        others = {name: json.dumps(tpu) for name in arrays}
        if kept == "of 16 devices":
            others = {name: text.replace('"id": 1}', '"id": 15}') for name, text in arrays.items()}
        note.write_text(json.dumps(others))
        if kept == "missing":
            note.unlink()
    write_checksums(tmp_path / FOLDER / "3")
    target = jax.device_put(state(0), replicated(make_mesh(devices)))
    reader = Checkpoints(tmp_path, read_only=True)
    restored = reader.restore(3, target)
    assert int(restored.step) == 3
    np.testing.assert_array_equal(restored.params["w"], np.full(3, 3.0))
    assert restored.params["w"].sharding == target.params["w"].sharding
    variables = reader.restore_variables(3, {"params": target.params, "batch_stats": {}})
    np.testing.assert_array_equal(variables["params"]["w"], np.full(3, 3.0))


def test_a_failed_run_waits_for_its_last_save(tmp_path, monkeypatch, capsys):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 0.5)
    checkpoints.end_save()
    assert steps_in_folder(tmp_path / FOLDER) == [1] and not threads.is_busy()

    broken(monkeypatch, checkpoints, "wait_until_finished", "the disk is broken")
    checkpoints.end_save()
    said = " ".join(capsys.readouterr().out.split())
    assert "the checkpoint of step 1 cannot be written" in said and "the disk is broken" in said

    ended = threading.Event()
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", ended.wait)
    checkpoints.end_save(0.01)
    assert threads.is_busy()  # so that the command does not wait for it
    assert "step 1 is discarded, because it could not" in capsys.readouterr().out
    ended.set()


FULL_DISK = """
import errno, os, sys
from pathlib import Path

import numpy as np
from mlcls_jax.run.checkpoints import Checkpoints
from mlcls_jax.step.train_step import make_state

make = os.mkdir

def fails(path, *args, **options):
    if "checkpoints" in str(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    make(path, *args, **options)

checkpoints = Checkpoints(Path(sys.argv[1]))
state = make_state({"params": {"w": np.zeros(3)}, "batch_stats": {}}, {"mu": np.zeros(3)}, 1)
os.mkdir = fails
try:
    checkpoints.save(1, state, {}, 0.5)
    checkpoints.wait()
except OSError as error:
    print(error)
"""


def test_an_interpreter_does_not_wait_for_a_save_that_a_full_disk_has_ended(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert "no space left on device); the earlier ones are kept" in ended.stdout
