"""When a process counts as gone, and which errors mean that one is."""

import pytest

from mlcls_jax.system import distributed
from mlcls_jax.system.distributed import Silence


def test_silence_begins_with_the_last_new_heartbeat():
    silence = Silence(3, limit=10.0, now=0.0)
    assert silence.after({0: "1", 1: "1"}, now=5.0) == []
    assert silence.after({0: "2", 1: "1"}, now=10.0) == []
    assert silence.after({0: "3", 1: "1"}, now=11.0) == [2]  # it has never written a heartbeat
    assert silence.after({0: "4", 1: "1", 2: "1"}, now=15.0) == []
    assert silence.after({0: "5", 1: "1", 2: "2"}, now=15.5) == [1]


def test_a_finished_process_is_not_silent():
    silence = Silence(2, limit=10.0, now=0.0)
    assert silence.after({0: "1", 1: "finished"}, now=1.0) == []
    assert silence.after({0: "2", 1: "finished"}, now=100.0) == []


def test_processes_without_any_heartbeat_are_silent():
    assert Silence(2, limit=1.0, now=0.0).after({}, now=2.0) == [0, 1]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (
            "UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [1.2.3.4]:5",
            True,
        ),
        ("UNAVAILABLE: Failed to send RPC to coordination service.", True),
        ("INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited", True),
        ("gs://bucket/photos cannot be read: Connection reset by peer", False),
        ("labels.csv: no such file", False),
    ],
)
def test_errors_of_collectives_are_recognised(monkeypatch, text, lost):
    assert not distributed.is_lost(ValueError(text))  # a single process
    monkeypatch.setattr(distributed, "is_multiprocess", lambda: True)
    assert distributed.is_lost(ValueError(text)) == lost
