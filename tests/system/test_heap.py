"""The settings of glibc: when a command starts again with them, and that nothing else changes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlcls_jax.system import heap

PACKAGE = Path(heap.__file__).parents[1]
LINUX = pytest.mark.skipif(not heap._has_glibc(), reason="needs Linux with glibc")
# A package in place of ours, whose command prints its process id and what glibc is told.
COMMAND = """
import os, sys
from mlcls_jax.system import heap
if __name__ == "__main__":
    heap.restart_with_heap()
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES", ""), *sys.argv[1:])
    sys.stdout.flush()
"""


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with a package mlcls_jax of one command, which uses our module."""
    package = tmp_path / "mlcls_jax"
    (package / "system").mkdir(parents=True)
    for file in ("__init__.py", "system/__init__.py"):
        (package / file).touch()
    (package / "system/heap.py").write_text(Path(heap.__file__).read_text("utf-8"))
    (package / "command.py").write_text(COMMAND + "    exec(os.environ.get('THEN', ''))\n")
    (tmp_path / "mlcls-jax").write_text(COMMAND)
    (tmp_path / "other.py").write_text(COMMAND)
    return tmp_path


def start(folder, *arguments, stdin=None, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in (heap.TUNABLES, heap.SWITCH)}
    environment |= {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"} | variables
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        cwd=folder,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process):
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and not errors
    return output.split()


@LINUX
@pytest.mark.parametrize("form", [("-m", "mlcls_jax.command"), ("mlcls-jax",)])
def test_a_command_starts_again_as_the_same_process_with_its_arguments(folder, form):
    process = start(folder, "-X", "utf8", *form, "--out", "ä b")
    assert printed(process) == [str(process.pid), heap.heap_tunables(), "--out", "ä", "b"]


@LINUX
@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"MLCLS_JAX_HEAP": "0"}, []),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, ["glibc.malloc.arena_max=2"]),
        ({"GLIBC_TUNABLES": ""}, []),
        ({"JAX_PLATFORMS": "cuda"}, []),
    ],
)
def test_it_does_not_where_the_user_decided_otherwise(folder, variables, found):
    process = start(folder, "-m", "mlcls_jax.command", **variables)
    assert printed(process)[1:] == found


@pytest.mark.parametrize("form", [("other.py",), ("-c", COMMAND)])
def test_a_program_that_is_no_command_is_left_alone(folder, form):
    assert printed(start(folder, *form))[1:] == []


@LINUX
def test_exit_codes_signals_and_standard_input_are_those_of_the_command(folder):
    then = "print(sys.stdin.read()); sys.stdout.flush(); sys.exit(7)"
    process = start(folder, "-m", "mlcls_jax.command", stdin=subprocess.PIPE, THEN=then)
    output, _ = process.communicate("given", timeout=60)
    assert process.returncode == 7 and output.split()[1:] == [heap.heap_tunables(), "given"]
    process = start(folder, "-m", "mlcls_jax.command", THEN="import time; time.sleep(60)")
    assert process.stdout and process.stdout.readline().split()[0] == str(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@LINUX
def test_an_ignored_signal_stays_ignored(folder):
    then = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    command = [
        "-c",
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, '-m', 'mlcls_jax.command'])",
    ]
    assert printed(start(folder, *command, THEN=then))[2] == "True"


@pytest.mark.parametrize("file", ["nvidia0", "kfd", "accel0", "vfio/0"])
def test_an_accelerator_needs_no_heap(tmp_path, monkeypatch, file):
    for name in (heap.TUNABLES, heap.SWITCH, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    assert heap.wants_heap(tmp_path) == heap._has_glibc()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert not heap.wants_heap(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert heap.wants_heap(tmp_path) == heap._has_glibc()


def test_only_the_commands_that_train_start_again_and_before_anything_is_imported():
    for name in ("train.py", "lr_find.py", "benchmark/__main__.py"):
        text = (PACKAGE / name).read_text("utf-8")
        before = text[: text.index("restart_with_heap()")]
        lines = [line for line in before.splitlines() if line.startswith(("import", "from"))]
        ours = [line for line in lines if "mlcls_jax" in line]
        assert all(line.startswith("from mlcls_jax.system import") for line in ours)
        assert not any(word in before for word in ("import jax", "import numpy"))
