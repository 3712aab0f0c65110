"""What a command prints may be lost; the command goes on."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlcls_jax.system import output
from mlcls_jax.system.output import lossy_output

RUN = """
import sys
from mlcls_jax.system.console import console
from mlcls_jax.system.output import output_of_command

with output_of_command(is_log=sys.argv[1] == "log") as output:
    console.print("first")
    console.print("x" * 100_000)
    print("last")
    open("done", "w").close()
    code = output.exit_code()
sys.exit(code)
"""
LINE = "warning: stdout cannot be written ({}); the command goes on, and what it prints is lost\n"
FULL, GONE = LINE.format("No space left on device"), LINE.format("Broken pipe")


def run(folder, kind, stdout, stderr=subprocess.PIPE) -> tuple[int, str]:
    """Returns exit code and stderr of a command, after checking that it has done its work."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, kind],
        stdout=stdout,
        stderr=stderr,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(output.__file__).parents[2])},
    )
    assert (folder / "done").exists()
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize(("kind", "code"), [("log", 0), ("result", 2)])
def test_a_full_disk_is_said_once(tmp_path, kind, code):
    with open("/dev/full", "w") as full:
        assert run(tmp_path, kind, full) == (code, FULL)
        assert run(tmp_path, kind, full, full)[0] == code  # and where it cannot be said


@pytest.mark.parametrize(("kind", "line"), [("log", GONE), ("result", "")])
def test_a_reader_that_has_gone_is_no_error(tmp_path, kind, line):
    reading, writing = os.pipe()
    os.close(reading)
    assert run(tmp_path, kind, writing) == (0, line)
    os.close(writing)


def test_a_closed_stdout_is_no_error(tmp_path):
    shell = ["sh", "-c", 'exec "$@" >&-', "-", sys.executable, "-c", RUN, "log"]
    environment = os.environ | {"PYTHONPATH": str(Path(output.__file__).parents[2])}
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_next_line_is_written_if_the_disk_has_room_again(monkeypatch, capsys):
    class Disk(io.StringIO):
        is_full = True

        def write(self, text):
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    disk = Disk()
    monkeypatch.setattr(sys, "stdout", disk)
    with lossy_output(is_log=True):
        print("lost")
        disk.is_full = False
        print("kept")
    assert sys.stdout is disk and "kept" in disk.getvalue() and "lost" not in disk.getvalue()
    assert capsys.readouterr().err == FULL
