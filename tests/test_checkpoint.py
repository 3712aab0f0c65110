"""What is kept, how a checkpoint is named, and a storage that fails."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.checkpoint import Checkpoints, has_checkpoint
from mlcls_jax.devices import make_mesh, replicated
from mlcls_jax.train_step import make_state


def state(step: int):
    variables = {"params": {"w": jnp.full(3, step, jnp.float32)}, "batch_stats": {}}
    return make_state(variables, {"mu": jnp.zeros(3)}, step)


def save(checkpoints, step, val_map):
    checkpoints.save(step, state(step), {"phase": "head"}, val_map)


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert not has_checkpoint(tmp_path)
    for step, val_map in [(2, 0.3), (4, 0.9), (6, math.nan), (8, 0.5), (9, None)]:
        save(checkpoints, step, val_map)
    checkpoints.close()
    assert has_checkpoint(tmp_path)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.resolve("best"), checkpoints.resolve("latest")) == (4, 9)
    assert checkpoints.resolve("4") == 4
    with pytest.raises(ValueError, match=r"checkpoint '6' is not in .* latest and 4, 9$"):
        checkpoints.resolve("6")
    restored = checkpoints.restore(4, state(0))
    np.testing.assert_array_equal(restored.params["w"], np.full(3, 4.0))
    assert int(restored.step) == 4
    assert checkpoints.meta(4) == {"phase": "head"}


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


@pytest.mark.parametrize("call", ["save", "check", "close"])
def test_a_storage_that_fails_is_one_line(tmp_path, monkeypatch, call):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 0.5)
    checkpoints._manager.wait_until_finished()

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: x: No space left on device")

    name = "check_for_errors" if call == "check" else call
    monkeypatch.setattr(checkpoints._manager, name, full)
    action = {
        "save": lambda: save(checkpoints, 2, 0.6),
        "check": checkpoints.check,
        "close": checkpoints.close,
    }[call]
    with pytest.raises(OSError, match=r"\(no space left on device\); the earlier ones are kept"):
        action()
    assert Checkpoints(tmp_path, read_only=True).latest() == 1


@pytest.mark.parametrize("kept", ["of a TPU", "of 16 devices", "missing"])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_checkpoint_of_other_devices_is_restored(tmp_path, kept, devices):
    """Orbax notes in _sharding where each array was; what decides is where it is wanted."""
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
    target = jax.device_put(state(0), replicated(make_mesh(devices)))
    reader = Checkpoints(tmp_path, read_only=True)
    restored = reader.restore(3, target)
    assert int(restored.step) == 3
    np.testing.assert_array_equal(restored.params["w"], np.full(3, 3.0))
    assert restored.params["w"].sharding == target.params["w"].sharding
    variables = reader.restore_variables(3, {"params": target.params, "batch_stats": {}})
    np.testing.assert_array_equal(variables["params"]["w"], np.full(3, 3.0))
