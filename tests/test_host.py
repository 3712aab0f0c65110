"""Free memory is that of the container where there is one."""

import math

from mlcls_jax import host


def test_the_smaller_of_system_and_container_counts(tmp_path, monkeypatch):
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(host, "_GROUPS", ((limit, used),))
    free = host.available_memory()
    assert free > 0
    limit.write_text("5000\n")
    used.write_text("2000\n")
    assert host.available_memory() == 3000
    limit.write_text("max\n")
    assert host.available_memory() > 3000
    monkeypatch.setattr(host, "_MEMINFO", tmp_path / "none")
    assert host.available_memory() == math.inf
