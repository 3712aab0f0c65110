"""A limit of the address space: which errors it explains, and which limits are refused at once."""

import errno

import pytest

from mlcls_jax.system import memory_limit


def test_errors_of_a_limit_are_explained(monkeypatch):
    errors = [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ]
    monkeypatch.setattr(memory_limit, "limit", lambda: None)
    assert not any(map(memory_limit.explain, errors))
    monkeypatch.setattr(memory_limit, "limit", lambda: 3_000_000_000)
    assert all("limited to 3.0 GB (ulimit -v)" in memory_limit.explain(e) for e in errors)
    assert not memory_limit.explain(ValueError("x"))


def test_a_limit_below_what_jax_needs_is_refused(monkeypatch):
    for size in (None, memory_limit.NEEDED):
        monkeypatch.setattr(memory_limit, "limit", lambda size=size: size)
        memory_limit.check()
    monkeypatch.setattr(memory_limit, "limit", lambda: memory_limit.NEEDED - 1)
    with pytest.raises(MemoryError, match="ulimit -v unlimited"):
        memory_limit.check()
