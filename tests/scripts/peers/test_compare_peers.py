"""The table's arithmetic, the command with fake workers, and the steps of the three sides."""

import importlib
import io
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import compare_peers
import numpy as np
import peer_environments
import peer_worker
import pytest
from compare_peers import Measured, Setting, parse, ratio, table
from peer_process import Peer, child_memory

from mlcls_jax.system.heap import heap_tunables

B0 = Setting("b0", 224, 16, 0.2)

# A fake worker. Its arguments are its name, a file in which it notes the requests, and the seconds
# that it reports for each step.
FAKE_WORKER = """
import json, sys
name, notes, seconds = sys.argv[1:]
print(json.dumps({"versions": name}), flush=True)
for line in sys.stdin:
    with open(notes, "a") as file:
        print(name, *line.split(), file=file)
    reply = {"steps": 2, "seconds": 2 * float(seconds), "peak_bytes": int(1e9 * float(seconds))}
    print(json.dumps(reply), flush=True)
"""
SECONDS = {"ours": 0.5, "timm": 1.0, "keras": 2.0}


@pytest.fixture
def requests_file(monkeypatch, tmp_path):
    """Replaces the workers by fake ones; returns the file with their requests in order."""
    notes = tmp_path / "notes"

    def command(side, python, setting):
        return [sys.executable, "-c", FAKE_WORKER, side, str(notes), str(SECONDS[side])]

    monkeypatch.setattr(compare_peers, "command", command)
    monkeypatch.setattr(compare_peers, "python_of", lambda side, environments: "")
    return notes


# A worker with a child process that writes to a file without pause.
BUSY_WORKER = """
import os, sys, time
print('{"versions": ""}', flush=True)
if not os.fork():
    with open(sys.argv[1], "a", buffering=1) as file:
        while True:
            print("busy", file=file)
            time.sleep(0.001)
for line in sys.stdin:
    time.sleep(0.2)
    print("{}", flush=True)
"""


def worker(code):
    return Peer("timm", [sys.executable, "-c", code], {})


def test_ratio_is_of_the_medians_and_its_spread_of_the_rounds():
    assert ratio([10.0, 12.0, 30.0], [5.0, 10.0, 10.0]) == (1.2, 1.2, 3.0)
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


def test_table():
    measured = Measured(
        B0,
        forward={"ours": [90.0, 100.0, 95.0], "timm": [50.0, 40.0, 45.0]},
        train={},
        memory={"ours": 3_000_000_000, "timm": 2_000_000_000},
    )
    assert table([measured], ["ours", "timm"]).splitlines() == [
        "|  | ours | timm on torch | ours / timm on torch |",
        "| --- | --- | --- | --- |",
        "| B0, 224 px, batch 16: forward, images/s "
        "| 95.0 (90.0–100.0) | 45.0 (40.0–50.0) | 2.11 (1.80–2.50) |",
        "| B0, 224 px, batch 16: peak memory of training, MB | 3000 | 2000 | 1.50 |",
    ]


def test_table_without_ours_has_no_ratio():
    measured = Measured(B0, forward={"timm": [5.0]}, train={}, memory={})
    assert table([measured], ["timm"]).splitlines()[2].endswith("images/s | 5.00 (5.00–5.00) |")


def test_sides_take_turns_and_memory_is_of_processes_that_only_train(requests_file, capsys):
    arguments = ["--variant", "b0", "--batch", "3", "--rounds", "2", "--seconds", "7", "--json"]
    assert compare_peers.main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    (result,) = printed["results"]
    assert result["train"] == {"ours": [6.0, 6.0], "timm": [3.0, 3.0], "keras": [1.5, 1.5]}
    assert result["forward"] == result["train"]
    assert result["memory"] == {"ours": 500_000_000, "timm": 1_000_000_000, "keras": 2_000_000_000}
    assert printed["versions"] == {"ours": "ours", "timm": "timm", "keras": "keras"}

    requests = requests_file.read_text().splitlines()
    timed = [line.split()[:2] for line in requests if line.endswith(" 7.0")]
    assert sum(line.endswith(" 3.5") for line in requests) == len(timed)  # not measured
    first, second = ["ours", "timm", "keras"], ["timm", "keras", "ours"]
    rounds = [(what, order) for order in (first, second) for what in ("forward", "train")]
    assert timed == [[side, what] for what, order in rounds for side in order]
    last = max(index for index, line in enumerate(requests) if line.endswith(" 7.0"))
    alone = [line.split()[:2] for line in requests[last + 1 :]]
    steps = compare_peers.WARM_UP + compare_peers.MEMORY_STEPS
    assert alone == [[side, "train"] for side in first for _ in range(steps)]


def test_what_selects_the_rows(requests_file, capsys):
    compare_peers.main(["--variant", "b0", "--what", "memory", "--sides", "ours,keras"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[2] == "| B0, 224 px, batch 16: peak memory of training, MB | 500 | 2000 | 0.25 |"
    assert len(rows) == 5 and "glibc.malloc.hugetlb=1" in rows[4]


def test_b0_and_b5_are_measured_by_default():
    assert list(map(str, parse([]).settings)) == ["B0, 224 px, batch 16", "B5, 456 px, batch 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size 64", "need a --variant"),
        ("--variant b3", "no default batch; set --batch"),
        ("--variant b0 --batch 0", "0 is not above 0"),
        ("--what speed", "'speed' is none of forward, train, memory"),
        ("--malloc jemalloc", "'jemalloc' is none of heap-kept, plain"),
    ],
)
def test_invalid_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(arguments.split())
    assert message in capsys.readouterr().err


def test_malloc_applies_to_every_side(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=7")
    tunables = {
        name: compare_peers.worker_environment(name).get("GLIBC_TUNABLES")
        for name in ("heap-kept", "plain", "glibc.malloc.mmap_max=0")
    }
    assert list(tunables.values()) == [heap_tunables(), None, "glibc.malloc.mmap_max=0"]


def test_a_worker_that_fails_is_reported_in_one_line():
    code = "import sys; print('{\"versions\": \"\"}', flush=True); input(); raise KeyError('boom')"
    with worker(code) as peer:
        peer.versions()
        with pytest.raises(ValueError, match=r"^timm: ended with code 1: KeyError: 'boom'$"):
            peer.ask("train")
        with pytest.raises(ValueError, match="boom"):  # also after the pipe was closed
            peer.ask("train")


def test_a_killed_worker_is_reported_with_the_reason():
    code = "import os; os.kill(os.getpid(), 9)"
    with worker(code) as peer, pytest.raises(ValueError, match=r"signal 9.*memory.*--batch"):
        peer.versions()


def test_between_turns_a_worker_and_its_children_are_stopped_and_then_ended(tmp_path):
    log = tmp_path / "log"
    lengths = []

    def still():
        time.sleep(0.05)  # a signal takes a moment
        lengths.append(log.stat().st_size)
        time.sleep(0.1)
        assert log.stat().st_size == lengths[-1]

    with Peer("timm", [sys.executable, "-c", BUSY_WORKER, str(log)], {}) as peer:
        peer.versions()
        for _ in range(2):
            peer.ask("train")
            still()
    still()
    assert 0 < lengths[0] < lengths[1] == lengths[2]


def test_worker_repeats_until_the_time_is_over(monkeypatch):
    now = iter([0.0, 0.4, 0.8, 1.2])
    cpu = iter([5.0, 7.0])
    clocks = SimpleNamespace(perf_counter=lambda: next(now), process_time=lambda: next(cpu))
    monkeypatch.setattr(peer_worker, "time", clocks)
    replies = io.StringIO()
    peer_worker.serve({"train": lambda: None}, ["train 1.0\n"], replies)
    reply = json.loads(replies.getvalue())
    assert (reply["steps"], reply["seconds"], reply["cpu_seconds"]) == (3, 1.2, 2.0)
    assert reply["peak_bytes"] > 10_000_000


def test_memory_of_child_processes():
    code = "data = bytearray(100_000_000); print(flush=True); input()"
    alone = child_memory(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline()
        together = child_memory(os.getpid())
        child.communicate(b"\n")
    assert 100_000_000 < together - alone < 200_000_000


class Calls(list):
    """Replaces subprocess.run: makes the Python that venv would make, and records commands."""

    code, text = 0, ""

    def __call__(self, command, **_):
        self.append(command[1:3])
        if "venv" in command:
            python = peer_environments.Path(command[-1]) / "bin/python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        return SimpleNamespace(returncode=self.code, stdout=self.text)


@pytest.fixture
def calls(monkeypatch):
    noted = Calls()
    monkeypatch.setattr(peer_environments.subprocess, "run", noted)
    return noted


def test_an_environment_is_made_once_for_the_same_pins(calls, tmp_path):
    made = [["-m", "venv"], ["-m", "pip"]]
    python = peer_environments.ensure(tmp_path / "timm", ("timm==1",))
    assert python.exists() and calls == made
    peer_environments.ensure(tmp_path / "timm", ("timm==1",))
    assert calls == made
    peer_environments.ensure(tmp_path / "timm", ("timm==2",))
    assert calls == 2 * made


def test_a_failed_installation_is_one_line_and_is_repeated(calls, tmp_path):
    calls.code, calls.text = 1, "looking\nERROR: no such version\n\n"
    with pytest.raises(ValueError, match=r"^\S+.* ERROR: no such version$"):
        peer_environments.ensure(tmp_path / "timm", ("timm==1",))
    calls.code = 0
    calls.clear()
    peer_environments.ensure(tmp_path / "timm", ("timm==1",))
    assert len(calls) == 2


def test_pins_are_those_of_the_extra_reference():
    names = [pin.partition("==")[0] for pin in peer_environments.timm_pins()]
    assert sorted(names) == ["timm", "torch", "torchvision"]


@pytest.mark.reference
@pytest.mark.parametrize(
    "module", ["peer_timm", pytest.param("peer_keras", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
def test_steps_of_a_peer(module):
    steps_train_everything(importlib.import_module(module).build("b0", 32, 2, 0.2), batch=2)


def test_our_steps(tiny):
    import peer_ours

    steps_train_everything(peer_ours.build(tiny, 32, 8, 0.2), batch=8)


def steps_train_everything(steps, batch):
    before = steps["forward"]()
    assert before.shape == (batch, peer_worker.NUM_CLASSES) and before.dtype == np.float32
    np.testing.assert_array_equal(steps["forward"](), before)
    assert 0.3 < float(steps["train"]()) < 3
    assert np.abs(steps["forward"]() - before).max() > 0
