"""The fuzzer finds what it is for, planted here, and a few inputs for each target are tried."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import fuzz_work
import pytest
from fuzz_files import NUMBERS, see, weight_files
from fuzz_inputs import changed, damaged, sound_files
from fuzz_targets import TARGETS
from fuzz_work import Limits, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcls_jax.data.decoding import PictureError
from mlcls_jax.models.weight_files import read_tensors

pytestmark = [
    # ml_collections loads a config file by a method that Python has deprecated.
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux"),
]
QUICK = Limits(seconds=0.3, stuck=2 * fuzz.POLL)


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_are_accepted_or_refused_in_a_line(name, tmp_path_factory, monkeypatch):
    accepted = 0

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name].inputs())
    def check(value):
        nonlocal accepted
        place = tmp_path_factory.mktemp("place")
        monkeypatch.chdir(place)
        try:
            TARGETS[name].exercise(value, place)
            accepted += 1
        except (ValueError, OSError) as error:
            assert not fuzz_work.verdict(error)

    check()
    assert accepted  # or nothing behind the first check is ever reached


def test_sound_files_are_accepted(tmp_path):
    for name, contents in sound_files().items():
        for end in (b"", b"\0"):  # of either parity
            try:
                see(contents + end, tmp_path)
            except PictureError as error:
                pytest.fail(f"{name}: {error}")
    for name, contents in weight_files().items():
        (tmp_path / name).write_bytes(contents)
        if name in ("a.h5", "b.safetensors", "0.pth", "1.pth"):
            assert len(read_tensors(tmp_path / name)) >= 3


def test_an_input_is_a_function_of_its_number():
    files = list(sound_files().values())
    inputs = [damaged(number, files) for number in range(50)]
    assert inputs == [damaged(number, files) for number in range(50)]
    assert len({*inputs, *files}) > 75


def test_json_is_changed_at_any_depth_and_only_in_the_copy():
    value = {"a": [1, {"b": 2}], "c": {"d": 3}}
    results = [changed(value, random.Random(number)) for number in range(200)]
    assert value == {"a": [1, {"b": 2}], "c": {"d": 3}}
    assert any(r != value and isinstance(r, dict) and r.get("c") == {"d": 3} for r in results)
    assert any(isinstance(r, dict) and r.get("a") == value["a"] for r in results)


def nothing(contents: bytes, place: Path) -> None:
    (place / "own").write_bytes(contents)


def fail(what: str, place: Path) -> None:
    """Does what it is told; all but the last two of it is to be found."""
    match what:
        case "exception":
            raise RuntimeError("an exception")
        case "codec":
            b"\xff".decode()
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "computes":
            while True:
                pass
        case "waits":
            time.sleep(1000)
        case "memory":
            bytearray(4 << 30)
        case "lines":
            raise PictureError("two\nlines")
        case "program":
            subprocess.run(["true"], check=False)
        case "connects":
            socket.create_connection(("127.0.0.1", 1))
        case "writes":
            (place.parent.parent / "elsewhere").write_text("")
        case "deletes":
            os.unlink(Path(place.parent.parent, "fuzz_none"))
        case "refuses":
            raise ValueError("refused")
        case "accepts":
            (place / "folder").mkdir()
            (place / "folder" / "own").write_text("")


FOUND = {
    "exception": "RuntimeError: an exception",
    "codec": "UnicodeDecodeError",
    "crash": "crashes (SIGSEGV)",
    "computes": "hangs, computing",
    "waits": "hangs, waiting",
    "memory": "MemoryError",
    "lines": "no line for a user",
    "program": "Trespass: subprocess.Popen",
    "connects": "Trespass: socket.connect",
    "writes": "Trespass: open",
    "deletes": "Trespass: os.remove",
}


def planted() -> st.SearchStrategy:
    return st.sampled_from([*FOUND, "refuses", "accepts"])


@pytest.mark.slow
def test_planted_failures_are_found_and_the_rest_goes_on(tmp_path, capsys):
    result = fuzz.run(Target("planted", planted, fail), 0.15, 5, tmp_path, 1, QUICK)
    assert capsys.readouterr().out.splitlines() == result.failures
    for line in result.failures:
        path, _, words = line.partition(": ")
        assert words.startswith(FOUND[Path(path).read_text().strip("'")])
    assert {Path(line.partition(": ")[0]).read_text().strip("'") for line in result.failures} == {
        *FOUND
    }
    assert result.accepted and result.refused
    assert not list(tmp_path.parent.glob("elsewhere"))


def test_nothing_is_found_in_what_is_sound(tmp_path):
    result = fuzz.run(Target("sound", numbers, nothing), 0, 5, tmp_path, 1, QUICK)
    assert not result.failures and not list(tmp_path.iterdir())
    assert 0 < result.accepted == result.tried <= fuzz_work.BATCH


def numbers() -> st.SearchStrategy:
    return NUMBERS.map(str).map(str.encode)


def test_the_command_says_what_it_did(tmp_path, capsys, monkeypatch):
    found = fuzz.Fuzz("csv", lambda: None, QUICK, 0, tmp_path, accepted=1, failures=["it crashes"])
    monkeypatch.setattr(fuzz, "run", lambda *_: found)
    assert fuzz.main(["--targets", "csv,weights"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        *["csv: 2 inputs, 1 accepted, 0 refused, 1 failures"] * 2,
        "total: 4 inputs, 2 failures (seed 0)",
    ]
    found.failures.clear()
    assert fuzz.main(["--targets", "csv"]) == 0
    with pytest.raises(SystemExit):
        fuzz.main(["--targets", "nothing"])
