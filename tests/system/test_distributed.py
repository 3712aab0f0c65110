"""When a process counts as gone, and which errors mean that one is."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import mlcls_jax
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


STORE = """
import sys
import jax
from mlcls_jax.system import distributed
jax.distributed.initialize(sys.argv[1], 1, 0)
client = distributed._store()
client.key_value_set("folder/a", "1")
client.key_value_set("folder/a", "2", allow_overwrite=True)
assert client.blocking_key_value_get("folder/a", 1000) == "2"
assert client.key_value_dir_get("folder/") == [("folder/a", "2")]
"""


def test_the_store_is_the_one_that_jax_keeps():
    """The only private name of JAX here.  When this fails with a new JAX:

    1. Look for a public name of the key-value store, and in Orbax
       (orbax.checkpoint.multihost), which needs the same object, for the one that it uses now.
    2. Change `_state` in mlcls_jax/system/distributed.py alone: its client has
       key_value_set, blocking_key_value_get and key_value_dir_get.
    3. If there is none, put `jax<` that version in pyproject.toml; only runs of several processes
       need the store, so a single process keeps working.
    """
    assert distributed._store() is None  # a single process
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", STORE, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_other_private_name_of_jax_is_used():
    folder = Path(mlcls_jax.__file__).parent
    private = re.compile(r"\b(jax|jaxlib|flax|optax|orbax\S*)\._src\b")
    found = [
        f"{path.relative_to(folder)}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if private.search(line)
    ]
    assert found == [
        # Without it, the end of a process that uses the Python API waits after a failed save.
        "run/save_threads.py: from orbax.checkpoint._src.futures.future import set_signals",
        "system/distributed.py: from jax._src import distributed  "
        "# not at the top: only runs of several processes need it",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_named_at_once(host):
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"cannot listen at port {port} .*in use.*another port"
        ):
            distributed.start(f"127.0.0.1:{port}", 2, 0)


@pytest.mark.parametrize("coordinator", ["host", "host:", "host:a", "host:99999"])
def test_a_coordinator_without_a_port_is_refused(coordinator):
    with pytest.raises(ValueError, match=f"--coordinator {coordinator}.* port"):
        distributed.start(coordinator, 2, 0)


@pytest.mark.slow
def test_processes_that_expect_another_number_of_processes_end_with_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    program = "from mlcls_jax.system import distributed; distributed.start"
    commands = [
        [sys.executable, "-c", f"{program}('127.0.0.1:{port}', {processes}, {process})"]
        for process, processes in enumerate((2, 3))
    ]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **options) for command in commands]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [2, 2], said
    for text in said:
        assert "--processes 2" in text and "--processes 3" in text and "Traceback" not in text
