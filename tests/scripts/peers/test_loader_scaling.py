"""The tables, the lines of choice.py, and a tiny run without py-spy."""

import json
import subprocess
import sys

import loader_scaling
import lock_share
import pytest
from loader_scaling import COSTS, LARGE, SMALL, Measured, choice_lines, cost_table, thread_table

from mlcls_jax.cli import run


def costs() -> list[Measured]:
    """What the plain sides cost at each size; changes of pixels add 100, 200 and 300 µs."""
    rows = []
    for pair, start in zip(COSTS, (40.4, 90.0), strict=True):
        for side, is_changed in zip(pair, (0, 1), strict=True):
            for place, size in enumerate((SMALL, *LARGE)):
                core = start + 1000 * place + 100 * (place + 1) * is_changed
                lock = 30.0 + 55 * is_changed
                rows.append(Measured(side, size, 2, [100.0], core, 0.5, lock))
    return rows


def test_thread_table():
    rows = [
        Measured("ours", 16, 2, [3000.0, 4000.0, 5000.0], 250.0, 0.84, 210.4),
        Measured("torch", 16, 2, [900.0], 100.0),
    ]
    assert thread_table(rows).splitlines()[2:] == [
        "| ours, threads | 2 | 4000 (3000–5000) | 84% | 210 |",
        "| torch `DataLoader`, Pillow, random crop | 2 | 900 (900–900) | – | – |",
    ]


def test_cost_table_has_a_row_per_side_and_two_columns_per_size():
    head, _, first, *rest = cost_table(costs()).splitlines()
    assert head.startswith("|  | 16 px, µs of a core | µs under the lock | 224 px")
    assert first == "| ours, threads | 40 | 30 | 1040 | 30 | 2040 | 30 |"
    assert len(rest) == 3


def test_lines_for_the_choice_of_a_loader():
    assert choice_lines(costs()).splitlines() == [
        "_SIDES = (16, 224, 456)",
        "_THREADS, _TF_DATA = (40, 1040, 2040), (90, 1090, 2090)",
        "_LOCK = 30",
        "_CHANGES, _LOCK_OF_CHANGES = (100, 200, 300), 55",
    ]


def test_every_side_of_both_tables_is_known():
    sides = {side for side, _, _ in loader_scaling._cost_plan()} | set(loader_scaling.SCALED)
    assert sides <= set(loader_scaling.SIDES)


def test_command(capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(loader_scaling, "THREADS", (1, 2))
    arguments = "--what threads --sides ours --rounds 2 --seconds 0.05 --images 3 --without-lock"
    assert loader_scaling.main(arguments.split()) == 0
    table, setup, line = capsys.readouterr().out.strip().split("\n\n")
    assert [row.split(" | ")[:2] for row in table.splitlines()[2:]] == [
        ["| ours, threads", "1"],
        ["| ours, threads", "2"],
    ]
    assert " cores; malloc: plain" in setup
    for row in json.loads(line)["threads"]:
        assert len(row["rates"]) == 2 and row["core"] > 0 and row["lock"] is None


def test_the_work_of_a_process_is_repeated_while_it_is_looked_at(monkeypatch):
    code = (
        "import sys, time; time.sleep(1.5); "
        f"open(sys.argv[1], 'w').write('main (a.py:1) 30\\nmain;f (a.py:2) {lock_share.RATE - 30}')"
    )
    monkeypatch.setattr(
        lock_share, "_command", lambda pid, seconds, output: [sys.executable, "-c", code, output]
    )
    monkeypatch.setattr(lock_share, "_prefer", lambda process: None)
    asked = []
    share, looked = lock_share.lock_share(1, 1, lambda: asked.append(1) or len(asked))
    assert share == 1.0
    assert 1 < looked[0] <= looked[-1] == len(asked)  # not those before the last second


@pytest.mark.parametrize(
    ("said", "message"),
    [("No stack counts found", None), ("Permission denied", "py-spy failed: Permission denied")],
)
def test_what_py_spy_says_without_a_result(monkeypatch, said, message):
    monkeypatch.setattr(
        lock_share, "_command", lambda *_: [sys.executable, "-c", f"raise SystemExit('{said}')"]
    )
    monkeypatch.setattr(lock_share, "_prefer", lambda process: None)
    if message is None:
        assert lock_share.lock_share(1, 1, lambda: None)[0] == 0.0
    else:
        with pytest.raises(ValueError, match=message):
            lock_share.lock_share(1, 1, lambda: None)


def test_a_process_without_py_spy_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(lock_share.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(lock_share.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="pip install py-spy"):
        lock_share.lock_share(1, 1, lambda: None)


def test_without_the_right_to_raise_priorities_py_spy_ends(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(lock_share.os, "sched_setscheduler", refuse)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process, pytest.raises(ValueError, match="run as root"):
        lock_share._prefer(process)
    assert process.returncode == -9


def test_invalid_options_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["loader_scaling.py", "--sides", "nvjpeg"])
    with pytest.raises(SystemExit) as ended:
        run(loader_scaling.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: argument --sides: 'nvjpeg' is none of ours,")
