"""The row of a run, what is copied, and how commands enter the other system."""

from pathlib import Path

import matrix
import pytest
from matrix import Machine, Outcome, count

REPORT = """<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10">
<testcase classname="a" name="b"/></testsuite></testsuites>"""


def test_results_are_counted():
    assert count(REPORT) == (4, 3, 3)
    row = Outcome("3.13.5", "0.12.0.1", 4, 3, 3, 61.4).row()
    assert row == "| 3.13.5 | 0.12.0.1 | 4 | 3 | 3 | 61 |"
    assert matrix.HEADER.splitlines()[0].count("|") == row.count("|")


def test_the_copy_has_the_files_of_git_and_no_ignored_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout/data").mkdir(parents=True)
    listed = {"a.py": "1", ".gitignore": "data/\n"}
    for name, text in listed.items():
        (tmp_path / "checkout" / name).write_text(text)
    (tmp_path / "checkout/data/large").write_text("2")
    matrix.subprocess.run(["git", "init", "-q"], cwd=tmp_path / "checkout", check=True)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/stale.py").touch()
    matrix.copy_checkout(tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == listed.keys()


def test_another_system_gets_only_what_the_network_needs(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "index")
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels of this machine")
    monkeypatch.setenv("PYTHONPATH", "here")
    inside = matrix.environment(Path("root"))
    assert inside["PIP_INDEX_URL"] == "index" and inside["HOME"] == "/root"
    assert not {"PIP_FIND_LINKS", "PYTHONPATH"} & inside.keys()
    assert matrix.environment(None)["PYTHONPATH"] == "here"


def test_commands_of_another_system_are_quoted_twice():
    command = matrix.chroot_command(Path("my root"), "echo 'a b'")
    assert command[0] == "unshare"
    assert "exec chroot 'my root' bash -c 'echo '\"'\"'a b'\"'\"''" in command[-1]


def test_paths_inside_a_root_begin_there(tmp_path):
    machine = Machine(tmp_path, tmp_path / "opt/work")
    assert machine.path(machine.work / "wheels") == "/opt/work/wheels"
    assert Machine(None, tmp_path).path(tmp_path / "a") == str(tmp_path / "a")


def test_a_failed_command_shows_the_end_of_its_output(tmp_path):
    machine = Machine(None, tmp_path)
    assert machine.run("echo", "two words") == "two words\n"
    with pytest.raises(ValueError, match=r"(?s)ls nowhere ended with \d:.*nowhere"):
        machine.run("ls", "nowhere")


def test_a_root_needs_root(monkeypatch, tmp_path):
    monkeypatch.setattr(matrix.os, "geteuid", lambda: 1000)
    with pytest.raises(ValueError, match="--root needs Linux and root"):
        matrix.main(["--root", str(tmp_path)])
