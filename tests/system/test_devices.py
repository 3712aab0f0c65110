"""Available memory, limited by the container if there is one."""

import math

from mlcls_jax.system import devices


def test_the_smaller_of_system_and_container_is_available(tmp_path, monkeypatch):
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(devices, "_CGROUPS", ((limit, used),))
    free = devices.available_memory()
    assert free > 0
    limit.write_text("5000\n")
    used.write_text("2000\n")
    assert devices.available_memory() == 3000
    limit.write_text("max\n")
    assert devices.available_memory() > 3000
    monkeypatch.setattr(devices, "_MEMINFO", tmp_path / "none")
    assert devices.available_memory() == math.inf
